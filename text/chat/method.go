package chat

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Python's methods. Those that change a list or dict are absent, as in the
// sandbox of transformers.
var (
	stringMethods = map[string]func(in *interp, s string, a args) Value{
		"strip":        func(in *interp, s string, a args) Value { return strip(in, s, a.take(0, "", nil), true, true) },
		"lstrip":       func(in *interp, s string, a args) Value { return strip(in, s, a.take(0, "", nil), true, false) },
		"rstrip":       func(in *interp, s string, a args) Value { return strip(in, s, a.take(0, "", nil), false, true) },
		"upper":        func(_ *interp, s string, _ args) Value { return strings.ToUpper(s) },
		"lower":        func(_ *interp, s string, _ args) Value { return strings.ToLower(s) },
		"capitalize":   func(_ *interp, s string, _ args) Value { return capitalize(s) },
		"title":        func(_ *interp, s string, _ args) Value { return title(s) },
		"startswith":   func(in *interp, s string, a args) Value { return affix(in, s, a.take(0, "", nil), strings.HasPrefix) },
		"endswith":     func(in *interp, s string, a args) Value { return affix(in, s, a.take(0, "", nil), strings.HasSuffix) },
		"removeprefix": func(_ *interp, s string, a args) Value { return strings.TrimPrefix(s, text(a.take(0, "", nil))) },
		"removesuffix": func(_ *interp, s string, a args) Value { return strings.TrimSuffix(s, text(a.take(0, "", nil))) },
		"split":        func(in *interp, s string, a args) Value { return split(in, s, a, false) },
		"rsplit":       func(in *interp, s string, a args) Value { return split(in, s, a, true) },
		"splitlines":   func(in *interp, s string, _ args) Value { return splitLines(in, s) },
		"partition":    func(_ *interp, s string, a args) Value { return partition(s, text(a.take(0, "", nil)), strings.Index) },
		"rpartition": func(_ *interp, s string, a args) Value {
			return partition(s, text(a.take(0, "", nil)), strings.LastIndex)
		},
		"replace": func(in *interp, s string, a args) Value { return replace(in, s, a) },
		"join":    func(in *interp, s string, a args) Value { return join(in, a.take(0, "", nil), s) },
		"find": func(_ *interp, s string, a args) Value {
			return runeIndex(s, strings.Index(s, text(a.take(0, "", nil))))
		},
		"rfind": func(_ *interp, s string, a args) Value {
			return runeIndex(s, strings.LastIndex(s, text(a.take(0, "", nil))))
		},
		"count":   func(_ *interp, s string, a args) Value { return int64(strings.Count(s, text(a.take(0, "", nil)))) },
		"isdigit": func(_ *interp, s string, _ args) Value { return all(s, unicode.IsDigit) },
		"isalpha": func(_ *interp, s string, _ args) Value { return all(s, unicode.IsLetter) },
		"isspace": func(_ *interp, s string, _ args) Value { return all(s, isSpace) },
		"isupper": func(_ *interp, s string, _ args) Value { return s != strings.ToLower(s) && s == strings.ToUpper(s) },
		"islower": func(_ *interp, s string, _ args) Value { return s != strings.ToUpper(s) && s == strings.ToLower(s) },
	}
	dictMethods = map[string]func(d *Dict, a args) Value{
		"items": func(d *Dict, _ args) Value {
			out := make([]Value, d.Len())
			for i, k := range d.keys {
				out[i] = tuple{k, d.vals[k]}
			}
			return out
		},
		"keys": func(d *Dict, _ args) Value {
			out := make([]Value, d.Len())
			for i, k := range d.keys {
				out[i] = k
			}
			return out
		},
		"values": func(d *Dict, _ args) Value {
			out := make([]Value, d.Len())
			for i, k := range d.keys {
				out[i] = d.vals[k]
			}
			return out
		},
		"get": func(d *Dict, a args) Value {
			if k, ok := a.take(0, "", nil).(string); ok {
				if v, ok := d.Get(k); ok {
					return v
				}
			}
			return a.take(1, "", nil)
		},
		"copy": func(d *Dict, _ args) Value {
			out := NewDict()
			for _, k := range d.keys {
				out.Set(k, d.vals[k])
			}
			return out
		},
	}
	listMethods = map[string]func(in *interp, list []Value, v Value) Value{
		"index": func(in *interp, list []Value, v Value) Value {
			i := slices.IndexFunc(list, func(e Value) bool { return in.equal(e, v) })
			if i < 0 {
				fail("%s is not in the list", in.str(v))
			}
			return int64(i)
		},
		"count": func(in *interp, list []Value, v Value) Value {
			n := int64(0)
			for _, e := range list {
				if in.equal(e, v) {
					n++
				}
			}
			return n
		},
	}
)

func (in *interp) callMethod(m method, a args) Value {
	switch of := m.of.(type) {
	case string:
		in.tick(len(of))
		return stringMethods[m.name](in, of, a)
	case *Dict:
		in.tick(16 * of.Len())
		in.weigh(a.take(0, "", nil))
		return dictMethods[m.name](of, a)
	case []Value:
		in.tick(16 * len(of))
		return listMethods[m.name](in, of, a.take(0, "", nil))
	case tuple:
		in.tick(16 * len(of))
		return listMethods[m.name](in, of, a.take(0, "", nil))
	}
	fail("no method %s", m.name)
	return nil
}

// text is the string v; anything else is an error.
func text(v Value) string {
	s, ok := v.(string)
	if !ok {
		fail("expected a string, found a value of type %s", typeName(v))
	}
	return s
}

