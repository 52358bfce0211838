package openai

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"pipe/teacher"
)

// maxBody bounds what is read of an answer, in bytes.
const maxBody = 16 << 20

// A request is the body of POST chat/completions. Temperature and top_p are
// sent always: servers differ in their defaults.
type request struct {
	Model       string            `json:"model"`
	Messages    []teacher.Message `json:"messages"`
	MaxTokens   int               `json:"max_tokens"`
	Temperature float64           `json:"temperature"`
	TopP        float64           `json:"top_p"`
	TopK        int               `json:"top_k,omitempty"` // this and the next two: vLLM, SGLang
	MinP        float64           `json:"min_p,omitempty"`
	Penalty     float64           `json:"repetition_penalty,omitempty"`
	Stop        []string          `json:"stop,omitempty"`
	Seed        uint64            `json:"seed"`
}

func (t *Teacher) encode(r teacher.Request) ([]byte, error) {
	topP := r.TopP
	if topP == 0 {
		topP = 1 // all tokens; servers refuse 0
	}
	b, err := json.Marshal(request{
		Model: t.config.Model, Messages: r.Messages, MaxTokens: r.MaxTokens, Temperature: r.Temperature,
		TopP: topP, TopK: r.TopK, MinP: r.MinP, Penalty: r.RepetitionPenalty, Stop: r.Stop,
		Seed: r.Seed >> 11, // 53 bits: exact in any JSON, positive in an int64
	})
	if err != nil {
		return nil, fmt.Errorf("encode the request to the teacher: %w", err)
	}
	return b, nil
}

// A response is the part of the answer that matters.
type response struct {
	Choices []struct {
		Message struct {
			Content          *string `json:"content"`
			Reasoning        string  `json:"reasoning"` // newer vLLM, OpenRouter
			ReasoningContent string  `json:"reasoning_content"`
			Refusal          string  `json:"refusal"`
		} `json:"message"`
		FinishReason string `json:"finish_reason"`
	} `json:"choices"`
	Usage struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
	} `json:"usage"`
}

// attempt sends the request once.
func (t *Teacher) attempt(ctx context.Context, body []byte) (teacher.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, t.config.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return teacher.Answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	if t.key != "" {
		req.Header.Set("Authorization", "Bearer "+t.key)
	}
	res, err := t.client.Do(req)
	if err != nil {
		return teacher.Answer{}, t.network(ctx, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	switch {
	case res.StatusCode != http.StatusOK:
		return teacher.Answer{}, t.status(res, data)
	case err != nil:
		return teacher.Answer{}, t.network(ctx, err)
	case len(data) > maxBody:
		return teacher.Answer{}, &transient{err: fmt.Errorf("the answer is larger than %d MiB", maxBody>>20)}
	}
	return decode(data)
}

// network makes a failed exchange an error to try again.
func (t *Teacher) network(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %v; raise timeout, or lower concurrency if the server is overloaded", t.config.Timeout)
	}
	return &transient{err: err}
}

// status makes an error of an HTTP status other than 200.
func (t *Teacher) status(res *http.Response, data []byte) error {
	err := fmt.Errorf("the server answered %s%s", statusText(res), reason(data))
	switch c := res.StatusCode; {
	case c == http.StatusUnauthorized || c == http.StatusForbidden:
		if t.config.APIKeyEnv == "" {
			return fmt.Errorf("%w; set api_key_env to the name of the environment variable that holds the API key", err)
		}
		return fmt.Errorf("%w; check the API key in the environment variable %s", err, t.config.APIKeyEnv)
	case c == http.StatusTooManyRequests || c == http.StatusRequestTimeout || c == http.StatusTooEarly || c >= 500:
		return &transient{err: err, after: retryAfter(res.Header, time.Now())}
	case c == http.StatusNotFound || c == http.StatusMethodNotAllowed:
		return fmt.Errorf("%w; check endpoint, which usually ends in /v1, and model_id", err)
	case c >= 400:
		return fmt.Errorf("%w: %w", teacher.ErrRefused, err)
	case c >= 300:
		return fmt.Errorf("%w; redirects are not followed: give the endpoint that the server names", err)
	}
	return &transient{err: err}
}

func statusText(res *http.Response) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", res.StatusCode, http.StatusText(res.StatusCode)))
}

// reason finds the message in the body of an error: {"error": {"message"}},
// {"error": "…"}, {"message"}, {"detail"} or plain text.
func reason(data []byte) string {
	text := string(data)
	var v struct {
		Error   json.RawMessage `json:"error"`
		Message json.RawMessage `json:"message"`
		Detail  json.RawMessage `json:"detail"`
	}
	if json.Unmarshal(data, &v) == nil {
		var inner struct {
			Message string `json:"message"`
		}
		for _, raw := range []json.RawMessage{v.Error, v.Message, v.Detail} {
			var s string
			if json.Unmarshal(raw, &s) == nil && s != "" {
				text = s
				break
			}
			if json.Unmarshal(raw, &inner) == nil && inner.Message != "" {
				text = inner.Message
				break
			}
		}
	}
	if text = excerpt(text); text == "" {
		return ""
	}
	return ": " + text
}

// excerpt returns the beginning of a text on one line.
func excerpt(s string) string {
	const most = 300
	if len(s) > 4*most {
		s = s[:4*most]
	}
	s = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))), " ")
	if r := []rune(s); len(r) > most {
		s = string(r[:most]) + "…"
	}
	return s
}

// decode reads the body of an answer. What is not one is worth another try.
func decode(data []byte) (teacher.Answer, error) {
	var r response
	if err := json.Unmarshal(data, &r); err != nil {
		return teacher.Answer{}, &transient{err: fmt.Errorf("the answer is not the JSON of a chat completion: %w: it begins with %q", err, excerpt(string(data[:min(len(data), 80)])))}
	}
	if len(r.Choices) == 0 {
		return teacher.Answer{}, &transient{err: fmt.Errorf("the answer has no choices%s", reason(data))}
	}
	c := r.Choices[0]
	switch {
	case c.FinishReason == "content_filter":
		return teacher.Answer{}, fmt.Errorf("%w: the server's content filter stopped the answer", teacher.ErrRefused)
	case c.Message.Refusal != "":
		return teacher.Answer{}, fmt.Errorf("%w: %s", teacher.ErrRefused, excerpt(c.Message.Refusal))
	}
	a := teacher.Answer{
		Reasoning:    c.Message.ReasoningContent,
		PromptTokens: max(0, r.Usage.PromptTokens),
		Tokens:       max(0, r.Usage.CompletionTokens),
		Stopped:      c.FinishReason == "stop",
	}
	if a.Reasoning == "" {
		a.Reasoning = c.Message.Reasoning
	}
	if c.Message.Content != nil {
		a.Content = *c.Message.Content
	} else if a.Reasoning == "" {
		return teacher.Answer{}, &transient{err: errors.New("the answer has no content")}
	}
	return a, nil
}
