package model_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/modeltest"
	"pipe/tensor"
)

// reading is a backend that reads several prompts in a pass, of so many rows at most.
type reading struct {
	*counting
	rows int
}

func (r *reading) PromptRows() int { return r.rows }

// loadReading is load of a model that reads several prompts in a pass.
func loadReading(t *testing.T, dt tensor.DType) (*model.Decoder, *reading) {
	t.Helper()
	b := &reading{&counting{Backend: backend(t)}, 2048}
	d, err := model.Load(b, small, weights(t, small, dt), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d, b
}

// TestReadTogether: tokens and logits of a request are the same bits alone and in any
// company, whatever a pass has room for, for types of weights and precisions; and no
// token is read that another prompt has in common.
func TestReadTogether(t *testing.T) {
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.Q8_0, tensor.Q4_0} {
		for _, precision := range []tensor.DType{tensor.F32, tensor.BF16, tensor.FP8} {
			t.Run(dt.String()+" in "+precision.String(), func(t *testing.T) {
				d, b := loadReading(t, dt)
				if tensor.HasPrecision(b.Backend, precision) != nil {
					t.Skip("the backend has no such precision")
				}
				d.SetPrecision(precision)
				r := rand.New(rand.NewPCG(1, uint64(dt)))
				reqs := family(r, 40)
				want := make([]outcome, len(reqs))
				for i := range reqs {
					want[i] = outcomes(t, d, reqs[i:i+1], model.GenerateOptions{})[0]
				}
				alone, passes := b.tokens, b.passes
				for _, rows := range []int{2048, 1, 60, 300, 2048} {
					o := model.GenerateOptions{Batch: 1 + r.IntN(24), CacheTokens: 1 + r.IntN(3000)}
					if rows == 2048 {
						o = model.GenerateOptions{Batch: 24, CacheTokens: 24 * 512}
					}
					order := r.Perm(len(reqs))
					mixed := make([]model.Request, len(reqs))
					for i, j := range order {
						mixed[i] = reqs[j]
					}
					b.rows, b.tokens, b.passes = rows, 0, 0
					for i, got := range outcomes(t, d, mixed, o) {
						if j := order[i]; !got.equal(want[j]) {
							t.Errorf("%d rows, %+v: a prompt of %d tokens gives %v %x, alone %v %x", rows, o, len(reqs[j].Prompt), got.IDs, got.logits, want[j].IDs, want[j].logits)
						}
					}
					if b.tokens > alone || rows == 2048 && b.passes > passes/4 {
						t.Errorf("%d rows, %+v: %d tokens in %d passes together, %d in %d one by one", rows, o, b.tokens, b.passes, alone, passes)
					}
				}
			})
		}
	}
}

// TestReadPasses counts passes and tokens of prompts that are read together.
func TestReadPasses(t *testing.T) {
	d, b := loadReading(t, tensor.F32)
	for _, c := range []struct {
		name           string
		n, common, own int // prompts, and their tokens that are the same in all, or not
		rows           int
		o              model.GenerateOptions
		read, passes   int // to be read, in passes of prompts
	}{
		{"one long prompt", 1, 0, 500, 2048, model.GenerateOptions{}, 500, 1},
		{"one that is longer than a pass", 1, 0, 500, 256, model.GenerateOptions{}, 500, 2},
		{"nothing in common", 16, 0, 50, 2048, model.GenerateOptions{}, 16 * 50, 1},
		{"more than a pass", 16, 0, 64, 500, model.GenerateOptions{}, 16 * 64, 3},
		{"questions after examples", 16, 256, 10, 2048, model.GenerateOptions{}, 256 + 16*10, 2},
		{"the examples are longer than a pass", 16, 256, 10, 128, model.GenerateOptions{}, 256 + 16*10, 4},
		{"one piece a pass", 4, 64, 10, 1, model.GenerateOptions{}, 64 + 4*10, 6},
		{"samples of one prompt", 16, 300, 0, 2048, model.GenerateOptions{}, 300, 1},
		{"as many batches", 64, 0, 50, 2048, model.GenerateOptions{}, 64 * 50, 4},
	} {
		reqs := make([]model.Request, c.n)
		for i := range reqs {
			var p []int32
			for j := range c.common {
				p = append(p, int32(j%89))
			}
			for j := range c.own {
				p = append(p, int32((i+j)%97))
			}
			reqs[i] = model.Request{Prompt: append(p, 1), MaxTokens: 1}
		}
		b.rows, b.tokens, b.passes = c.rows, 0, 0
		collect(t, d, reqs, c.o)
		decoded := (c.n + 15) / 16
		if read, passes := b.tokens-c.n, b.passes-decoded; read != c.read || passes != c.passes {
			t.Errorf("%s: %d tokens in %d passes, want %d in %d", c.name, read, passes, c.read, c.passes)
		}
	}
}

