package harness

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// Together starts n processes at once on one store. Every action must run in
// exactly one of them, and all must end with what the whole run made.
func (h *Harness) Together(n int) error {
	store := filepath.Join(h.Dir, fmt.Sprintf("together-%d", n))
	h.Recipe.Teacher.Begin()
	h.Recipe.Teacher.Run()
	var all []*process
	for range n {
		p, err := h.start(store)
		if err != nil {
			return err
		}
		all = append(all, p)
	}
	var ran []string
	for i, p := range all {
		o, err := p.wait()
		if err != nil {
			return fmt.Errorf("process %d of %d: %w", i+1, n, err)
		}
		if len(o.ran)+o.cached != h.Recipe.Stages {
			return fmt.Errorf("process %d of %d made %d stages and found %d, of %d", i+1, n, len(o.ran), o.cached, h.Recipe.Stages)
		}
		if err := h.compare(store, o.outputs); err != nil {
			return fmt.Errorf("process %d of %d: %w", i+1, n, err)
		}
		ran = append(ran, o.ran...)
	}
	slices.Sort(ran)
	if got := len(slices.Compact(slices.Clone(ran))); len(ran) != h.Recipe.Stages || got != len(ran) {
		return fmt.Errorf("%d stages ran, %d different ones, want each of %d once: %v", len(ran), got, h.Recipe.Stages, ran)
	}
	if calls, distinct := h.Recipe.Teacher.Calls(); calls != distinct {
		return fmt.Errorf("%d calls for %d different requests", calls, distinct)
	}
	_, err := damaged(store)
	return err
}

// TakenOver kills a process in the middle of its training while another waits
// for it: the other goes on from there and ends as the whole run did.
func (h *Harness) TakenOver() error {
	store := filepath.Join(h.Dir, "taken")
	h.Recipe.Teacher.Begin()
	h.Recipe.Teacher.Run()
	first, err := h.start(store)
	if err != nil {
		return err
	}
	if !appears(first, store, 1, []string{"work/*/checkpoint-*"}) {
		return errors.New("the first process saved no checkpoint")
	}
	second, err := h.start(store)
	if err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond)
	first.cmd.Process.Kill()
	<-first.done
	if _, _, err := h.Recipe.Teacher.settle(filepath.Join(store, "journals", "teacher.jsonl")); err != nil {
		return err
	}
	o, err := second.wait()
	if err != nil {
		return err
	}
	if err := h.Recipe.Teacher.check(); err != nil {
		return err
	}
	return h.compare(store, o.outputs)
}
