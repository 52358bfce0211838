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
	"pipe/runtime/stage"
)

// A Change is one difference between what two actions depend on.
type Change struct {
	What    string    // "lr", "input documents (data.docs)", "corpus/a.txt", "seed"
	How     string    // of content: "changed", "is new", "is gone"; empty for values
	Old     string    // the value before; empty when there was none
	New     string    // the value now; empty when there is none
	Default string    // of an attribute that does not stand in the file: what that tells, in words
	Range   hcl.Range // of the attribute; empty when it does not stand in the file

	// Of an input whose content changed: where it comes from, and both contents.
	Input  string // path of the handle in the spec; empty for other changes
	Source artifact.Ref
	Was    artifact.Digest // zero when there was none
	Is     artifact.Digest // zero when there is none
}

// String returns the change in words, such as: lr 0.0001 → 0.0002. Of long
// texts it shows what differs.
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
	was, is := excerpts(c.Old, c.New)
	text := fmt.Sprintf("%s %s → %s", c.What, or(was, "(none)"), or(is, "(none)"))
	switch c.Default {
	case "":
		return text
	case defaultChanged:
		return "default of " + text
	}
	return text + " (" + c.Default + ")"
}

// At returns the place of the change as FILE:LINE, empty when it has none.
func (c Change) At() string {
	if c.Range.Filename == "" || c.Range.Start.Line == 0 {
		return ""
	}
	return fmt.Sprintf("%s:%d", c.Range.Filename, c.Range.Start.Line)
}

func (c Change) placed() string {
	if at := c.At(); at != "" {
		return c.String() + " (" + at + ")"
	}
	return c.String()
}

func sentence(cs []Change) string {
	const most = 3
	var parts []string
	for _, c := range cs[:min(most, len(cs))] {
		parts = append(parts, c.placed())
	}
	if len(cs) > most {
		parts = append(parts, fmt.Sprintf("and %d more changes", len(cs)-most))
	}
	return strings.Join(parts, ", ")
}

// Changes compares the pre-images of two records of the block n, which gives
// attributes their names and places; n may be nil.
func Changes(old, new json.RawMessage, n *lang.Node) ([]Change, error) {
	v := viewer{node: n}
	if n != nil && n.Stage != nil {
		v.spec = reflect.TypeOf(n.Stage)
	}
	return v.between(old, new)
}

// ChangesOf is Changes for a kind of stage whose block is not at hand: it knows
// the names of attributes, and no places.
func ChangesOf(old, new json.RawMessage, k stage.Kind) ([]Change, error) {
	return viewer{spec: reflect.TypeOf(k.New())}.between(old, new)
}

// A past is what an action of before was made from.
type past struct {
	preimage
	written []string // see [artifact.Record]
}

// A viewer finds names and places for what changed.
type viewer struct {
	spec reflect.Type  // of the kind's struct; nil: unknown
	node *lang.Node    // nil: no places
	prog *lang.Program // of node; nil: no places in teacher blocks
}

func (e *engine) view(n *lang.Node) viewer {
	return viewer{reflect.TypeOf(n.Stage), n, e.prog}
}

func (v viewer) between(old, new json.RawMessage) ([]Change, error) {
	var a past
	var b preimage
	if err := json.Unmarshal(old, &a.preimage); err != nil {
		return nil, fmt.Errorf("read pre-image: %w", err)
	}
	if err := json.Unmarshal(new, &b); err != nil {
		return nil, fmt.Errorf("read pre-image: %w", err)
	}
	return v.changes(&a, &b), nil
}

func (v viewer) changes(a *past, b *preimage) (out []Change) {
	scalar := func(what string, x, y any) {
		if x != y {
			out = append(out, Change{What: what, Old: fmt.Sprint(x), New: fmt.Sprint(y)})
		}
	}
	scalar("kind", a.Kind, b.Kind)
	scalar("version of "+b.Kind, a.Version, b.Version)
	out = append(out, v.attributes(a, b)...)
	out = append(out, v.inputs(a, b, out)...)
	compare(digests(a.Sources), digests(b.Sources), func(path string, x, y artifact.Digest) {
		out = append(out, Change{What: path, How: how(x, y)})
	})
	out = append(out, v.journalChanges(a, b)...)
	if len(out) == 0 && !slices.Equal(a.Sources, b.Sources) {
		out = append(out, Change{What: "the order of the files", How: "changed"})
	}
	if a.Seed != b.Seed { // of the kind: its numbers tell nobody anything
		out = append(out, Change{What: "the pipeline's seed", How: "changed"})
	}
	scalar("backend", a.Backend, b.Backend)
	scalar("format of keys", a.Format, b.Format)
	return out
}

