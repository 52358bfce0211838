package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"pipe/model"
)

// A Task is what is learned: examples and a loss.
type Task interface {
	// Len is the number of examples.
	Len() int
	// Step runs the examples micro, which are part of the window of examples
	// of one optimizer step, forward and backward. Gradients accumulate so
	// that all micro-batches of a window together give the gradient of the
	// window's loss. The first mean is the loss; the means are the task's own,
	// which the next Step overwrites.
	Step(p *model.Pass, micro, window []int) ([]Mean, error)
}

// A Mean is a part of an average: means of one name add up.
type Mean struct {
	Name       string
	Sum, Count float64
}

// Value returns the average, 0 when nothing was counted.
func (m Mean) Value() float64 {
	if m.Count == 0 {
		return 0
	}
	return m.Sum / m.Count
}

// A Point is one value of a series at a step; the first step is 1.
type Point struct {
	Series string  `json:"series"`
	Step   int64   `json:"step"`
	Value  float64 `json:"value"`
}

// Options are the settings of a run. [NewOptions] holds the defaults.
type Options struct {
	AdamW
	Schedule string  // of the learning rate
	Warmup   float64 // share of the steps, at most all but one, or their number when 1 or more

	Epochs    int // passes over the data
	MaxSteps  int // optimizer steps; 0: as many as Epochs needs. It wins over Epochs
	BatchSize int // examples of a micro-batch
	GradAccum int // micro-batches of an optimizer step
	Seed      uint64
	Recompute bool // see model.Pass
	// Paged is of how many parameters, from the first on, the moments lie in the
	// machine's memory, where the backend can: see [tensor.HostAllocator]. The bits
	// are the same for any number. PlanMemory finds the least.
	Paged int

	// Dir keeps checkpoints, every Every steps and on cancellation, the
	// newest Keep of them; "" keeps none. A run finds the newest again and
	// goes on from it. ID names the run: a checkpoint of another is refused.
	Dir   string
	ID    string
	Every int
	Keep  int

	// Check, unless nil, is called with the workspace of the run before anything
	// is measured or trained, and refuses the run by an error. It must leave
	// parameters as they are, and gradients zero.
	Check func(p *model.Pass) error
	// Setup measures what has to be known from before the first step, such as
	// a reference's log-probabilities. It runs once, whatever happens: its
	// result is kept in every checkpoint.
	Setup func() (map[string][]float64, error)
	// Ready, unless nil, receives what Setup once returned, before any step.
	Ready func(before map[string][]float64) error
	// Report, unless nil, is called after each step with its points, and on
	// resumption with those of all earlier steps.
	Report func(done, total int, points []Point)
}

// NewOptions returns the defaults.
func NewOptions() Options {
	return Options{AdamW: NewAdamW(), Schedule: "cosine", Warmup: 0.03, Epochs: 1, BatchSize: 1, GradAccum: 1, Every: 100, Keep: 2}
}

// maxSkipped steps without a finite gradient in a row end a run.
const maxSkipped = 10

// Result is what a run leaves behind beside the trained parameters.
type Result struct {
	Series  []Point
	Before  map[string][]float64 // what Setup returned
	Steps   int
	Skipped int      // steps whose gradient was not finite: nothing was updated
	Resumed int      // the step that the run went on from; 0: from the start
	Damaged []string // checkpoints that were damaged and were removed, each with what was wrong
}

// Steps returns the number of optimizer steps of a run over n examples.
func (o Options) Steps(n int) int {
	if o.MaxSteps > 0 {
		return o.MaxSteps
	}
	window := o.BatchSize * o.GradAccum
	return (n + window - 1) / window * o.Epochs
}

// Settings returns what o sets of the result, by name, for a model card.
func (o Options) Settings() map[string]string {
	s := map[string]string{
		"learning_rate": fmt.Sprint(o.LR), "schedule": o.Schedule, "batch_size": fmt.Sprint(o.BatchSize), "grad_accum": fmt.Sprint(o.GradAccum),
		"weight_decay": fmt.Sprint(o.WeightDecay), "betas": fmt.Sprintf("%v, %v", o.Beta1, o.Beta2), "eps": fmt.Sprint(o.Eps),
		"max_grad_norm": fmt.Sprint(o.MaxGradNorm), "seed": fmt.Sprint(o.Seed),
	}
	if o.EightBit {
		s["optimizer"] = OptimizerAdamW8bit
	}
	switch {
	case o.Warmup >= 1:
		s["warmup_steps"] = fmt.Sprint(int(o.Warmup))
	default:
		s["warmup_ratio"] = fmt.Sprint(o.Warmup)
	}
	if o.MaxSteps > 0 {
		s["max_steps"] = fmt.Sprint(o.MaxSteps)
	} else {
		s["epochs"] = fmt.Sprint(o.Epochs)
	}
	return s
}

