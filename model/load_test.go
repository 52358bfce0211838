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
