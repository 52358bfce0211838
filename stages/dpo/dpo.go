// Package dpo is the stage of preference tuning: DPO, IPO, the hinge loss and
// ORPO over pairs of a chosen and a rejected answer.
package dpo

import (
	"context"
	_ "embed"
	"errors"
	"math"
	"slices"

	"pipe/model/adapter"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/tensor"
	"pipe/train"
)

//go:embed README.md
var doc string

// Kind is the stage kind "dpo".
var Kind = stage.Kind{
	Name: "dpo", Doc: doc, Version: 8, Compute: true,
	Outputs: []stage.Output{
		{Name: "model", Type: artifact.Model, Doc: "The tuned model: an adapter over the base, or all its weights"},
		{Name: "series", Type: artifact.Dataset, Rows: artifact.PointRows, Doc: "Loss, rewards, learning rate and gradient norm of each step (artifact.Point)"},
		{Name: "metrics", Type: artifact.Metrics, Doc: "eval.accuracy, eval.reward_accuracy and eval.margin on the held-out pairs, after and (as baseline) before training"},
	},
	New: newStage,
}

// spec is the block.
type spec struct {
	Base      stage.Model    `hcl:"base" doc:"The model to tune. One that carries an adapter is trained on with that adapter"`
	Data      stage.Dataset  `hcl:"data" doc:"Rows with a prompt (messages) and the answers chosen and rejected"`
	EvalData  *stage.Dataset `hcl:"eval_data,optional" doc:"Rows of the same kind to measure on; without it, eval_split of data is held out"`
	EvalSplit float64        `hcl:"eval_split,optional" doc:"Share of data that is held out to measure on; 0 measures nothing"`
	Loss      string         `hcl:"loss,optional" doc:"sigmoid (DPO), ipo, hinge or orpo"`
	Beta      float64        `hcl:"beta,optional" doc:"How closely the policy is held to the reference; for orpo the weight of the odds ratio"`
	MaxLen    int            `hcl:"max_len,optional" doc:"Tokens of prompt and answer together; longer answers are cut, longer prompts are left out"`

	Epochs      int       `hcl:"epochs,optional" doc:"Passes over the data"`
	MaxSteps    int       `hcl:"max_steps,optional" doc:"Optimizer steps; 0: as many as epochs needs. It wins over epochs"`
	BatchSize   int       `hcl:"batch_size,optional" doc:"Pairs of a micro-batch"`
	GradAccum   int       `hcl:"grad_accum,optional" doc:"Micro-batches of an optimizer step"`
	LR          float64   `hcl:"lr,optional" doc:"Highest learning rate"`
	Schedule    string    `hcl:"schedule,optional" doc:"cosine, linear or constant"`
	WarmupRatio float64   `hcl:"warmup_ratio,optional" doc:"Share of the steps over which the learning rate rises from 0, at most all but one"`
	WarmupSteps int       `hcl:"warmup_steps,optional" doc:"The same as a number of steps, which a run may be too short for; it wins over warmup_ratio"`
	Optimizer   string    `hcl:"optimizer,optional" doc:"adamw, or adamw_8bit: moments of 8 bits, 2 bytes a trained parameter instead of 8"`
	WeightDecay float64   `hcl:"weight_decay,optional" doc:"AdamW's decay, of all but norms and biases"`
	Betas       []float64 `hcl:"betas,optional" doc:"AdamW's two betas"`
	Eps         float64   `hcl:"eps,optional" doc:"AdamW's epsilon"`
	MaxGradNorm float64   `hcl:"max_grad_norm,optional" doc:"Gradients are scaled down to this norm; 0: never"`
	Precision   string    `hcl:"precision,optional" doc:"Of products with the model's matrices: f32; bf16, which rounds both operands to bfloat16 and adds in f32: faster where the processor has instructions for it; or fp8, which rounds those of linear layers to 8 bits, and does the rest as bf16: for GPUs of compute capability 8.9 or newer, and slow on processors. It needs an adapter"`

	Adapter *adapterBlock `hcl:"adapter,block" doc:"What is trained; without it, the adapter of the base, or a new adapter \"dora\" with the defaults"`

	GradientCheckpointing bool `hcl:"gradient_checkpointing,optional" json:"-" doc:"Compute activations again in the backward pass: less memory, slower, same result"`
	CheckpointEvery       int  `hcl:"checkpoint_every,optional" json:"-" doc:"Steps between checkpoints, from which a killed run goes on; 0: only when it is interrupted"`
	SaveTotalLimit        int  `hcl:"save_total_limit,optional" json:"-" doc:"Checkpoints that are kept"`
}

