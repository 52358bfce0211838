package dedup

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// Lineage implements stage.Tracer: rows are passed on as they are, and a drop
// has the id of the row that was dropped.
func (s *spec) Lineage(env *stage.Env, made stage.Outputs, output string) iter.Seq2[stage.Descent, error] {
	return func(yield func(stage.Descent, error) bool) {
		a, err := made(output)
		if err != nil {
			yield(stage.Descent{}, err)
			return
		}
		descent := func(id string) stage.Descent {
			return stage.Descent{ID: id, Parents: []stage.Parent{{Input: "input", ID: id, Copy: true}}}
		}
		if output == "drops" {
			for d, err := range artifact.Rows[artifact.Drop](a) {
				if !yield(descent(d.ID), err) {
					return
				}
			}
			return
		}
		for r, err := range artifact.Rows[artifact.Row](a) {
			if !yield(descent(r.ID), err) {
				return
			}
		}
	}
}

// Tell implements stage.Teller: it says which rows a row was kept instead of.
func (s *spec) Tell(ctx context.Context, env *stage.Env, made stage.Outputs, p stage.Place) (*stage.Told, error) {
	told := &stage.Told{Parent: -1}
	if p.Output != "dataset" {
		return told, nil
	}
	a, err := made("dataset")
	if err != nil {
		return nil, err
	}
	id, n := "", 0
	for r, err := range artifact.Rows[artifact.Row](a) {
		if err != nil {
			return nil, err
		}
		if n++; n > p.Row {
			id = r.ID
			break
		}
	}
	if a, err = made("drops"); err != nil {
		return nil, err
	}
	var like []string
	for d, err := range artifact.Rows[artifact.Drop](a) {
		if err != nil {
			return nil, err
		}
		if d.Partner == id && d.Reason != "contaminated" {
			like = append(like, fmt.Sprintf("%s (%s, %.4f)", d.ID, d.Reason, d.Score))
		}
	}
	why := "no other row is like it, and it overlaps with no benchmark"
	if s.Decontaminate == nil {
		why = "no other row is like it"
	}
	if len(like) > 0 {
		by := "the smallest id"
		if s.Quality != "" {
			by = "the highest " + s.Quality + ", then the smallest id"
		}
		why = fmt.Sprintf("of its cluster it has %s; dropped were %s", by, strings.Join(like, ", "))
	}
	told.Facts = append(told.Facts, stage.Fact{What: "kept", Text: why})
	return told, nil
}
