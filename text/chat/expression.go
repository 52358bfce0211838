package chat

import (
	"strconv"
)

// Expressions, from the weakest binding to the strongest, as Jinja2 has them.

func (p *parser) expression() expr {
	p.enter()
	defer p.leave()
	e := p.or()
	for n := 0; p.skip("if"); p.chain(&n) {
		cond := p.or()
		var no expr
		if p.skip("else") {
			no = p.expression()
		}
		e = &condExpr{e, cond, no}
	}
	return e
}

// tupleOrExpr parses an expression, or several with commas between.
func (p *parser) tupleOrExpr() expr { return p.tuple(p.expression) }

func (p *parser) tuple(one func() expr) expr {
	e := one()
	if !p.peek().isOp(",") {
		return e
	}
	items := []expr{e}
	for p.skip(",") {
		if t := p.peek(); t.kind == tokBlockEnd || t.kind == tokVarEnd || t.isOp(")") {
			break
		}
		items = append(items, one())
	}
	return &tupleExpr{items}
}

// binary parses a left-associative level.
func (p *parser) binary(operand func() expr, ops ...string) expr {
	e := operand()
	for n := 0; ; p.chain(&n) {
		t := p.peek()
		found := false
		for _, op := range ops {
			if t.isOp(op) || t.isName(op) {
				found = true
			}
		}
		if !found {
			return e
		}
		p.pos++
		e = &binaryExpr{t.line, t.text, e, operand()}
	}
}

func (p *parser) or() expr  { return p.binary(p.and, "or") }
func (p *parser) and() expr { return p.binary(p.not, "and") }

func (p *parser) not() expr {
	if t := p.peek(); t.isName("not") {
		p.enter()
		defer p.leave()
		p.pos++
		return &unaryExpr{t.line, "not", p.not()}
	}
	return p.compare()
}

func (p *parser) compare() expr {
	e := p.sum()
	c := &compareExpr{line: p.peek().line, first: e}
	for {
		t := p.peek()
		op := ""
		switch {
		case t.kind == tokOp && (t.text == "==" || t.text == "!=" || t.text == "<" || t.text == "<=" || t.text == ">" || t.text == ">="):
			op = t.text
		case t.isName("in"):
			op = "in"
		case t.isName("not") && p.tokens[p.pos+1].isName("in"):
			p.pos++
			op = "not in"
		}
		if op == "" {
			break
		}
		p.pos++
		c.ops = append(c.ops, op)
		c.rest = append(c.rest, p.sum())
	}
	if len(c.ops) == 0 {
		return e
	}
	return c
}

func (p *parser) sum() expr     { return p.binary(p.concat, "+", "-") }
func (p *parser) concat() expr  { return p.binary(p.product, "~") }
func (p *parser) product() expr { return p.binary(p.power, "*", "/", "//", "%") }
func (p *parser) power() expr   { return p.binary(func() expr { return p.unary(true) }, "**") }

func (p *parser) unary(filters bool) expr {
	p.enter()
	defer p.leave()
	t := p.peek()
	var e expr
	if t.isOp("-") || t.isOp("+") {
		p.pos++
		e = &unaryExpr{t.line, t.text, p.unary(false)}
	} else {
		e = p.primary()
	}
	e = p.postfix(e)
	if filters {
		e = p.filters(e)
	}
	return e
}

func (p *parser) primary() expr {
	t := p.next()
	switch t.kind {
	case tokName:
		switch t.text {
		case "true", "True":
			return &constExpr{true}
		case "false", "False":
			return &constExpr{false}
		case "none", "None":
			return &constExpr{nil}
		}
		return &nameExpr{t.line, t.text}
	case tokString:
		s := t.text
		for p.peek().kind == tokString {
			s += p.next().text
		}
		return &constExpr{s}
	case tokInt:
		n, err := strconv.ParseInt(t.text, 10, 64)
		if err != nil {
			p.fail("the number %s is too large", t.text)
		}
		return &constExpr{n}
	case tokFloat:
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil {
			p.fail("the number %s is too large", t.text)
		}
		return &constExpr{f}
	case tokOp:
		switch t.text {
		case "(":
			if p.skip(")") {
				return &tupleExpr{}
			}
			e := p.tupleOrExpr()
			p.expect(")")
			return e
		case "[":
			l := &listExpr{}
			for !p.skip("]") {
				l.items = append(l.items, p.expression())
				if !p.peek().isOp("]") {
					p.expect(",")
				}
			}
			return l
		case "{":
			d := &dictExpr{line: t.line}
			for !p.skip("}") {
				d.keys = append(d.keys, p.expression())
				p.expect(":")
				d.vals = append(d.vals, p.expression())
				if !p.peek().isOp("}") {
					p.expect(",")
				}
			}
			return d
		}
	}
	if t.kind != tokEOF {
		p.pos--
	}
	p.fail("expected a value, found %s", t)
	return nil
}