// how says what became of content.
func how(was, is artifact.Digest) string {
	switch {
	case was.IsZero():
		return "is new"
	case is.IsZero():
		return "is gone"
	}
	return "changed"
}

// attributes compares the specs. What came or went as a whole, such as a block
// or a list, is one change.
func (v viewer) attributes(a *past, b *preimage) (out []Change) {
	was, is := leaves(a.Spec, v.spec), leaves(b.Spec, v.spec)
	told := map[string]bool{}
	compare(was, is, func(path, x, y string) {
		c := Change{What: path, Old: x, New: y}
		if x == "" || y == "" {
			full, other := is, was
			c.How = "is new"
			if y == "" {
				full, other, c.How = was, is, "is gone"
			}
			if c.What = widest(path, full, other); told[c.What] {
				return
			} else if told[c.What] = true; c.What == path {
				c.How = ""
			}
		}
		v.place(&c, path, a.written)
		out = append(out, c)
	})
	return out
}

// widest returns the longest step up from path of which other has nothing; path
// itself where that holds a single leaf.
func widest(path string, full, other map[string]string) string {
	under := func(m map[string]string, p string) (n int) {
		for name := range m {
			if rest, ok := strings.CutPrefix(name, p); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
				n++
			}
		}
		return n
	}
	best := path
	for p := lang.ParentPath(path); p != "" && under(other, p) == 0; p = lang.ParentPath(p) {
		best = p
	}
	if under(full, best) == 1 {
		return path
	}
	return best
}

// What is known of an attribute that does not stand in the file.
const (
	defaultChanged = "default changed"
	defaultAgain   = "no longer in the file: its default"
	defaultUnsure  = "not in the file: its default"
)

// place fills in where an attribute stands, or whose default it is.
func (v viewer) place(c *Change, path string, written []string) {
	if v.node == nil {
		return
	}
	n := v.node
	if in, rest, ok := v.teacher(path); ok {
		c.What = fmt.Sprintf("%s of %s", rest, in.Addr)
		if t := v.prog.Node(in.Addr); t != nil {
			n, path, written = t, rest, nil
		}
	}
	if stands(n.Written(), path) || c.How != "" || c.New == "" {
		c.Range = n.Range(path)
		return
	}
	switch {
	case len(written) == 0:
		c.Default = defaultUnsure
	case stands(written, path):
		c.Default, c.Range = defaultAgain, n.Range(path)
	default:
		c.Default = defaultChanged
	}
}

// teacher returns the teacher block that the attribute at path belongs to.
func (v viewer) teacher(path string) (ref *artifact.Ref, rest string, ok bool) {
	if v.prog == nil {
		return nil, "", false
	}
	for _, in := range v.node.Inputs {
		if rest, ok := strings.CutPrefix(path, in.Path+"."); ok && in.Ref.Type == artifact.Teacher {
			return in.Ref, rest, true
		}
	}
	return nil, "", false
}

// stands reports whether path, or the list or map that it is in, is in written.
func stands(written []string, path string) bool {
	for ; path != ""; path = lang.ParentPath(path) {
		if slices.Contains(written, path) {
			return true
		}
	}
	return false
}

// inputs compares the content of handles. That of a teacher is its attributes
// and its model: the former were told already.
func (v viewer) inputs(a *past, b *preimage, told []Change) (out []Change) {
	compare(a.Inputs, b.Inputs, func(path string, x, y artifact.Digest) {
		c := Change{What: strings.TrimSuffix("input "+path, " input"), How: how(x, y), Input: path, Was: x, Is: y}
		if v.node != nil {
			c.Range = v.node.Range(path)
			for _, in := range v.node.Inputs {
				if in.Path == path {
					c.Source = *in.Ref
					c.What += " (" + in.Ref.String() + ")"
				}
			}
		}
		if c.Source.Type == artifact.Teacher && c.How == "changed" {
			if slices.ContainsFunc(told, func(t Change) bool { return strings.HasSuffix(t.What, " of "+c.Source.Addr) }) {
				return
			}
			c.What = "the model of " + c.Source.Addr
		}
		out = append(out, c)
	})
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

// lastOf returns what n's last result was made from, nil if unknown.
func (e *engine) lastOf(n *lang.Node) *past {
	k, ok := e.last.Keys[n.Addr]
	if !ok {
		return nil
	}
	rec, err := e.Store.Record(k)
	if err != nil {
		return nil
	}
	return pastOf(rec)
}

// pastOf reads the pre-image of a record; nil when it cannot be read.
func pastOf(rec *artifact.Record) *past {
	p := past{written: rec.Written}
	if json.Unmarshal(rec.Preimage, &p.preimage) != nil {
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
	old := e.lastOf(n)
	if old == nil {
		return "its earlier result is no longer in the store"
	}
	return sentence(e.view(n).changes(old, &a.pre))
}
