package train_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/tensor"
	"pipe/tensor/cpu"
	"pipe/tensor/quant"
	"pipe/train"
)

// A precise is a configuration of which the products are not in float32.
type precise struct {
	base tensor.DType // of the matrices
	tune string       // "lora", "dora", "full"
	drop float64
}

func (c precise) String() string {
	return fmt.Sprintf("%s over %s, dropout %v", c.tune, c.base, c.drop)
}

var preciseCases = []precise{
	{base: tensor.BF16, tune: "lora"}, {base: tensor.BF16, tune: "dora", drop: 0.1},
	{base: tensor.Q8_0, tune: "lora", drop: 0.1}, {base: tensor.Q8_0, tune: "dora"},
	{base: tensor.NF4, tune: "dora"}, {base: tensor.F32, tune: "full"},
}

// eight reports whether products may be in 8 bits: weights are frozen.
func (c precise) eight() bool { return c.tune != "full" }

// open loads the model on b.
func (c precise) open(t *testing.T, b tensor.Backend, precision tensor.DType) *model.Decoder {
	t.Helper()
	cfg := small
	cfg.Layers, cfg.VocabSize, cfg.Intermediate = 2, 300, 384
	src, w := model.Random(cfg, 1), model.Weights{}
	for _, name := range src.Names() {
		x, err := src.Weight(name)
		if err != nil {
			t.Fatal(err)
		}
		var data bytes.Buffer
		dt := typeOf(x, c.base)
		if err := quant.Convert(&data, dt, tensor.F32, x.Data, x.Shape[len(x.Shape)-1]); err != nil {
			t.Fatal(err)
		}
		w[name] = model.Weight{DType: dt, Shape: x.Shape, Data: data.Bytes()}
	}
	d, err := model.Load(b, cfg, w, c.tune == "full")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	d.SetPrecision(precision)
	if c.tune != "full" {
		a := adapter.NewConfig()
		a.DoRA, a.Dropout = c.tune == "dora", c.drop
		if _, err := adapter.Attach(d, a, 1); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// shortRows are rows of documents around the number of tokens below which
// products of few rows begin.
func shortRows() (rows []model.Batch) {
	rng := model.NewStream(1, "tokens")
	for i, lengths := range [][]int{{3, 17, 40, 9}, {2, 15, 16, 33, 5}, {12}} {
		var row model.Batch
		for j, n := range lengths {
			ids := make([]int32, n)
			for k := range ids {
				ids[k] = int32(rng.At(uint64(1000*i+100*j+k)) % 300)
			}
			row.Add(model.Continuation{Context: ids[:1], Target: ids[1:]})
		}
		rows = append(rows, row)
	}
	return rows
}

// tenSteps trains on shortRows.
func tenSteps(t *testing.T, d *model.Decoder) *train.Result {
	t.Helper()
	o := train.NewOptions()
	o.MaxSteps, o.LR, o.BatchSize, o.GradAccum = 10, 0.003, 2, 1
	r, err := train.Run(context.Background(), d, &train.Likelihood{Model: d, Rows: shortRows()}, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestPrecisionThreads: whatever the precision, the trained parameters have the same
// bytes for any number of threads, and other bytes than in another precision.
func TestPrecisionThreads(t *testing.T) {
	for _, c := range preciseCases {
		seen := map[string]tensor.DType{}
		for _, precision := range []tensor.DType{tensor.F32, tensor.BF16, tensor.FP8} {
			if precision == tensor.FP8 && !c.eight() {
				continue
			}
			var first []byte
			for _, n := range []int{1, 2, 7} {
				if precision == tensor.F32 && n > 1 {
					continue
				}
				b := cpu.New(n)
				t.Cleanup(func() { b.Close() })
				d := c.open(t, b, precision)
				tenSteps(t, d)
				got := bits(d)
				if first == nil {
					first = got
				}
				if !bytes.Equal(got, first) {
					t.Errorf("%s in %s: %d threads differ from one", c, precision, n)
				}
			}
			if other, ok := seen[string(first)]; ok {
				t.Errorf("%s: the bytes in %s are those in %s; the test shows nothing", c, precision, other)
			}
			seen[string(first)] = precision
		}
	}
}

// TestPrecisionPacking: a document has the same loss and gradients alone and
// packed, as near as in float32, however few tokens it has.
func TestPrecisionPacking(t *testing.T) {
	for _, c := range preciseCases {
		for _, precision := range []tensor.DType{tensor.BF16, tensor.FP8} {
			if precision == tensor.FP8 && !c.eight() {
				continue
			}
			d := c.open(t, backend(t), precision)
			tenSteps(t, d) // no factor is zero
			d.Params(func(_ string, x *model.Param) {
				if x.Grad != nil {
					d.Backend().Zero(x.Grad)
				}
			})
			for i, row := range shortRows() {
				if err := train.CheckPacking(model.NewPass(d.Backend()), d, row); err != nil {
					t.Errorf("%s in %s: row %d: %v", c, precision, i, err)
				}
			}
		}
	}
}

// TestPrecisionFollows: the loss of each of ten steps is near that of float32.
func TestPrecisionFollows(t *testing.T) {
	near := map[tensor.DType]float64{tensor.BF16: 0.005, tensor.FP8: 0.01} // of the loss
	for _, c := range preciseCases {
		exact := series(tenSteps(t, c.open(t, backend(t), tensor.F32)), "loss")
		for _, precision := range []tensor.DType{tensor.BF16, tensor.FP8} {
			if precision == tensor.FP8 && !c.eight() {
				continue
			}
			rounded := series(tenSteps(t, c.open(t, backend(t), precision)), "loss")
			most := 0.0
			for i, want := range exact {
				most = max(most, math.Abs(float64(rounded[i]-want))/float64(want))
			}
			t.Logf("%s in %s: loss %.3f to %.3f, at most %.2g apart", c, precision, exact[0], exact[9], most)
			if !(most <= near[precision]) || len(rounded) != 10 || !(exact[9] < exact[0]) {
				t.Errorf("%s: losses %v; in f32 %v", c, rounded, exact)
			}
		}
	}
}

// TestPrecisionResume kills runs in bfloat16: what goes on ends with the bytes
// and the series of one that was never killed.
func TestPrecisionResume(t *testing.T) {
	for _, c := range preciseCases[1:4] {
		run := func(dir string, kill int) (*train.Result, []byte, error) {
			d := c.open(t, backend(t), tensor.BF16)
			var task train.Task = &train.Likelihood{Model: d, Rows: shortRows()}
			if kill >= 0 {
				task = &dying{task, kill}
			}
			r, err := train.Run(context.Background(), d, task, options(dir))
			return r, bits(d), err
		}
		want, wantBits, err := run("", -1)
		if err != nil {
			t.Fatal(err)
		}
		for _, kill := range []int{2, 5, 11} {
			dir := t.TempDir()
			if _, _, err := run(dir, kill); !errors.Is(err, errKilled) {
				t.Fatalf("%s, killed at %d: %v", c, kill, err)
			}
			got, gotBits, err := run(dir, -1)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(gotBits, wantBits) || !slices.Equal(got.Series, want.Series) {
				t.Errorf("%s: killed at micro-batch %d, gone on from step %d: the result differs", c, kill, got.Resumed)
			}
		}
	}
}
