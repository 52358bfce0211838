// Package local is a teacher that runs a model in this process. Requests are
// decoded together, each from when it comes until it ends; an answer is a
// function of its request alone.
package local

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/memory"
	"pipe/model/pretrained"
	"pipe/teacher"
	"pipe/tensor"
	"pipe/text/chat"
)

// A Config says which model to run. ID, Model and Backend are needed.
type Config struct {
	ID       string         // what ID returns
	Model    string         // path of a Hugging Face directory or GGUF file
	Adapter  string         // path of a PEFT directory; "": none
	Template string         // path of a chat template instead of the model's; "": the model's
	Quantize string         // "nf4" quantises the linear layers; "": none
	Backend  tensor.Backend // not closed by Close; for nobody else until then
	Batch    int            // requests decoded at once; 0: 16

	// Precision of products with the model's matrices: F32, BF16 or FP8.
	Precision tensor.DType
}

// A Teacher is a model in memory.
type Teacher struct {
	id      string
	model   *pretrained.Model
	decoder *model.Decoder
	batch   int
	guard   *memory.Guard
	shadow  *model.Decoder               // on the plan of guard
	planned struct{ prompt, answer int } // the longest so far

	jobs    chan *job
	stop    context.CancelFunc // ends the work
	stopped <-chan struct{}
	worker  sync.WaitGroup
}

var _ teacher.Teacher = (*Teacher)(nil)

var errClosed = errors.New("the teacher is closed")

// Open loads the model. The caller closes the teacher.
func Open(c Config) (_ *Teacher, err error) {
	m, err := pretrained.Open(c.Model, pretrained.WithTemplate(c.Template), pretrained.WithQuantization(c.Quantize))
	if err != nil {
		return nil, err
	}
	t := &Teacher{id: c.ID, model: m, batch: c.Batch, jobs: make(chan *job)}
	defer func() {
		if err != nil {
			t.release()
		}
	}()
	if m.Template == nil {
		return nil, fmt.Errorf("the teacher %s has no chat template: it is a base model; take its instruct version, or give a template in the model block", c.Model)
	}
	if t.guard = memory.NewGuard(c.Backend); t.guard != nil {
		if t.shadow, err = t.guard.Decoder(m.Config, m.Weights, c.Adapter, c.Precision); err != nil {
			return nil, fmt.Errorf("load the teacher %s: %w", c.Model, err)
		}
	}
	if t.decoder, err = model.Load(c.Backend, m.Config, m.Weights, false); err != nil {
		return nil, fmt.Errorf("load the teacher %s: %w", c.Model, err)
	}
	t.decoder.SetPrecision(c.Precision)
	if c.Adapter != "" {
		if _, err := adapter.Load(t.decoder, c.Adapter); err != nil {
			return nil, fmt.Errorf("load the teacher's adapter %s: %w", c.Adapter, err)
		}
	}
	if t.batch <= 0 {
		t.batch = 16
	}
	ctx, stop := context.WithCancel(context.Background())
	t.stop, t.stopped = stop, ctx.Done()
	t.worker.Go(func() { t.work(ctx) })
	return t, nil
}

// Close ends what is being decoded and frees the model.
func (t *Teacher) Close() error {
	t.stop()
	t.worker.Wait()
	return t.release()
}

func (t *Teacher) release() error {
	if t.decoder != nil {
		t.decoder.Close()
		t.decoder = nil
	}
	m := t.model
	t.model = nil
	if m == nil {
		return nil
	}
	return m.Close()
}

// ID returns the ID of the configuration.
func (t *Teacher) ID() string { return t.id }

// A job is a request on its way.
type job struct {
	ctx  context.Context
	req  model.Request
	done chan outcome // holds one

	begun string // what of the answer the prompt has written
}

type outcome struct {
	model.Result
	err error
}

