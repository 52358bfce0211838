package chat

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

type filterFunc func(in *interp, v Value, a args) Value

// filters are Jinja2's, as far as chat templates use them, with tojson as
// transformers has it.
var filters = map[string]filterFunc{
	"trim": func(in *interp, v Value, a args) Value {
		return strip(in, in.str(v), a.take(0, "chars", nil), true, true)
	},
	"length":     func(_ *interp, v Value, _ args) Value { return int64(length(v)) },
	"count":      func(_ *interp, v Value, _ args) Value { return int64(length(v)) },
	"upper":      func(in *interp, v Value, _ args) Value { return strings.ToUpper(in.str(v)) },
	"lower":      func(in *interp, v Value, _ args) Value { return strings.ToLower(in.str(v)) },
	"capitalize": func(in *interp, v Value, _ args) Value { return capitalize(in.str(v)) },
	"title":      func(in *interp, v Value, _ args) Value { return title(in.str(v)) },
	"string":     func(in *interp, v Value, _ args) Value { return in.str(v) },
	"safe":       func(_ *interp, v Value, _ args) Value { return v },
	"escape":     func(in *interp, v Value, _ args) Value { return escapeHTML(in, in.str(v)) },
	"e":          func(in *interp, v Value, _ args) Value { return escapeHTML(in, in.str(v)) },
	"default":    defaultFilter,
	"d":          defaultFilter,
	"replace":    func(in *interp, v Value, a args) Value { return replace(in, in.str(v), a) },
	"tojson":     toJSON,
	"items": func(in *interp, v Value, _ args) Value {
		if _, ok := v.(undefined); ok {
			return []Value{}
		}
		d, ok := v.(*Dict)
		if !ok {
			fail("items needs a mapping, not a value of type %s", typeName(v))
		}
		in.tick(16 * d.Len())
		return dictMethods["items"](d, args{})
	},
	"list":       func(in *interp, v Value, _ args) Value { return copied(in, in.iterate(v)) },
	"join":       joinFilter,
	"first":      func(in *interp, v Value, _ args) Value { return end(in.iterate(v), false) },
	"last":       func(in *interp, v Value, _ args) Value { return end(in.iterate(v), true) },
	"reverse":    reverse,
	"sort":       sortFilter,
	"unique":     unique,
	"dictsort":   dictSort,
	"sum":        sum,
	"min":        func(in *interp, v Value, _ args) Value { return extreme(in, in.iterate(v), -1) },
	"max":        func(in *interp, v Value, _ args) Value { return extreme(in, in.iterate(v), 1) },
	"int":        toInt,
	"float":      toFloat,
	"abs":        func(_ *interp, v Value, _ args) Value { return absolute(v) },
	"round":      round,
	"indent":     indent,
	"wordcount":  func(in *interp, v Value, _ args) Value { return int64(words(in.str(v))) },
	"map":        mapFilter,
	"select":     func(in *interp, v Value, a args) Value { return choose(in, v, a, false, true) },
	"reject":     func(in *interp, v Value, a args) Value { return choose(in, v, a, false, false) },
	"selectattr": func(in *interp, v Value, a args) Value { return choose(in, v, a, true, true) },
	"rejectattr": func(in *interp, v Value, a args) Value { return choose(in, v, a, true, false) },
	"attr":       func(_ *interp, v Value, a args) Value { return orUndefined(attribute(v, text(a.take(0, "name", nil)))) },
}

func copied(in *interp, list []Value) []Value {
	in.tick(16 * len(list))
	return append([]Value{}, list...)
}

func orUndefined(v Value, ok bool) Value {
	if !ok {
		return undefined{"an attribute"}
	}
	return v
}

func (in *interp) applyFilters(list []filterCall, v Value, s *scope) Value {
	for _, f := range list {
		v = in.filter(f, v, s)
	}
	return v
}

func (in *interp) filter(f filterCall, v Value, s *scope) Value {
	in.tick(0)
	in.weigh(v)
	return filters[f.name](in, v, f.args.arguments(in, s))
}

func (e *filterExpr) eval(in *interp, s *scope) Value {
	return in.filter(e.call, e.of.eval(in, s), s)
}

func defaultFilter(_ *interp, v Value, a args) Value {
	_, isUndefined := v.(undefined)
	if isUndefined || truth(a.take(1, "boolean", false)) && !truth(v) {
		return a.take(0, "default_value", "")
	}
	return v
}

