package exec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"pipe/runtime/stage"
)

const (
	// graceTime is how long a program that was asked to end may take to do so.
	graceTime = 5 * time.Second
	lastLines = 20      // of what the program said, for the error
	maxLine   = 2 << 10 // bytes of one of them
)

// run runs the program to its end. What it says goes to the log.
func (r *running) run(ctx context.Context) error {
	parent := ctx
	if r.Timeout != "" {
		d, err := time.ParseDuration(r.Timeout)
		if err != nil {
			return err
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	said := &speech{log: r.env.Log}
	cmd := exec.CommandContext(ctx, r.program(), r.Command[1:]...)
	cmd.Dir, cmd.Env = r.sub("files"), r.vars
	cmd.Stdout, cmd.Stderr = said, said // one pipe, which keeps the order
	cmd.WaitDelay = graceTime
	group(cmd)
	err := cmd.Start()
	if err == nil {
		stop := stage.AtOnce(ctx, func() { killGroup(cmd) })
		err = cmd.Wait()
		stop()
	}
	killGroup(cmd) // what the program left running
	said.flush()
	switch {
	case parent.Err() != nil:
		return parent.Err()
	case ctx.Err() != nil:
		return stage.Fieldf("timeout", "%s did not end within %s%s", r.Command[0], r.Timeout, said.last())
	case errors.Is(err, exec.ErrNotFound):
		return stage.Fieldf("command", "there is no program %q in PATH; a file beside the pipeline must be declared in files and called ./%s", r.Command[0], r.Command[0])
	case errors.Is(err, exec.ErrWaitDelay):
		return stage.Fieldf("command", "%s ended and left programs behind that still hold its output; let it wait for them%s", r.Command[0], said.last())
	case err != nil:
		return stage.Fieldf("command", "%s: %v%s", r.Command[0], err, said.last())
	}
	return nil
}

// program returns the program to start: one that is named by a path is one of
// the declared files.
func (r *running) program() string {
	name := r.Command[0]
	if strings.Contains(name, "/") && !filepath.IsAbs(name) {
		return filepath.Join(r.sub("files"), filepath.FromSlash(name))
	}
	return name
}

// A speech is what a program says, line by line.
type speech struct {
	log zerolog.Logger

	mu    sync.Mutex // a program that is given up may still speak
	rest  []byte     // of a line without its end, cut to what is kept of it
	lines []string   // the last ones
}

// Write implements io.Writer.
func (s *speech) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		if room := maxLine - len(s.rest); room > 0 {
			s.rest = append(s.rest, part[:min(room, len(part))]...)
		}
		if i < 0 {
			return n, nil
		}
		s.line()
		p = p[i+1:]
	}
}

// line takes what was said as a line.
func (s *speech) line() {
	text := strings.ToValidUTF8(string(s.rest), "\uFFFD")
	s.rest = s.rest[:0]
	s.log.Info().Msg(text)
	if len(s.lines) == lastLines {
		s.lines = append(s.lines[:0], s.lines[1:]...)
	}
	s.lines = append(s.lines, text)
}

// flush takes what was said last as a line although it has no end.
func (s *speech) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rest) > 0 {
		s.line()
	}
}

// last returns the last lines, for an error.
func (s *speech) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lines) == 0 {
		return ", and it said nothing"
	}
	return fmt.Sprintf("; it said last:\n%s", strings.Join(s.lines, "\n"))
}