// adapterBlock is adapter "dora" { ... }.
type adapterBlock struct {
	Type    string   `hcl:"type,label" doc:"lora, dora, or none to train all weights"`
	Rank    int      `hcl:"rank,optional" doc:"Rank of the update; a note says in which layers it is more than there can be"`
	Alpha   float64  `hcl:"alpha,optional" doc:"The update is scaled by alpha/rank; 0: twice the rank"`
	Targets []string `hcl:"targets,optional" doc:"Layers by the end of their name, such as q_proj; one regular expression; or all-linear"`
	Dropout float64  `hcl:"dropout,optional" doc:"Dropout of the adapter's input while training"`
	RSLoRA  bool     `hcl:"rslora,optional" doc:"Scale by alpha/√rank instead"`
}

func newStage() stage.Stage {
	o := train.NewOptions()
	return &spec{
		EvalSplit: 0.1, Loss: train.LossSigmoid, Beta: 0.1, MaxLen: 1024,
		Epochs: o.Epochs, BatchSize: 4, GradAccum: o.GradAccum, LR: 5e-5, Schedule: "linear",
		Optimizer: train.OptimizerAdamW, WarmupRatio: 0.1, Betas: []float64{o.Beta1, o.Beta2}, Eps: o.Eps, MaxGradNorm: o.MaxGradNorm, Precision: tensor.F32.String(),
		CheckpointEvery: o.Every, SaveTotalLimit: o.Keep,
	}
}

// SetDefaults sets what a block may leave out.
func (a *adapterBlock) SetDefaults() {
	c := adapter.NewConfig()
	a.Type, a.Rank, a.Targets = "dora", c.Rank, c.Targets
}

// config returns the adapter's settings; nil trains all weights.
func (a *adapterBlock) config() *adapter.Config {
	if a == nil {
		a = &adapterBlock{}
		a.SetDefaults()
	}
	if a.Type == "none" {
		return nil
	}
	c := adapter.Config{DoRA: a.Type == "dora", Rank: a.Rank, Alpha: a.Alpha, RSLoRA: a.RSLoRA, Dropout: a.Dropout, Targets: a.Targets}
	if a.Alpha == 0 {
		c.Alpha = 2 * float64(c.Rank)
	}
	return &c
}

// Check implements stage.Stage.
func (s *spec) Check() error {
	var errs []error
	bad := func(wrong bool, field, format string, args ...any) {
		if wrong {
			errs = append(errs, stage.Fieldf(field, format, args...))
		}
	}
	bad(!(s.EvalSplit >= 0 && s.EvalSplit <= 0.5), "eval_split", "is %v; must be between 0 and 0.5", s.EvalSplit)
	bad(!slices.Contains(train.Losses(), s.Loss), "loss", "is %q; must be one of %q", s.Loss, train.Losses())
	bad(!(s.Beta > 0 && s.Beta <= 100), "beta", "is %v; must be above 0, usually 0.01 to 0.5", s.Beta)
	bad(s.MaxLen < 2 || s.MaxLen > 1<<20, "max_len", "is %d; must be between 2 and 1048576", s.MaxLen)
	bad(s.Epochs < 1 && s.MaxSteps < 1, "epochs", "is %d; must be at least 1", s.Epochs)
	bad(s.MaxSteps < 0, "max_steps", "is %d; must be 0 or more", s.MaxSteps)
	bad(s.BatchSize < 1, "batch_size", "is %d; must be at least 1", s.BatchSize)
	bad(s.GradAccum < 1, "grad_accum", "is %d; must be at least 1", s.GradAccum)
	bad(!(s.LR > 0 && s.LR <= 1), "lr", "is %v; must be above 0 and at most 1, usually 5e-7 to 1e-4", s.LR)
	bad(!slices.Contains(train.Schedules(), s.Schedule), "schedule", "is %q; must be one of %q", s.Schedule, train.Schedules())
	bad(!(s.WarmupRatio >= 0 && s.WarmupRatio < 1), "warmup_ratio", "is %v; must be at least 0 and below 1", s.WarmupRatio)
	bad(s.WarmupSteps < 0, "warmup_steps", "is %d; must be 0 or more", s.WarmupSteps)
	bad(!slices.Contains(train.Optimizers(), s.Optimizer), "optimizer", "is %q; must be one of %q", s.Optimizer, train.Optimizers())
	bad(!(s.WeightDecay >= 0 && s.WeightDecay < 1), "weight_decay", "is %v; must be at least 0 and below 1", s.WeightDecay)
	bad(len(s.Betas) != 2, "betas", "has %d numbers; must have 2, such as [0.9, 0.999]", len(s.Betas))
	for _, b := range s.Betas {
		bad(!(b >= 0 && b < 1), "betas", "holds %v; must be at least 0 and below 1", b)
	}
	bad(!(s.Eps > 0 && s.Eps < 1), "eps", "is %v; must be above 0 and below 1", s.Eps)
	bad(!(s.MaxGradNorm >= 0), "max_grad_norm", "is %v; must be 0 or more", s.MaxGradNorm)
	bad(!slices.Contains(tensor.Precisions(), s.Precision), "precision", "is %q; must be one of %q", s.Precision, tensor.Precisions())
	bad(s.Adapter != nil && s.Adapter.Type == "none" && tensor.Precision(s.Precision) == tensor.FP8, "precision", "is \"fp8\", which is for weights that do not change; train an adapter, or take \"bf16\"")
	bad(s.CheckpointEvery < 0, "checkpoint_every", "is %d; must be 0 or more", s.CheckpointEvery)
	bad(s.SaveTotalLimit < 1, "save_total_limit", "is %d; must be at least 1", s.SaveTotalLimit)
	return errors.Join(append(errs, s.Adapter.check()...)...)
}