// Complete samples the assistant's turn. A prompt that leaves no room for an
// answer in the model's context is refused, and so is a conversation that the
// model's chat template does not take.
func (t *Teacher) Complete(ctx context.Context, r teacher.Request) (teacher.Answer, error) {
	j := &job{ctx: ctx, done: make(chan outcome, 1)}
	var err error
	if j.req, j.begun, err = t.request(r); err != nil {
		return teacher.Answer{}, err
	}
	stop := j.req.Stop
	j.req.Stop = func(ids []int32) bool { return ctx.Err() != nil || stop(ids) }
	select {
	case t.jobs <- j:
	case <-ctx.Done():
		return teacher.Answer{}, ctx.Err()
	case <-t.stopped:
		return teacher.Answer{}, errClosed
	}
	select {
	case o := <-j.done:
		if err := ctx.Err(); err != nil {
			return teacher.Answer{}, err // Stop may have cut the answer
		}
		if o.err != nil {
			return teacher.Answer{}, fmt.Errorf("ask the teacher %s: %w", t.id, o.err)
		}
		return t.answer(r, j, o.Result), nil
	case <-ctx.Done():
		return teacher.Answer{}, ctx.Err()
	}
}

// request renders the conversation and checks what the decoder would refuse,
// so that one request cannot fail those decoded with it. begun is what of the answer the
// prompt has written.
func (t *Teacher) request(r teacher.Request) (req model.Request, begun string, err error) {
	if r.MaxTokens < 1 {
		return req, "", fmt.Errorf("max_tokens is %d; must be at least 1", r.MaxTokens)
	}
	in := chat.Input{AddGenerationPrompt: true, Special: t.model.Special}
	for _, m := range r.Messages {
		in.Messages = append(in.Messages, chat.Message{Role: m.Role, Content: m.Content})
	}
	text, err := t.model.Template.Text(in)
	if err != nil {
		return req, "", fmt.Errorf("%w: render the chat template: %w", teacher.ErrRefused, err)
	}
	req = model.Request{
		Prompt: t.model.Tokenizer.Encode(text), MaxTokens: r.MaxTokens, Seed: r.Seed, StopIDs: t.model.EOS,
		Sampling: model.Sampling{Temperature: r.Temperature, TopK: r.TopK, TopP: r.TopP, MinP: r.MinP, RepetitionPenalty: r.RepetitionPenalty},
		Stop:     func([]int32) bool { return false },
	}
	if len(r.Stop) > 0 {
		stop := t.model.Tokenizer.StopAt(r.Stop...)
		req.Stop = func(ids []int32) bool { return stop(ids[len(ids)-1]) }
	}
	most := t.model.Config.MaxPositions
	switch {
	case len(req.Prompt) == 0:
		return req, "", fmt.Errorf("%w: the prompt is empty", teacher.ErrRefused)
	case len(req.Prompt) >= most:
		return req, "", fmt.Errorf("%w: the prompt has %d tokens; the model's context of %d leaves no room for an answer", teacher.ErrRefused, len(req.Prompt), most)
	}
	if err := req.Sampling.Check(); err != nil {
		return req, "", err
	}
	return req, chat.Begun(text), t.decoder.Check(model.Batch{IDs: req.Prompt, Starts: []int32{0}})
}

// answer makes the teacher's turn of what was decoded.
func (t *Teacher) answer(r teacher.Request, j *job, res model.Result) teacher.Answer {
	text := t.model.Tokenizer.Decode(res.IDs)
	if i := cut(text, r.Stop); i >= 0 {
		text = text[:i]
	}
	return teacher.Answer{
		Content: j.begun + text, PromptTokens: len(j.req.Prompt), Tokens: len(res.IDs),
		Stopped: res.Reason == model.StopToken,
	}
}

// cut returns where the first of the stop strings begins, or -1.
func cut(text string, stop []string) int {
	first := -1
	for _, s := range stop {
		if i := strings.Index(text, s); s != "" && i >= 0 && (first < 0 || i < first) {
			first = i
		}
	}
	return first
}
