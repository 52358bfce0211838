package eval

import (
	"fmt"
	"iter"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// Lineage implements stage.Tracer: an item is a row of its suite's data.
func (s *spec) Lineage(env *stage.Env, made stage.Outputs, output string) iter.Seq2[stage.Descent, error] {
	return func(yield func(stage.Descent, error) bool) {
		a, err := made(output)
		if err != nil {
			yield(stage.Descent{}, err)
			return
		}
		for r, err := range artifact.Rows[artifact.Row](a) {
			d := stage.Descent{ID: r.ID}
			suite, _, _ := strings.Cut(r.ID, "/")
			for i := range s.Suites {
				if s.Suites[i].Name == suite {
					d.Parents = []stage.Parent{{Input: fmt.Sprintf("suite[%d].data", i), ID: r.Source}}
				}
			}
			if !yield(d, err) {
				return
			}
		}
	}
}