func escapeHTML(in *interp, s string) string {
	in.tick(5 * len(s)) // the longest of them replaces one byte
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;").Replace(s)
}

// toJSON is json.dumps(v, ensure_ascii=False, indent, separators, sort_keys).
func toJSON(in *interp, v Value, a args) Value {
	style := jsonStyle{item: ", ", key: ": ", in: in}
	style.ascii = truth(a.take(0, "ensure_ascii", false))
	switch ind := a.take(1, "indent", nil).(type) {
	case nil:
	case string:
		style.pretty, style.indent = true, ind
	default:
		n := max(0, integer(ind))
		if n > 64 {
			fail("tojson: an indent of %d", n)
		}
		style.pretty, style.indent = true, strings.Repeat(" ", int(n))
	}
	if style.pretty {
		style.item = ","
	}
	if seps := a.take(2, "separators", nil); seps != nil {
		pair := in.iterate(seps)
		if len(pair) != 2 {
			fail("tojson: separators are %d, not 2", len(pair))
		}
		style.item, style.key = text(pair[0]), text(pair[1])
	}
	style.sortKeys = truth(a.take(3, "sort_keys", false))
	s, err := dumps(v, style)
	if err != nil {
		fail("%v", err)
	}
	return s
}

func sortedStrings(s []string) []string { return slices.Sorted(slices.Values(s)) }

func joinFilter(in *interp, v Value, a args) Value {
	sep := in.str(a.take(0, "d", ""))
	if attr := a.take(1, "attribute", nil); attr != nil {
		v = mapFilter(in, v, args{kw: NewDict("attribute", attr)})
	}
	return join(in, v, sep)
}

func end(list []Value, last bool) Value {
	switch {
	case len(list) == 0:
		return undefined{"an item of an empty list"}
	case last:
		return list[len(list)-1]
	}
	return list[0]
}

func reverse(in *interp, v Value, _ args) Value {
	if s, ok := v.(string); ok {
		r := []rune(s)
		slices.Reverse(r)
		return string(r)
	}
	out := copied(in, in.iterate(v))
	slices.Reverse(out)
	return out
}

// fold is what Jinja2 compares by when case does not count.
func (in *interp) fold(v Value, caseSensitive bool) Value {
	if s, ok := v.(string); ok && !caseSensitive {
		in.tick(len(s))
		return strings.ToLower(s)
	}
	return v
}

func sortFilter(in *interp, v Value, a args) Value {
	out := copied(in, in.iterate(v))
	sensitive := truth(a.take(1, "case_sensitive", false))
	key := getter(in, a.take(2, "attribute", nil))
	slices.SortStableFunc(out, func(x, y Value) int {
		c := in.order(in.fold(key(x), sensitive), in.fold(key(y), sensitive))
		if truth(a.take(0, "reverse", false)) {
			return -c
		}
		return c
	})
	return out
}

func unique(in *interp, v Value, a args) Value {
	sensitive := truth(a.take(0, "case_sensitive", false))
	key := getter(in, a.take(1, "attribute", nil))
	var out, seen []Value
	for _, e := range in.iterate(v) {
		k := in.fold(key(e), sensitive)
		in.tick(len(seen))
		if !slices.ContainsFunc(seen, func(s Value) bool { return in.equal(s, k) }) {
			seen = append(seen, k)
			out = append(out, e)
		}
	}
	return out
}

func dictSort(in *interp, v Value, a args) Value {
	d, ok := v.(*Dict)
	if !ok {
		fail("dictsort needs a mapping, not a value of type %s", typeName(v))
	}
	by := 0
	if text(a.take(1, "by", "key")) == "value" {
		by = 1
	}
	sensitive := truth(a.take(0, "case_sensitive", false))
	in.tick(64 * d.Len())
	out := dictMethods["items"](d, args{}).([]Value)
	slices.SortStableFunc(out, func(x, y Value) int {
		c := in.order(in.fold(x.(tuple)[by], sensitive), in.fold(y.(tuple)[by], sensitive))
		if truth(a.take(2, "reverse", false)) {
			return -c
		}
		return c
	})
	return out
}

func sum(in *interp, v Value, a args) Value {
	total := a.take(1, "start", int64(0))
	key := getter(in, a.take(0, "attribute", nil))
	for _, e := range in.iterate(v) {
		total = in.arithmetic("+", total, key(e))
	}
	return total
}

