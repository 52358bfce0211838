// Package dial opens the teacher of a teacher block: behind its endpoint or in
// this process, and always behind a journal.
package dial

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"pipe/teacher"
	"pipe/teacher/journal"
	"pipe/teacher/local"
	"pipe/teacher/openai"
	"pipe/tensor"
)

// A Config is a teacher block with its references resolved to local paths.
type Config struct {
	Provider    string // "openai", "local" or "journal"
	Endpoint    string // openai
	APIKeyEnv   string // openai
	ModelID     string // what the model is called, in journals too
	Concurrency int    // requests at once: connections (openai) or sequences per batch (local)

	ModelPath, AdapterPath, TemplatePath string // local
	Quantize                             string // local: as in a model block
	Precision                            string // local: as in a teacher block; but for f32 it is part of the name
	ModelDigest                          string // names the model where ModelID does not
	Backend                              tensor.Backend

	Timeout time.Duration // of one attempt (openai); a local answer may wait for its turn
	Retries int           // openai

	Journal string // file of recorded answers to replay from; "": none
	WriteTo string // journal file that takes new answers; not used by provider "journal"

	// Around, unless nil, wraps the teacher below its journals: what it sees are
	// the requests that no journal answers, each attempt of them.
	Around func(teacher.Teacher) teacher.Teacher
}

// ID returns the name under which answers are recorded. It is the same for the
// provider that records and the provider that replays.
func (c Config) ID() string {
	id := c.ModelID
	if id == "" && c.ModelDigest != "" {
		id = "sha256:" + strings.TrimPrefix(c.ModelDigest, "sha256:")
	}
	if id == "" {
		return ""
	}
	return id + tensor.PrecisionMark(c.Precision) // it answers otherwise than in f32
}

// Open opens the teacher. It answers from WriteTo, then from Journal, and then
// by itself, if it can. The caller calls close when no request is in flight;
// recorded answers stay.
func Open(ctx context.Context, c Config) (t teacher.Teacher, close func() error, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if c.ID() == "" {
		return nil, nil, errors.New("the teacher has no name to record its answers under; set model_id")
	}
	var replay []*journal.Journal
	if c.Journal != "" {
		j, err := journal.OpenReadOnly(c.Journal, c.Provider != "journal")
		if err != nil {
			return nil, nil, err
		}
		replay = append(replay, j)
	}
	if c.Provider == "journal" {
		if replay == nil {
			return nil, nil, errors.New("provider \"journal\" needs the file of recorded answers; set journal")
		}
		return journal.Recorded(c.ID(), replay...), func() error { return nil }, nil
	}
	if c.WriteTo == "" {
		return nil, nil, errors.New("the teacher needs a journal file to record its answers in")
	}
	t, hangUp, err := c.connect()
	if err != nil {
		return nil, nil, err
	}
	own, err := journal.Open(c.WriteTo)
	if err != nil {
		return nil, nil, errors.Join(err, hangUp())
	}
	return own.Wrap(t, replay...), func() error { return errors.Join(hangUp(), own.Close()) }, nil
}

// connect opens the teacher itself.
func (c Config) connect() (teacher.Teacher, func() error, error) {
	switch c.Provider {
	case "openai":
		t, err := openai.New(openai.Config{
			Endpoint: c.Endpoint, Model: c.ID(), APIKeyEnv: c.APIKeyEnv,
			Concurrency: c.Concurrency, Timeout: c.Timeout, Retries: c.Retries, Around: c.Around,
		})
		if err != nil {
			return nil, nil, err
		}
		return t, t.Close, nil
	case "local":
		t := newLazy(c.ID(), func() (*local.Teacher, error) {
			return local.Open(local.Config{
				ID: c.ID(), Model: c.ModelPath, Adapter: c.AdapterPath, Template: c.TemplatePath, Quantize: c.Quantize,
				Precision: tensor.Precision(c.Precision), Backend: c.Backend, Batch: c.Concurrency,
			})
		})
		if c.Around != nil {
			return c.Around(t), t.Close, nil
		}
		return t, t.Close, nil
	}
	return nil, nil, fmt.Errorf("provider is %q; must be \"openai\", \"local\" or \"journal\"", c.Provider)
}
