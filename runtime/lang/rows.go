package lang

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// wrongRows says that the dataset h, which e is, holds other rows than the Go
// type t takes, and what to write instead.
func (s *setter) wrongRows(e hcl.Expression, h *handle, t reflect.Type) string {
	subject, written := s.subject(e, h)
	detail := fmt.Sprintf("%s is a dataset of %s; %s takes one of %s.", subject, artifact.RowWords(h.rows), s.name, artifact.RowWords(handleRows[t]))
	if made := s.d.l.maker(h, t); made != nil && written != "" {
		return detail + fmt.Sprintf(" First write %s \"NAME\" { %s = %s ... }, and here %s = %s.NAME.%s.",
			made.kind.Name, made.input, written, s.name, made.kind.Name, made.output)
	}
	if refs := s.instead(h, t); len(refs) > 0 {
		return detail + fmt.Sprintf(" Write %s.", strings.Join(refs, " or "))
	}
	return detail
}

// subject returns what an error calls the value of e, which is the handle h unless
// that is nil, and how a file refers to it: "" where it cannot, or e does not say.
// An element of a list that stands elsewhere is called by its number, and by its
// address.
func (s *setter) subject(e hcl.Expression, h *handle) (subject, written string) {
	written = spell(e)
	switch {
	case s.nth == 0 && written == "":
		return "this", ""
	case s.nth == 0:
		return written, written
	case written == "":
		written = "the list"
	}
	subject = fmt.Sprintf("Element %d of %s", s.nth, written)
	if h == nil {
		return subject, ""
	}
	if written = s.address(h.ref); written != "" {
		subject += ", " + written + ","
	}
	return subject, written
}

// address is how this file refers to what r does; "" when that is in another
// module.
func (s *setter) address(r artifact.Ref) string {
	written, here := strings.CutPrefix(r.String(), s.d.scope.mod.prefix)
	if !here || strings.HasPrefix(written, "module.") {
		return ""
	}
	return written
}

// A maker turns one dataset into another: the kind of a stage, an attribute that
// takes the one, and the output that is the other.
type maker struct {
	kind          *stage.Kind
	input, output string
}

// maker returns the stage that makes what the Go type t takes of h, if t takes
// rows that have to be made.
func (l *loader) maker(h *handle, t reflect.Type) *maker {
	if handleRows[t] == artifact.PlainRows {
		return nil // many make those
	}
	for _, name := range sortedKeys(l.kinds) {
		kind := l.kinds[name]
		for _, o := range kind.Outputs {
			if o.Type != artifact.Dataset || o.Rows != handleRows[t] {
				continue
			}
			for _, f := range l.plans.of(reflect.TypeOf(kind.New()).Elem()).attrs {
				if _, isHandle := handleKinds[f.typ]; isHandle && h.fits(f.typ) {
					return &maker{kind, f.name, o.Name}
				}
			}
		}
	}
	return nil
}

// instead returns the datasets close to h that fit t, as this file writes them:
// other outputs of the stage that made it, or else what that was made from.
func (s *setter) instead(h *handle, t reflect.Type) (refs []string) {
	l := s.d.l
	n := l.prog.byAddr[h.ref.Addr]
	if n == nil {
		return nil
	}
	add := func(ref artifact.Ref, rows string) {
		if written := s.address(ref); written != "" && (&handle{ref: ref, rows: rows}).fits(t) && rows != "" {
			refs = append(refs, written)
		}
	}
	for _, o := range n.Makes {
		add(n.Outputs[o.Name], o.Rows)
	}
	if len(refs) > 0 {
		return refs
	}
	for _, in := range n.Inputs {
		if from := l.prog.byAddr[in.Ref.Addr]; from != nil {
			for _, o := range from.Makes {
				if o.Name == in.Ref.Output {
					add(*in.Ref, o.Rows)
				}
			}
		}
	}
	return refs
}
