package local

import (
	"context"
	"slices"

	"pipe/model"
	"pipe/model/memory"
)

// work decodes until ctx ends. It alone uses the backend. A request joins those
// that are being decoded as soon as there is a place.
func (t *Teacher) work(ctx context.Context) {
	for ctx.Err() == nil {
		t.serve(ctx)
	}
}

// serve decodes until ctx ends or the decoder fails, which those whose requests
// were in it learn.
func (t *Teacher) serve(ctx context.Context) {
	jobs, n := map[int]*job{}, 0 // by their number in the decoder
	o := model.GenerateOptions{Batch: t.batch}
	next := func(wait bool) (model.Request, bool) {
		for {
			j := t.take(ctx, wait)
			if j == nil {
				return model.Request{}, false
			}
			if err := t.fits(ctx, j.req, o); err != nil {
				j.done <- outcome{err: err}
				continue
			}
			jobs[n] = j
			n++
			return j.req, true
		}
	}
	err := t.decoder.Serve(ctx, o, next, func(i int, r model.Result) error {
		jobs[i].done <- outcome{Result: r}
		delete(jobs, i)
		return nil
	})
	if err == nil || ctx.Err() != nil {
		err = errClosed
	}
	for _, j := range jobs {
		j.done <- outcome{err: err}
	}
}

// fits refuses a request that, with others as long as it, needs more memory than
// there is. It plans only what is longer than what was planned before.
func (t *Teacher) fits(ctx context.Context, r model.Request, o model.GenerateOptions) error {
	if t.guard == nil || len(r.Prompt) <= t.planned.prompt && r.MaxTokens <= t.planned.answer {
		return nil
	}
	if err := memory.Generate(ctx, t.shadow, slices.Repeat([]model.Request{r}, t.batch), o); err != nil {
		return err
	}
	if err := t.guard.Check("lower concurrency or max_tokens of the teacher", "take a teacher with smaller weights, such as a q4_0 GGUF"); err != nil {
		return err
	}
	t.planned.prompt, t.planned.answer = max(t.planned.prompt, len(r.Prompt)), max(t.planned.answer, r.MaxTokens)
	return nil
}

// take returns a request that somebody still waits for: nil when there is none
// now, or, if it is to wait, when ctx has ended.
func (t *Teacher) take(ctx context.Context, wait bool) *job {
	for {
		var j *job
		if wait {
			select {
			case j = <-t.jobs:
			case <-ctx.Done():
				return nil
			}
		} else {
			select {
			case j = <-t.jobs:
			default:
				return nil
			}
		}
		if j.ctx.Err() == nil {
			return j
		}
	}
}
