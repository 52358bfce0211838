package train_test

import (
	"bytes"
	"context"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/tensor/cpu"
	"pipe/train"
)

// TestThreads: the trained adapter has the same bytes for any number of
// threads, dropout included. The batch is large enough that work is split.
func TestThreads(t *testing.T) {
	var first []byte
	for _, n := range []int{1, 2, 7} {
		b := cpu.New(n)
		c := small
		c.Layers, c.VocabSize = 2, 300
		d, err := model.Load(b, c, model.Random(c, 1), false)
		if err != nil {
			t.Fatal(err)
		}
		a := adapter.NewConfig()
		a.DoRA, a.Dropout = true, 0.1
		if _, err := adapter.Attach(d, a, 1); err != nil {
			t.Fatal(err)
		}
		rng := model.NewStream(1, "tokens")
		var rows []model.Batch
		for i := range 3 {
			var row model.Batch
			for j := range 3 {
				ids := make([]int32, 20+30*j)
				for k := range ids {
					ids[k] = int32(rng.At(uint64(1000*i+100*j+k)) % 300)
				}
				row.Add(model.Continuation{Context: ids[:5], Target: ids[5:]})
			}
			rows = append(rows, row)
		}
		o := train.NewOptions()
		o.Epochs, o.LR, o.Warmup = 2, 0.01, 0
		if _, err := train.Run(context.Background(), d, &train.Likelihood{Model: d, Rows: rows}, o); err != nil {
			t.Fatal(err)
		}
		got := bits(d)
		if first == nil {
			first = got
		}
		if !bytes.Equal(got, first) {
			t.Errorf("%d threads: the adapter differs from that of one thread", n)
		}
		d.Close()
		b.Close()
	}
}

// TestFullTrainingLearns pretrains a new model on a repeating text until it
// knows it.
func TestFullTrainingLearns(t *testing.T) {
	b := backend(t)
	c := small
	c.Layers, c.VocabSize, c.Hidden, c.Intermediate, c.Heads, c.KVHeads, c.HeadDim = 1, 30, 32, 48, 2, 1, 16
	d, err := model.Load(b, c, model.Random(c, 1), true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var row model.Batch
	ids := make([]int32, 60)
	for i := range ids {
		ids[i] = int32(7 * i % 30)
	}
	row.Add(model.Continuation{Context: ids[:1], Target: ids[1:]})
	o := train.NewOptions()
	o.MaxSteps, o.LR = 60, 0.01
	r, err := train.Run(context.Background(), d, &train.Likelihood{Model: d, Rows: []model.Batch{row}}, o)
	if err != nil {
		t.Fatal(err)
	}
	loss := series(r, "loss")
	if !(loss[0] > 3 && loss[len(loss)-1] < 0.1) {
		t.Errorf("loss %v at first, %v at last", loss[0], loss[len(loss)-1])
	}
	out := []int32{}
	err = d.Generate(context.Background(), []model.Request{{Prompt: ids[:2], MaxTokens: 20}}, model.GenerateOptions{}, func(_ int, r model.Result) error {
		out = r.IDs
		return nil
	})
	if err != nil || len(out) != 20 {
		t.Fatal(out, err)
	}
	for i, id := range out {
		if id != ids[i+2] {
			t.Fatalf("continues with %v, want %v", out, ids[2:22])
		}
	}
}

// TestLargeBatch runs shapes at which a weight gradient is longer than the
// batch, and the other way round.
func TestLargeBatch(t *testing.T) {
	b := backend(t)
	c := small
	c.Layers, c.VocabSize, c.Hidden, c.Intermediate, c.Heads, c.KVHeads = 1, 4500, 32, 1600, 1, 1
	for _, tokens := range []int{250, 700, 1020} {
		d, err := model.Load(b, c, model.Random(c, 1), true)
		if err != nil {
			t.Fatal(err)
		}
		var row model.Batch
		for range 4 {
			ids := make([]int32, tokens/4)
			for i := range ids {
				ids[i] = int32(i * 17)
			}
			row.Add(model.Continuation{Context: ids[:1], Target: ids[1:]})
		}
		o := train.NewOptions()
		o.MaxSteps, o.Warmup = 2, 0
		r, err := train.Run(context.Background(), d, &train.Likelihood{Model: d, Rows: []model.Batch{row}}, o)
		if err != nil {
			t.Fatal(err)
		}
		if l := series(r, "loss"); !(l[1] < l[0]) {
			t.Errorf("%d tokens: loss %v", tokens, l)
		}
		d.Close()
	}
}