func (a *adapterBlock) check() (errs []error) {
	if a == nil {
		return nil
	}
	bad := func(wrong bool, field, format string, args ...any) {
		if wrong {
			errs = append(errs, stage.Fieldf("adapter."+field, format, args...))
		}
	}
	bad(a.Type != "lora" && a.Type != "dora" && a.Type != "none", "type", "is %q; must be \"lora\", \"dora\" or \"none\"", a.Type)
	bad(a.Rank < 1 || a.Rank > 4096, "rank", "is %d; must be between 1 and 4096, usually 8 to 64", a.Rank)
	bad(!(a.Alpha >= 0 && a.Alpha < 1e6), "alpha", "is %v; must be 0 or more, usually once or twice the rank", a.Alpha)
	bad(len(a.Targets) == 0, "targets", "is empty; name layers, such as [\"q_proj\", \"v_proj\"], or [\"all-linear\"]")
	bad(!(a.Dropout >= 0 && a.Dropout < 1), "dropout", "is %v; must be at least 0 and below 1", a.Dropout)
	return errs
}

// Products implements stage.Precise.
func (s *spec) Products() tensor.DType { return tensor.Precision(s.Precision) }

// Run implements stage.Stage.
func (s *spec) Run(ctx context.Context, env *stage.Env) error {
	student, paths, err := s.student(env)
	if err != nil {
		return err
	}
	defer student.Close()
	learn, held, err := s.pairs(env, student.Base)
	if err != nil {
		return err
	}
	paged, err := s.fits(ctx, env, student, learn, held)
	if err == nil {
		err = student.Load(env.Backend)
	}
	if errors.Is(err, adapter.ErrNoLayer) {
		return stage.Fieldf("adapter.targets", "%v", err)
	}
	if err != nil {
		return err
	}
	if note := student.OverRanked(); note != "" {
		env.Note("%s", note)
	}
	task := &train.Preferences{Model: student.Decoder, Pairs: learn, Loss: s.Loss, Beta: s.Beta}
	r, err := s.train(ctx, env, task, paged, held)
	if err != nil {
		return err
	}
	after, err := train.SumLogProbs(ctx, student.Decoder, held, false, nil)
	if err != nil {
		return err
	}
	return s.write(env, student, paths, r, held, after)
}

// student opens the files of the model to train.
func (s *spec) student(env *stage.Env) (student *train.Student, paths stage.ModelPath, err error) {
	if paths, err = env.Store.Model(s.Base.Ref); err != nil {
		return nil, paths, err
	}
	t := train.Tuning{Adapter: paths.Adapter, Template: paths.Template, Quantize: paths.Quantize, New: s.Adapter.config(), Seed: env.Seed, Precision: tensor.Precision(s.Precision)}
	t.Full = t.New == nil
	if paths.Adapter != "" && s.Adapter == nil {
		t.New = nil // trained on
	}
	student, err = train.OpenBase(paths.Base, t)
	if errors.Is(err, train.ErrHasAdapter) || errors.Is(err, train.ErrQuantized) {
		err = stage.Fieldf("adapter", "%v", err)
	}
	return student, paths, err
}

