package train

import (
	"fmt"
	"math"
	"slices"
)

// A Schedule is how the learning rate changes over a run.
type Schedule struct {
	Name   string // one of [Schedules]
	Warmup int    // steps over which the rate grows from 0; a run may be shorter
	Steps  int    // of the whole run
}

// Schedules are the names of the schedules.
var schedules = []string{"cosine", "linear", "constant"}

// Schedules returns the names of the schedules there are.
func Schedules() []string { return slices.Clone(schedules) }

// At returns the factor of the learning rate when done steps are behind. As in
// transformers, the first step of a warm-up has rate 0.
func (s Schedule) At(done int) float64 {
	if done < s.Warmup {
		return float64(done) / float64(max(1, s.Warmup))
	}
	left := max(1, s.Steps-s.Warmup)
	switch s.Name {
	case "linear":
		return max(0, float64(s.Steps-done)/float64(left))
	case "cosine":
		return max(0, (1+math.Cos(math.Pi*float64(done-s.Warmup)/float64(left)))/2)
	}
	return 1
}

// Check reports an unknown name or a negative warm-up.
func (s Schedule) Check() error {
	if !slices.Contains(schedules, s.Name) {
		return fmt.Errorf("schedule is %q; must be one of %q", s.Name, schedules)
	}
	if s.Warmup < 0 {
		return fmt.Errorf("warm-up of %d steps; must be 0 or more", s.Warmup)
	}
	return nil
}

// schedule is that of a run of so many steps. A warm-up that is a share of them
// leaves one for the full rate: a run of one step has no other.
func (o Options) schedule(steps int) Schedule {
	w := int(o.Warmup)
	if o.Warmup < 1 {
		w = min(int(math.Ceil(o.Warmup*float64(steps))), steps-1)
	}
	return Schedule{o.Schedule, w, steps}
}

// ShortOfRate says that a run over n examples ends before its warm-up does; ""
// when it does not.
func (o Options) ShortOfRate(n int) string {
	s := o.schedule(o.Steps(n))
	if s.Warmup < s.Steps || s.Warmup == 0 {
		return ""
	}
	if s.Steps == 1 {
		return fmt.Sprintf("warmup_steps = %d is not over after the one step of this run: its rate is 0, and nothing is learned", s.Warmup)
	}
	return fmt.Sprintf("warmup_steps = %d is not over after the %d steps of this run: the rate reaches at most %.2g%% of lr", s.Warmup, s.Steps, 100*s.At(s.Steps-1))
}
