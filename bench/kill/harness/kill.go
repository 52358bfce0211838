// Package harness kills pipe while it runs and looks at what is left: whether
// the next run ends as if nothing had happened, whether anything that was
// published is damaged, and whether a teacher was paid twice.
package harness

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// A Harness runs one recipe with one program.
type Harness struct {
	Pipe   string // the program
	Recipe *Recipe
	Dir    string    // for stores; empty
	Log    io.Writer // told of each kill; nil: nobody

	whole whole
}

// whole is what a run makes that is not killed.
type whole struct {
	outputs map[string]string
	series  map[string]string
	files   map[string]string // of the copy outside of the store
	calls   int
	took    time.Duration
}

// A Tally is what kills showed.
type Tally struct {
	Kills, Runs, Rounds int
	ByAim               map[string]int // kills, by what was waited for
	Running             map[string]int // kills, by the kind of stage that was running

	// Kills that left half of something.
	HalfArtifacts, HalfRecords, HalfCheckpoints, HalfLines int

	Calls, InFlight int // of teachers, in all; and those a kill cut off
	MostInFlight    int
	Hashed          int // artifacts read again, all kills together
	MostCheckpoints int // whole ones of one action, found after a kill
	Whole, Took     time.Duration
}

// Whole runs the recipe without killing it. Kill and Together compare with it.
func (h *Harness) Whole() error {
	store := filepath.Join(h.Dir, "whole")
	h.Recipe.Teacher.Begin()
	p, err := h.start(store)
	if err != nil {
		return err
	}
	o, err := p.wait()
	if err != nil {
		return err
	}
	if len(o.ran) != h.Recipe.Stages {
		return fmt.Errorf("%d stages ran, want %d: %v", len(o.ran), h.Recipe.Stages, o.ran)
	}
	all, distinct := h.Recipe.Teacher.Calls()
	if all != distinct {
		return fmt.Errorf("a run that was not killed made %d calls, %d different ones", all, distinct)
	}
	if _, err := damaged(store); err != nil {
		return err
	}
	h.whole = whole{outputs: o.outputs, calls: distinct, took: o.took}
	if h.whole.series, err = series(store); err != nil {
		return err
	}
	h.whole.files, err = files(h.Recipe.Copy)
	return err
}

// Kill kills runs n times, at instants that seed chooses. Each run goes on with
// the store of the one before, until one ends by itself; then a new store begins.
func (h *Harness) Kill(n int, seed uint64) (*Tally, error) {
	begin := time.Now()
	t := &Tally{ByAim: map[string]int{}, Running: map[string]int{}, Whole: h.whole.took}
	rng := rand.New(rand.NewPCG(seed, 0))
	for t.Kills < n {
		t.Rounds++
		store := filepath.Join(h.Dir, fmt.Sprintf("store-%d", t.Rounds))
		h.Recipe.Teacher.Begin()
		if err := os.RemoveAll(h.Recipe.Copy); err != nil {
			return t, err
		}
		for ended := false; !ended; {
			var a *aim
			if t.Kills < n {
				a = h.chooseAim(rng, store)
			}
			var err error
			if ended, err = h.once(t, store, a); err != nil {
				return t, fmt.Errorf("round %d, after %d kills: %w", t.Rounds, t.Kills, err)
			}
		}
		all, _ := h.Recipe.Teacher.Calls()
		t.Calls += all
		if err := h.same(store); err != nil {
			return t, fmt.Errorf("round %d, after %d kills: %w", t.Rounds, t.Kills, err)
		}
		if err := os.RemoveAll(store); err != nil {
			return t, err
		}
	}
	t.Took = time.Since(begin)
	return t, nil
}

// once runs the recipe on the store, kills it when a says so, and looks at what
// it left. It reports whether the run ended by itself.
func (h *Harness) once(t *Tally, store string, a *aim) (ended bool, err error) {
	before := left(store)
	h.Recipe.Teacher.Run()
	p, err := h.start(store)
	if err != nil {
		return false, err
	}
	if a != nil {
		go a.fire(p)
	}
	o, err := p.wait()
	if err != nil {
		return false, err
	}
	t.Runs++
	inFlight, torn, err := h.Recipe.Teacher.settle(filepath.Join(store, "journals", "teacher.jsonl"))
	if err != nil {
		return false, err
	}
	objects, err := damaged(store)
	if err != nil {
		return false, err
	}
	t.Hashed += objects
	if err := h.Recipe.Teacher.check(); err != nil {
		return false, err
	}
	if !o.killed {
		if inFlight > 0 {
			return false, fmt.Errorf("a run ended by itself, but %d answers are not in the journal", inFlight)
		}
		return true, nil
	}
	after := left(store)
	t.Kills++
	t.ByAim[a.name]++
	t.Running[kindOf(o.running)]++
	t.InFlight += inFlight
	t.MostInFlight = max(t.MostInFlight, inFlight)
	t.MostCheckpoints = max(t.MostCheckpoints, after.kept)
	count := func(n *int, left bool) {
		if left {
			*n++
		}
	}
	count(&t.HalfArtifacts, after.artifacts > before.artifacts)
	count(&t.HalfRecords, after.records > before.records)
	count(&t.HalfCheckpoints, after.checkpoints > 0)
	count(&t.HalfLines, torn)
	if h.Log != nil {
		fmt.Fprintf(h.Log, "kill %d: %s after %v, while %s ran\n", t.Kills, a.name, o.took.Round(time.Millisecond), o.running)
	}
	return false, nil
}

func kindOf(addr string) string {
	for i, r := range addr {
		if r == '.' {
			return addr[:i]
		}
	}
	return "none"
}

// same compares a store in which a run ended with the whole one. Everything
// must be up to date in it.
func (h *Harness) same(store string) error {
	p, err := h.start(store)
	if err != nil {
		return err
	}
	o, err := p.wait()
	if err != nil {
		return err
	}
	if len(o.ran) > 0 {
		return fmt.Errorf("%v ran again after a run that ended", o.ran)
	}
	return h.compare(store, o.outputs)
}

// compare tells where outputs or series differ from the whole run's.
func (h *Harness) compare(store string, outputs map[string]string) error {
	if err := differ("output", outputs, h.whole.outputs); err != nil {
		return err
	}
	got, err := series(store)
	if err != nil {
		return err
	}
	if err := differ("series", got, h.whole.series); err != nil {
		return err
	}
	if got, err = files(h.Recipe.Copy); err != nil {
		return err
	}
	if err := differ("file", got, h.whole.files); err != nil {
		return err
	}
	if _, distinct := h.Recipe.Teacher.Calls(); distinct != h.whole.calls {
		return fmt.Errorf("%d different calls, a run that was not killed makes %d", distinct, h.whole.calls)
	}
	return nil
}

func differ(what string, got, want map[string]string) error {
	if len(want) == 0 {
		return errors.New("there is nothing to compare with; call Whole first")
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			return fmt.Errorf("%s %s is %q, a run that was not killed has %q", what, name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d of %s, a run that was not killed has %d", len(got), what, len(want))
	}
	return nil
}

// logUniform spreads durations over the orders of magnitude from lo to hi.
func logUniform(rng *rand.Rand, lo, hi time.Duration) time.Duration {
	return time.Duration(float64(lo) * math.Pow(float64(hi)/float64(lo), rng.Float64()))
}
