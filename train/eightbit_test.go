package train_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"slices"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/tensor/cpu"
	"pipe/train"
)

// eightBit is a model whose adapter has tensors with 8-bit moments and tensors
// too small for them, and rows to learn.
func eightBit(t *testing.T, threads int) (*model.Decoder, []model.Batch) {
	t.Helper()
	b := cpu.New(threads)
	t.Cleanup(func() { b.Close() })
	c := small
	c.Layers, c.VocabSize = 1, 300
	d, err := model.Load(b, c, model.Random(c, 1), false)
	if err != nil {
		t.Fatal(err)
	}
	a := adapter.NewConfig()
	a.DoRA, a.Rank = true, 32 // [32, 128] is the least of 4096 elements
	if _, err := adapter.Attach(d, a, 1); err != nil {
		t.Fatal(err)
	}
	rng := model.NewStream(1, "tokens")
	var rows []model.Batch
	for i := range 4 {
		var row model.Batch
		for j := range 2 {
			ids := make([]int32, 20+30*j)
			for k := range ids {
				ids[k] = int32(rng.At(uint64(1000*i+100*j+k)) % 300)
			}
			row.Add(model.Continuation{Context: ids[:5], Target: ids[5:]})
		}
		rows = append(rows, row)
	}
	return d, rows
}

func eightBitOptions(dir string) train.Options {
	o := train.NewOptions()
	o.Epochs, o.LR, o.Warmup, o.WeightDecay, o.EightBit = 3, 0.003, 0, 0.1, true
	o.Dir, o.ID, o.Every = dir, "run", 2
	return o
}

// TestEightBitResume kills a run at every step: the run that goes on ends with
// the same bytes, for any number of threads, so codes and largest values are
// all in the checkpoint.
func TestEightBitResume(t *testing.T) {
	whole := func(dir string, kill, threads int) (*train.Result, []byte, error) {
		d, rows := eightBit(t, threads)
		var task train.Task = &train.Likelihood{Model: d, Rows: rows}
		if kill >= 0 {
			task = &dying{task, kill}
		}
		r, err := train.Run(context.Background(), d, task, eightBitOptions(dir))
		return r, bits(d), err
	}
	want, wantBits, err := whole("", -1, 1)
	if err != nil {
		t.Fatal(err)
	}
	for kill := 1; kill < 12; kill += 2 {
		dir := t.TempDir()
		if _, _, err := whole(dir, kill, 2); !errors.Is(err, errKilled) {
			t.Fatalf("killed at %d: %v", kill, err)
		}
		got, gotBits, err := whole(dir, -1, 2+kill%3)
		if err != nil {
			t.Fatal(err)
		}
		if got.Resumed != kill/2*2 || !bytes.Equal(gotBits, wantBits) || !slices.Equal(got.Series, want.Series) {
			t.Errorf("killed at step %d, gone on from %d: the result differs", kill, got.Resumed)
		}
	}
}

// TestEightBitLearns: the loss falls as with moments of 32 bits, along another
// path of which it stays near; a checkpoint of one is no checkpoint of the other.
func TestEightBitLearns(t *testing.T) {
	run := func(eight bool, dir string) ([]float32, error) {
		d, rows := eightBit(t, 2)
		o := eightBitOptions(dir)
		o.EightBit, o.Epochs = eight, 10
		r, err := train.Run(context.Background(), d, &train.Likelihood{Model: d, Rows: rows}, o)
		if err != nil {
			return nil, err
		}
		return series(r, "loss"), nil
	}
	dir := t.TempDir()
	full, err := run(false, dir)
	if err != nil {
		t.Fatal(err)
	}
	eight, err := run(true, "")
	if err != nil {
		t.Fatal(err)
	}
	last := len(full) - 1
	t.Logf("loss %v to %v with 32 bits, to %v with 8", full[0], full[last], eight[last])
	if !(full[last] < 0.9*full[0]) || !(math.Abs(float64(eight[last]-full[last])) < 0.02*float64(full[last])) {
		t.Errorf("losses %v and %v", full, eight)
	}
	if slices.Equal(full, eight) {
		t.Error("8 and 32 bits give the same losses: one was not used")
	}
	if _, err := run(true, dir); err == nil {
		t.Error("a checkpoint with moments of 32 bits was taken by a run of 8")
	}
}
