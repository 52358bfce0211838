package train

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"pipe/model"
	"pipe/model/memory"
	"pipe/tensor"
)

// A Fit is how a run fits into the memory that there is.
type Fit struct {
	Need  tensor.Usage // 0 when the backend cannot plan
	Paged int          // see Options
}

// PlanMemory plans the memory of a run on b. plan takes its first step on p, with
// that many parameters Paged, and returns the student; length is how to make
// examples shorter. Moments stay on the device while they fit, else as many as must
// go to the machine's memory. A run that does not fit even so is a
// [memory.TooLarge], and Need is what was tried last.
func (o Options) PlanMemory(b tensor.Backend, length string, plan func(p tensor.Plan, paged int) (*Student, error)) (f Fit, err error) {
	planner, ok := b.(tensor.Planner)
	if !ok {
		return f, nil
	}
	try := func(paged int) (s *Student, room int64, err error) {
		g := memory.NewGuard(b)
		if s, err = plan(g.Plan, paged); err != nil {
			return nil, 0, err
		}
		f = Fit{g.Plan.Peak(), paged}
		advice, eight := o.SaveMemory(f.Need, length, s.Adapter != nil), fmt.Sprintf("set optimizer = %q", OptimizerAdamW8bit)
		if room = g.Room(); room >= 0 && f.Need.Host > 0 && !o.EightBit && !slices.Contains(advice, eight) {
			advice = slices.Insert(advice, 0, eight) // if anything, the machine's memory does not suffice
		}
		return s, room, g.Check(advice...)
	}
	_, _, err = try(0)
	var large *memory.TooLarge
	if _, pages := b.(tensor.HostAllocator); !pages || !errors.As(err, &large) {
		return f, err
	}
	s, room, err := try(math.MaxInt)
	if err != nil && !errors.As(err, &large) || room < 0 {
		return f, err
	}
	_, _, err = try(paged(planner, s.Decoder, o.EightBit, room))
	return f, err
}

// paged returns how many parameters, from the first on, have moments for which
// room bytes of the device do not suffice. They are counted from the last on, as b
// would allocate them.
func paged(b tensor.Planner, d *model.Decoder, eightBit bool, room int64) int {
	p := b.Plan()
	before, slots := p.Peak().Bytes, slotsOf(d)
	for i := len(slots) - 1; i >= 0; i-- {
		if slots[i].alloc(p, eightBit, p.Alloc) != nil {
			return i + 1
		}
		slots[i].states(func(_ string, t *tensor.Tensor) { p.Zero(t) }) // some count what is touched
		if p.Peak().Bytes-before > room {
			return i + 1
		}
	}
	return 0
}

// Note says what f is, for people.
func (f Fit) Note(note func(format string, args ...any)) {
	if f.Need.Bytes == 0 {
		return
	}
	note("needs %s of memory: %s", memory.Size(f.Need.Bytes), memory.Parts(f.Need))
	if f.Need.Host > 0 {
		note("keeps %s of the optimizer's state in the machine's memory, as the device has no room for it: steps take longer and give the same result", memory.Size(f.Need.Host))
	}
}
