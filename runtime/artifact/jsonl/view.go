package jsonl

import (
	"encoding/json"
	"fmt"
	"iter"

	"pipe/runtime/artifact"
)

// Views returns the rows of a's table as they are written, whatever their type.
func Views(a *artifact.Artifact) (iter.Seq2[any, error], error) {
	name, err := artifact.RowType(a)
	if err != nil {
		return nil, err
	}
	switch name {
	case "row":
		return views(a, View), nil
	case "packed":
		return views(a, func(r artifact.Packed) any {
			return map[string]any{"ids": r.IDs, "starts": r.Starts, "loss": r.Loss, "rows": r.Rows}
		}), nil
	case "drop":
		return views(a, func(d artifact.Drop) any {
			return map[string]any{"id": d.ID, "reason": d.Reason, "partner": d.Partner, "score": d.Score, "detail": d.Detail, "text": d.Text}
		}), nil
	case "point":
		return views(a, func(p artifact.Point) any {
			return map[string]any{"series": p.Series, "step": p.Step, "value": p.Value}
		}), nil
	}
	return nil, fmt.Errorf("it holds %q rows, which this version of pipe does not know", name)
}

func views[T any](a *artifact.Artifact, view func(T) any) iter.Seq2[any, error] {
	return func(yield func(any, error) bool) {
		for row, err := range artifact.Rows[T](a) {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(view(row), nil) {
				return
			}
		}
	}
}

// View is a row with the names that data blocks read, without what is empty.
func View(r artifact.Row) any {
	type row struct {
		ID       string             `json:"id,omitempty"`
		Text     string             `json:"text,omitempty"`
		Messages []artifact.Message `json:"messages,omitempty"`
		Chosen   []artifact.Message `json:"chosen,omitempty"`
		Rejected []artifact.Message `json:"rejected,omitempty"`
		Choices  []string           `json:"choices,omitempty"`
		Gold     *int32             `json:"gold,omitempty"`
		Answer   string             `json:"answer,omitempty"`
		Source   string             `json:"source,omitempty"`
		Meta     json.RawMessage    `json:"meta,omitempty"`
	}
	out := row{r.ID, r.Text, r.Messages, r.Chosen, r.Rejected, r.Choices, nil, r.Answer, r.Source, nil}
	if r.Gold >= 0 && len(r.Choices) > 0 {
		out.Gold = &r.Gold
	}
	if json.Valid([]byte(r.Meta)) {
		out.Meta = json.RawMessage(r.Meta)
	}
	return out
}