func extreme(in *interp, list []Value, sign int) Value {
	if len(list) == 0 {
		return undefined{"an item of an empty list"}
	}
	best := list[0]
	for _, e := range list[1:] {
		if sign*in.order(in.fold(e, false), in.fold(best, false)) > 0 {
			best = e
		}
	}
	return best
}

func toInt(_ *interp, v Value, a args) Value {
	i, f, isInt, ok := number(v)
	if s, isText := v.(string); isText {
		s = strings.TrimFunc(s, isSpace)
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n
		}
		x, err := strconv.ParseFloat(s, 64)
		f, ok = x, err == nil
	}
	switch {
	case !ok || !isInt && !(math.Abs(f) < 1<<62):
		return a.take(0, "default", int64(0))
	case isInt:
		return i
	}
	return int64(f)
}

func toFloat(_ *interp, v Value, a args) Value {
	if _, f, _, ok := number(v); ok {
		return f
	}
	if s, ok := v.(string); ok {
		if f, err := strconv.ParseFloat(strings.TrimFunc(s, isSpace), 64); err == nil {
			return f
		}
	}
	return a.take(0, "default", 0.0)
}

func absolute(v Value) Value {
	i, f, isInt, ok := number(v)
	if !ok {
		fail("abs of a value of type %s", typeName(v))
	}
	if isInt {
		return max(i, -i)
	}
	return math.Abs(f)
}

func round(_ *interp, v Value, a args) Value {
	_, f, _, ok := number(v)
	if !ok {
		fail("round of a value of type %s", typeName(v))
	}
	digits := integer(a.take(0, "precision", int64(0)))
	if digits < 0 || digits > 15 {
		fail("round to %d digits", digits)
	}
	scale := math.Pow(10, float64(digits))
	switch text(a.take(1, "method", "common")) {
	case "ceil":
		return math.Ceil(f*scale) / scale
	case "floor":
		return math.Floor(f*scale) / scale
	}
	r, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', int(digits), 64), 64)
	if err != nil {
		return f
	}
	return r
}

func indent(in *interp, v Value, a args) Value {
	pad, ok := a.take(0, "width", int64(4)).(string)
	if !ok {
		n := integer(a.take(0, "width", int64(4)))
		if n < 0 || n > 1024 {
			fail("indent by %d", n)
		}
		pad = strings.Repeat(" ", int(n))
	}
	s := in.str(v)
	in.tick((strings.Count(s, "\n") + 1) * (len(pad) + 16))
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if i == 0 && !truth(a.take(1, "first", false)) || l == "" && !truth(a.take(2, "blank", false)) {
			continue
		}
		lines[i] = pad + l
	}
	return strings.Join(lines, "\n")
}

// getter returns a function that looks up an attribute such as "a.b" or an
// index; nil gives the value itself.
func getter(in *interp, attr Value) func(Value) Value {
	if attr == nil {
		return func(v Value) Value { return v }
	}
	var path []Value
	in.weigh(attr)
	if s, ok := attr.(string); ok {
		for _, p := range strings.Split(s, ".") {
			if n, err := strconv.ParseInt(p, 10, 64); err == nil {
				path = append(path, n)
			} else {
				path = append(path, p)
			}
		}
	} else {
		path = []Value{attr}
	}
	return func(v Value) Value {
		for _, p := range path {
			v = (&indexExpr{of: &constExpr{v}, at: &constExpr{p}}).eval(in, nil)
		}
		return v
	}
}

func mapFilter(in *interp, v Value, a args) Value {
	list := in.iterate(v)
	in.tick(16 * len(list))
	out := make([]Value, len(list))
	if attr := a.take(len(a.pos), "attribute", nil); attr != nil && len(a.pos) == 0 {
		get := getter(in, attr)
		def := a.take(len(a.pos), "default", nil)
		for i, e := range list {
			out[i] = get(e)
			if _, none := out[i].(undefined); none && def != nil {
				out[i] = def
			}
		}
		return out
	}
	name := text(a.take(0, "", nil))
	f, ok := in.filters[name]
	if !ok {
		fail("unknown filter %q", name)
	}
	rest := args{pos: a.pos[1:], kw: a.kw}
	for i, e := range list {
		in.weigh(e)
		out[i] = f(in, e, rest)
	}
	return out
}

