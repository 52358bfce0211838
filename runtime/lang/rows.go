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
	subject := spell(e)
	if subject == "" {
		subject = "this"
	}
	detail := fmt.Sprintf("%s is a dataset of %s; %s takes one of %s.", subject, artifact.RowWords(h.rows), s.name, artifact.RowWords(handleRows[t]))
	if made := s.d.l.maker(h, t); made != nil && subject != "this" {
		return detail + fmt.Sprintf(" First write %s \"NAME\" { %s = %s ... }, and here %s = %s.NAME.%s.",
			made.kind.Name, made.input, subject, s.name, made.kind.Name, made.output)
	}
	if refs := s.instead(h, t); len(refs) > 0 {
		return detail + fmt.Sprintf(" Write %s.", strings.Join(refs, " or "))
	}
	return detail
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
		written := strings.TrimPrefix(ref.String(), s.d.scope.mod.prefix)
		if (&handle{ref: ref, rows: rows}).fits(t) && rows != "" && strings.HasPrefix(ref.String(), s.d.scope.mod.prefix) && !strings.HasPrefix(written, "module.") {
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
