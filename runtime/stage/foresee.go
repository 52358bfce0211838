package stage

import "context"

// A MemoryPlanner is a Stage that can tell, before it runs, how much memory it
// will take.
type MemoryPlanner interface {
	Stage
	// PlanMemory returns the peak, zero when the backend cannot plan. It reads
	// inputs and computes nothing; env lends Store, Seed, Backend and Dir, and drops
	// notes and metrics.
	PlanMemory(ctx context.Context, env *Env) (Memory, error)
}

// Memory is what a stage needs at its peak.
type Memory struct {
	Bytes int64  // of the device
	For   string // what they are for, in words
	Host  int64  // of the machine, beside a device that has its own memory
}

// A Sizer is a Stage whose work grows with something else than the rows of its
// inputs. Two stages of a kind take time in proportion to their sizes.
type Sizer interface {
	Stage
	// Size returns the amount of work. rows are the rows of the dataset that
	// the attribute at a path refers to, 0 when they are not known.
	Size(rows func(path string) int64) float64
}

// A Forecaster is a Stage that can tell which of its paid calls it need not
// make, because a journal holds their answers.
type Forecaster interface {
	Stage
	// Forecast returns how many rows it will ask for, and how many of them
	// journals answer as a whole. It asks nobody. env is as for PlanMemory. A
	// journal that cannot be used is a [JournalFault].
	Forecast(ctx context.Context, env *Env) (rows, recorded int, err error)
	// Asks reports whether anybody is asked for what journals lack. If not, a row
	// that is not recorded fails the stage.
	Asks() bool
}

// A JournalFault is why a journal cannot be used, which fails the stage that
// answers from it.
type JournalFault struct{ Err error }

func (f *JournalFault) Error() string { return f.Err.Error() }
func (f *JournalFault) Unwrap() error { return f.Err }
