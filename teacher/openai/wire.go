package openai

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
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
	if err == nil && len(r.Extra) > 0 {
		b, err = with(b, r.Extra)
	}
	if err != nil {
		return nil, fmt.Errorf("encode the request to the teacher: %w", err)
	}
	return b, nil
}

// with puts members into an object, and takes out those that are null.
func with(object []byte, members map[string]json.RawMessage) ([]byte, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(object, &all); err != nil {
		return nil, err
	}
	for k, v := range members {
		if all[k] = v; string(v) == "null" {
			delete(all, k)
		}
	}
	return json.Marshal(all)
}

// A response is the part of the answer that matters. What is not needed may be
// of any type: the answer is paid for.
type response struct {
	Choices []struct {
		Message struct {
			Content          json.RawMessage `json:"content"`
			Reasoning        loose           `json:"reasoning"` // newer vLLM, OpenRouter
			ReasoningContent loose           `json:"reasoning_content"`
			Refusal          loose           `json:"refusal"`
		} `json:"message"`
		FinishReason loose `json:"finish_reason"`
	} `json:"choices"`
	Usage json.RawMessage `json:"usage"`
	Error json.RawMessage `json:"error"`
}

// A loose string is empty where the JSON has something else.
type loose string

func (l *loose) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*l = loose(s)
	}
	return nil
}

// A count is a number of tokens, however it is written; 0 where it is none.
type count int

func (c *count) UnmarshalJSON(b []byte) error {
	n, err := strconv.ParseFloat(strings.Trim(string(b), `"`), 64)
	if err == nil && n > 0 && n < 1<<53 {
		*c = count(n)
	}
	return nil
}

// An attempt is a teacher that sends a request once.
type attempt struct{ *Teacher }

func (t attempt) Complete(ctx context.Context, r teacher.Request) (teacher.Answer, error) {
	body, err := t.encode(r)
	if err != nil {
		return teacher.Answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, t.config.Timeout)
	defer cancel()
	var w way
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, w.trace()), http.MethodPost, t.url, bytes.NewReader(body))
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
		return teacher.Answer{}, t.network(ctx, err, &w)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	switch {
	case res.StatusCode != http.StatusOK:
		return teacher.Answer{}, t.status(res, data)
	case err != nil:
		return teacher.Answer{}, t.network(ctx, err, &w)
	case len(data) > maxBody:
		return teacher.Answer{}, &transient{err: fmt.Errorf("the answer is larger than %d MiB", maxBody>>20), lost: true}
	}
	return decode(data, r.MaxTokens)
}

// A way is how far a request got.
type way struct {
	old, answered atomic.Bool               // on a connection that was kept open; until the first byte of an answer
	sent          atomic.Pointer[time.Time] // when it was written
}

// lost reports whether a request that failed was worked on: an answer had begun, or
// the server took its time. A connection that was kept open may have been closed
// before, which shows at once.
func (w *way) lost() bool {
	const atOnce = time.Second
	sent := w.sent.Load()
	return sent != nil && (w.answered.Load() || !w.old.Load() || time.Since(*sent) > atOnce)
}

func (w *way) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) { w.old.Store(c.Reused) },
		WroteRequest: func(i httptrace.WroteRequestInfo) {
			if now := time.Now(); i.Err == nil {
				w.sent.Store(&now)
			}
		},
		GotFirstResponseByte: func() { w.answered.Store(true) },
	}
}

// network makes a failed exchange an error to try again.
func (t *Teacher) network(ctx context.Context, err error, w *way) error {
	if with := (*url.Error)(nil); errors.As(err, &with) {
		err = with.Err
	}
	if errors.As(err, new(*tls.CertificateVerificationError)) {
		return fmt.Errorf("%w; name a file with the certificate to trust in the environment variable SSL_CERT_FILE, or check endpoint", err)
	}
	late := errors.Is(ctx.Err(), context.DeadlineExceeded)
	if late {
		err = fmt.Errorf("no answer within %v; raise timeout, or lower concurrency if the server is overloaded", t.config.Timeout)
	}
	return &transient{err: err, lost: w.lost() || late && w.sent.Load() != nil}
}