// maxLinks bounds how long a.b.c, a|b|c or a + b + c may be: evaluating it
// recurses.
const maxLinks = 1000

func (p *parser) chain(n *int) {
	if *n++; *n > maxLinks {
		p.fail("an expression of more than %d links", maxLinks)
	}
}

func (p *parser) postfix(e expr) expr {
	for n := 0; ; p.chain(&n) {
		t := p.peek()
		switch {
		case t.isOp("."):
			p.pos++
			if p.peek().kind == tokInt {
				i, _ := strconv.ParseInt(p.next().text, 10, 64)
				e = &indexExpr{t.line, e, &constExpr{i}}
				continue
			}
			e = &attrExpr{t.line, e, p.name()}
		case t.isOp("["):
			p.pos++
			e = p.subscript(t.line, e)
		case t.isOp("("):
			e = p.call(e)
		default:
			return e
		}
	}
}

func (p *parser) subscript(line int, of expr) expr {
	var parts [3]expr
	n := 0
	slice := false
	for !p.peek().isOp("]") {
		if p.skip(":") {
			slice = true
			if n++; n > 2 {
				p.fail("a slice has at most three parts")
			}
			continue
		}
		if parts[n] != nil {
			p.fail("expected \"]\", found %s", p.peek())
		}
		parts[n] = p.expression()
	}
	p.expect("]")
	if slice {
		return &sliceExpr{line, of, parts[0], parts[1], parts[2]}
	}
	if parts[0] == nil {
		p.fail("an empty subscript")
	}
	return &indexExpr{line, of, parts[0]}
}

// call parses the arguments of a call.
func (p *parser) call(callee expr) *callExpr {
	c := &callExpr{line: p.peek().line, callee: callee}
	p.expect("(")
	for !p.skip(")") {
		t := p.peek()
		if t.isOp("*") || t.isOp("**") {
			p.fail("%s arguments are not supported", t.text)
		}
		if t.kind == tokName && p.tokens[p.pos+1].isOp("=") {
			p.pos += 2
			c.kwNames = append(c.kwNames, t.text)
			c.kw = append(c.kw, p.expression())
		} else {
			if len(c.kw) > 0 {
				p.fail("an argument by position follows one by name")
			}
			c.pos = append(c.pos, p.expression())
		}
		if !p.peek().isOp(")") {
			p.expect(",")
		}
	}
	return c
}

func (p *parser) filterName() filterCall {
	f := filterCall{line: p.peek().line, name: p.dotted()}
	if _, ok := filters[f.name]; !ok {
		p.pos--
		p.fail("unknown filter %q", f.name)
	}
	if p.peek().isOp("(") {
		f.args = p.call(nil)
	} else {
		f.args = &callExpr{line: f.line}
	}
	return f
}

// filters parses what may follow a value: |filter, is test, and calls of those.
func (p *parser) filters(e expr) expr {
	for n := 0; ; p.chain(&n) {
		t := p.peek()
		switch {
		case t.isOp("|"):
			p.pos++
			e = &filterExpr{e, p.filterName()}
		case t.isName("is"):
			p.pos++
			e = p.test(t.line, e)
		case t.isOp("("):
			e = p.call(e)
		default:
			return e
		}
	}
}

func (p *parser) test(line int, of expr) expr {
	negated := p.skip("not")
	t := &testExpr{line: line, of: of, name: p.dotted()}
	if _, ok := tests[t.name]; !ok {
		p.pos--
		p.fail("unknown test %q", t.name)
	}
	next := p.peek()
	switch {
	case next.isOp("("):
		t.args = p.call(nil).pos
	case next.isName("is"):
		p.fail("a test cannot follow a test")
	case next.kind == tokString, next.kind == tokInt, next.kind == tokFloat, next.isOp("["), next.isOp("{"),
		next.kind == tokName && next.text != "else" && next.text != "or" && next.text != "and" && next.text != "if":
		t.args = []expr{p.postfix(p.primary())}
	}
	if negated {
		return &unaryExpr{line, "not", t}
	}
	return t
}
