package mix

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// An origin finds the rows that were drawn by their ids in the mix.
type origin struct {
	input string            // path of the source's attribute
	ids   map[string]string // the id that the first draw of a row has in the mix -> its own
}

// origins reads the ids of all sources, by the name of the source.
func (s *spec) origins(env *stage.Env) (map[string]origin, error) {
	owners := map[string]int{}
	ids := make([][]string, len(s.Sources))
	for i, src := range s.Sources {
		a, err := env.Store.Open(src.Input.Ref)
		if err != nil {
			return nil, err
		}
		for r, err := range artifact.Rows[artifact.Row](a) {
			if err != nil {
				return nil, err
			}
			owners[r.ID]++
			ids[i] = append(ids[i], r.ID)
		}
	}
	out := map[string]origin{}
	for i, src := range s.Sources {
		o := origin{fmt.Sprintf("source[%d].input", i), make(map[string]string, len(ids[i]))}
		for _, id := range ids[i] {
			drawn := id
			if owners[id] > 1 {
				drawn = src.Name + ":" + id
			}
			o.ids[drawn] = id
		}
		out[src.Name] = o
	}
	return out, nil
}

// find returns the row's own id, and which draw of it the id in the mix tells.
// An id that ends like that of a second draw and is the own one of a row is
// taken for the latter: that of a second draw would have been refused.
func (o origin) find(drawn string) (id string, pass int, ok bool) {
	if id, ok := o.ids[drawn]; ok {
		return id, 1, true
	}
	i := strings.LastIndexByte(drawn, '~')
	if i < 0 {
		return "", 0, false
	}
	pass, err := strconv.Atoi(drawn[i+1:])
	id, ok = o.ids[drawn[:i]]
	return id, pass, ok && err == nil && pass > 1
}

// sourceOf returns the source that a row was drawn from.
func sourceOf(r *artifact.Row) string {
	var m struct {
		Mix string `json:"mix"`
	}
	if json.Unmarshal([]byte(r.Meta), &m) != nil {
		return ""
	}
	return m.Mix
}

// Lineage implements stage.Tracer.
func (s *spec) Lineage(env *stage.Env, made stage.Outputs, output string) iter.Seq2[stage.Descent, error] {
	return func(yield func(stage.Descent, error) bool) {
		a, err := made(output)
		if err != nil {
			yield(stage.Descent{}, err)
			return
		}
		from, err := s.origins(env)
		if err != nil {
			yield(stage.Descent{}, err)
			return
		}
		for r, err := range artifact.Rows[artifact.Row](a) {
			d := stage.Descent{ID: r.ID}
			o := from[sourceOf(&r)]
			if id, _, ok := o.find(r.ID); ok {
				d.Parents = []stage.Parent{{Input: o.input, ID: id, Copy: true}}
			}
			if !yield(d, err) {
				return
			}
		}
	}
}

// Tell implements stage.Teller.
func (s *spec) Tell(ctx context.Context, env *stage.Env, made stage.Outputs, p stage.Place) (*stage.Told, error) {
	told := &stage.Told{Parent: -1}
	a, err := made(p.Output)
	if err != nil {
		return nil, err
	}
	from, err := s.origins(env)
	if err != nil {
		return nil, err
	}
	n := 0
	for r, err := range artifact.Rows[artifact.Row](a) {
		if err != nil {
			return nil, err
		}
		if n++; n <= p.Row {
			continue
		}
		name, weights, weight := sourceOf(&r), 0.0, 0.0
		for _, src := range s.Sources {
			if weights += src.Weight; src.Name == name {
				weight = src.Weight
			}
		}
		text := fmt.Sprintf("%s, %.3g%% of the tokens asked for", name, 100*weight/weights)
		if _, pass, ok := from[name].find(r.ID); ok && pass > 1 {
			text += fmt.Sprintf("; draw %d of this row", pass)
		}
		told.Facts = append(told.Facts, stage.Fact{What: "mix source", Text: text})
		return told, nil
	}
	return nil, fmt.Errorf("output %s has no row %d", p.Output, p.Row)
}
