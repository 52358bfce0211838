package local

import (
	"context"

	"pipe/model"
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
	next := func(wait bool) (model.Request, bool) {
		j := t.take(ctx, wait)
		if j == nil {
			return model.Request{}, false
		}
		jobs[n] = j
		n++
		return j.req, true
	}
	err := t.decoder.Serve(ctx, model.GenerateOptions{Batch: t.batch}, next, func(i int, r model.Result) error {
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
