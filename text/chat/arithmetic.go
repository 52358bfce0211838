package chat

import (
	"math"
	"strings"
)

func (e *unaryExpr) eval(in *interp, s *scope) Value {
	v := e.of.eval(in, s)
	if e.op == "not" {
		return !truth(v)
	}
	i, f, isInt, ok := number(v)
	if !ok {
		fail("bad operand of type %s for unary %s", typeName(v), e.op)
	}
	if e.op == "-" {
		i, f = -i, -f
	}
	if isInt {
		return i
	}
	return f
}

func (e *binaryExpr) eval(in *interp, s *scope) Value {
	in.tick(0)
	l := e.l.eval(in, s)
	switch e.op {
	case "and":
		if !truth(l) {
			return l
		}
		return e.r.eval(in, s)
	case "or":
		if truth(l) {
			return l
		}
		return e.r.eval(in, s)
	}
	r := e.r.eval(in, s)
	if e.op == "~" {
		a, b := in.str(l), in.str(r)
		in.tick(len(a) + len(b))
		return a + b
	}
	return in.arithmetic(e.op, l, r)
}

func (in *interp) arithmetic(op string, l, r Value) Value {
	for _, v := range [2]Value{l, r} {
		if u, ok := v.(undefined); ok {
			fail("%s is undefined; it cannot be an operand of %s", u.name, op)
		}
	}
	switch a := l.(type) {
	case string:
		if b, ok := r.(string); ok && op == "+" {
			in.tick(len(a) + len(b))
			return a + b
		}
		if op == "*" {
			return in.repeat(a, r)
		}
	case []Value:
		if b, ok := r.([]Value); ok && op == "+" {
			in.tick(16 * (len(a) + len(b)))
			return append(append([]Value{}, a...), b...)
		}
	case tuple:
		if b, ok := r.(tuple); ok && op == "+" {
			in.tick(16 * (len(a) + len(b)))
			return append(append(tuple{}, a...), b...)
		}
	}
	if b, ok := r.(string); ok && op == "*" {
		return in.repeat(b, l)
	}
	li, lf, lInt, okL := number(l)
	ri, rf, rInt, okR := number(r)
	if !okL || !okR {
		fail("bad operands of types %s and %s for %s", typeName(l), typeName(r), op)
	}
	if lInt && rInt && op != "/" && !(op == "**" && ri < 0) {
		return intArithmetic(op, li, ri)
	}
	return floatArithmetic(op, lf, rf)
}

func (in *interp) repeat(s string, times Value) Value {
	n, _, isInt, ok := number(times)
	if !ok || !isInt {
		fail("a string can be multiplied by an int only, not by a value of type %s", typeName(times))
	}
	if n <= 0 || s == "" {
		return ""
	}
	if n > maxOutput {
		in.tick(maxOutput + 1)
	}
	in.tick(int(n) * len(s))
	return strings.Repeat(s, int(n))
}

func intArithmetic(op string, a, b int64) Value {
	overflow := func() { fail("an integer is too large") }
	switch op {
	case "+":
		if c := a + b; (c > a) == (b > 0) {
			return c
		}
	case "-":
		if c := a - b; (c < a) == (b > 0) {
			return c
		}
	case "*":
		if a == 0 || b == 0 {
			return int64(0)
		}
		if c := a * b; c/b == a && !(a == -1 && b == math.MinInt64) && !(b == -1 && a == math.MinInt64) {
			return c
		}
	case "//", "%":
		if b == 0 {
			fail("division by zero")
		}
		if b == -1 && a == math.MinInt64 {
			overflow()
		}
		q, m := a/b, a%b
		if m != 0 && (m < 0) != (b < 0) {
			q, m = q-1, m+b
		}
		if op == "%" {
			return m
		}
		return q
	case "**":
		c := int64(1)
		for ; b > 0; b-- {
			switch a {
			case 0, 1:
				return a
			case -1:
				return 1 - 2*(b%2) // b odd: -1
			}
			n, ok := intArithmetic("*", c, a).(int64)
			if !ok {
				overflow()
			}
			c = n
		}
		return c
	}
	overflow()
	return nil
}

func floatArithmetic(op string, a, b float64) Value {
	switch op {
	case "+":
		return a + b
	case "-":
		return a - b
	case "*":
		return a * b
	case "**":
		return math.Pow(a, b)
	}
	if b == 0 {
		fail("division by zero")
	}
	switch op {
	case "/":
		return a / b
	case "//":
		return math.Floor(a / b)
	}
	m := math.Mod(a, b)
	if m != 0 && (m < 0) != (b < 0) {
		m += b
	}
	return m
}

func (e *compareExpr) eval(in *interp, s *scope) Value {
	in.tick(0)
	l := e.first.eval(in, s)
	for i, op := range e.ops {
		r := e.rest[i].eval(in, s)
		if !in.compare(op, l, r) {
			return false
		}
		l = r
	}
	return true
}

func (in *interp) compare(op string, l, r Value) bool {
	switch op {
	case "==":
		return in.equal(l, r)
	case "!=":
		return !in.equal(l, r)
	case "in":
		return in.contains(r, l)
	case "not in":
		return !in.contains(r, l)
	}
	c := in.order(l, r)
	switch op {
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	}
	return c >= 0
}

// order compares two numbers, strings or lists.
func (in *interp) order(l, r Value) int {
	in.tick(0)
	li, lf, lInt, okL := number(l)
	ri, rf, rInt, okR := number(r)
	switch {
	case okL && okR && lInt && rInt:
		switch {
		case li < ri:
			return -1
		case li > ri:
			return 1
		}
		return 0
	case okL && okR:
		switch {
		case lf < rf:
			return -1
		case lf > rf:
			return 1
		}
		return 0
	}
	if a, ok := l.(string); ok {
		if b, ok := r.(string); ok {
			in.tick(min(len(a), len(b)))
			return strings.Compare(a, b)
		}
	}
	fail("values of types %s and %s cannot be ordered", typeName(l), typeName(r))
	return 0
}

func (in *interp) contains(in2 Value, v Value) bool {
	switch c := in2.(type) {
	case string:
		s, ok := v.(string)
		if !ok {
			fail("a value of type %s cannot be in a string", typeName(v))
		}
		in.tick(len(c))
		return strings.Contains(c, s)
	case *Dict:
		k, ok := v.(string)
		if !ok {
			return false
		}
		in.tick(len(k))
		_, ok = c.Get(k)
		return ok
	}
	for _, e := range in.iterate(in2) {
		in.tick(0)
		if in.equal(e, v) {
			return true
		}
	}
	return false
}
