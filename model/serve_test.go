package model_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pipe/model"
	"pipe/tensor"
)

// TestServe: requests that come while others run give the results that each
// gives alone, also those larger than the cache.
func TestServe(t *testing.T) {
	d, _ := load(t, small, tensor.F32)
	r := rand.New(rand.NewPCG(4, 4))
	reqs := family(r, 40)
	for i := range reqs {
		reqs[i].MaxTokens = r.IntN(20)
	}
	want := make([]model.Result, len(reqs))
	for i := range reqs {
		want[i] = collect(t, d, reqs[i:i+1], model.GenerateOptions{})[0]
	}
	for _, o := range []model.GenerateOptions{{}, {Batch: 3}, {Batch: 5, CacheTokens: 100}} {
		taken, done, late := 0, 0, 0
		next := func(wait bool) (model.Request, bool) {
			if taken == len(reqs) || !wait && r.IntN(3) == 0 {
				return model.Request{}, false
			}
			if !wait {
				late++
			}
			taken++
			return reqs[taken-1], true
		}
		err := d.Serve(t.Context(), o, next, func(i int, got model.Result) error {
			done++
			if !slices.Equal(got.IDs, want[i].IDs) || got.Reason != want[i].Reason {
				t.Errorf("%+v: request %d gives %v, alone %v", o, i, got, want[i])
			}
			return nil
		})
		if err != nil || done != len(reqs) || late == 0 {
			t.Errorf("%+v: %d of %d requests done, %d of them joined others: %v", o, done, len(reqs), late, err)
		}
	}
	bad := func(bool) (model.Request, bool) { return model.Request{}, true }
	if err := d.Serve(t.Context(), model.GenerateOptions{}, bad, nil); err == nil {
		t.Error("an empty prompt: no error")
	}
}

// TestBatchStaysFull: the place of a sequence that ends goes to the next at
// once, whatever the others have still to do.
func TestBatchStaysFull(t *testing.T) {
	d, b := load(t, small, tensor.F32)
	lengths := []int{60, 5, 5, 30, 5, 10, 5, 60, 1, 1, 58}
	sum := 0
	var reqs []model.Request
	for _, n := range lengths {
		reqs = append(reqs, model.Request{Prompt: []int32{1}, MaxTokens: n}) // nothing to read first
		sum += n
	}
	b.passes = 0
	collect(t, d, reqs, model.GenerateOptions{Batch: 2})
	if b.passes != sum/2 {
		t.Errorf("%d passes for %d tokens of two sequences at a time", b.passes, sum)
	}
}
