package synth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/teacher"
)

// An asker puts one step's request to the teacher and asks again while the
// reply is malformed.
type asker struct {
	teacher         teacher.Teacher
	spec            *spec
	account         *stage.Account
	over            func() error // why no more may be asked, whatever it costs
	asked, replayed atomic.Int64
}

// A rejection says why a row cannot be had; it is a result, not a failure.
type rejection struct{ reason, detail string }

func (r *rejection) Error() string { return r.reason + ": " + r.detail }

// ask returns the first reply to a conversation for which parse has an answer, and what
// the teacher thought before it, which it must have shown if own is set. step and
// index make the request's sampling seed, so that no two requests of a run share it.
func (a *asker) ask(ctx context.Context, index int, step string, turns []teacher.Message, own bool, parse func(string) (string, error)) (said, thought string, err error) {
	c := a.spec.Teacher.Config
	var last error
	for attempt := range a.spec.Attempts {
		if err := a.over(); err != nil {
			return "", "", err
		}
		r := teacher.Request{
			Messages:  turns,
			MaxTokens: c.MaxTokens, Temperature: c.Temperature, TopP: c.TopP, TopK: c.TopK,
			MinP: c.MinP, RepetitionPenalty: penalty(c.Penalty), Stop: c.Stop,
			Seed: sampleSeed(a.spec.Salt, index, step, attempt), Attempt: attempt, Extra: c.ExtraBody,
		}
		ans, err := a.teacher.Complete(ctx, r)
		if errors.Is(err, teacher.ErrRefused) {
			return "", "", &rejection{"refused", fmt.Sprintf("%s: %v", step, err)}
		}
		if err != nil {
			return "", "", fmt.Errorf("ask the teacher for the %s: %w", step, err)
		}
		a.asked.Add(1)
		if ans.Replayed {
			a.replayed.Add(1)
			a.account.Replayed(stage.Tokens{Input: int64(ans.PromptTokens), Output: int64(ans.Tokens)})
		}
		thought, reply, ended := artifact.CutThought(ans.Content)
		if thought = cmp.Or(strings.TrimSpace(ans.Reasoning), thought); !ans.Stopped {
			last = cutOff(ans.Tokens, c.MaxTokens, thought != "" && strings.TrimSpace(reply) == "")
			continue
		}
		reply = strings.TrimSpace(reply)
		switch {
		case !ended:
			err = errors.New("its thoughts do not end")
		case own && thought == "":
			err = errors.New("the teacher shows no thoughts, neither in reasoning_content nor before </think>, and reasoning = \"own\" needs them")
		case reply == "" && thought != "":
			err = errors.New("it is a thought alone")
		default:
			var out string
			if out, err = parse(reply); err == nil {
				return out, thought, nil
			}
		}
		last = fmt.Errorf("%w; the reply was %q", err, clip(ans.Content, 200))
	}
	return "", "", &rejection{"malformed", fmt.Sprintf("%s, after %d attempts: %v", step, a.spec.Attempts, last)}
}

// cutOff says of a reply that did not end by itself what is known about it; thinking is
// whether nothing had been said.
func cutOff(tokens, most int, thinking bool) error {
	switch {
	case thinking && (tokens == 0 || tokens >= most):
		return fmt.Errorf("the teacher was still thinking at max_tokens = %d; raise that in its block, or let it think less with extra_body (openai) or template_vars (local)", most)
	case thinking:
		return fmt.Errorf("the teacher was still thinking after %s, before max_tokens = %d: its context is full, or its server bounds how much it thinks", stage.Count(tokens, "token"), most)
	case tokens > 0 && tokens < most:
		return fmt.Errorf("the reply ended after %s, before max_tokens = %d: the context of the teacher is full, or its server does not say that it was done", stage.Count(tokens, "token"), most)
	}
	return fmt.Errorf("the reply was cut off at max_tokens = %d", most)
}

// say is a conversation of one turn.
func say(prompt string) []teacher.Message { return []teacher.Message{{Role: "user", Content: prompt}} }

// penalty is 0 for a penalty that changes nothing, so that requests are those of
// journals that were written before there was one.
func penalty(p float64) float64 {
	if p == 1 {
		return 0
	}
	return p
}

// sampleSeed is a hash of what tells one request of a recipe from another.
func sampleSeed(salt, index int, step string, attempt int) uint64 {
	h := sha256.Sum256(fmt.Appendf(nil, "%d/%d/%s/%d", salt, index, step, attempt))
	return binary.LittleEndian.Uint64(h[:8]) >> 1 // servers take signed integers
}

// outcome turns a rejection into a reject row, and passes on other errors.
func outcome(id, partner, text string, err error) (result, error) {
	var r *rejection
	if !errors.As(err, &r) {
		return result{}, err
	}
	return result{reject: &artifact.Drop{ID: id, Reason: r.reason, Partner: partner, Detail: r.detail, Text: clip(text, 300)}}, nil
}

// clip shortens s to about n bytes, at a rune.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n] + "…"
}
