//go:build cuda

// Whole models on a device against the CPU backend. A compiled test binary finds
// its fixtures when it is started in a folder of the repository, such as gpu.
package gpu_test

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pipe/gpu"
	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/memory"
	"pipe/model/modeltest"
	"pipe/tensor"
	"pipe/tensor/cpu"
	"pipe/tensor/tensortest"
	"pipe/train"
)

func device(t testing.TB) tensor.Backend { return gpu.Device(t) }

func host(t testing.TB) tensor.Backend {
	b := cpu.New(2)
	t.Cleanup(func() { b.Close() })
	return b
}

// precisions are those of products, with what a loss and a gradient is held to.
var precisions = []struct {
	dt         tensor.DType
	loss, grad tensortest.Tolerance
}{{tensor.F32, tensortest.F32Model, tensortest.F32Model}, {tensor.BF16, tensortest.BF16, tensortest.BF16Model}, {tensor.FP8, tensortest.FP8Model, tensortest.FP8Model}}

// has reports whether b trains a model, or all of its weights, in a precision.
func has(b tensor.Backend, dt tensor.DType, full bool) bool {
	return tensor.HasPrecision(b, dt) == nil && !(full && dt == tensor.FP8)
}

// student is the tiny Llama with the adapter of that name, or "full". Adapters
// named nf4 are over a base in 4 bits. "qwen3 dora" and "qwen3 full" are of a tiny
// model of that family.
func student(t *testing.T, b tensor.Backend, name string, precision tensor.DType) *model.Decoder {
	t.Helper()
	base := "plain"
	if strings.HasPrefix(name, "nf4_") {
		base = "nf4_double"
	}
	dir, full := filepath.Join(modeltest.Dir(), name), name == "full"
	if family, what, ok := strings.Cut(name, " "); ok {
		base = "families/" + family
		dir, full = filepath.Join(modeltest.Dir(), base, what), what == "full"
	}
	d := modeltest.Decoder(t, b, base, full)
	d.SetPrecision(precision)
	if !full {
		if _, err := adapter.Load(d, dir); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

var students = []string{"full", "lora", "dora", "nf4_lora", "nf4_dora", "qwen2 dora", "qwen3 dora", "qwen3_bias full", "smollm3 dora"}

// A gradient is what one pass gives: log-probabilities and, by name, the
// gradients of their mean.
type gradient struct {
	logp  []float32
	names []string
	grads map[string][]float32
}

func pass(t *testing.T, d *model.Decoder, b model.Batch, recompute bool) gradient {
	t.Helper()
	p := model.NewPass(d.Backend())
	defer p.Close()
	p.Train, p.Recompute = true, recompute
	s, err := d.LogProb(p, b)
	if err != nil {
		t.Fatal(err)
	}
	g := gradient{logp: slices.Clone(s.LogP), grads: map[string][]float32{}}
	dlogp := make([]float32, len(g.logp))
	for i := range dlogp {
		dlogp[i] = -1 / float32(len(dlogp))
	}
	if err := d.Backward(p, dlogp); err != nil {
		t.Fatal(err)
	}
	d.Params(func(name string, x *model.Param) {
		if x.Grad != nil {
			g.names = append(g.names, name)
			g.grads[name] = modeltest.Download(p.Backend, x.Grad)
			p.Zero(x.Grad)
		}
	})
	if err := p.Sync(); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestModelGradients compares log-probabilities and the gradients of everything
// that is trained, and holds activations that are computed again to the same
// bits.
func TestModelGradients(t *testing.T) {
	for _, name := range students {
		for _, x := range precisions {
			small := strings.Contains(name, " ") // of dimensions at which rounding is not what a kernel is held to
			if !has(device(t), x.dt, strings.HasSuffix(name, "full")) || small && x.dt == tensor.FP8 {
				continue
			}
			if small && x.dt == tensor.BF16 {
				x.grad = tensortest.Tolerance{Abs: 2e-3, Rel: 0.6, Cosine: 0.97}
			}
			t.Run(fmt.Sprint(name, " in ", x.dt), func(t *testing.T) {
				want := pass(t, student(t, host(t), name, x.dt), modeltest.Batch(), false)
				d := student(t, device(t), name, x.dt)
				got := pass(t, d, modeltest.Batch(), false)
				tensortest.Close(t, "log-probabilities", got.logp, want.logp, x.loss)
				for _, n := range want.names {
					tensortest.Close(t, n, got.grads[n], want.grads[n], x.grad)
				}
				if len(got.names) != len(want.names) || len(got.names) < 12 {
					t.Errorf("%d gradients; want %d", len(got.names), len(want.names))
				}
				again := pass(t, d, modeltest.Batch(), true)
				for _, n := range want.names {
					if !slices.Equal(again.grads[n], got.grads[n]) {
						t.Errorf("%s differs when activations are computed again", n)
					}
				}
			})
		}
	}
}

var pairs = []train.Preference{
	{Prompt: []int32{1, 17, 5}, Chosen: []int32{42, 9, 2}, Rejected: []int32{9, 30, 30, 2}},
	{Prompt: []int32{1, 3, 50, 28}, Chosen: []int32{11, 2}, Rejected: []int32{8, 2}},
	{Prompt: []int32{1, 8}, Chosen: []int32{21, 2, 45, 7, 2}, Rejected: []int32{33, 2}},
	{Prompt: []int32{1, 40, 41}, Chosen: []int32{6, 7, 2}, Rejected: []int32{7, 6, 5, 2}},
}

// curve trains ten steps and returns the loss of each; with prefer by pairs.
func curve(t *testing.T, d *model.Decoder, prefer, eight bool) (losses []float32) {
	t.Helper()
	o := train.NewOptions()
	o.LR, o.MaxSteps, o.BatchSize, o.EightBit = 0.01, 10, 2, eight
	o.MaxGradNorm, o.WeightDecay = 0.5, 0.1
	var task train.Task = &train.Likelihood{Model: d, Rows: modeltest.Batch().Split()}
	if prefer {
		ref, err := train.SumLogProbs(context.Background(), d, pairs, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		task = &train.Preferences{Model: d, Pairs: pairs, Loss: "sigmoid", Beta: 0.1, Ref: ref}
	}
	r, err := train.Run(context.Background(), d, task, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Series {
		if p.Series == "loss" {
			losses = append(losses, float32(p.Value))
		}
	}
	return losses
}

// TestModelCurves compares the losses of ten steps: of supervised training, and
// of DPO.
func TestModelCurves(t *testing.T) {
	for _, c := range []struct {
		name          string
		prefer, eight bool
		precisions    int
	}{{name: "full", eight: true, precisions: 1}, {name: "lora", precisions: 1}, {name: "nf4_dora", precisions: 2}, {name: "dora", prefer: true, precisions: 2}} {
		for _, x := range precisions[:c.precisions] {
			t.Run(fmt.Sprint(c.name, " in ", x.dt, ", preferences ", c.prefer), func(t *testing.T) {
				want := curve(t, student(t, host(t), c.name, x.dt), c.prefer, c.eight)
				got := curve(t, student(t, device(t), c.name, x.dt), c.prefer, c.eight)
				tensortest.Close(t, "losses", got, want, x.loss)
				if len(want) != 10 || !(want[9] < want[0]) {
					t.Errorf("losses %v", want)
				}
			})
		}
	}
}

// generate returns the tokens of each request.
func generate(t *testing.T, d *model.Decoder, reqs []model.Request, o model.GenerateOptions) [][]int32 {
	t.Helper()
	out := make([][]int32, len(reqs))
	err := d.Generate(context.Background(), reqs, o, func(i int, r model.Result) error {
		out[i] = r.IDs
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestModelGreedy compares greedy tokens with those of transformers and of the
// CPU backend.
func TestModelGreedy(t *testing.T) {
	for _, name := range []string{"plain", "bias", "families/qwen2", "families/qwen3", "families/smollm3"} {
		want, prompt := modeltest.Load(t, name+".safetensors").Ints("greedy"), modeltest.Docs()[0]
		if strings.HasPrefix(name, "families/") {
			prompt = modeltest.Docs()[1]
		}
		reqs := []model.Request{{Prompt: prompt, MaxTokens: len(want)}, {Prompt: modeltest.Docs()[2], MaxTokens: 5}}
		got := generate(t, modeltest.Decoder(t, device(t), name, false), reqs, model.GenerateOptions{})
		here := generate(t, modeltest.Decoder(t, host(t), name, false), reqs, model.GenerateOptions{})
		if !slices.Equal(got[0], want) || !slices.Equal(got[1], here[1]) {
			t.Errorf("%s: %v, want %v and %v", name, got, want, here[1])
		}
	}
}

// TestModelBatching: what is generated for a request does not depend on what else
// runs.
func TestModelBatching(t *testing.T) {
	for i, name := range []string{"lora", "nf4_dora", "qwen3 dora"} {
		precision := precisions[min(i, 1)].dt
		d := student(t, device(t), name, precision)
		var reqs []model.Request
		for i := range 4 {
			r := model.Request{MaxTokens: 4 + i, Seed: uint64(i), StopIDs: []int32{-1}, Sampling: model.Sampling{Temperature: 1.2}}
			for j := range 1 + 9*i%23 {
				r.Prompt = append(r.Prompt, int32((7*i+3*j)%53))
			}
			reqs = append(reqs, r)
		}
		want := generate(t, d, reqs, model.GenerateOptions{Batch: 1})
		for _, o := range []model.GenerateOptions{{Batch: 4}, {Batch: 3, CacheTokens: 60}} {
			if got := generate(t, d, reqs, o); !slices.EqualFunc(got, want, slices.Equal) {
				t.Errorf("%s in %s, %+v: %v; alone %v", name, precision, o, got, want)
			}
		}
	}
}

// onHost is a backend whose logits are looked at by the host.
type onHost struct{ tensor.Backend }

func (b onHost) HalfActivations() bool { return tensor.Halves(b.Backend) }
func (b onHost) DecodeRows() int       { return tensor.RowsTogether(b.Backend) }
func (b onHost) PromptRows() int       { return tensor.PromptRows(b.Backend) }

// TestModelSampler: tokens that are chosen by what the device finds are those that
// the host chooses by all logits, of more sequences than a group has, too.
func TestModelSampler(t *testing.T) {
	b := device(t)
	if _, ok := b.(tensor.Sampler); !ok {
		t.Fatal("the backend does not find the largest logits")
	}
	for _, c := range []struct{ n, tokens int }{{6, 12}, {70, 4}} {
		var reqs []model.Request
		for i := range c.n {
			r := model.Request{MaxTokens: c.tokens + i%3, Seed: uint64(i), StopIDs: []int32{-1}, Prompt: []int32{int32(i % 53), int32(7 * i % 53)}}
			switch i % 6 {
			case 1:
				r.Sampling = model.Sampling{Temperature: 1.1, TopK: 5 + i%20}
			case 2:
				r.Sampling = model.Sampling{Temperature: 0.8, TopK: 11, TopP: 0.8, MinP: 0.02}
			case 3:
				r.Sampling = model.Sampling{Temperature: 1.3, TopP: 0.9, RepetitionPenalty: 1.2}
			case 4:
				r.Sampling = model.Sampling{Temperature: 1.3}
			case 5:
				r.Sampling = model.Sampling{Temperature: 1.3, MinP: 0.1, RepetitionPenalty: 0.9}
			}
			reqs = append(reqs, r)
		}
		want := generate(t, student(t, onHost{b}, "lora", tensor.BF16), reqs, model.GenerateOptions{})
		if got := generate(t, student(t, b, "lora", tensor.BF16), reqs, model.GenerateOptions{}); !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%d sequences: %v, want %v", c.n, got, want)
		}
		if got := generate(t, student(t, b, "lora", tensor.BF16), reqs, model.GenerateOptions{Batch: 1}); !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%d sequences one by one: %v, want %v", c.n, got, want)
		}
	}
}

// small is a decoder whose documents span several tiles of attention.
var small = model.Config{VocabSize: 97, Hidden: 64, Intermediate: 96, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 16,
	MaxPositions: 512, NormEps: 1e-5, InitRange: 0.1, Tied: true, Rope: model.Rope{Theta: 10000}}

// packed is small with an adapter that changes something, or trained itself, and
// a row of documents.
func packed(t *testing.T, b tensor.Backend, full bool, precision tensor.DType) (*model.Decoder, model.Batch) {
	t.Helper()
	d, err := model.Load(b, small, model.Random(small, 1), full)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	d.SetPrecision(precision)
	rng, n := model.NewStream(1, "numbers"), uint64(0)
	if !full {
		a := adapter.NewConfig()
		a.DoRA, a.Rank = true, 8
		if _, err := adapter.Attach(d, a, 1); err != nil {
			t.Fatal(err)
		}
		d.Params(func(name string, x *model.Param) {
			if !strings.HasSuffix(name, "lora_B.weight") {
				return
			}
			v := make([]float32, x.Value.Len())
			for i := range v {
				n++
				v[i] = float32(0.1 * rng.Normal(n))
			}
			b.Upload(x.Value, v)
		})
		d.Changed()
	}
	var row model.Batch
	for _, tokens := range []int{70, 2, 33} {
		ids := make([]int32, tokens)
		for i := range ids {
			n++
			ids[i] = int32(rng.At(n) % 97)
		}
		row.Add(model.Continuation{Context: ids[:1], Target: ids[1:]})
	}
	return d, row
}

// TestModelPacking: documents have the same losses and gradients packed and alone.
func TestModelPacking(t *testing.T) {
	for _, x := range precisions {
		for _, full := range []bool{true, false} {
			if !has(device(t), x.dt, full) {
				continue
			}
			d, row := packed(t, device(t), full, x.dt)
			if err := train.CheckPacking(model.NewPass(d.Backend()), d, row); err != nil {
				t.Errorf("in %s, all trained %v: %v", x.dt, full, err)
			}
		}
	}
}

// TestModelPlan holds the plan of a step to what the device gives for it.
func TestModelPlan(t *testing.T) {
	for _, x := range precisions {
		b := device(t)
		if !has(b, x.dt, false) {
			continue
		}
		step := func(b tensor.Backend) {
			d, row := packed(t, b, false, x.dt)
			p := model.NewPass(b)
			p.Train = true
			s, err := d.LogProb(p, row)
			if err == nil {
				err = d.Backward(p, make([]float32, len(s.LogP)))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		warm, _, _ := b.(tensor.Limited).Limit()
		plan := b.(tensor.Planner).Plan()
		step(plan)
		need := plan.Peak()
		need.Parts = slices.DeleteFunc(need.Parts, func(p tensor.Part) bool {
			kernels := p.Name == "kernels" // a constant, which the emulator does not take
			if kernels {
				need.Bytes -= p.Bytes
			}
			return kernels
		})
		step(b)
		left, _, ok := b.(tensor.Limited).Limit()
		used := warm - left
		t.Logf("in %s: %s used, %s planned: %s", x.dt, memory.Size(used), memory.Size(need.Bytes), memory.Parts(need))
		if slack := int64(64 << 20); !ok || need.Bytes < used*99/100 && used-need.Bytes > slack || need.Bytes-used > slack/64+used/20 {
			t.Errorf("in %s: a step takes %d bytes; the plan says %d", x.dt, used, need.Bytes)
		}
	}
}

// TestModelAllocates: once its shapes have been there, a pass allocates nothing
// on the host.
func TestModelAllocates(t *testing.T) {
	for _, dt := range []tensor.DType{tensor.BF16, tensor.FP8} {
		if b := device(t); has(b, dt, false) {
			allocates(t, b, dt)
		}
	}
}

func allocates(t *testing.T, b tensor.Backend, dt tensor.DType) {
	d, row := packed(t, b, false, dt)
	p := model.NewPass(d.Backend())
	p.Train = true
	dlogp := make([]float32, len(row.Targets))
	step := func() {
		if _, err := d.LogProb(p, row); err != nil {
			t.Fatal(err)
		}
		if err := d.Backward(p, dlogp); err != nil {
			t.Fatal(err)
		}
	}
	step()
	step()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	step()
	runtime.ReadMemStats(&after)
	if n := after.Mallocs - before.Mallocs; n > 5 { // the runtime allocates now and then
		t.Errorf("%d allocations in a step in %s", n, dt)
	}
}
