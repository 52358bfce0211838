package local

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"pipe/model"
	"pipe/model/memory"
)

// work decodes until ctx ends. It alone uses the backend.
func (t *Teacher) work(ctx context.Context) {
	for {
		jobs := t.gather(ctx)
		if len(jobs) == 0 {
			return
		}
		t.run(ctx, jobs)
	}
}

// gather waits for a request and a moment for those that come with it. It
// returns none when ctx has ended.
func (t *Teacher) gather(ctx context.Context) []*job {
	var jobs []*job
	var late <-chan time.Time // after the first
	for len(jobs) < t.batch {
		select {
		case j := <-t.jobs:
			jobs = append(jobs, j)
			if late == nil {
				late = time.After(gather)
			}
		case <-late:
			return jobs
		case <-ctx.Done():
			fail(jobs, errClosed)
			return nil
		}
	}
	return jobs
}

// run decodes jobs together. It ends early when nobody waits any more.
func (t *Teacher) run(ctx context.Context, jobs []*job) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var waiting atomic.Int64
	waiting.Store(int64(len(jobs)))
	reqs := make([]model.Request, len(jobs))
	leave := make([]func(), len(jobs)) // each counts once
	for i, j := range jobs {
		reqs[i] = j.req
		leave[i] = sync.OnceFunc(func() {
			if waiting.Add(-1) == 0 {
				cancel()
			}
		})
		defer context.AfterFunc(j.ctx, leave[i])()
	}
	sent := make([]bool, len(jobs))
	o := model.GenerateOptions{Batch: t.batch}
	if err := t.fits(ctx, reqs, o); err != nil {
		fail(jobs, err)
		return
	}
	err := t.decoder.Generate(ctx, reqs, o, func(i int, r model.Result) error {
		sent[i] = true
		jobs[i].done <- outcome{Result: r}
		leave[i]()
		return nil
	})
	if err == nil || errors.Is(err, context.Canceled) {
		err = errClosed
	}
	for i, j := range jobs {
		if !sent[i] {
			j.done <- outcome{err: err}
		}
	}
}

// fits refuses requests that need more memory than there is.
func (t *Teacher) fits(ctx context.Context, reqs []model.Request, o model.GenerateOptions) error {
	if t.guard == nil {
		return nil
	}
	if err := memory.Generate(ctx, t.shadow, reqs, o); err != nil {
		return err
	}
	return t.guard.Check("lower concurrency or max_tokens of the teacher", "take a teacher with smaller weights, such as a q4_0 GGUF")
}

func fail(jobs []*job, err error) {
	for _, j := range jobs {
		j.done <- outcome{err: err}
	}
}
