package engine

import (
	"encoding/json"
	"reflect"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
)

// A twin is an action in the store that differs from a planned one in nothing
// but inputs that are not known yet: if these come out as they were for it, the
// stage is up to date. It may have had another name, or be older than the stage's
// last result.
type twin struct {
	rec  *artifact.Record
	past *past
}

// twin returns the newest twin of the action a of n, nil if there is none.
func (p *planner) twin(n *lang.Node, a *action) *twin {
	if p.asNow == nil {
		p.asNow = map[string][]*twin{}
		kinds := map[string]reflect.Type{}
		for _, n := range p.nodes {
			if n.Kind != nil {
				kinds[n.Kind.Name] = reflect.TypeOf(n.Stage)
			}
		}
		err := p.Store.Records(func(r *artifact.Record) {
			t := kinds[r.Kind]
			if t == nil {
				return
			}
			if was := pastOf(r); was != nil {
				form := formOf(&was.preimage, t)
				p.asNow[form] = append(p.asNow[form], &twin{r, was})
			}
		})
		if err != nil {
			p.Log.Debug().Err(err).Msg("could not look through the records")
		}
	}
	var best *twin
	for _, t := range p.asNow[formOf(&a.pre, reflect.TypeOf(n.Stage))] {
		if best != nil && !t.rec.Created.After(best.rec.Created) || !couldBe(a.pre.Inputs, t.past.Inputs) {
			continue
		}
		if _, err := p.Store.Record(t.rec.Key); err == nil { // with its outputs
			best = t
		}
	}
	return best
}

// couldBe reports whether inputs, some of which are not known, can be those.
func couldBe(inputs, those map[string]artifact.Digest) bool {
	for name, d := range inputs {
		if was, ok := those[name]; !ok || !d.IsZero() && d != was {
			return false
		}
	}
	return len(inputs) == len(those)
}

// formOf is all of a pre-image but its inputs, with a spec of type t.
func formOf(p *preimage, t reflect.Type) string {
	b, err := json.Marshal(struct { // which sorts maps
		Format, Version int
		Kind, Backend   string
		Seed            uint64
		Spec            map[string]string
		Sources         []source                   `json:",omitempty"`
		Journals        map[string]artifact.Digest `json:",omitempty"`
	}{p.Format, p.Version, p.Kind, p.Backend, p.Seed, leaves(p.Spec, t), p.Sources, p.Journals})
	if err != nil {
		return ""
	}
	return string(b)
}
