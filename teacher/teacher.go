// Package teacher asks a larger model for text. openai speaks to any
// OpenAI-compatible server, local runs a model of our own, and journal is the
// write-ahead log in front of both: it answers again what was answered once.
package teacher

import (
	"context"
	"encoding/json"
	"errors"
)

// A Teacher completes conversations. It is safe for concurrent use. Retries
// and rate limits are its business; how many requests are in flight is the
// caller's.
type Teacher interface {
	// ID names the model behind the teacher and its revision. It is part of
	// the journal's key.
	ID() string
	// Complete returns one answer. It returns an error that wraps ErrRefused
	// when asking again cannot help; any other error is final for the run.
	Complete(ctx context.Context, r Request) (Answer, error)
}

// ErrRefused is wrapped by errors about one request, such as a content filter
// or an over-long prompt. The caller drops the row and records the reason.
var ErrRefused = errors.New("teacher refused the request")

// ErrLost marks errors about a request that a server worked on and whose answer
// did not arrive whole: it may cost what an answer costs.
var ErrLost = errors.New("the answer was lost")

// A Request is a conversation and how to sample its continuation. Equal
// requests are the same request: Attempt tells a deliberate second try apart.
type Request struct {
	Messages    []Message `json:"messages"`
	MaxTokens   int       `json:"max_tokens"`
	Temperature float64   `json:"temperature"`
	TopP        float64   `json:"top_p"`
	TopK        int       `json:"top_k,omitempty"`
	MinP        float64   `json:"min_p,omitempty"`
	// RepetitionPenalty is 0 or 1 for none.
	RepetitionPenalty float64  `json:"repetition_penalty,omitempty"`
	Stop              []string `json:"stop,omitempty"`
	Seed              uint64   `json:"seed"`
	Attempt           int      `json:"attempt"`
	// Extra are further members of the body that a server is sent, such as
	// chat_template_kwargs. They replace those of the same name; null leaves one out.
	Extra map[string]json.RawMessage `json:"extra,omitempty"`
}

// A Message is one turn of a conversation.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// An Answer is the teacher's turn. Reasoning is empty if the teacher does not
// show it apart from Content.
type Answer struct {
	Content      string `json:"content"`
	Reasoning    string `json:"reasoning,omitempty"`
	PromptTokens int    `json:"prompt_tokens"`
	Tokens       int    `json:"tokens"`
	Stopped      bool   `json:"stopped"` // it ended by itself, not at MaxTokens
	Replayed     bool   `json:"-"`       // it came from a journal, at no cost
}

type endKey struct{}

// WithEnd returns ctx for requests that are let come home when end is closed:
// what is in flight then is answered, and nothing is sent again.
func WithEnd(ctx context.Context, end <-chan struct{}) context.Context {
	return context.WithValue(ctx, endKey{}, end)
}

// End returns the channel of [WithEnd]; nil, which is never closed, without one.
func End(ctx context.Context) <-chan struct{} {
	end, _ := ctx.Value(endKey{}).(<-chan struct{})
	return end
}
