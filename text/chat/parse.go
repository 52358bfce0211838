package chat

import (
	"fmt"
	"slices"
	"strings"
)

// parser is a recursive-descent parser of Jinja2 statements.
type parser struct {
	tokens []token
	pos    int
	depth  int // of nesting
	loops  int // enclosing for loops, for break and continue
	gen    bool
}

const maxDepth = 200 // of nested statements and expressions

// A SyntaxError says what is wrong with a template, and where.
type SyntaxError struct {
	Line   int // from 1
	Reason string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

// fail throws a SyntaxError, which parseTemplate catches.
func (p *parser) fail(format string, a ...any) {
	panic(&SyntaxError{p.peek().line, fmt.Sprintf(format, a...)})
}

// enter guards the stack; the caller defers leave.
func (p *parser) enter() {
	if p.depth++; p.depth > maxDepth {
		p.fail("nested more than %d levels deep", maxDepth)
	}
}

func (p *parser) leave() { p.depth-- }

func (p *parser) peek() token { return p.tokens[p.pos] }

func (p *parser) next() token {
	t := p.tokens[p.pos]
	if t.kind != tokEOF {
		p.pos++
	}
	return t
}

func (t token) isOp(op string) bool     { return t.kind == tokOp && t.text == op }
func (t token) isName(name string) bool { return t.kind == tokName && t.text == name }

// skip consumes the operator or name if it is next.
func (p *parser) skip(text string) bool {
	if t := p.peek(); t.isOp(text) || t.isName(text) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) expect(text string) {
	if !p.skip(text) {
		p.fail("expected %q, found %s", text, p.peek())
	}
}

func (p *parser) name() string {
	t := p.next()
	if t.kind != tokName {
		p.pos--
		p.fail("expected a name, found %s", t)
	}
	return t.text
}

func (t token) String() string {
	switch t.kind {
	case tokEOF:
		return "the end of the template"
	case tokText:
		return "text"
	case tokBlockBegin:
		return "\"{%\""
	case tokBlockEnd:
		return "the end of the tag"
	case tokVarBegin:
		return "\"{{\""
	case tokVarEnd:
		return "\"}}\""
	}
	return fmt.Sprintf("%q", t.text)
}

// blockEnd consumes %}.
func (p *parser) blockEnd() {
	if p.peek().kind != tokBlockEnd {
		p.fail("expected the end of the tag, found %s", p.peek())
	}
	p.pos++
}

// body parses statements up to a tag with one of the given names, which it
// consumes up to the name; it returns that name.
func (p *parser) body(ends ...string) ([]node, string) {
	p.enter()
	defer p.leave()
	var list []node
	for {
		switch t := p.next(); t.kind {
		case tokText:
			list = append(list, &textNode{t.text})
		case tokVarBegin:
			list = append(list, &outputNode{t.line, p.tupleOrExpr()})
			if p.next().kind != tokVarEnd {
				p.pos--
				p.fail("expected \"}}\", found %s", p.peek())
			}
		case tokBlockBegin:
			name := p.name()
			if slices.Contains(ends, name) {
				return list, name
			}
			list = append(list, p.statement(t.line, name))
		case tokEOF:
			if len(ends) > 0 {
				p.fail("expected {%% %s %%} before the end of the template", ends[len(ends)-1])
			}
			return list, ""
		}
	}
}

// block is body, with the end tag consumed.
func (p *parser) block(end string) []node {
	list, _ := p.body(end)
	p.blockEnd()
	return list
}

func (p *parser) statement(line int, name string) node {
	switch name {
	case "for":
		return p.forStatement(line)
	case "if":
		return p.ifStatement(line)
	case "set":
		return p.setStatement(line)
	case "macro":
		m := p.signature(&macroNode{line: line, name: p.name()})
		p.blockEnd()
		m.body = p.outsideLoops("endmacro")
		return m
	case "call":
		return p.callStatement(line)
	case "filter":
		n := &filterNode{line: line, filter: []filterCall{p.filterName()}}
		for p.skip("|") {
			n.filter = append(n.filter, p.filterName())
		}
		p.blockEnd()
		n.body = p.block("endfilter")
		return n
	case "with":
		return p.withStatement(line)
	case "generation":
		p.blockEnd()
		p.gen = true
		return &generationNode{line, p.outsideLoops("endgeneration")}
	case "break", "continue":
		if p.loops == 0 {
			p.fail("%s outside a for loop", name)
		}
		p.blockEnd()
		if name == "break" {
			return &loopControl{breakLoop}
		}
		return &loopControl{continueLoop}
	}
	p.pos--
	p.fail("unknown tag %q", name)
	return nil
}

// outsideLoops parses a body that break and continue cannot leave.
func (p *parser) outsideLoops(end string) []node {
	loops := p.loops
	p.loops = 0
	list := p.block(end)
	p.loops = loops
	return list
}

func (p *parser) forStatement(line int) node {
	n := &forNode{line: line, target: p.targets()}
	p.expect("in")
	n.iter = p.tuple(func() expr { return p.or() })
	if p.skip("if") {
		n.cond = p.expression()
	}
	if p.peek().isName("recursive") {
		p.fail("recursive loops are not supported")
	}
	p.blockEnd()
	p.loops++
	body, end := p.body("else", "endfor")
	p.loops--
	n.body = body
	p.blockEnd()
	if end == "else" {
		n.none = p.block("endfor")
	}
	return n
}

// targets parses the names that a loop or assignment binds.
func (p *parser) targets() []string {
	paren := p.skip("(")
	list := []string{p.bindable()}
	for p.skip(",") {
		if t := p.peek(); t.kind != tokName || t.text == "in" {
			break
		}
		list = append(list, p.bindable())
	}
	if paren {
		p.expect(")")
	}
	return list
}

func (p *parser) bindable() string {
	name := p.name()
	switch name {
	case "true", "false", "none", "True", "False", "None", "loop":
		p.pos--
		p.fail("%q cannot be assigned to", name)
	}
	return name
}

func (p *parser) ifStatement(line int) node {
	p.enter()
	defer p.leave()
	n := &ifNode{line: line, cond: p.tupleOrExpr()}
	p.blockEnd()
	body, end := p.body("elif", "else", "endif")
	n.body = body
	switch end {
	case "elif":
		n.other = []node{p.ifStatement(p.peek().line)}
	case "else":
		p.blockEnd()
		n.other = p.block("endif")
	default:
		p.blockEnd()
	}
	return n
}

func (p *parser) setStatement(line int) node {
	n := &setNode{line: line}
	for {
		t := setTarget{name: p.bindable()}
		if p.skip(".") {
			t.attr = p.name()
		}
		n.target = append(n.target, t)
		if !p.skip(",") {
			break
		}
	}
	if p.skip("=") {
		n.value = p.tupleOrExpr()
		p.blockEnd()
		return n
	}
	for p.skip("|") {
		n.filter = append(n.filter, p.filterName())
	}
	p.blockEnd()
	n.body = p.outsideLoops("endset")
	return n
}

// signature parses the parameters of a macro.
func (p *parser) signature(m *macroNode) *macroNode {
	p.expect("(")
	for !p.skip(")") {
		m.params = append(m.params, p.bindable())
		if p.skip("=") {
			m.defaults = append(m.defaults, p.expression())
		} else if len(m.defaults) > 0 {
			p.fail("a parameter without a default follows one with a default")
		}
		if !p.peek().isOp(")") {
			p.expect(",")
		}
	}
	return m
}

func (p *parser) callStatement(line int) node {
	caller := &macroNode{line: line, name: "caller"}
	if p.peek().isOp("(") {
		p.signature(caller)
	}
	call, ok := p.expression().(*callExpr)
	if !ok {
		p.fail("{%% call %%} needs a call of a macro")
	}
	p.blockEnd()
	caller.body = p.outsideLoops("endcall")
	return &callBlockNode{line, call, caller}
}

func (p *parser) withStatement(line int) node {
	n := &withNode{line: line}
	for p.peek().kind != tokBlockEnd {
		if len(n.names) > 0 {
			p.expect(",")
		}
		n.names = append(n.names, p.bindable())
		p.expect("=")
		n.values = append(n.values, p.expression())
	}
	p.blockEnd()
	n.body = p.block("endwith")
	return n
}

// parseTemplate parses the whole source.
func parseTemplate(src string) (list []node, generation bool, err error) {
	tokens, err := lex(src)
	if err != nil {
		return nil, false, err
	}
	p := &parser{tokens: tokens}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *SyntaxError:
			err = r
		default:
			panic(r)
		}
	}()
	list, _ = p.body()
	return list, p.gen, nil
}

// dotted parses name.name..., as filters and tests are named.
func (p *parser) dotted() string {
	parts := []string{p.name()}
	for p.skip(".") {
		parts = append(parts, p.name())
	}
	return strings.Join(parts, ".")
}
