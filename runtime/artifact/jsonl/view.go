package jsonl

import (
	"encoding/json"

	"pipe/runtime/artifact"
)

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