// options are the settings of the loop.
func (s *spec) options(env *stage.Env) train.Options {
	o := train.Options{
		AdamW:    train.AdamW{LR: s.LR, Beta1: s.Betas[0], Beta2: s.Betas[1], Eps: s.Eps, WeightDecay: s.WeightDecay, MaxGradNorm: s.MaxGradNorm, EightBit: s.Optimizer == train.OptimizerAdamW8bit},
		Schedule: s.Schedule, Warmup: s.WarmupRatio, Epochs: s.Epochs, MaxSteps: s.MaxSteps, BatchSize: s.BatchSize, GradAccum: s.GradAccum,
		Seed: env.Seed, Recompute: s.GradientCheckpointing, Dir: env.Work, ID: Kind.Name, Every: s.CheckpointEvery, Keep: s.SaveTotalLimit,
	}
	if s.WarmupSteps > 0 {
		o.Warmup = float64(s.WarmupSteps)
	}
	return o
}

// referred returns which of n pairs need a reference: those that a step learns from, and
// none with a loss that has none.
func (s *spec) referred(o train.Options, n int) (at []int) {
	if s.Loss == train.LossORPO {
		return nil
	}
	for i, steps := range o.Seen(n) {
		if len(steps) > 0 {
			at = append(at, i)
		}
	}
	return at
}

// pick returns the pairs of these numbers.
func pick(pairs []train.Preference, at []int) []train.Preference {
	picked := make([]train.Preference, len(at))
	for k, i := range at {
		picked[k] = pairs[i]
	}
	return picked
}

// train runs the loop. The reference is the policy before the first step: its
// log-probabilities are computed once and kept in the checkpoints.
func (s *spec) train(ctx context.Context, env *stage.Env, task *train.Preferences, paged int, held []train.Preference) (*train.Result, error) {
	o := s.options(env)
	o.Paged = paged
	at := s.referred(o, len(task.Pairs))
	o.Setup = func() (map[string][]float64, error) {
		ref, err := train.SumLogProbs(ctx, task.Model, pick(task.Pairs, at), false, func(done int) {
			env.Progress(int64(done), int64(len(at)), "reference pairs")
		})
		if err != nil {
			return nil, err
		}
		before, err := train.SumLogProbs(ctx, task.Model, held, false, nil)
		return map[string][]float64{"reference": flatten(ref), "held": flatten(before)}, err
	}
	o.Ready = func(before map[string][]float64) error {
		ref := unflatten(before["reference"])
		if len(ref) != len(at) {
			return errors.New("the checkpoint belongs to other pairs; remove it to start again")
		}
		task.Ref = make([]train.Pair, len(task.Pairs))
		for i := range task.Ref {
			task.Ref[i] = train.Pair{Chosen: math.NaN(), Rejected: math.NaN()} // no step learns from it
		}
		for k, i := range at {
			task.Ref[i] = ref[k]
		}
		return nil
	}
	o.Report = func(done, total int, points []train.Point) {
		for _, p := range points {
			env.Metric(p.Series, p.Step, p.Value)
		}
		env.Progress(int64(done), int64(total), "steps")
	}
	if note := o.ShortOfRate(len(task.Pairs)); note != "" {
		env.Note("%s", note)
	}
	r, err := train.Run(ctx, task.Model, task, o)
	if err != nil {
		return nil, err
	}
	for _, d := range r.Damaged {
		env.Note("did not go on from %s", d)
	}
	if r.Resumed > 0 {
		env.Note("went on from the checkpoint of step %d", r.Resumed)
	}
	if r.Skipped > 0 {
		env.Note("%d of %s skipped for want of a finite gradient", r.Skipped, stage.Count(r.Steps, "step"))
	}
	return r, nil
}

func flatten(p []train.Pair) (v []float64) {
	for _, x := range p {
		v = append(v, x.Chosen, x.Rejected)
	}
	return v
}

func unflatten(v []float64) (p []train.Pair) {
	for i := 0; i+1 < len(v); i += 2 {
		p = append(p, train.Pair{Chosen: v[i], Rejected: v[i+1]})
	}
	return p
}