// Run trains the parameters of d that have gradients. It returns early, with
// ctx's error and a checkpoint written, when ctx is cancelled.
func Run(ctx context.Context, d *model.Decoder, task Task, o Options) (*Result, error) {
	if task.Len() == 0 {
		return nil, errors.New("no training examples")
	}
	if o.BatchSize < 1 || o.GradAccum < 1 || (o.Epochs < 1 && o.MaxSteps < 1) {
		return nil, fmt.Errorf("batch of %d × %d over %d epochs: each must be at least 1", o.BatchSize, o.GradAccum, o.Epochs)
	}
	steps := o.Steps(task.Len())
	r := &run{Options: o, d: d, task: task, sched: o.schedule(steps), epoch: -1, order: make([]int, task.Len())}
	if err := r.sched.Check(); err != nil {
		return nil, err
	}
	var err error
	if r.opt, err = newOptimizer(d, o.AdamW, o.Paged); err != nil {
		return nil, err
	}
	defer r.opt.close()
	r.pass = model.NewPass(d.Backend())
	r.pass.Recompute = r.Recompute
	defer r.pass.Close()
	if err := r.begin(); err != nil {
		return nil, err
	}
	for r.res.Steps < steps {
		if err := ctx.Err(); err != nil {
			return nil, errors.Join(err, r.save())
		}
		if err := r.step(); err != nil {
			return nil, fmt.Errorf("step %d of %d: %w", r.res.Steps+1, steps, err)
		}
		if r.Every > 0 && r.res.Steps%r.Every == 0 || r.res.Steps == steps {
			if err := r.save(); err != nil {
				return nil, err
			}
		}
	}
	return &r.res, nil
}

type run struct {
	Options
	d     *model.Decoder
	task  Task
	sched Schedule
	opt   *optimizer
	pass  *model.Pass
	epoch int   // the present one; -1: none
	order []int // of its examples
	means []Mean
	row   int // skipped steps in a row
	res   Result
	label []byte
}

// begin goes on from the newest checkpoint, or starts.
func (r *run) begin() error {
	found, err := r.restore()
	if err != nil {
		return err
	}
	if r.Check != nil {
		r.d.Changed()
		if err := r.Check(r.pass); err != nil {
			return err
		}
	}
	if !found && r.Setup != nil {
		if r.res.Before, err = r.Setup(); err != nil {
			return err
		}
	}
	if r.Ready != nil {
		if err := r.Ready(r.res.Before); err != nil {
			return err
		}
	}
	if r.Report != nil && found {
		r.Report(r.res.Steps, r.sched.Steps, r.res.Series)
	}
	r.d.Changed()
	return nil
}

// window returns the examples of the step after done steps: each epoch has
// its own order, made from the seed.
func (r *run) window(done int) []int {
	n, size := len(r.order), r.BatchSize*r.GradAccum
	per := (n + size - 1) / size
	if epoch := done / per; r.epoch != epoch {
		r.stream("order of epoch ", epoch).Order(r.order)
		r.epoch = epoch
	}
	from := done % per * size
	return r.order[from:min(from+size, n)]
}

// stream returns the random numbers of step or epoch i.
func (r *run) stream(label string, i int) model.Stream {
	r.label = strconv.AppendInt(append(r.label[:0], label...), int64(i), 10)
	return model.NewStream(r.Seed, r.label)
}

// step does one optimizer step.
func (r *run) step() error {
	window := r.window(r.res.Steps)
	r.opt.zero()
	dropout := r.stream("dropout of step ", r.res.Steps)
	r.means = r.means[:0]
	for i := 0; i < len(window); i += r.BatchSize {
		r.pass.Train, r.pass.Seed = true, dropout.At(uint64(i))
		part, err := r.task.Step(r.pass, window[i:min(i+r.BatchSize, len(window))], window)
		if err != nil {
			return err
		}
		r.means = add(r.means, part)
	}
	if err := r.pass.Sync(); err != nil {
		return err
	}
	switch loss := r.means[0].Value(); {
	case !math.IsNaN(loss) && !math.IsInf(loss, 0):
	case r.res.Steps == 0:
		return fmt.Errorf("the loss is %v before anything was learned: the model's weights are not all numbers, or so large that what it computes is none; check the model", loss)
	default:
		return fmt.Errorf("the loss is %v: training has diverged; lower lr, raise warmup_ratio, or check the data", loss)
	}
	lr, norm := r.LR*r.sched.At(r.res.Steps), r.opt.norm()
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		r.res.Skipped++
		if r.row++; r.row >= maxSkipped {
			return fmt.Errorf("%d steps in a row had no finite gradient; lower lr or check the data", r.row)
		}
	} else {
		r.row = 0
		r.opt.step(lr, norm)
		r.d.Changed()
	}
	if err := r.pass.Sync(); err != nil {
		return err
	}
	r.res.Steps++
	r.report(lr, norm)
	return nil
}

func (r *run) report(lr, norm float64) {
	step, first := int64(r.res.Steps), len(r.res.Series)
	for _, m := range r.means {
		r.res.Series = append(r.res.Series, Point{m.Name, step, m.Value()})
	}
	r.res.Series = append(r.res.Series, Point{"learning_rate", step, lr})
	if !math.IsNaN(norm) && !math.IsInf(norm, 0) {
		r.res.Series = append(r.res.Series, Point{"grad_norm", step, norm})
	}
	if r.Report != nil {
		r.Report(r.res.Steps, r.sched.Steps, r.res.Series[first:])
	}
}

// add merges parts of means by name, keeping the order of first appearance.
func add(sum, part []Mean) []Mean {
next:
	for _, m := range part {
		for i := range sum {
			if sum[i].Name == m.Name {
				sum[i].Sum += m.Sum
				sum[i].Count += m.Count
				continue next
			}
		}
		sum = append(sum, m)
	}
	return sum
}
