//go:build cuda

package gpu_test

import (
	"slices"
	"testing"

	"pipe/gpu"
	"pipe/model"
	"pipe/tensor"
)

// passes is a device that says how many rows a pass of prompts has, and counts rows and
// passes.
type passes struct {
	*gpu.Backend
	rows, tokens, passes int
}

func (p *passes) PromptRows() int { return p.rows }

func (p *passes) Embed(dst, table, ids *tensor.Tensor) {
	p.tokens += ids.Len()
	p.passes++
	p.Backend.Embed(dst, table, ids)
}

// TestModelReads: tokens of a request are the same alone and in any company, with
// adapters, in each precision, and prompts are read in few passes, what they share once.
func TestModelReads(t *testing.T) {
	for _, x := range precisions {
		b := &passes{device(t).(*gpu.Backend), 2048, 0, 0}
		if !has(b, x.dt, false) {
			continue
		}
		b.Graphs(false) // what they do again is not counted
		d, _ := packed(t, b, false, x.dt)
		var reqs []model.Request
		for i, n := range []int{2, 300, 45, 300, 131, 70, 36, 300} {
			r := model.Request{MaxTokens: 3, Seed: uint64(i), StopIDs: []int32{-1}, Sampling: model.Sampling{Temperature: 1.2}}
			for j := range n {
				r.Prompt = append(r.Prompt, int32((5*j+j*j)%97))
				if i > 3 && j >= 40 || i == 3 && j >= 200 {
					r.Prompt[j] = int32((i + 3*j) % 97)
				}
			}
			reqs = append(reqs, r)
		}
		var want [][]int32
		for i := range reqs {
			want = append(want, generate(t, d, reqs[i:i+1], model.GenerateOptions{})[0])
		}
		alone := b.tokens
		for _, rows := range []int{2048, 200} {
			b.rows, b.tokens, b.passes = rows, 0, 0
			got := generate(t, d, reqs, model.GenerateOptions{Batch: 8})
			t.Logf("in %s: %d tokens in %d passes; %d alone", x.dt, b.tokens, b.passes, alone)
			if !slices.EqualFunc(got, want, slices.Equal) {
				t.Errorf("in %s, %d rows: %v, alone %v", x.dt, rows, got, want)
			}
			if b.tokens >= alone || rows == 2048 && b.passes != 3+3 {
				t.Errorf("in %s: %d tokens in %d passes; %d alone", x.dt, b.tokens, b.passes, alone)
			}
		}
		b.rows = 200
		if got := generate(t, d, reqs, model.GenerateOptions{Batch: 3, CacheTokens: 700}); !slices.EqualFunc(got, want, slices.Equal) {
			t.Errorf("in %s, 3 at a time: %v, alone %v", x.dt, got, want)
		}
	}
}

// TestLlama4Reads: the same of experts, and of attention in chunks.
func TestLlama4Reads(t *testing.T) {
	for _, name := range []string{"one", "two"} {
		for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
			d := llama4(t, device(t), name, "dora", dt)
			var reqs []model.Request
			for i := range 9 {
				r := model.Request{MaxTokens: 6, Seed: uint64(i), StopIDs: []int32{-1}, Sampling: model.Sampling{Temperature: 1.2}}
				for j := range 3 + 17*i%50 {
					r.Prompt = append(r.Prompt, int32((5*j+j*j)%53))
					if i%2 == 1 && j > 33 {
						r.Prompt[j] = int32(i)
					}
				}
				reqs = append(reqs, r)
			}
			all := generate(t, d, reqs, model.GenerateOptions{})
			for i, got := range all {
				if alone := generate(t, d, reqs[i:i+1], model.GenerateOptions{})[0]; !slices.Equal(got, alone) {
					t.Errorf("%s in %s, request %d: %v, alone %v", name, dt, i, got, alone)
				}
			}
		}
	}
}
