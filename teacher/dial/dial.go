// Package dial opens the teacher that a configuration names, behind its
// journals.
package dial

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pipe/teacher"
	"pipe/teacher/journal"
	"pipe/teacher/local"
	"pipe/tensor"
)

// A Config names a teacher. Paths are local paths.
type Config struct {
	Provider  string // "openai", "local" or "journal"
	Endpoint  string // openai: base URL
	APIKeyEnv string // openai: environment variable with the API key
	ModelID   string // the model's name; for local it may be empty

	ModelPath    string // local: directory or GGUF file
	AdapterPath  string // local: PEFT directory; "" for none
	TemplatePath string // local: chat template instead of the model's; "" for the model's
	ModelDigest  string // local: digest of the model, its ID unless ModelID is given
	Backend      tensor.Backend

	Concurrency int
	Timeout     time.Duration // of one attempt
	Retries     int

	Journal string // recorded answers to replay; "" for none
	WriteTo string // journal that new answers are appended to
}

// ID is the name of the teacher in journals: the same whether the model
// answers itself or a journal does.
func (c Config) ID() string {
	if c.ModelID != "" {
		return c.ModelID
	}
	return c.ModelDigest
}

// Open opens the teacher. The caller calls close when nobody asks any more.
func Open(ctx context.Context, c Config) (t teacher.Teacher, close func() error, err error) {
	var closers []func() error
	close = func() error {
		var errs []error
		for i := len(closers) - 1; i >= 0; i-- {
			errs = append(errs, closers[i]())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, close())
		}
	}()
	var replay []*journal.Journal
	if c.Journal != "" {
		j, err := journal.OpenReadOnly(c.Journal)
		if err != nil {
			return nil, nil, err
		}
		closers = append(closers, j.Close)
		replay = append(replay, j)
	}
	if c.Provider == "journal" {
		return journal.Recorded(c.ID(), replay...), close, nil
	}
	own, err := journal.Open(c.WriteTo)
	if err != nil {
		return nil, nil, err
	}
	closers = append(closers, own.Close)
	switch c.Provider {
	case "local":
		l, err := local.Open(local.Config{ID: c.ID(), Model: c.ModelPath, Adapter: c.AdapterPath, Template: c.TemplatePath, Backend: c.Backend, Batch: c.Concurrency})
		if err != nil {
			return nil, nil, err
		}
		closers = append(closers, l.Close)
		return own.Wrap(l, replay...), close, nil
	}
	return nil, nil, fmt.Errorf("teacher provider %q is not known; use openai, local or journal", c.Provider)
}
