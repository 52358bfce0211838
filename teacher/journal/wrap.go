package journal

import (
	"context"
	"errors"
	"fmt"

	"pipe/teacher"
)

// ErrMissing is wrapped by the error about a request that no journal holds an
// answer to, when there is no teacher to ask.
var ErrMissing = errors.New(`the answer was not recorded: to record it, switch the teacher block to provider "openai" or "local" with the same model_id and run again`)

// Wrap returns the teacher t behind the journal. It answers from the journal,
// then from the journals of replay, and else asks t and appends the answer;
// the answer is on disk when Complete returns. Equal requests at the same time
// are asked once. A refusal is recorded too, and asked again by the next run.
//
// t must not be nil: [Recorded] makes a teacher of journals alone.
func (j *Journal) Wrap(t teacher.Teacher, replay ...*Journal) teacher.Teacher {
	return &wrapped{Teacher: t, own: j, replay: append([]*Journal{j}, replay...)}
}

// Recorded returns a teacher that answers as the model named id did, from the
// journals alone. What is not there is an error that wraps [ErrMissing].
func Recorded(id string, journals ...*Journal) teacher.Teacher {
	return &recorded{id: id, journals: journals}
}

type wrapped struct {
	teacher.Teacher
	own    *Journal
	replay []*Journal // own first
}

func (w *wrapped) Complete(ctx context.Context, r teacher.Request) (teacher.Answer, error) {
	key, err := Key(w.ID(), r)
	if err != nil {
		return teacher.Answer{}, err
	}
	for {
		mine := false
		done := w.own.asking.DoChan(key, func() (any, error) {
			mine = true
			return w.complete(ctx, key, r)
		})
		select {
		case <-ctx.Done():
			return teacher.Answer{}, ctx.Err()
		case got := <-done:
			if got.Err != nil {
				if !mine && ctx.Err() == nil && cancelled(got.Err) {
					continue // whoever asked gave up; we did not
				}
				return teacher.Answer{}, got.Err
			}
			a := got.Val.(teacher.Answer)
			a.Replayed = a.Replayed || !mine
			return a, nil
		}
	}
}

// complete answers a request that nobody else is asking.
func (w *wrapped) complete(ctx context.Context, key string, r teacher.Request) (teacher.Answer, error) {
	for _, j := range w.replay {
		if a, ok := j.answer(key); ok {
			return a, nil
		}
	}
	if err := w.own.writable(); err != nil {
		return teacher.Answer{}, err
	}
	if err := w.own.catchUp(); err != nil {
		return teacher.Answer{}, err
	}
	if a, ok := w.own.answer(key); ok {
		return a, nil
	}
	a, err := w.Teacher.Complete(ctx, r)
	a.Content, a.Reasoning = valid(a.Content), valid(a.Reasoning)
	l := line{Key: key, Teacher: valid(w.ID()), Request: clean(r), Answer: &a}
	if err != nil {
		if !errors.Is(err, teacher.ErrRefused) {
			return teacher.Answer{}, err
		}
		l.Answer, l.Refused = nil, valid(err.Error())
	}
	if err := w.own.record(l); err != nil {
		return teacher.Answer{}, err
	}
	return a, err
}

// answer returns the recorded answer under a key.
func (j *Journal) answer(key string) (teacher.Answer, bool) {
	l, ok := j.lookup(key)
	if !ok || l.Answer == nil {
		return teacher.Answer{}, false
	}
	a := *l.Answer
	a.Replayed = true
	return a, true
}

func cancelled(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

type recorded struct {
	id       string
	journals []*Journal
}

func (t *recorded) ID() string { return t.id }

func (t *recorded) Complete(ctx context.Context, r teacher.Request) (teacher.Answer, error) {
	if err := ctx.Err(); err != nil {
		return teacher.Answer{}, err
	}
	key, err := Key(t.id, r)
	if err != nil {
		return teacher.Answer{}, err
	}
	refused := ""
	for _, j := range t.journals {
		if a, ok := j.answer(key); ok {
			return a, nil
		}
		if l, ok := j.lookup(key); ok && refused == "" {
			refused = l.Refused
		}
	}
	if refused != "" {
		return teacher.Answer{}, fmt.Errorf("%w, as recorded: %s", teacher.ErrRefused, refused)
	}
	return teacher.Answer{}, fmt.Errorf("%s: %w", t.missing(r), ErrMissing)
}

// missing tells which answer is missing where.
func (t *recorded) missing(r teacher.Request) string {
	where := "no journal"
	if len(t.journals) > 0 {
		where = t.journals[0].path
	}
	last := ""
	if n := len(r.Messages); n > 0 {
		last = r.Messages[n-1].Content
	}
	const most = 60
	if s := []rune(last); len(s) > most {
		last = string(s[:most]) + "…"
	}
	return fmt.Sprintf("%s: no answer of %q to the request that ends with %q (attempt %d)", where, t.id, last, r.Attempt)
}
