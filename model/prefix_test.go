package model_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pipe/model"
	"pipe/model/modeltest"
	"pipe/tensor"
	"pipe/tensor/quant"
)

// small is a decoder with a context of several pieces.
var small = model.Config{VocabSize: 97, Hidden: 64, Intermediate: 96, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 16,
	MaxPositions: 512, NormEps: 1e-5, InitRange: 0.3, Tied: true, Rope: model.Rope{Theta: 10000}}

// counting is a backend that counts the tokens that models on it read.
type counting struct {
	tensor.Backend
	tokens, passes int
}

func (c *counting) Embed(dst, table, ids *tensor.Tensor) {
	c.tokens += ids.Len()
	c.passes++
	c.Backend.Embed(dst, table, ids)
}

// load returns a random model of c whose matrices are of type dt.
func load(t testing.TB, c model.Config, dt tensor.DType) (*model.Decoder, *counting) {
	t.Helper()
	b := &counting{Backend: backend(t)}
	d, err := model.Load(b, c, weights(t, c, dt), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d, b
}

// weights returns those of a random model of c, matrices of type dt.
func weights(t testing.TB, c model.Config, dt tensor.DType) model.Weights {
	t.Helper()
	src, w := model.Random(c, 1), model.Weights{}
	for _, name := range src.Names() {
		x, err := src.Weight(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(x.Shape) == 2 {
			f := make([]float32, len(x.Data)/4)
			for i := range f {
				f[i] = math.Float32frombits(binary.LittleEndian.Uint32(x.Data[4*i:]))
			}
			x = model.Weight{DType: dt, Shape: x.Shape, Data: make([]byte, dt.Bytes(len(f)))}
			quant.Quantize(x.Data, dt, f)
		}
		w[name] = x
	}
	return w
}

// An outcome is a result and a digest of the logits of each of its tokens.
type outcome struct {
	model.Result
	logits []uint64
}

func outcomes(t *testing.T, d *model.Decoder, reqs []model.Request, o model.GenerateOptions) []outcome {
	t.Helper()
	out := make([]outcome, len(reqs))
	for i, r := range collect(t, d, reqs, o.Trace(func(i int, logits []float32) {
		h := uint64(14695981039346656037)
		for _, z := range logits {
			h = (h ^ uint64(math.Float32bits(z))) * 1099511628211
		}
		out[i].logits = append(out[i].logits, h)
	})) {
		out[i].Result = r
	}
	return out
}

func (o outcome) equal(p outcome) bool {
	return slices.Equal(o.IDs, p.IDs) && o.Reason == p.Reason && slices.Equal(o.logits, p.logits)
}

// family returns requests whose prompts part from one another anywhere: at the
// ends of pieces, beside them, within them, or not at all.
func family(r *rand.Rand, n int) []model.Request {
	token := func() int32 { return int32(r.IntN(97)) }
	stem := make([]int32, 300)
	for i := range stem {
		stem[i] = token()
	}
	parts := []int{0, 1, 2, 31, 32, 33, 63, 64, 65, 128, 129, 200, 255, 256, 257, 300}
	reqs := make([]model.Request, n)
	for i := range reqs {
		p := slices.Clone(stem[:parts[r.IntN(len(parts))]])
		for range max(1-len(p), parts[r.IntN(6)]*r.IntN(2)) {
			p = append(p, token())
		}
		q := model.Request{Prompt: p, MaxTokens: 1 + r.IntN(6), Seed: uint64(i), StopIDs: []int32{3}}
		if i > 0 && r.IntN(4) == 0 {
			q.Prompt = reqs[r.IntN(i)].Prompt
		}
		if r.IntN(2) == 0 {
			q.Sampling = model.Sampling{Temperature: 1.5, TopP: 0.9, RepetitionPenalty: 1.1}
		}
		reqs[i] = q
	}
	return reqs
}

// TestSharedPrefix: tokens and logits of a request are the same bits alone and
// with others, whose prompts begin like its own or do not, in any order, with
// any size of batch and cache, for every type of weights and both precisions; of models
// that norm keys, too, and of those that do not rotate all of them.
func TestSharedPrefix(t *testing.T) {
	qwen3, smollm3 := small, small
	qwen3.Family, smollm3.Family, smollm3.NoRope = model.Qwen3, model.SmolLM3, []bool{true, false}
	for _, x := range []struct {
		c  model.Config
		dt tensor.DType
	}{{small, tensor.F32}, {small, tensor.BF16}, {small, tensor.F16}, {small, tensor.Q8_0}, {small, tensor.Q4_0}, {small, tensor.Q4_1}, {qwen3, tensor.F32}, {smollm3, tensor.Q8_0}} {
		c, dt, precision := x.c, x.dt, tensor.F32
		run := func(t *testing.T) {
			d, b := load(t, c, dt)
			d.SetPrecision(precision)
			r := rand.New(rand.NewPCG(1, uint64(dt)))
			reqs := family(r, 40)
			want := make([]outcome, len(reqs))
			for i := range reqs {
				want[i] = outcomes(t, d, reqs[i:i+1], model.GenerateOptions{})[0]
			}
			alone := b.tokens
			for range 6 {
				o := model.GenerateOptions{Batch: 1 + r.IntN(24), CacheTokens: 1 + r.IntN(3000)}
				order := r.Perm(len(reqs))
				mixed := make([]model.Request, len(reqs))
				for i, j := range order {
					mixed[i] = reqs[j]
				}
				b.tokens = 0
				for i, got := range outcomes(t, d, mixed, o) {
					if j := order[i]; !got.equal(want[j]) {
						t.Errorf("%+v: a prompt of %d tokens gives %v %x, alone %v %x", o, len(reqs[j].Prompt), got.IDs, got.logits, want[j].IDs, want[j].logits)
					}
				}
				if b.tokens > alone {
					t.Errorf("%+v: %d tokens read together, %d one by one", o, b.tokens, alone)
				}
			}
		}
		name := fmt.Sprint(c.Family, " ", dt)
		t.Run(name, run)
		precision = tensor.BF16
		t.Run(name+" in bfloat16", run)
	}
}

// TestPrefixIsReadOnce counts the tokens that are computed.
func TestPrefixIsReadOnce(t *testing.T) {
	d, b := load(t, small, tensor.F32)
	stem := make([]int32, 300)
	for i := range stem {
		stem[i] = int32(i % 89)
	}
	for _, c := range []struct {
		name            string
		prompts, prompt int // how many, and the tokens that are the same in all
		own             int // and after these
		o               model.GenerateOptions
		read            int // tokens
		stems           int // beginnings, in turn
	}{
		{"samples of one prompt", 20, 301, 0, model.GenerateOptions{}, 300 + 20, 1},
		{"one after the other", 20, 301, 0, model.GenerateOptions{Batch: 1}, 300 + 20, 1},
		{"in a cache for one", 20, 301, 0, model.GenerateOptions{Batch: 1, CacheTokens: 1}, 300 + 20, 1},
		{"questions after examples", 20, 256, 10, model.GenerateOptions{}, 256 + 20*10, 1},
		{"a cut within a piece", 20, 300, 10, model.GenerateOptions{}, 256 + 20*(44+10), 1},
		{"in a cache for a few", 20, 256, 10, model.GenerateOptions{Batch: 2, CacheTokens: 700}, 256 + 20*10, 1},
		{"nothing in common", 5, 0, 50, model.GenerateOptions{}, 5 * 50, 1},
		{"two kinds in turn", 20, 256, 10, model.GenerateOptions{Batch: 1, CacheTokens: 300}, 2*256 + 20*10, 2},
	} {
		reqs := make([]model.Request, c.prompts)
		for i := range reqs {
			p := slices.Clone(stem[:min(c.prompt, len(stem))])
			if c.prompt > 0 {
				p[0] = int32(i % c.stems)
			}
			if c.prompt > len(stem) {
				p = append(p, 1)
			}
			for j := range c.own {
				p = append(p, int32((i+j)%97))
			}
			reqs[i] = model.Request{Prompt: p, MaxTokens: 1}
		}
		b.tokens = 0
		collect(t, d, reqs, c.o)
		if b.tokens != c.read {
			t.Errorf("%s: %d tokens read, want %d", c.name, b.tokens, c.read)
		}
	}
}

// TestCacheIsReused: what a sequence leaves in the cache changes nothing for
// those that get its rows.
func TestCacheIsReused(t *testing.T) {
	d, _ := load(t, small, tensor.F32)
	r := rand.New(rand.NewPCG(2, 2))
	var reqs []model.Request
	for range 60 {
		q := model.Request{MaxTokens: 1 + r.IntN(9)}
		for range 1 + r.IntN(150) {
			q.Prompt = append(q.Prompt, int32(r.IntN(97)))
		}
		reqs = append(reqs, q)
	}
	want := outcomes(t, d, reqs, model.GenerateOptions{Batch: len(reqs), CacheTokens: 1 << 20})
	for i, got := range outcomes(t, d, reqs, model.GenerateOptions{Batch: 3, CacheTokens: 300}) {
		if !got.equal(want[i]) {
			t.Errorf("request %d: %v, in a fresh cache %v", i, got.IDs, want[i].IDs)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Generate(ctx, reqs, model.GenerateOptions{}, nil); err == nil {
		t.Error("cancelled: no error")
	}
}

// TestScoreShares: continuations that begin alike score like each alone, and
// what they have in common is read once.
func TestScoreShares(t *testing.T) {
	d, b := load(t, small, tensor.F32)
	r := rand.New(rand.NewPCG(3, 3))
	var cs []model.Continuation
	for _, q := range family(r, 60) {
		at := 1 + r.IntN(len(q.Prompt))
		cs = append(cs, model.Continuation{Context: q.Prompt[:at], Target: q.Prompt[at:]})
	}
	cs = append(cs, cs[len(cs)-1])
	slices.SortFunc(cs[:30], func(a, b model.Continuation) int { return slices.Compare(a.Context, b.Context) })
	want := make([]model.Scores, len(cs))
	for i := range cs {
		s, err := d.Score(t.Context(), cs[i:i+1], model.ScoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want[i] = s[0]
	}
	alone := b.tokens
	for _, tokens := range []int{0, 1, 300, 100_000} {
		b.tokens = 0
		got, err := d.Score(t.Context(), cs, model.ScoreOptions{Tokens: tokens})
		if err != nil {
			t.Fatal(err)
		}
		for i := range cs {
			modeltest.Close(t, "log-probabilities", got[i].LogP, want[i].LogP, 1e-5)
			if !slices.Equal(got[i].ArgMax, want[i].ArgMax) {
				t.Errorf("%d: most likely %v, alone %v", i, got[i].ArgMax, want[i].ArgMax)
			}
		}
		if tokens != 1 && b.tokens >= alone {
			t.Errorf("passes of %d: %d tokens read together, %d one by one", tokens, b.tokens, alone)
		}
	}

	context := cs[0].Context
	for i := range context {
		context[i] = int32(i % 97)
	}
	four := make([]model.Continuation, 4)
	for i := range four {
		four[i] = model.Continuation{Context: context, Target: []int32{int32(i)}}
	}
	b.tokens = 0
	if _, err := d.Score(t.Context(), four, model.ScoreOptions{}); err != nil {
		t.Fatal(err)
	}
	if b.tokens != len(context) {
		t.Errorf("four answers of a token: %d tokens read, the context has %d", b.tokens, len(context))
	}
}
