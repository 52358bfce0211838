package train_test

import (
	"runtime"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/tensor/cpu"
	"pipe/train"
)

// tiny is a model whose operations are still shared by threads, and some of whose
// parameters have moments of 8 bits.
var tiny = model.Config{VocabSize: 300, Hidden: 64, Intermediate: 128, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 16,
	MaxPositions: 512, NormEps: 1e-5, InitRange: 0.02, Tied: true, Rope: model.Rope{Theta: 10000}}

// allocations returns how many allocations a call of run makes.
func allocations(run func()) float64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	run()
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs - before.Mallocs)
}

// documents is rows of documents of several lengths.
func documents(n int) []model.Batch {
	rng := model.NewStream(1, "tokens")
	rows := make([]model.Batch, n)
	for i := range rows {
		for j := range 2 + i%2 {
			ids := make([]int32, 10+8*i+31*j)
			for k := range ids {
				ids[k] = int32(rng.At(uint64(1000*i+100*j+k)) % 300)
			}
			rows[i].Add(model.Continuation{Context: ids[:5], Target: ids[5:]})
		}
	}
	return rows
}

// TestStepAllocates: once its shapes have been there, an optimizer step
// allocates nothing: not even one time in two steps, which leaves room for the
// series of the run, that grow now and then, and for the runtime.
func TestStepAllocates(t *testing.T) {
	for _, x := range []struct {
		name                               string
		full, dora, recompute, eight, pref bool
		dropout                            float64
	}{
		{name: "full", full: true},
		{name: "full in 8 bits, recomputed", full: true, eight: true, recompute: true},
		{name: "lora"},
		{name: "lora, dropout", dropout: 0.1},
		{name: "dora, recomputed", dora: true, recompute: true},
		{name: "dora in 8 bits, dropout", dora: true, dropout: 0.1, eight: true},
		{name: "preferences", dora: true, pref: true},
	} {
		t.Run(x.name, func(t *testing.T) {
			d, err := model.Load(backend(t), tiny, model.Random(tiny, 1), x.full)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if a := adapter.NewConfig(); !x.full {
				a.DoRA, a.Dropout, a.Rank = x.dora, x.dropout, 64
				if _, err := adapter.Attach(d, a, 1); err != nil {
					t.Fatal(err)
				}
			}
			run := func(steps int) float64 {
				o := train.NewOptions()
				o.MaxSteps, o.GradAccum, o.Recompute, o.EightBit = steps, 2, x.recompute, x.eight
				var task train.Task = &train.Likelihood{Model: d, Rows: documents(4)}
				if x.pref {
					task = &train.Preferences{Model: d, Pairs: pairs, Loss: train.LossORPO, Beta: 0.1}
				}
				return allocations(func() {
					if _, err := train.Run(t.Context(), d, task, o); err != nil {
						t.Fatal(err)
					}
				})
			}
			run(10)
			if few, many := run(10), run(60); many-few > 25 {
				t.Errorf("%v allocations a step", (many-few)/50)
			}
		})
	}
}

// TestGenerateAllocates: once a batch is full, a token allocates nothing.
func TestGenerateAllocates(t *testing.T) {
	b := cpu.New(2)
	defer b.Close()
	d, err := model.Load(b, tiny, model.Random(tiny, 1), false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, n := range []int{1, 16, 20} {
		run := func(tokens int) float64 {
			reqs := make([]model.Request, n)
			for i := range reqs {
				reqs[i] = model.Request{Prompt: []int32{1, int32(i)}, MaxTokens: tokens, StopIDs: []int32{-1},
					Sampling: model.Sampling{Temperature: 1, TopP: 0.9, RepetitionPenalty: 1.1}}
			}
			return allocations(func() {
				if err := d.Generate(t.Context(), reqs, model.GenerateOptions{Batch: n}, func(int, model.Result) error { return nil }); err != nil {
					t.Fatal(err)
				}
			})
		}
		run(110)
		if few, many := run(10), run(110); many-few > 25 {
			t.Errorf("%d sequences: %v allocations a step", n, (many-few)/100)
		}
	}
}
