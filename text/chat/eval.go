package chat

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of one rendering. Templates are untrusted.
const (
	maxSteps  = 5 << 20  // nodes evaluated, plus a step for every 16 bytes made
	maxOutput = 64 << 20 // bytes of any one string
	maxCalls  = 64       // macros inside macros
)

// renderError is thrown while a template runs and caught by Render.
type renderError struct{ error }

func fail(format string, a ...any) { panic(renderError{fmt.Errorf(format, a...)}) }

// interp runs a template once.
type interp struct {
	steps  int
	calls  int
	out    *strings.Builder
	nested int // out is not the rendered text itself but that of a macro or block
	spans  [][2]int
	date   time.Time
	global map[string]Value
	line   int // of the statement being run

	filters map[string]filterFunc // for filters that name others
	tests   map[string]testFunc
}

// tick counts a step and the bytes it made or looked at. A nil interp counts
// nothing: it serves values that no template made.
func (in *interp) tick(bytes int) {
	if in == nil {
		return
	}
	if bytes > maxOutput {
		fail("makes a string of %d bytes; at most %d are allowed", bytes, maxOutput)
	}
	if in.steps += 1 + bytes/16; in.steps > maxSteps {
		fail("takes more than %d steps", maxSteps)
	}
}

// weigh counts the bytes of a string that is about to be worked on.
func (in *interp) weigh(v Value) {
	if s, ok := v.(string); ok {
		in.tick(len(s))
	}
}

// scope holds the variables of a block; assignments go to the innermost one.
type scope struct {
	vars map[string]Value
	up   *scope
}

func (s *scope) set(name string, v Value) {
	if s.vars == nil {
		s.vars = map[string]Value{}
	}
	s.vars[name] = v
}

func (in *interp) lookup(s *scope, name string) Value {
	far := 0
	for ; s != nil; s = s.up {
		if v, ok := s.vars[name]; ok {
			in.tick(far)
			return v
		}
		far++
	}
	in.tick(far)
	if v, ok := in.global[name]; ok {
		return v
	}
	return undefined{name}
}

func (in *interp) run(list []node, s *scope) signal {
	for _, n := range list {
		in.tick(0)
		if sig := n.exec(in, s); sig != normal {
			return sig
		}
	}
	return normal
}

// capture runs a body and returns what it wrote.
func (in *interp) capture(list []node, s *scope) string {
	outer := in.out
	in.out = &strings.Builder{}
	in.nested++
	in.run(list, s)
	text := in.out.String()
	in.nested--
	in.out = outer
	return text
}

func (in *interp) write(s string) {
	in.tick(len(s))
	if in.out.Len()+len(s) > maxOutput {
		fail("writes more than %d bytes", maxOutput)
	}
	in.out.WriteString(s)
}

func (n *textNode) exec(in *interp, _ *scope) signal {
	in.write(n.text)
	return normal
}

func (n *outputNode) exec(in *interp, s *scope) signal {
	in.line = n.line
	in.write(in.str(n.value.eval(in, s)))
	return normal
}

func (n *ifNode) exec(in *interp, s *scope) signal {
	in.line = n.line
	if truth(n.cond.eval(in, s)) {
		return in.run(n.body, s)
	}
	return in.run(n.other, s)
}

func (n *forNode) exec(in *interp, s *scope) signal {
	in.line = n.line
	items := in.iterate(n.iter.eval(in, s))
	if n.cond != nil {
		var kept []Value
		for _, v := range items {
			inner := &scope{up: s}
			in.bind(inner, n.target, v)
			if truth(n.cond.eval(in, inner)) {
				kept = append(kept, v)
			}
		}
		items = kept
	}
	if len(items) == 0 {
		return in.run(n.none, &scope{up: s})
	}
	loop := &loopState{items: items}
	for i, v := range items {
		loop.index = i
		inner := &scope{up: s}
		inner.set("loop", loop)
		in.bind(inner, n.target, v)
		if in.run(n.body, inner) == breakLoop {
			break
		}
	}
	return normal
}

func (n *loopControl) exec(*interp, *scope) signal { return n.signal }

// bind assigns v to one name, or its items to several.
func (in *interp) bind(s *scope, names []string, v Value) {
	if len(names) == 1 {
		s.set(names[0], v)
		return
	}
	items := in.iterate(v)
	if len(items) != len(names) {
		fail("cannot unpack %d values into %d names", len(items), len(names))
	}
	for i, name := range names {
		s.set(name, items[i])
	}
}

func (n *setNode) exec(in *interp, s *scope) signal {
	in.line = n.line
	var v Value
	if n.value != nil {
		v = n.value.eval(in, s)
	} else {
		v = in.applyFilters(n.filter, in.capture(n.body, &scope{up: s}), s)
	}
	values := []Value{v}
	if len(n.target) > 1 {
		values = in.iterate(v)
		if len(values) != len(n.target) {
			fail("cannot unpack %d values into %d names", len(values), len(n.target))
		}
	}
	for i, t := range n.target {
		if t.attr == "" {
			s.set(t.name, values[i])
			continue
		}
		ns, ok := in.lookup(s, t.name).(namespace)
		if !ok {
			fail("cannot set an attribute of %s: it is not a namespace", t.name)
		}
		ns.Set(t.attr, values[i])
	}
	return normal
}

