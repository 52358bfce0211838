package train

import (
	"fmt"
	"math"
	"slices"
)

// A Schedule is how the learning rate changes over a run.
type Schedule struct {
	Name   string // one of [Schedules]
	Warmup int    // steps over which the rate grows from 0
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

// Check reports an unknown name or an impossible warm-up.
func (s Schedule) Check() error {
	if !slices.Contains(schedules, s.Name) {
		return fmt.Errorf("schedule is %q; must be one of %q", s.Name, schedules)
	}
	if s.Warmup < 0 || s.Warmup > s.Steps {
		return fmt.Errorf("warm-up of %d steps; the run has %d", s.Warmup, s.Steps)
	}
	return nil
}
