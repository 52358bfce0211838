package harness

import (
	"math/rand/v2"
	"path/filepath"
	"time"
)

// An aim is when a process is killed: so long after something happened so often.
type aim struct {
	name  string
	wait  func(p *process) bool // until it happened; false when the process has ended
	after time.Duration
}

// fire waits and kills.
func (a *aim) fire(p *process) {
	if !a.wait(p) {
		return
	}
	select {
	case <-p.done:
	case <-time.After(a.after):
		p.cmd.Process.Kill()
	}
}

// chooseAim spreads kills over what a run does. Half of them fall at any time,
// the others on the instants at which something is written.
func (h *Harness) chooseAim(rng *rand.Rand, store string) *aim {
	at := func(patterns ...string) func(*process) bool {
		nth := 1 + rng.IntN(6)
		return func(p *process) bool { return appears(p, store, nth, patterns) }
	}
	soon := time.Duration(rng.Int64N(int64(3 * time.Millisecond)))
	switch rng.IntN(8) {
	case 0:
		nth := 1 + rng.IntN(12)
		return &aim{"an answer arrives", func(p *process) bool { return h.Recipe.Teacher.wait(p, nth) }, soon}
	case 1:
		return &aim{"a checkpoint is written", at("work/*/tmp-checkpoint-*"), soon}
	case 2:
		what := []string{"tmp/artifact-*", "tmp/artifact-*/*", "tmp/artifact-*/manifest.json"}[rng.IntN(3)]
		return &aim{"an artifact is published", at(what), soon / 4}
	case 3:
		return &aim{"a record is published", at("tmp/record-*"), soon / 4}
	}
	d := logUniform(rng, 5*time.Millisecond, max(h.whole.took/2, 10*time.Millisecond))
	return &aim{"any time", func(*process) bool { return true }, d}
}

// wait returns once the n-th answer since Run was sent.
func (t *Teacher) wait(p *process, n int) bool {
	for range n {
		select {
		case <-p.done:
			return false
		case <-t.answered:
		}
	}
	return true
}

// appears returns once the n-th path that matches a pattern has come.
func appears(p *process, store string, n int, patterns []string) bool {
	seen := map[string]bool{}
	list := func() (found []string) {
		for _, pattern := range patterns {
			m, _ := filepath.Glob(filepath.Join(store, pattern)) // the patterns are constants
			found = append(found, m...)
		}
		return found
	}
	for _, path := range list() { // of processes that were killed
		seen[path] = true
	}
	old := len(seen)
	for {
		for _, path := range list() {
			seen[path] = true
		}
		if len(seen)-old >= n {
			return true
		}
		select {
		case <-p.done:
			return false
		case <-time.After(200 * time.Microsecond):
		}
	}
}
