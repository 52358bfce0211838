package engine

import (
	"slices"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// A RunDiff is what two runs do not have in common: Was before Is.
type RunDiff struct {
	Was     RunCost       `json:"was"`
	Is      RunCost       `json:"is"`
	Added   []string      `json:"added,omitempty"`   // stages of Is alone
	Removed []string      `json:"removed,omitempty"` // stages of Was alone
	Renamed [][2]string   `json:"renamed,omitempty"` // the same action under another address
	Stages  []StageDiff   `json:"stages,omitempty"`  // that were made from something else
	Rows    []DatasetDiff `json:"rows,omitempty"`    // datasets of other content
}

// A RunCost is what a run took, and what its results took when they were made.
type RunCost struct {
	Run     string         `json:"run"`
	Started time.Time      `json:"started"`
	Seconds float64        `json:"seconds"` // of the run
	Ran     int            `json:"ran"`
	Cached  int            `json:"cached"`
	Spent   artifact.Spent `json:"spent"` // by the run, on teachers
	Results float64        `json:"results_seconds"`
	Worth   artifact.Spent `json:"results_spent"`
}

// A StageDiff says what a stage was made from before and after.
type StageDiff struct {
	Stage   string   `json:"stage"`
	Changes []string `json:"changes,omitempty"` // of the recipe, its files, the kind, the device
	Inputs  []string `json:"inputs,omitempty"`  // that changed
}

// A DatasetDiff is the difference of one output.
type DatasetDiff struct {
	Ref     string   `json:"dataset"`
	Diff    *RowDiff `json:"diff,omitempty"`
	Problem string   `json:"problem,omitempty"` // why it is not known
}

// CompareRuns compares two runs of a store. samples is how many rows of each
// sort are shown of a dataset.
func CompareRuns(s *artifact.Store, kinds []stage.Kind, was, is *RunFile, samples int) *RunDiff {
	c := comparison{store: s, kinds: kinds, samples: samples, out: &RunDiff{Was: costOf(s, was), Is: costOf(s, is)}}
	c.stages(was, is)
	for i := range is.Stages {
		b := &is.Stages[i]
		if a := was.entry(c.before(b.Addr)); a != nil && made(a) && made(b) && a.Kind == b.Kind {
			c.stage(a, b)
		}
	}
	return c.out
}

// MeasuredOtherwise lists the evaluations of prog, the stages with items, that have
// other settings in one run than in the other: what they measured differs by that
// too, and not by the models alone.
func MeasuredOtherwise(s *artifact.Store, prog *lang.Program, was, is *RunFile) []StageDiff {
	c := comparison{store: s, out: &RunDiff{}}
	for i := range is.Stages {
		b := &is.Stages[i]
		a, n := was.entry(b.Addr), prog.Node(b.Addr)
		if a == nil || n == nil || n.Kind == nil || !made(a) || !made(b) || a.Kind != b.Kind || a.Key == b.Key || b.Outputs["items"].Type != artifact.Dataset {
			continue
		}
		c.kinds = []stage.Kind{*n.Kind}
		c.recipe(a, b)
	}
	return slices.DeleteFunc(c.out.Stages, func(d StageDiff) bool { return len(d.Changes) == 0 })
}

// made reports whether a stage has results.
func made(s *StageResult) bool { return s.State == Done || s.State == Cached }

func costOf(s *artifact.Store, r *RunFile) RunCost {
	c := RunCost{Run: r.Run, Started: r.Started, Seconds: r.Seconds, Ran: r.Ran, Cached: r.Cached}
	for i := range r.Stages {
		if !made(&r.Stages[i]) {
			continue
		}
		rec, err := s.Record(r.Stages[i].Key)
		if err != nil {
			continue
		}
		c.Results += rec.Seconds
		if rec.Spent != nil {
			c.Worth.Add(*rec.Spent)
			if r.Stages[i].State == Done {
				c.Spent.Add(*rec.Spent)
			}
		}
	}
	return c
}

type comparison struct {
	store   *artifact.Store
	kinds   []stage.Kind
	samples int
	out     *RunDiff
}

// before returns the address that a stage of the later run had in the earlier.
func (c *comparison) before(addr string) string {
	for _, r := range c.out.Renamed {
		if r[1] == addr {
			return r[0]
		}
	}
	return addr
}

// stages tells which stages came, went, or have another name.
func (c *comparison) stages(was, is *RunFile) {
	gone := map[artifact.Key]string{}
	for i := range was.Stages {
		if a := &was.Stages[i]; is.entry(a.Addr) == nil {
			c.out.Removed = append(c.out.Removed, a.Addr)
			if made(a) {
				gone[a.Key] = a.Addr
			}
		}
	}
	for i := range is.Stages {
		b := &is.Stages[i]
		if was.entry(b.Addr) != nil {
			continue
		}
		if old, ok := gone[b.Key]; ok && made(b) {
			c.out.Renamed = append(c.out.Renamed, [2]string{old, b.Addr})
			c.out.Removed = slices.DeleteFunc(c.out.Removed, func(a string) bool { return a == old })
			delete(gone, b.Key)
			continue
		}
		c.out.Added = append(c.out.Added, b.Addr)
	}
}

// stage compares one stage.
func (c *comparison) stage(a, b *StageResult) {
	if a.Key != b.Key {
		c.recipe(a, b)
	} else if slices.ContainsFunc(b.outputNames(), func(o string) bool { return a.Outputs[o].Digest != b.Outputs[o].Digest }) {
		c.out.Stages = append(c.out.Stages, StageDiff{Stage: b.Addr, Changes: []string{"made something else of the same: it ran again and is not deterministic"}})
	}
	for _, name := range b.outputNames() {
		x, ok := a.Outputs[name]
		y := b.Outputs[name]
		if !ok || x.Type != y.Type {
			continue
		}
		if y.Type == artifact.Dataset && x.Digest != y.Digest {
			c.dataset(artifact.Ref{Addr: b.Addr, Output: name}.String(), x.Digest, y.Digest)
		}
	}
}

func (r *StageResult) outputNames() []string {
	var names []string
	for name := range r.Outputs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (c *comparison) recipe(a, b *StageResult) {
	d := StageDiff{Stage: b.Addr}
	old, err1 := c.store.Record(a.Key)
	now, err2 := c.store.Record(b.Key)
	i := slices.IndexFunc(c.kinds, func(k stage.Kind) bool { return k.Name == b.Kind })
	if err1 != nil || err2 != nil || i < 0 {
		d.Changes = []string{"it is not known what: a record is no longer in the store"}
		c.out.Stages = append(c.out.Stages, d)
		return
	}
	changes, err := ChangesOf(old.Preimage, now.Preimage, c.kinds[i])
	if err != nil {
		d.Changes = []string{err.Error()}
	}
	for _, ch := range changes {
		if ch.Input != "" {
			d.Inputs = append(d.Inputs, ch.Input)
		} else {
			d.Changes = append(d.Changes, ch.String())
		}
	}
	c.out.Stages = append(c.out.Stages, d)
}

func (c *comparison) dataset(ref string, was, is artifact.Digest) {
	if a, err := c.store.Open(is); err == nil {
		if name, err := artifact.RowType(a); err == nil && name == "point" {
			return // a curve, not rows
		}
	}
	d := DatasetDiff{Ref: ref}
	var err error
	if d.Diff, err = DiffRows(c.store, was, is, c.samples); err != nil {
		d.Problem = err.Error()
	}
	c.out.Rows = append(c.out.Rows, d)
}
