package chat

import (
	"strings"
	"unicode/utf8"
)

func (e *constExpr) eval(*interp, *scope) Value { return e.value }

func (e *nameExpr) eval(in *interp, s *scope) Value {
	in.tick(0)
	return in.lookup(s, e.name)
}

func evalAll(in *interp, s *scope, list []expr) []Value {
	out := make([]Value, len(list))
	for i, e := range list {
		out[i] = e.eval(in, s)
	}
	in.tick(16 * len(out))
	return out
}

func (e *listExpr) eval(in *interp, s *scope) Value  { return evalAll(in, s, e.items) }
func (e *tupleExpr) eval(in *interp, s *scope) Value { return tuple(evalAll(in, s, e.items)) }

func (e *dictExpr) eval(in *interp, s *scope) Value {
	d := NewDict()
	for i, k := range e.keys {
		key, ok := k.eval(in, s).(string)
		if !ok {
			fail("a key of a dict is not a string")
		}
		in.tick(len(key))
		d.Set(key, e.vals[i].eval(in, s))
	}
	in.tick(16 * d.Len())
	return d
}

func (e *condExpr) eval(in *interp, s *scope) Value {
	if truth(e.cond.eval(in, s)) {
		return e.yes.eval(in, s)
	}
	if e.no == nil {
		return undefined{"the value of an if without else"}
	}
	return e.no.eval(in, s)
}

func (e *attrExpr) eval(in *interp, s *scope) Value {
	in.tick(0)
	of := e.of.eval(in, s)
	if v, ok := attribute(of, e.name); ok {
		return v
	}
	if d, ok := of.(*Dict); ok {
		if v, ok := d.Get(e.name); ok {
			return v
		}
	}
	if u, ok := of.(undefined); ok {
		fail("%s is undefined, so it has no attribute %s", u.name, e.name)
	}
	return undefined{e.name}
}

// attribute returns what Python's getattr would find: methods, and the fields
// of loop and namespaces.
func attribute(of Value, name string) (Value, bool) {
	switch v := of.(type) {
	case string:
		if _, ok := stringMethods[name]; ok {
			return method{v, name}, true
		}
	case *Dict:
		if _, ok := dictMethods[name]; ok {
			return method{v, name}, true
		}
	case []Value, tuple:
		if _, ok := listMethods[name]; ok {
			return method{v, name}, true
		}
	case *loopState:
		return v.attr(name)
	case namespace:
		return v.Get(name)
	case macro:
		if name == "name" {
			return v.name, true
		}
	}
	return nil, false
}

func (e *indexExpr) eval(in *interp, s *scope) Value {
	in.tick(0)
	of, at := e.of.eval(in, s), e.at.eval(in, s)
	in.weigh(at)
	switch v := of.(type) {
	case undefined:
		fail("%s is undefined, so it has no item %s", v.name, in.str(at))
	case *Dict:
		if k, ok := at.(string); ok {
			if item, ok := v.Get(k); ok {
				return item
			}
		}
	case []Value:
		return itemAt(in, v, at)
	case tuple:
		return itemAt(in, v, at)
	case string:
		if _, ok := at.(int64); ok {
			in.tick(len(v))
			r := []rune(v)
			if i, ok := position(at, len(r)); ok {
				return string(r[i])
			}
		}
	}
	if name, ok := at.(string); ok {
		if v, ok := attribute(of, name); ok {
			return v
		}
		return undefined{name}
	}
	return undefined{"an item"}
}

func itemAt(in *interp, list []Value, at Value) Value {
	if i, ok := position(at, len(list)); ok {
		return list[i]
	}
	if name, ok := at.(string); ok {
		if v, ok := attribute(list, name); ok {
			return v
		}
	}
	return undefined{"item " + in.str(at) + " of a list"}
}

