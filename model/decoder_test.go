package model_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/modeltest"
	"pipe/tensor"
	"pipe/tensor/cpu"
)

// tolerance of a whole tiny model against PyTorch, both in f32.
const tolerance = 1e-5

func backend(t testing.TB) tensor.Backend {
	b := cpu.New(2)
	t.Cleanup(func() { b.Close() })
	return b
}

// TestGradients compares loss, every gradient and the logits of packed
// documents with transformers, which ran them one by one.
func TestGradients(t *testing.T) {
	for _, name := range []string{"plain", "bias"} {
		for _, recompute := range []bool{false, true} {
			for _, b := range []tensor.Backend{backend(t), modeltest.Reference{}} {
				t.Run(fmt.Sprintf("%s/recompute=%t/%s", name, recompute, b.Name()), func(t *testing.T) {
					gradients(t, b, name, recompute)
				})
			}
		}
	}
}

func gradients(t *testing.T, b tensor.Backend, name string, recompute bool) {
	d, fix, batch := modeltest.Decoder(t, b, name, true), modeltest.Load(t, name+".safetensors"), modeltest.Batch()
	p := model.NewPass(b)
	defer p.Close()
	p.Train, p.Recompute = true, recompute
	for range 2 { // the second pass runs in the workspace of the first
		d.Params(func(_ string, p *model.Param) { b.Zero(p.Grad) })
		step(t, d, p, batch, fix)
	}
	seen := 0
	d.Params(func(n string, p *model.Param) {
		modeltest.Close(t, n, modeltest.Download(b, p.Grad), fix.Floats("grad."+n), tolerance)
		seen++
	})
	for _, n := range fix.Names() {
		if strings.HasPrefix(n, "grad.") {
			seen--
		}
	}
	if seen != 0 {
		t.Errorf("%d parameters more than the fixture has", seen)
	}
}

func step(t *testing.T, d *model.Decoder, p *model.Pass, batch model.Batch, fix *modeltest.Fixture) {
	t.Helper()
	modeltest.Close(t, "loss", []float32{trip(t, d, p, batch)}, fix.Floats("loss"), tolerance)
}

// trip takes a batch through d and back and returns the mean loss of its targets.
func trip(t *testing.T, d *model.Decoder, p *model.Pass, batch model.Batch) float32 {
	t.Helper()
	s, err := d.LogProb(p, batch)
	if err != nil {
		t.Fatal(err)
	}
	loss, grad := 0.0, make([]float32, len(s.LogP))
	for i, lp := range s.LogP {
		loss -= float64(lp) / float64(len(grad))
		grad[i] = float32(-1 / float64(len(grad)))
	}
	if err := d.Backward(p, grad); err != nil {
		t.Fatal(err)
	}
	if err := p.Sync(); err != nil {
		t.Fatal(err)
	}
	return float32(loss)
}

// TestLogits reads the logits off the sampler's path: the log-probability of
// every token after every prefix.
func TestLogits(t *testing.T) {
	for name, checkpoint := range map[string]string{"plain": "plain", "bias": "bias", "nf4": "nf4_double"} {
		b := backend(t)
		d, fix := modeltest.Decoder(t, b, checkpoint, false), modeltest.Load(t, name+".safetensors")
		logits, v, at := fix.Floats("logits"), d.Config.VocabSize, 0
		for _, ids := range modeltest.Docs() {
			var cs []model.Continuation
			for n := range ids {
				for id := range v {
					cs = append(cs, model.Continuation{Context: ids[:n+1], Target: []int32{int32(id)}})
				}
			}
			scores, err := d.Score(context.Background(), cs, model.ScoreOptions{Tokens: 300})
			if err != nil {
				t.Fatal(err)
			}
			for n := range ids {
				// Log-probabilities are logits up to a constant of the row.
				got, want := make([]float32, v), logits[(at+n)*v:(at+n+1)*v]
				best := int32(slices.Index(want, slices.Max(want)))
				for id := range v {
					s := scores[n*v+id]
					got[id] = s.LogP[0] - scores[n*v].LogP[0] + want[0]
					if s.ArgMax[0] != best {
						t.Fatalf("%s: most likely token %d, want %d", name, s.ArgMax[0], best)
					}
				}
				modeltest.Close(t, fmt.Sprintf("%s logits after %d tokens", name, n+1), got, want, tolerance)
			}
			at += len(ids)
		}
	}
}

// TestEmbed compares the mean hidden state.
func TestEmbed(t *testing.T) {
	for _, name := range []string{"plain", "bias"} {
		d := modeltest.Decoder(t, backend(t), name, false)
		got, err := d.Embed(context.Background(), modeltest.Docs(), model.ScoreOptions{Tokens: 13})
		if err != nil {
			t.Fatal(err)
		}
		modeltest.Close(t, name, got[2], modeltest.Load(t, name+".safetensors").Floats("hidden_mean"), tolerance)
	}
}

