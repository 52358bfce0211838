package model_test

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"pipe/model"
	"pipe/tensor"
)

// lender is a backend that copies what it loads, and counts its tensors.
type lender struct {
	tensor.Backend
	live map[*tensor.Tensor]bool
}

func (l *lender) Load(dt tensor.DType, data []byte, shape ...int) (*tensor.Tensor, error) {
	t, err := l.Backend.Load(dt, slices.Clone(data), shape...)
	l.live[t] = true
	return t, err
}

func (l *lender) Alloc(dt tensor.DType, shape ...int) (*tensor.Tensor, error) {
	t, err := l.Backend.Alloc(dt, shape...)
	l.live[t] = true
	return t, err
}

func (l *lender) Free(t *tensor.Tensor) {
	delete(l.live, t)
	l.Backend.Free(t)
}

func (l *lender) Lent(_ *tensor.Tensor, forget func()) { forget() }

// forgetful is a source that says what was forgotten, and lacks a tensor.
type forgetful struct {
	model.Source
	lacks string
	mu    sync.Mutex
	names []string
}

func (f *forgetful) Weight(name string) (model.Weight, error) {
	if name == f.lacks {
		return model.Weight{}, model.ErrNoTensor
	}
	return f.Source.Weight(name)
}

func (f *forgetful) Forget(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.names = append(f.names, name)
}

func (f *forgetful) InPlace(string) bool { return true }

// TestLoadForgets: when Load returns, with an error or without one, nothing is about to
// be forgotten any more, and what was expanded is freed.
func TestLoadForgets(t *testing.T) {
	src := model.Random(small, 1)
	var lent []string // all but the embedding and the head
	for _, name := range src.Names() {
		if strings.HasPrefix(name, "model.layers.") || name == "model.norm.weight" {
			lent = append(lent, name)
		}
	}
	b := &lender{backend(t), map[*tensor.Tensor]bool{}}
	f := &forgetful{Source: src}
	d, err := model.Load(b, small, f, false)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Sort(f.names); !slices.Equal(f.names, lent) {
		t.Errorf("forgotten: %v; want %v", f.names, lent)
	}
	d.Close()
	if len(b.live) != 0 {
		t.Errorf("%d tensors are left", len(b.live))
	}
	for _, lacks := range []string{lent[len(lent)/2], "model.norm.weight"} {
		f := &forgetful{Source: src, lacks: lacks}
		if _, err := model.Load(b, small, f, false); err == nil {
			t.Fatalf("loaded without %s", lacks)
		}
		if len(b.live) != 0 {
			t.Errorf("without %s: %d tensors are left", lacks, len(b.live))
		}
		if len(f.names) == 0 || slices.Contains(f.names, lacks) {
			t.Errorf("without %s: forgotten: %v", lacks, f.names)
		}
	}
}

// TestTwoHeads: a head of its own beside tied embeddings is refused, one that is the
// embedding, also in another type, is left out.
func TestTwoHeads(t *testing.T) {
	c := small
	c.Tied = true
	src := model.Random(c, 1)
	weights := model.Weights{}
	for _, name := range src.Names() {
		w, err := src.Weight(name)
		if err != nil {
			t.Fatal(err)
		}
		weights[name] = w
	}
	same := weights["model.embed_tokens.weight"]
	bf16 := model.Weight{DType: tensor.BF16, Shape: same.Shape, Data: make([]byte, len(same.Data)/2)}
	for i := range len(bf16.Data) / 2 { // cut, not rounded
		copy(bf16.Data[2*i:], same.Data[4*i+2:4*i+4])
	}
	other := same
	other.Data = slices.Clone(same.Data)
	other.Data[3] ^= 0x80 // the sign of the first element
	for name, x := range map[string]struct {
		head model.Weight
		bad  bool
	}{
		"the same": {same, false}, "rounded": {bf16, false}, "another": {other, true},
		"of another size": {model.Weight{DType: tensor.F32, Shape: []int{1, 1}, Data: make([]byte, 4)}, false},
	} {
		weights["lm_head.weight"] = x.head
		d, err := model.Load(backend(t), c, weights, false)
		if err == nil {
			d.Close()
		}
		for _, err := range []error{err, model.CheckWeights(c, weights)} {
			if (err != nil) != x.bad || x.bad && !strings.Contains(err.Error(), "tie_word_embeddings") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