// TestReadGroups: prompts that start while others run are read several at a time, or
// at once when nothing is to be read, when there is a pass of them, or when no
// others wait.
func TestReadGroups(t *testing.T) {
	d, b := loadReading(t, tensor.F32)
	passes := func(prompt, rows int) int {
		b.rows = rows
		var reqs []model.Request
		decoded := 0
		for i := range 96 {
			r := model.Request{MaxTokens: 16 + i%16, StopIDs: []int32{-1}}
			for j := range prompt {
				r.Prompt = append(r.Prompt, int32((i+j)%97))
			}
			decoded += r.MaxTokens
			reqs = append(reqs, r)
		}
		b.tokens, b.passes = 0, 0
		collect(t, d, reqs, model.GenerateOptions{Batch: 32, CacheTokens: 1 << 14})
		if want := 96*(prompt-1) + decoded; b.tokens != want {
			t.Errorf("%d tokens, want %d", b.tokens, want)
		}
		return b.passes
	}
	for _, c := range []struct{ prompt, rows, least, most int }{
		{1, 2048, 0, 130 + 60},        // decoding alone, two passes a step
		{20, 2048, 0, 130 + 60 + 30},  // 64 that start later, 4 at a time or more
		{20, 64, 130 + 20, 130 + 110}, // a prompt is a pass
	} {
		n := passes(c.prompt, c.rows)
		t.Logf("prompts of %d tokens, %d rows: %d passes", c.prompt, c.rows, n)
		if n < c.least || n > c.most {
			t.Errorf("prompts of %d tokens, %d rows: %d passes, want %d to %d", c.prompt, c.rows, n, c.least, c.most)
		}
	}
}

// TestReadServes: results of requests that come while others run are those of each alone.
func TestReadServes(t *testing.T) {
	d, b := loadReading(t, tensor.BF16)
	r := rand.New(rand.NewPCG(5, 5))
	reqs := family(r, 40)
	want := make([]model.Result, len(reqs))
	for i := range reqs {
		want[i] = collect(t, d, reqs[i:i+1], model.GenerateOptions{})[0]
	}
	for _, rows := range []int{2048, 200} {
		b.rows = rows
		taken, done := 0, 0
		next := func(wait bool) (model.Request, bool) {
			if taken == len(reqs) || !wait && r.IntN(3) == 0 {
				return model.Request{}, false
			}
			taken++
			return reqs[taken-1], true
		}
		err := d.Serve(t.Context(), model.GenerateOptions{Batch: 7, CacheTokens: 900}, next, func(i int, got model.Result) error {
			done++
			if !slices.Equal(got.IDs, want[i].IDs) || got.Reason != want[i].Reason {
				t.Errorf("request %d gives %v, alone %v", i, got, want[i])
			}
			return nil
		})
		if err != nil || done != len(reqs) {
			t.Errorf("%d of %d requests done: %v", done, len(reqs), err)
		}
	}
}

// TestReadCancels: what was done before a context ends is what it is without that, and
// so is what comes after.
func TestReadCancels(t *testing.T) {
	d, b := loadReading(t, tensor.F32)
	b.rows = 150
	reqs := family(rand.New(rand.NewPCG(6, 6)), 30)
	want := collect(t, d, reqs, model.GenerateOptions{})
	for _, after := range []int{1, 9, 20} {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		err := d.Generate(ctx, reqs, model.GenerateOptions{Batch: 8}, func(i int, got model.Result) error {
			if n++; n == after {
				cancel()
			}
			if !slices.Equal(got.IDs, want[i].IDs) {
				t.Errorf("request %d gives %v, want %v", i, got, want[i])
			}
			return nil
		})
		if cancel(); !errors.Is(err, context.Canceled) || n < after || n == len(reqs) {
			t.Errorf("cancelled after %d results: %d, %v", after, n, err)
		}
	}
	if got := collect(t, d, reqs, model.GenerateOptions{}); !slices.EqualFunc(got, want, func(a, b model.Result) bool { return slices.Equal(a.IDs, b.IDs) }) {
		t.Error("other results after contexts that ended")
	}
}

// TestReadAdapters: the same for adapters, biases, experts, and attention in chunks.
func TestReadAdapters(t *testing.T) {
	for _, c := range []struct{ model, adapter string }{
		{"plain", "lora"}, {"plain", "dora"}, {"nf4_double", "nf4_dora"}, {"bias", ""}, {"llama4/one", "llama4/one/dora"}, {"llama4/two", "llama4/two/dora"}, {"llama4/two", ""},
	} {
		for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
			b := &reading{&counting{Backend: backend(t)}, 2048}
			d := modeltest.Decoder(t, b, c.model, false)
			d.SetPrecision(dt)
			if c.adapter != "" {
				if _, err := adapter.Load(d, filepath.Join(modeltest.Dir(), c.adapter)); err != nil {
					t.Fatal(err)
				}
			}
			var reqs []model.Request
			for i := range 24 { // prompts that part before the end of a piece, at it, and after it
				r := model.Request{MaxTokens: 1 + i%5, Seed: uint64(i), Sampling: model.Sampling{Temperature: 1.2}, StopIDs: []int32{-1}}
				for j := range 1 + 13*i%55 {
					r.Prompt = append(r.Prompt, int32((3*j+j*j)%53))
					if j == 20+i {
						r.Prompt[j] = int32(i)
					}
				}
				reqs = append(reqs, r)
			}
			want := make([]outcome, len(reqs))
			for i := range reqs {
				want[i] = outcomes(t, d, reqs[i:i+1], model.GenerateOptions{})[0]
			}
			for _, rows := range []int{1, 40, 2048} {
				b.rows = rows
				for i, got := range outcomes(t, d, reqs, model.GenerateOptions{Batch: 12}) {
					if !got.equal(want[i]) {
						t.Errorf("%s with %q in %s, %d rows, request %d: %v %x, alone %v %x", c.model, c.adapter, dt, rows, i, got.IDs, got.logits, want[i].IDs, want[i].logits)
					}
				}
			}
		}
	}
}
