package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
)

// A Change is one difference between what two actions depend on.
type Change struct {
	What  string    // "lr", "input documents", "corpus/a.txt", "seed"
	How   string    // of content: "changed", "is new", "is gone"; empty for values
	Old   string    // the value before; empty when there was none
	New   string    // the value now; empty when there is none
	Range hcl.Range // of the attribute; empty when it does not stand in the file
}

// String returns the change in words, such as: lr 0.0001 → 0.0002.
func (c Change) String() string {
	if c.How != "" {
		return c.What + " " + c.How
	}
	or := func(s, empty string) string {
		if s == "" {
			return empty
		}
		return s
	}
	return fmt.Sprintf("%s %s → %s", c.What, or(c.Old, "(none)"), or(c.New, "(none)"))
}

func sentence(cs []Change) string {
	const most = 3
	var parts []string
	for _, c := range cs[:min(most, len(cs))] {
		s := c.String()
		if c.Range.Filename != "" && c.Range.Start.Line > 0 {
			s += fmt.Sprintf(" (%s:%d)", c.Range.Filename, c.Range.Start.Line)
		}
		parts = append(parts, s)
	}
	if len(cs) > most {
		parts = append(parts, fmt.Sprintf("and %d more changes", len(cs)-most))
	}
	return strings.Join(parts, ", ")
}

// Changes compares the pre-images of two records of the block n, which gives
// attributes their names and places; n may be nil.
func Changes(old, new json.RawMessage, n *lang.Node) ([]Change, error) {
	var a, b preimage
	if err := json.Unmarshal(old, &a); err != nil {
		return nil, fmt.Errorf("read pre-image: %w", err)
	}
	if err := json.Unmarshal(new, &b); err != nil {
		return nil, fmt.Errorf("read pre-image: %w", err)
	}
	return changes(&a, &b, n), nil
}

func changes(a, b *preimage, n *lang.Node) (out []Change) {
	scalar := func(what string, x, y any) {
		if x != y {
			out = append(out, Change{What: what, Old: fmt.Sprint(x), New: fmt.Sprint(y)})
		}
	}
	scalar("kind", a.Kind, b.Kind)
	scalar("version of "+b.Kind, a.Version, b.Version)
	var spec reflect.Type
	if n != nil && n.Stage != nil {
		spec = reflect.TypeOf(n.Stage)
	}
	compare(leaves(a.Spec, spec), leaves(b.Spec, spec), func(path, x, y string) {
		c := Change{What: path, Old: x, New: y}
		if n != nil {
			c.Range = n.Range(path)
		}
		out = append(out, c)
	})
	compare(a.Inputs, b.Inputs, func(path string, x, y artifact.Digest) {
		c := Change{What: "input " + path, How: "changed"}
		if n != nil {
			c.Range = n.Range(path)
			for _, in := range n.Inputs {
				if in.Path == path {
					c.What += " (" + in.Ref.String() + ")"
				}
			}
		}
		out = append(out, c)
	})
	compare(digests(a.Sources), digests(b.Sources), func(path string, x, y artifact.Digest) {
		how := "changed"
		switch {
		case x.IsZero():
			how = "is new"
		case y.IsZero():
			how = "is gone"
		}
		out = append(out, Change{What: path, How: how})
	})
	if len(out) == 0 && !slices.Equal(a.Sources, b.Sources) {
		out = append(out, Change{What: "the order of the files", How: "changed"})
	}
	scalar("seed", a.Seed, b.Seed)
	scalar("backend", a.Backend, b.Backend)
	return out
}

func digests(sources []source) map[string]artifact.Digest {
	m := map[string]artifact.Digest{}
	for _, s := range sources {
		m[s.Path] = s.Digest
	}
	return m
}

// compare calls differ for each name whose values differ, in order.
func compare[V comparable](a, b map[string]V, differ func(name string, x, y V)) {
	names := map[string]bool{}
	for name := range a {
		names[name] = true
	}
	for name := range b {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if a[name] != b[name] {
			differ(name, a[name], b[name])
		}
	}
}

// leaves flattens the JSON of a spec of type t into its scalars, by the names
// that HCL has for them. Handles are left out: inputs tell of them.
func leaves(spec json.RawMessage, t reflect.Type) map[string]string {
	d := json.NewDecoder(bytes.NewReader(spec))
	d.UseNumber()
	var v any
	out := map[string]string{}
	if d.Decode(&v) == nil {
		flatten("", v, t, out)
	}
	return out
}

func flatten(path string, v any, t reflect.Type, out map[string]string) {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := v.(type) {
	case nil:
	case map[string]any:
		if len(v) == 2 && v["digest"] != nil && v["type"] != nil {
			return
		}
		for name, x := range v {
			sub, st := name, reflect.Type(nil)
			if t != nil && t.Kind() == reflect.Struct {
				if f, ok := t.FieldByName(name); ok {
					st = f.Type
					if tag, _, _ := strings.Cut(f.Tag.Get("hcl"), ","); tag != "" {
						sub = tag
					}
				}
			}
			if path != "" {
				sub = path + "." + sub
			}
			flatten(sub, x, st, out)
		}
	case []any:
		var st reflect.Type
		if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
			st = t.Elem()
		}
		for i, x := range v {
			flatten(fmt.Sprintf("%s[%d]", path, i), x, st, out)
		}
	case string:
		var d artifact.Digest
		if d.UnmarshalText([]byte(v)) != nil {
			out[path] = fmt.Sprintf("%q", v)
		}
	default:
		out[path] = fmt.Sprint(v)
	}
}

// lastPreimage returns what n's last result was made from, nil if unknown.
func (e *engine) lastPreimage(n *lang.Node) *preimage {
	k, ok := e.last.Keys[n.Addr]
	if !ok {
		return nil
	}
	rec, err := e.Store.Record(k)
	if err != nil {
		return nil
	}
	var p preimage
	if json.Unmarshal(rec.Preimage, &p) != nil {
		return nil
	}
	return &p
}

// reason says why an action that is not in the store must run.
func (e *engine) reason(n *lang.Node, a *action) string {
	k, ok := e.last.Keys[n.Addr]
	switch {
	case e.forced[n.Addr]:
		return "forced"
	case !ok:
		return "it has no earlier result"
	case k == a.key:
		return "its result is no longer in the store"
	}
	old := e.lastPreimage(n)
	if old == nil {
		return "its earlier result is no longer in the store"
	}
	return sentence(changes(old, &a.pre, n))
}