// status makes an error of an HTTP status other than 200.
func (t *Teacher) status(res *http.Response, data []byte) error {
	err := fmt.Errorf("the server answered %s%s", statusText(res), reason(data))
	switch c := res.StatusCode; {
	case c == http.StatusForbidden && bytes.Contains(data, []byte(`"flagged_input"`)): // OpenRouter's moderation
		return fmt.Errorf("%w: %w", teacher.ErrRefused, err)
	case c == http.StatusUnauthorized || c == http.StatusForbidden:
		if t.config.APIKeyEnv == "" {
			return fmt.Errorf("%w; set api_key_env to the name of the environment variable that holds the API key", err)
		}
		return fmt.Errorf("%w; check the API key in the environment variable %s", err, t.config.APIKeyEnv)
	case c == http.StatusPaymentRequired, c == http.StatusBadRequest && aboutAccount(data):
		return fmt.Errorf("%w; see to the account's key and credit, and run again: what was answered is kept", err)
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

// aboutAccount reports whether an error that a server calls a bad request is about
// who asks: Gemini refuses a wrong key like that, Anthropic one without credit.
func aboutAccount(data []byte) bool {
	text := strings.ToLower(string(data))
	return slices.ContainsFunc([]string{"api_key_invalid", "invalid_api_key", "credit balance is too low", "billing_hard_limit_reached", "insufficient_quota", "insufficient balance"},
		func(s string) bool { return strings.Contains(text, s) })
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

// decode reads the body of an answer of at most so many tokens. What is not one is
// worth another try; it was an answer, and is lost, when it is JSON without an error.
func decode(data []byte, most int) (teacher.Answer, error) {
	var r response
	begun := bytes.HasPrefix(bytes.TrimSpace(data), []byte("{"))
	if err := json.Unmarshal(data, &r); err != nil {
		return teacher.Answer{}, &transient{err: fmt.Errorf("the answer is not the JSON of a chat completion: %w: it begins with %q", err, excerpt(string(data[:min(len(data), 80)]))), lost: begun}
	}
	if len(r.Choices) == 0 {
		return teacher.Answer{}, &transient{err: fmt.Errorf("the answer has no choices%s", reason(data)), lost: r.Error == nil}
	}
	c := r.Choices[0]
	switch why := strings.ToLower(string(c.FinishReason)); {
	case why == "content_filter":
		return teacher.Answer{}, fmt.Errorf("%w: the server's content filter stopped the answer", teacher.ErrRefused)
	case c.Message.Refusal != "":
		return teacher.Answer{}, fmt.Errorf("%w: %s", teacher.ErrRefused, excerpt(string(c.Message.Refusal)))
	case why == "error", why == "abort", why == "insufficient_system_resource": // OpenRouter, vLLM and SGLang, DeepSeek
		return teacher.Answer{}, &transient{err: fmt.Errorf("the server broke the answer off: its finish_reason is %q", why), lost: true}
	}
	var usage struct {
		PromptTokens     count `json:"prompt_tokens"`
		CompletionTokens count `json:"completion_tokens"`
		TotalTokens      count `json:"total_tokens"` // with what was thought, where completion_tokens is without: xAI, Gemini
	}
	_ = json.Unmarshal(r.Usage, &usage) // without it tokens are estimated
	a := teacher.Answer{
		Reasoning:    string(c.Message.ReasoningContent),
		PromptTokens: int(usage.PromptTokens),
		Tokens:       int(max(usage.CompletionTokens, usage.TotalTokens-usage.PromptTokens)),
	}
	a.Stopped = stopped(string(c.FinishReason), a.Tokens, most)
	if a.Reasoning == "" {
		a.Reasoning = string(c.Message.Reasoning)
	}
	content, thoughts, err := contents(c.Message.Content)
	if err == nil && content == nil && a.Reasoning == "" {
		err = errors.New("the answer has no content")
	}
	if err != nil {
		return teacher.Answer{}, &transient{err: err, lost: true}
	}
	if content != nil {
		a.Content = *content
	}
	a.Reasoning += thoughts
	return a, nil
}

// stopped reports whether an answer ended by itself. Servers have many words for
// that, and a few for the opposite; where one says nothing, its count of tokens does.
func stopped(reason string, tokens, most int) bool {
	switch strings.ToLower(reason) {
	case "length", "max_tokens", "model_length":
		return false
	case "":
		return tokens > 0 && tokens < most
	}
	return true
}

// contents reads the content of a message: a string, or parts, of which those that
// are text count, and thoughts apart. It is nil for null.
func contents(raw json.RawMessage) (content *string, thoughts string, err error) {
	if json.Unmarshal(raw, &content) == nil || raw == nil {
		return content, "", nil
	}
	type part struct {
		Type     string          `json:"type"`
		Text     *string         `json:"text"`
		Thinking json.RawMessage `json:"thinking"`
	}
	var parts []part
	if err := json.Unmarshal(raw, &parts); err != nil {
		return nil, "", fmt.Errorf("the content of the answer is neither a string nor a list of parts: %w", err)
	}
	var said string
	for _, p := range parts {
		switch {
		case p.Thinking != nil:
			inner, _, err := contents(p.Thinking)
			if err == nil && inner != nil {
				thoughts += *inner
			}
		case p.Text != nil:
			said += *p.Text
		}
	}
	return &said, thoughts, nil
}
