package model_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/modeltest"
)

// collect generates and returns the results in the order of the requests.
func collect(t *testing.T, d *model.Decoder, reqs []model.Request, o model.GenerateOptions) []model.Result {
	t.Helper()
	out := make([]model.Result, len(reqs))
	n := 0
	err := d.Generate(context.Background(), reqs, o, func(i int, r model.Result) error {
		out[i] = r
		n++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n != len(reqs) {
		t.Fatalf("%d results for %d requests", n, len(reqs))
	}
	return out
}

// TestGreedy compares greedy tokens with transformers' generate.
func TestGreedy(t *testing.T) {
	for _, name := range []string{"plain", "bias"} {
		d := modeltest.Decoder(t, backend(t), name, false)
		want := modeltest.Load(t, name+".safetensors").Ints("greedy")
		got := collect(t, d, []model.Request{{Prompt: modeltest.Docs()[0], MaxTokens: len(want)}}, model.GenerateOptions{})
		if !slices.Equal(got[0].IDs, want) || got[0].Reason != model.StopMax {
			t.Errorf("%s: %v, want %v", name, got[0], want)
		}
	}
}

// requests of different lengths, samplings and ends.
func requests() []model.Request {
	var reqs []model.Request
	for i := range 9 {
		r := model.Request{MaxTokens: 5 + 3*i, Seed: uint64(i), StopIDs: []int32{2}}
		for j := range 1 + 5*i%23 {
			r.Prompt = append(r.Prompt, int32((7*i+3*j)%53))
		}
		switch i % 4 {
		case 1:
			r.Sampling = model.Sampling{Temperature: 1.3}
		case 2:
			r.Sampling = model.Sampling{Temperature: 0.9, TopP: 0.8, RepetitionPenalty: 1.3}
		case 3:
			r.Sampling = model.Sampling{Temperature: 1.1, TopK: 7, MinP: 0.05}
		}
		reqs = append(reqs, r)
	}
	return reqs
}

// TestBatching: a result depends on its request alone, never on what else runs
// or on the size of the cache.
func TestBatching(t *testing.T) {
	d := modeltest.Decoder(t, backend(t), "plain", false)
	reqs := requests()
	want := collect(t, d, reqs, model.GenerateOptions{Batch: 1})
	for _, o := range []model.GenerateOptions{{Batch: 3}, {Batch: 8}, {Batch: 8, CacheTokens: 70}, {Batch: 4, CacheTokens: 1}} {
		got := collect(t, d, reqs, o)
		for i := range reqs {
			if !slices.Equal(got[i].IDs, want[i].IDs) || got[i].Reason != want[i].Reason {
				t.Errorf("%+v: request %d gives %v, alone %v", o, i, got[i], want[i])
			}
		}
	}
	again := reqs[1]
	again.Seed++
	if other := collect(t, d, []model.Request{again}, model.GenerateOptions{}); slices.Equal(other[0].IDs, want[1].IDs) {
		t.Error("another seed gives the same text")
	}
}

func TestGenerateStops(t *testing.T) {
	d := modeltest.Decoder(t, backend(t), "plain", false)
	prompt := modeltest.Docs()[0]
	free := collect(t, d, []model.Request{{Prompt: prompt, MaxTokens: 12}}, model.GenerateOptions{})[0].IDs
	stop := free[4]
	first := slices.Index(free, stop)
	long := slices.Repeat([]int32{1, 5}, 30) // 60 of 64 positions
	got := collect(t, d, []model.Request{
		{Prompt: prompt, MaxTokens: 12, StopIDs: []int32{stop}},
		{Prompt: prompt, MaxTokens: 12, Stop: func(ids []int32) bool { return len(ids) == 3 }},
		{Prompt: long, MaxTokens: 50},
		{Prompt: prompt},
	}, model.GenerateOptions{})
	for i, want := range []model.Result{{free[:first], model.StopToken}, {free[:3], model.StopToken}, {nil, model.StopMax}, {nil, model.StopMax}} {
		if i == 2 {
			if len(got[2].IDs) != 4 {
				t.Errorf("%d tokens beyond the end of the context", len(got[2].IDs))
			}
			continue
		}
		if !slices.Equal(got[i].IDs, want.IDs) || got[i].Reason != want.Reason {
			t.Errorf("request %d: %v, want %v", i, got[i], want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	err := d.Generate(ctx, requests(), model.GenerateOptions{Batch: 1}, func(int, model.Result) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for want, r := range map[string]model.Request{
		"the prompt is empty":         {MaxTokens: 3},
		"leaves no room":              {Prompt: slices.Repeat([]int32{1}, 64), MaxTokens: 3},
		"vocabulary of 53":            {Prompt: []int32{99}, MaxTokens: 3},
		"top_p is 2":                  {Prompt: prompt, Sampling: model.Sampling{TopP: 2}},
		"temperature is NaN; must be": {Prompt: prompt, Sampling: model.Sampling{Temperature: math.NaN()}},
	} {
		err := d.Generate(context.Background(), []model.Request{r}, model.GenerateOptions{}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// TestSampling draws many first tokens and compares their frequencies with the
// model's distribution cut to what the settings keep.
func TestSampling(t *testing.T) {
	d := modeltest.Decoder(t, backend(t), "plain", false)
	prompt := modeltest.Docs()[1]
	var cs []model.Continuation
	for id := range d.Config.VocabSize {
		cs = append(cs, model.Continuation{Context: prompt, Target: []int32{int32(id)}})
	}
	scores, err := d.Score(context.Background(), cs, model.ScoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := make([]float64, len(cs))
	order := make([]int, len(cs))
	for i, s := range scores {
		p[i], order[i] = math.Exp(float64(s.LogP[0])), i
	}
	slices.SortFunc(order, func(a, b int) int { return int(math.Copysign(1, p[b]-p[a])) })
	for name, x := range map[string]struct {
		s    model.Sampling
		keep func(rank int, before, prob float64) bool
	}{
		"temperature": {model.Sampling{Temperature: 1}, func(int, float64, float64) bool { return true }},
		"top_k":       {model.Sampling{Temperature: 1, TopK: 5}, func(rank int, _, _ float64) bool { return rank < 5 }},
		"top_p":       {model.Sampling{Temperature: 1, TopP: 0.6}, func(_ int, before, _ float64) bool { return before < 0.6 }},
		"min_p":       {model.Sampling{Temperature: 1, MinP: 0.2}, func(_ int, _, prob float64) bool { return prob >= 0.2*p[order[0]] }},
	} {
		want, before, sum := make([]float64, len(p)), 0.0, 0.0
		for rank, id := range order {
			if x.keep(rank, before, p[id]) {
				want[id] = p[id]
				sum += p[id]
			}
			before += p[id]
		}
		const n = 2000
		reqs := make([]model.Request, n)
		for i := range reqs {
			reqs[i] = model.Request{Prompt: prompt, MaxTokens: 1, Sampling: x.s, Seed: uint64(i)}
		}
		got := make([]float64, len(p))
		for _, r := range collect(t, d, reqs, model.GenerateOptions{Batch: 100}) {
			got[r.IDs[0]] += 1.0 / n
		}
		for id := range p {
			w := want[id] / sum
			if w == 0 && got[id] > 0 {
				t.Errorf("%s: token %d was cut and yet drawn", name, id)
			}
			if diff := math.Abs(got[id] - w); !(diff <= 5*math.Sqrt(w*(1-w)/n)+1e-9) {
				t.Errorf("%s: token %d drawn with frequency %v, probability %v", name, id, got[id], w)
			}
		}
	}
}

// TestScore: continuations scored together equal those scored one by one, and
// the sum of a continuation is that of its tokens.
func TestScore(t *testing.T) {
	d := modeltest.Decoder(t, backend(t), "bias", false)
	var cs []model.Continuation
	for i, ids := range modeltest.Docs() {
		cs = append(cs, model.Continuation{Context: ids[:i+1], Target: ids[i+1:]})
	}
	cs = append(cs, model.Continuation{Context: []int32{3}})
	together, err := d.Score(context.Background(), cs, model.ScoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	alone, err := d.Score(context.Background(), cs, model.ScoreOptions{Tokens: 1})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range together {
		if len(s.LogP) != len(cs[i].Target) || !slices.Equal(s.ArgMax, alone[i].ArgMax) {
			t.Errorf("continuation %d: %v together, %v alone", i, s, alone[i])
		}
		modeltest.Close(t, "together", s.LogP, alone[i].LogP, 1e-6)
	}
	for want, c := range map[string]model.Continuation{
		"the context is empty":   {Target: []int32{1}},
		"the model's context is": {Context: make([]int32, 200), Target: make([]int32, 57)},
	} {
		if _, err := d.Score(context.Background(), []model.Continuation{c}, model.ScoreOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// TestScoreNotANumber: what weights give that are not all numbers is no score.
func TestScoreNotANumber(t *testing.T) {
	d, err := model.Load(backend(t), small, model.Random(small, 1), false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	norm := make([]float32, small.Hidden)
	norm[1] = float32(math.NaN())
	d.Backend().Upload(d.Norm.W.Value, norm)
	_, err = d.Score(context.Background(), []model.Continuation{{Context: []int32{1}, Target: []int32{2, 3}}}, model.ScoreOptions{})
	if err == nil || !strings.Contains(err.Error(), "token 0 of continuation 0 is not a number") {
		t.Errorf("got %v", err)
	}
}