// TestPackedEqualsAlone: documents of a row do not see each other.
func TestPackedEqualsAlone(t *testing.T) {
	d := modeltest.Decoder(t, backend(t), "bias", false)
	p := model.NewPass(d.Backend())
	defer p.Close()
	row := modeltest.Batch()
	packed, err := d.LogProb(p, row)
	if err != nil {
		t.Fatal(err)
	}
	together, alone := slices.Clone(packed.LogP), []float32(nil)
	for _, one := range row.Split() {
		s, err := d.LogProb(p, one)
		if err != nil {
			t.Fatal(err)
		}
		alone = append(alone, s.LogP...)
	}
	// Backends may sum a row differently when there are more of them.
	modeltest.Close(t, "packed", together, alone, 1e-6)
}

// TestThreads: every gradient has the same bits for any number of threads.
func TestThreads(t *testing.T) {
	var first []float32
	for _, n := range []int{1, 2, 7} {
		b := cpu.New(n)
		d := modeltest.Decoder(t, b, "plain", true)
		p := model.NewPass(b)
		p.Train = true
		step(t, d, p, modeltest.Batch(), modeltest.Load(t, "plain.safetensors"))
		var all []float32
		d.Params(func(_ string, p *model.Param) { all = append(all, modeltest.Download(b, p.Grad)...) })
		if first == nil {
			first = all
		}
		if !slices.Equal(all, first) {
			t.Errorf("%d threads: gradients differ from those of one thread", n)
		}
		p.Close()
	}
}

func TestLoadErrors(t *testing.T) {
	c, src := modeltest.Checkpoint(t, "plain")
	with := func(change func(w model.Weights)) model.Source {
		w := model.Weights{}
		for _, n := range src.Names() {
			w[n], _ = src.Weight(n)
		}
		change(w)
		return w
	}
	const q = "model.layers.1.self_attn.q_proj.weight"
	untied := c
	untied.Tied = false
	for _, x := range []struct {
		c    model.Config
		src  model.Source
		want string
	}{
		{c, with(func(w model.Weights) { delete(w, q) }), "tensor " + q + " is missing"},
		{c, with(func(w model.Weights) { x := w[q]; x.Shape = []int{3, 192}; w[q] = x }), "tensor " + q + " has shape [3 192] in the checkpoint; config.json says [24 24]"},
		{c, with(func(w model.Weights) { x := w[q]; x.Data = x.Data[:8]; w[q] = x }), "tensor " + q + " has 8 bytes"},
		{c, with(func(w model.Weights) { x := w[q]; x.DType = tensor.Q8_0; w[q] = x }), "rows of 24 elements are not whole q8_0 blocks"},
		{c, with(func(w model.Weights) { w["model.layers.0.self_attn.q_proj.bias"] = w["model.norm.weight"] }), "config.json has no such tensor"},
		{untied, src, "lm_head.weight is missing, and config.json does not say tie_word_embeddings"},
	} {
		_, err := model.Load(backend(t), x.c, x.src, false)
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("error %v, want one with %q", err, x.want)
		}
	}
}

func TestCheck(t *testing.T) {
	d := modeltest.Decoder(t, backend(t), "plain", false)
	for want, b := range map[string]model.Batch{
		"at least one document":                {},
		"outside the model's vocabulary of 53": {IDs: []int32{1, 53}, Starts: []int32{0}},
		"vocabulary":                           {IDs: []int32{1, -1}, Starts: []int32{0}},
		"starts at 2":                          {IDs: []int32{1, 2}, Starts: []int32{0, 2}},
		"row 7 of 2 tokens":                    {IDs: []int32{1, 2}, Starts: []int32{0}, Rows: []int32{7}, Targets: []int32{0}},
	} {
		if err := d.Check(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// TestAllLogits: the logits give the log-probabilities and the most likely tokens
// that the head reports, packed documents and all.
func TestAllLogits(t *testing.T) {
	b := backend(t)
	d, batch := modeltest.Decoder(t, b, "plain", false), modeltest.Batch()
	p := model.NewPass(b)
	defer p.Close()
	s, err := d.LogProb(p, batch)
	if err != nil {
		t.Fatal(err)
	}
	z, err := d.Logits(p, batch)
	if err != nil {
		t.Fatal(err)
	}
	v := d.Config.VocabSize
	if len(z) != v*len(batch.Rows) {
		t.Fatalf("%d logits for %d rows of %d", len(z), len(batch.Rows), v)
	}
	got := make([]float32, len(batch.Rows))
	for i, id := range batch.Targets {
		row, sum := z[i*v:(i+1)*v], 0.0
		for _, x := range row {
			sum += math.Exp(float64(x))
		}
		got[i] = float32(float64(row[id]) - math.Log(sum))
		if row[s.ArgMax[i]] != slices.Max(row) {
			t.Errorf("row %d: token %d is not the most likely", i, s.ArgMax[i])
		}
	}
	modeltest.Close(t, "log-probabilities", got, s.LogP, tolerance)
	if _, err := d.Logits(p, model.Batch{IDs: []int32{int32(v)}, Starts: []int32{0}}); err == nil {
		t.Error("a token outside the vocabulary was taken")
	}
}
