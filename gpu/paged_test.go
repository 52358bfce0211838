//go:build cuda

package gpu_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/memory"
	"pipe/model/modeltest"
	"pipe/tensor"
	"pipe/train"
)

// parameters are the bits of what is trained of d, by name.
func parameters(d *model.Decoder) map[string][]float32 {
	all := map[string][]float32{}
	d.Params(func(name string, p *model.Param) {
		if p.Grad != nil {
			all[name] = modeltest.Download(d.Backend(), p.Value)
		}
	})
	return all
}

// sameParameters reports where two models differ.
func sameParameters(t *testing.T, what string, got, want map[string][]float32) {
	t.Helper()
	if len(got) != len(want) || len(want) < 10 {
		t.Errorf("%s: %d parameters; want %d", what, len(got), len(want))
	}
	for name, w := range want {
		if !slices.EqualFunc(got[name], w, func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) {
			t.Errorf("%s: %s differs", what, name)
		}
	}
}

// TestModelPaged: wherever the moments lie, training gives the same bits, also when
// it goes on from a checkpoint that was written with them elsewhere.
func TestModelPaged(t *testing.T) {
	const steps, stop = 4, 2
	for _, eight := range []bool{false, true} {
		o := train.NewOptions()
		o.LR, o.MaxSteps, o.BatchSize, o.EightBit, o.WeightDecay, o.ID, o.Every = 0.01, steps, 2, eight, 0.1, "paged", 0
		// run trains up to a step, from the checkpoint in dir if there is one.
		run := func(paged, until int, dir string) map[string][]float32 {
			d := modeltest.Decoder(t, device(t), "plain", true)
			if eight { // tensors of the fixture have moments of 32 bits
				d, _ = packed(t, device(t), true, tensor.F32)
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			o := o
			o.Paged, o.Dir = paged, dir
			o.Report = func(done, _ int, _ []train.Point) {
				if done == until {
					cancel()
				}
			}
			r, err := train.Run(ctx, d, &train.Likelihood{Model: d, Rows: modeltest.Batch().Split()}, o)
			if until < steps {
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("interrupted: %v", err)
				}
				return nil
			}
			if err != nil {
				t.Fatal(err)
			}
			if dir != "" && r.Resumed != stop {
				t.Errorf("went on from step %d; want %d", r.Resumed, stop)
			}
			return parameters(d)
		}
		want := run(0, steps, "")
		sameParameters(t, fmt.Sprintf("8 bits %t, some moments", eight), run(4, steps, ""), want)
		for _, c := range [][2]int{{0, 4}, {math.MaxInt, 0}} {
			dir := t.TempDir()
			run(c[0], stop, dir)
			sameParameters(t, fmt.Sprintf("8 bits %t, moments of %d parameters, and after a checkpoint of %d", eight, c[0], c[1]), run(c[1], steps, dir), want)
		}
	}
}

// wide is a model whose moments take much more than a page of the device.
var wide = model.Config{VocabSize: 8000, Hidden: 128, Intermediate: 256, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 32,
	MaxPositions: 128, NormEps: 1e-5, InitRange: 0.1, Rope: model.Rope{Theta: 10000}}

// TestModelPagedPlan: where only the moments are too much for the device, those of
// the first parameters go to the machine's memory, and the run takes what is planned.
func TestModelPagedPlan(t *testing.T) {
	b := device(t)
	if !strings.Contains(b.Name(), "emulator") {
		t.Skip("the memory of a device is as it is")
	}
	row := model.Batch{}
	row.Add(model.Continuation{Context: []int32{1, 2, 3}, Target: []int32{4, 5, 4000}})
	step := func(b tensor.Backend, paged int, watch func()) (*model.Decoder, error) {
		src := model.Source(model.Random(wide, 1))
		if _, ok := b.(tensor.Plan); ok {
			src = model.Described(src)
		}
		d, err := model.Load(b, wide, src, true)
		if err != nil {
			return nil, err
		}
		o := train.NewOptions()
		o.MaxSteps, o.Paged, o.Report = 1, paged, func(int, int, []train.Point) { watch() }
		_, err = train.Run(context.Background(), d, &train.Likelihood{Model: d, Rows: []model.Batch{row}}, o)
		return d, err
	}
	plan := func() (train.Fit, error) {
		return train.NewOptions().PlanMemory(b, "", func(p tensor.Plan, paged int) (*train.Student, error) {
			d, err := step(p, paged, func() {})
			return &train.Student{Decoder: d}, err
		})
	}
	free := func() int64 {
		n, _, _ := b.(tensor.Limited).Limit()
		return n
	}
	all, err := plan()
	if err != nil || all.Paged != 0 || all.Need.Host != 0 {
		t.Fatalf("with enough memory: %+v, %v", all, err)
	}
	d, err := step(b, 0, func() {})
	if err != nil {
		t.Fatal(err)
	}
	want := parameters(d)
	d.Close()
	const kernels = 32 << 20 // planned, which the emulator does not take
	for _, less := range []int64{1 << 20, 10 << 20} {
		t.Setenv("PIPE_EMU_MEMORY", fmt.Sprint(int64(1.05*float64(all.Need.Bytes-less))))
		f, err := plan()
		if err != nil || f.Paged <= 0 || f.Need.Host < less/2 || f.Need.Bytes > all.Need.Bytes-less {
			t.Fatalf("%d bytes less: %+v, %v", less, f, err)
		}
		if less < 10<<20 {
			continue
		}
		before, least := free(), int64(math.MaxInt64)
		d, err := step(b, f.Paged, func() { least = min(least, free()) })
		if err != nil {
			t.Fatal(err)
		}
		sameParameters(t, "a step", parameters(d), want)
		d.Close()
		used := before - least
		t.Logf("%d parameters with %s in the machine's memory: %s used, %s planned", f.Paged, memory.Size(f.Need.Host), memory.Size(used), memory.Size(f.Need.Bytes))
		if used > f.Need.Bytes-kernels || used < (f.Need.Bytes-kernels)*3/4 {
			t.Errorf("a run took %d bytes; planned %d", used, f.Need.Bytes-kernels)
		}
	}
	t.Setenv("PIPE_EMU_MEMORY", "50000000")
	var large *memory.TooLarge
	if f, err := plan(); !errors.As(err, &large) || !strings.Contains(err.Error(), " of the machine's for the optimizer's state; the device has free ") {
		t.Errorf("50 MB: %+v, %v", f, err)
	}
	t.Setenv("PIPE_EMU_MEMORY", fmt.Sprint(int64(1.05*float64(all.Need.Bytes-10<<20))))
	t.Setenv("PIPE_EMU_FAIL", "cuMemHostAlloc:2")
	if _, err := step(b, math.MaxInt, func() {}); err == nil || !strings.HasPrefix(err.Error(), "allocate the optimizer's state: gpu: alloc f32 [8000 128] on the host: the machine gave no 3 MiB ") {
		t.Errorf("no memory of the machine: %v", err)
	}
}
