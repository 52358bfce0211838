package dial

import (
	"context"
	"errors"
	"sync"

	"pipe/teacher"
	"pipe/teacher/local"
)

// A lazy teacher loads its model when it is asked first: a run whose answers
// are all recorded needs none.
type lazy struct {
	id   string
	open func() (*local.Teacher, error)

	mu     sync.Mutex
	model  *local.Teacher
	err    error // of open, or after Close
	opened bool
}

func newLazy(id string, open func() (*local.Teacher, error)) *lazy {
	return &lazy{id: id, open: open}
}

func (l *lazy) ID() string { return l.id }

func (l *lazy) Complete(ctx context.Context, r teacher.Request) (teacher.Answer, error) {
	t, err := l.get()
	if err != nil {
		return teacher.Answer{}, err
	}
	return t.Complete(ctx, r)
}

func (l *lazy) get() (*local.Teacher, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.opened {
		l.opened = true
		l.model, l.err = l.open()
	}
	return l.model, l.err
}

func (l *lazy) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.model
	l.opened, l.model, l.err = true, nil, errors.New("the teacher is closed")
	if t == nil {
		return nil
	}
	return t.Close()
}