// position returns a Python index, negative from the end, as a Go index.
func position(at Value, n int) (int, bool) {
	i, _, isInt, ok := number(at)
	if !ok || !isInt {
		return 0, false
	}
	if i < 0 {
		i += int64(n)
	}
	return int(i), i >= 0 && i < int64(n)
}

func (e *sliceExpr) eval(in *interp, s *scope) Value {
	of := e.of.eval(in, s)
	part := func(x expr) *int64 {
		if x == nil {
			return nil
		}
		v := x.eval(in, s)
		if v == nil {
			return nil
		}
		n, _, isInt, ok := number(v)
		if !ok || !isInt {
			fail("a slice index is of type %s, not int", typeName(v))
		}
		return &n
	}
	lo, hi, step := part(e.lo), part(e.hi), part(e.step)
	switch v := of.(type) {
	case string:
		in.tick(len(v))
		runes := []rune(v)
		if step == nil {
			from, to := bounds(len(runes), lo, hi)
			return string(runes[from:to])
		}
		in.tick(8 * len(v))
		var b strings.Builder
		for _, i := range indices(len(runes), lo, hi, step) {
			b.WriteRune(runes[i])
		}
		return b.String()
	case []Value:
		return pick(in, v, indices(len(v), lo, hi, step))
	case tuple:
		return tuple(pick(in, v, indices(len(v), lo, hi, step)))
	case undefined:
		fail("%s is undefined, so it cannot be sliced", v.name)
	}
	fail("a value of type %s cannot be sliced", typeName(of))
	return nil
}

func pick(in *interp, list []Value, at []int) []Value {
	in.tick(16 * len(at))
	out := make([]Value, len(at))
	for k, i := range at {
		out[k] = list[i]
	}
	return out
}

// clamp returns a slice index, counted from the end when negative, moved into
// [least, most].
func clamp(p *int64, size, def, least, most int64) int64 {
	if p == nil {
		return def
	}
	i := *p
	if i < 0 {
		i = max(i+size, least)
	}
	return min(i, most)
}

// bounds returns the range of a Python slice of n items with step 1.
func bounds(n int, lo, hi *int64) (from, to int) {
	size := int64(n)
	from, to = int(clamp(lo, size, 0, 0, size)), int(clamp(hi, size, size, 0, size))
	return from, max(from, to)
}

// indices returns the positions of a Python slice of n items.
func indices(n int, lo, hi, step *int64) []int {
	by := int64(1)
	if step != nil {
		by = *step
	}
	if by == 0 {
		fail("a slice step is zero")
	}
	size := int64(n)
	var out []int
	if by > 0 {
		from, to := bounds(n, lo, hi)
		for i := int64(from); i < int64(to); {
			out = append(out, int(i))
			if by >= int64(to)-i {
				break
			}
			i += by
		}
		return out
	}
	from, to := clamp(lo, size, size-1, -1, size-1), clamp(hi, size, -1, -1, size-1)
	for i := from; i > to; {
		out = append(out, int(i))
		if by <= to-i {
			break
		}
		i += by
	}
	return out
}

func (c *callExpr) arguments(in *interp, s *scope) args {
	a := args{pos: evalAll(in, s, c.pos)}
	for i, name := range c.kwNames {
		if a.kw == nil {
			a.kw = NewDict()
		}
		a.kw.Set(name, c.kw[i].eval(in, s))
	}
	return a
}

func (c *callExpr) eval(in *interp, s *scope) Value {
	in.tick(0)
	callee := c.callee.eval(in, s)
	a := c.arguments(in, s)
	switch f := callee.(type) {
	case macro:
		return in.callMacro(f, a, nil)
	case function:
		return f.call(in, a)
	case method:
		return in.callMethod(f, a)
	case undefined:
		fail("%s is undefined, so it cannot be called", f.name)
	}
	fail("a value of type %s cannot be called", typeName(callee))
	return nil
}

// capitalize is Python's str.capitalize.
func capitalize(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return strings.ToUpper(s[:n]) + strings.ToLower(s[n:])
}