func integer(v Value) int64 {
	i, _, isInt, ok := number(v)
	if !ok || !isInt {
		fail("expected an int, found a value of type %s", typeName(v))
	}
	return i
}

// strip removes whitespace, or the characters given.
func strip(in *interp, s string, chars Value, left, right bool) Value {
	cut := isSpace
	if chars != nil {
		list := text(chars)
		in.tick(16 * len(list))
		set := make(map[rune]bool, len(list))
		for _, r := range list {
			set[r] = true
		}
		cut = func(r rune) bool { return set[r] }
	}
	if left {
		s = strings.TrimLeftFunc(s, cut)
	}
	if right {
		s = strings.TrimRightFunc(s, cut)
	}
	return s
}

func affix(in *interp, s string, v Value, has func(s, affix string) bool) bool {
	if list, ok := v.(tuple); ok {
		return slices.ContainsFunc(list, func(e Value) bool {
			in.tick(len(text(e)))
			return has(s, text(e))
		})
	}
	return has(s, text(v))
}

func split(in *interp, s string, a args, fromRight bool) Value {
	sep := a.take(0, "sep", nil)
	most := integer(a.take(1, "maxsplit", int64(-1)))
	limit := len(s) + 1
	if most >= 0 && most < int64(limit) {
		limit = int(most)
	}
	var parts []string
	if sep == nil {
		in.tick(16 * min(limit, words(s)))
		parts = splitSpace(s, limit, fromRight)
	} else {
		in.tick(16 * min(limit, strings.Count(s, text(sep))))
		parts = splitSep(s, text(sep), limit, fromRight)
	}
	out := make([]Value, len(parts))
	for i, p := range parts {
		out[i] = p
	}
	return out
}

// words counts the parts between whitespace.
func words(s string) (n int) {
	space := true
	for _, r := range s {
		was := space
		if space = isSpace(r); was && !space {
			n++
		}
	}
	return n
}

func splitSep(s, sep string, limit int, fromRight bool) []string {
	if sep == "" {
		fail("an empty separator")
	}
	if !fromRight {
		return strings.SplitN(s, sep, limit+1)
	}
	var parts []string
	for ; limit > 0; limit-- {
		i := strings.LastIndex(s, sep)
		if i < 0 {
			break
		}
		parts = append(parts, s[i+len(sep):])
		s = s[:i]
	}
	parts = append(parts, s)
	slices.Reverse(parts)
	return parts
}

func splitSpace(s string, limit int, fromRight bool) []string {
	var parts []string
	if fromRight {
		for s = trimRight(s); s != ""; s = trimRight(s) {
			i := strings.LastIndexFunc(s, isSpace)
			if i < 0 || limit == 0 {
				parts = append(parts, s)
				break
			}
			_, n := utf8.DecodeRuneInString(s[i:])
			parts = append(parts, s[i+n:])
			s = s[:i]
			limit--
		}
		slices.Reverse(parts)
		return parts
	}
	for s = trimLeft(s); s != ""; s = trimLeft(s) {
		i := strings.IndexFunc(s, isSpace)
		if i < 0 || limit == 0 {
			parts = append(parts, s)
			break
		}
		parts = append(parts, s[:i])
		s = s[i:]
		limit--
	}
	return parts
}

func splitLines(in *interp, s string) Value {
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
	in.tick(16 * strings.Count(s, "\n"))
	var lines []string
	if s != "" {
		lines = strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	}
	out := make([]Value, len(lines))
	for i, l := range lines {
		out[i] = l
	}
	return out
}

func partition(s, sep string, index func(s, sep string) int) Value {
	if sep == "" {
		fail("an empty separator")
	}
	i := index(s, sep)
	if i < 0 {
		return tuple{s, "", ""}
	}
	return tuple{s[:i], sep, s[i+len(sep):]}
}

func replace(in *interp, s string, a args) Value {
	old, with := text(a.take(0, "old", nil)), text(a.take(1, "new", nil))
	n := -1
	if c := integer(a.take(2, "count", int64(-1))); c >= 0 {
		n = int(min(c, int64(len(s)+1)))
	}
	found := strings.Count(s, old)
	if n >= 0 {
		found = min(found, n)
	}
	if len(with) > 0 && found > maxOutput/len(with) {
		in.tick(maxOutput + 1)
	}
	in.tick(len(s) + found*len(with))
	return strings.Replace(s, old, with, n)
}

func join(in *interp, v Value, sep string) Value {
	var b strings.Builder
	for i, e := range in.iterate(v) {
		if i > 0 {
			b.WriteString(sep)
		}
		s := in.str(e)
		in.tick(len(sep) + len(s))
		b.WriteString(s)
		in.limit(b.Len())
	}
	return b.String()
}

// limit fails when a string under construction is too long.
func (in *interp) limit(n int) {
	if n > maxOutput {
		in.tick(n)
	}
}

func runeIndex(s string, i int) int64 {
	if i < 0 {
		return -1
	}
	return int64(utf8.RuneCountInString(s[:i]))
}

func all(s string, f func(rune) bool) bool {
	for _, r := range s {
		if !f(r) {
			return false
		}
	}
	return s != ""
}

// title is Python's str.title: each run of letters capitalised.
func title(s string) string {
	inside := false
	return strings.Map(func(r rune) rune {
		was := inside
		inside = unicode.IsLetter(r)
		if was {
			return unicode.ToLower(r)
		}
		return unicode.ToTitle(r)
	}, s)
}