// choose is select, reject, selectattr and rejectattr.
func choose(in *interp, v Value, a args, byAttr, keep bool) Value {
	get := getter(in, nil)
	pos := a.pos
	if byAttr {
		if len(pos) == 0 {
			fail("selectattr and rejectattr need the name of an attribute")
		}
		get, pos = getter(in, pos[0]), pos[1:]
	}
	test := func(_ *interp, v Value, _ []Value) bool { return truth(v) }
	if len(pos) > 0 {
		t, ok := in.tests[text(pos[0])]
		if !ok {
			fail("unknown test %q", text(pos[0]))
		}
		test, pos = t, pos[1:]
	}
	out := []Value{}
	for _, e := range in.iterate(v) {
		in.tick(16)
		x := get(e)
		in.weigh(x)
		if test(in, x, pos) == keep {
			out = append(out, e)
		}
	}
	return out
}

type testFunc func(in *interp, v Value, a []Value) bool

func second(a []Value) Value {
	if len(a) != 1 {
		fail("a test needs one argument, not %d", len(a))
	}
	return a[0]
}

// tests are Jinja2's.
var tests = map[string]testFunc{
	"defined":   func(_ *interp, v Value, _ []Value) bool { return !isKind[undefined](v) },
	"undefined": func(_ *interp, v Value, _ []Value) bool { return isKind[undefined](v) },
	"none":      func(_ *interp, v Value, _ []Value) bool { return v == nil },
	"true":      func(_ *interp, v Value, _ []Value) bool { return v == true },
	"false":     func(_ *interp, v Value, _ []Value) bool { return v == false },
	"boolean":   func(_ *interp, v Value, _ []Value) bool { return isKind[bool](v) },
	"integer":   func(_ *interp, v Value, _ []Value) bool { return isKind[int64](v) },
	"float":     func(_ *interp, v Value, _ []Value) bool { return isKind[float64](v) },
	"number":    func(_ *interp, v Value, _ []Value) bool { _, _, _, ok := number(v); return ok },
	"string":    func(_ *interp, v Value, _ []Value) bool { return isKind[string](v) },
	"mapping":   func(_ *interp, v Value, _ []Value) bool { return isKind[*Dict](v) },
	"sequence":  func(_ *interp, v Value, _ []Value) bool { return isSequence(v) },
	"iterable":  func(_ *interp, v Value, _ []Value) bool { return isSequence(v) },
	"callable": func(_ *interp, v Value, _ []Value) bool {
		return isKind[macro](v) || isKind[function](v) || isKind[method](v)
	},
	"even":        func(_ *interp, v Value, _ []Value) bool { return integer(v)%2 == 0 },
	"odd":         func(in *interp, v Value, _ []Value) bool { return integer(v)%2 != 0 },
	"divisibleby": func(in *interp, v Value, a []Value) bool { return in.equal(in.arithmetic("%", v, second(a)), int64(0)) },
	"lower": func(in *interp, v Value, _ []Value) bool {
		s := in.str(v)
		return s == strings.ToLower(s) && s != strings.ToUpper(s)
	},
	"upper": func(in *interp, v Value, _ []Value) bool {
		s := in.str(v)
		return s == strings.ToUpper(s) && s != strings.ToLower(s)
	},
	"in": func(in *interp, v Value, a []Value) bool { return in.contains(second(a), v) },
	"sameas": func(in *interp, v Value, a []Value) bool {
		return typeName(v) == typeName(second(a)) && in.equal(v, second(a))
	},
	"equalto": compareTest("=="), "eq": compareTest("=="), "==": compareTest("=="),
	"ne": compareTest("!="), "!=": compareTest("!="),
	"lt": compareTest("<"), "lessthan": compareTest("<"), "<": compareTest("<"), "le": compareTest("<="), "<=": compareTest("<="),
	"gt": compareTest(">"), "greaterthan": compareTest(">"), ">": compareTest(">"), "ge": compareTest(">="), ">=": compareTest(">="),
}

func isKind[T any](v Value) bool { _, ok := v.(T); return ok }

func isSequence(v Value) bool {
	switch v.(type) {
	case string, []Value, tuple, *Dict, undefined:
		return true
	}
	return false
}

func compareTest(op string) testFunc {
	return func(in *interp, v Value, a []Value) bool { return in.compare(op, v, second(a)) }
}

func (e *testExpr) eval(in *interp, s *scope) Value {
	in.tick(0)
	v := e.of.eval(in, s)
	in.weigh(v)
	return tests[e.name](in, v, evalAll(in, s, e.args))
}