func (n *filterNode) exec(in *interp, s *scope) signal {
	in.line = n.line
	in.write(in.str(in.applyFilters(n.filter, in.capture(n.body, &scope{up: s}), s)))
	return normal
}

func (n *withNode) exec(in *interp, s *scope) signal {
	in.line = n.line
	inner := &scope{up: s}
	for i, name := range n.names {
		inner.set(name, n.values[i].eval(in, s))
	}
	return in.run(n.body, inner)
}

// generation marks what the assistant says. In the text of a macro or block
// set the place where it will end up is not known: such a span is not kept.
func (n *generationNode) exec(in *interp, s *scope) signal {
	in.line = n.line
	start := in.out.Len()
	in.run(n.body, &scope{up: s})
	if in.nested == 0 {
		in.spans = append(in.spans, [2]int{start, in.out.Len()})
	}
	return normal
}

// macro is a macro with the scope that it was defined in.
type macro struct {
	*macroNode
	scope *scope
}

func (n *macroNode) exec(_ *interp, s *scope) signal {
	s.set(n.name, macro{n, s})
	return normal
}

func (n *callBlockNode) exec(in *interp, s *scope) signal {
	in.line = n.line
	m, ok := n.call.callee.eval(in, s).(macro)
	if !ok {
		fail("{%% call %%} needs a macro")
	}
	in.write(in.callMacro(m, n.call.arguments(in, s), macro{n.caller, s}))
	return normal
}

// callMacro binds the arguments and returns what the body writes.
func (in *interp) callMacro(m macro, a args, caller Value) string {
	if in.calls++; in.calls > maxCalls {
		fail("macros call each other more than %d levels deep", maxCalls)
	}
	defer func() { in.calls-- }()
	inner := &scope{up: m.scope}
	if caller != nil {
		inner.set("caller", caller)
	}
	if len(a.pos) > len(m.params) {
		fail("macro %s takes %d arguments, not %d", m.name, len(m.params), len(a.pos))
	}
	if a.kw != nil {
		for _, k := range a.kw.keys {
			if i := slices.Index(m.params, k); i < 0 || i < len(a.pos) {
				fail("macro %s does not take the argument %s", m.name, k)
			}
		}
	}
	first := len(m.params) - len(m.defaults)
	for i, name := range m.params {
		switch given := a.take(i, name, missing{}); {
		case given != missing{}:
			inner.set(name, given)
		case i >= first:
			inner.set(name, m.defaults[i-first].eval(in, inner))
		default:
			inner.set(name, undefined{name})
		}
	}
	return in.capture(m.body, inner)
}

// missing stands for an argument that was not given.
type missing struct{}

// iterate returns the items of v: characters of a string, keys of a dict.
func (in *interp) iterate(v Value) []Value {
	switch v := v.(type) {
	case []Value:
		in.tick(len(v))
		return v
	case tuple:
		in.tick(len(v))
		return v
	case undefined:
		return nil
	case string:
		in.tick(16 * len(v))
		out := make([]Value, 0, len(v))
		for _, r := range v {
			out = append(out, string(r))
		}
		return out
	case *Dict:
		out := make([]Value, v.Len())
		in.tick(16 * len(out))
		for i, k := range v.keys {
			out[i] = k
		}
		return out
	}
	fail("a value of type %s cannot be iterated over", typeName(v))
	return nil
}

// length is Python's len().
func length(v Value) int {
	switch v := v.(type) {
	case string:
		return utf8.RuneCountInString(v)
	case []Value:
		return len(v)
	case tuple:
		return len(v)
	case *Dict:
		return v.Len()
	case undefined:
		return 0
	}
	fail("a value of type %s has no length", typeName(v))
	return 0
}

// loopState is the variable loop.
type loopState struct {
	items   []Value
	index   int
	changed Value
	seen    bool
}

func (l *loopState) attr(name string) (Value, bool) {
	i, n := int64(l.index), int64(len(l.items))
	switch name {
	case "index":
		return i + 1, true
	case "index0":
		return i, true
	case "revindex":
		return n - i, true
	case "revindex0":
		return n - i - 1, true
	case "first":
		return i == 0, true
	case "last":
		return i == n-1, true
	case "length":
		return n, true
	case "depth":
		return int64(1), true // of recursion, which is not supported
	case "depth0":
		return int64(0), true
	case "previtem":
		if i > 0 {
			return l.items[i-1], true
		}
		return undefined{"loop.previtem"}, true
	case "nextitem":
		if i+1 < n {
			return l.items[i+1], true
		}
		return undefined{"loop.nextitem"}, true
	case "cycle":
		return function{"cycle", func(_ *interp, a args) Value {
			if len(a.pos) == 0 {
				fail("loop.cycle needs arguments")
			}
			return a.pos[l.index%len(a.pos)]
		}}, true
	case "changed":
		return function{"changed", func(in *interp, a args) Value {
			now := tuple(a.pos)
			if l.seen && in.equal(l.changed, now) {
				return false
			}
			l.seen, l.changed = true, now
			return true
		}}, true
	}
	return nil, false
}
