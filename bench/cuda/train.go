package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/tensor"
	"pipe/train"
)

// A device is a backend and how much memory it has.
type device struct {
	tensor.Backend
	memory func() (free, total int64, err error)
	full   error      // what the error of an allocation that finds no memory wraps
	calls  func() int // of the driver, so far; nil: it is not known
}

// peakFlops of an H100 SXM in bfloat16, dense, by its data sheet: what shares of
// the peak are of.
const peakFlops = 989.4e12

// A training says what to train.
type training struct {
	model, adapter, precision, base string
	recompute                       string // true, false or auto
	eight                           bool
	seq, documents, steps, warm     int
	paged                           int // see train.Options
}

// run trains and reports. Where memory does not suffice and recompute is auto,
// activations are recomputed.
func (t training) run(open func() (device, error)) (record, error) {
	switch t.recompute {
	case "true", "false":
		return t.once(open, t.recompute == "true")
	case "auto":
		var full error
		r, err := t.once(func() (device, error) {
			b, err := open()
			full = b.full
			return b, err
		}, false)
		if full == nil || !errors.Is(err, full) {
			return r, err
		}
		return t.once(open, true)
	}
	return record{}, fmt.Errorf("recompute %q: must be true, false or auto", t.recompute)
}

// once trains a new model on a row of the given length, all of whose positions
// are learned, by the trainer's own steps.
func (t training) once(open func() (device, error), recompute bool) (r record, err error) {
	c, err := configOf(t.model)
	if err != nil {
		return r, err
	}
	base, err := baseOf(t.base)
	if err != nil {
		return r, err
	}
	b, err := open()
	if err != nil {
		return r, err
	}
	defer b.Close()
	weights := newCheckpoint(c, base)
	peak := watch(b)
	defer peak.stop()
	start := time.Now()
	d, err := model.Load(b.Backend, c, weights, t.adapter == "none")
	if err != nil {
		return r, err
	}
	defer d.Close()
	load := time.Since(start).Seconds()
	if err := tensor.HasPrecision(b.Backend, tensor.Precision(t.precision)); err != nil {
		return r, err
	}
	d.SetPrecision(tensor.Precision(t.precision))
	switch t.adapter {
	case "lora", "dora":
		a := adapter.NewConfig()
		a.DoRA = t.adapter == "dora"
		if _, err := adapter.Attach(d, a, 1); err != nil {
			return r, err
		}
	case "none":
	default:
		return r, fmt.Errorf("adapter %q: must be lora, dora or none", t.adapter)
	}
	o := train.NewOptions()
	o.LR, o.Schedule, o.Warmup, o.WeightDecay = 1e-4, "constant", 0, 0
	o.MaxSteps, o.Every, o.Recompute, o.EightBit, o.Paged = t.steps+t.warm, 0, recompute, t.eight, t.paged
	var seconds, losses []float64
	o.Report = func(_, _ int, points []train.Point) {
		seconds = append(seconds, time.Since(start).Seconds())
		start = time.Now()
		for _, p := range points {
			if p.Series == "loss" {
				losses = append(losses, p.Value)
			}
		}
	}
	start = time.Now()
	if _, err := train.Run(context.Background(), d, &train.Likelihood{Model: d, Rows: []model.Batch{t.row(c)}}, o); err != nil {
		return r, err
	}
	step := median(seconds[t.warm:])
	n, attention, each := multiplied(c), t.attention(c), 4.0
	if t.adapter == "none" {
		each = 6 // the gradients of the weights as well
	}
	peaked := peak.stop()
	r = record{
		Side: "pipe", Name: t.name(),
		Value: float64(t.seq) / step, Unit: "tokens/s", MS: 1000 * step,
		Note: fmt.Sprintf("MFU %.3f (%.3f without attention), peak %.1f GiB, load %.1f s, recompute %t",
			float64(t.seq)*(each*n+attention)/step/peakFlops, float64(t.seq)*each*n/step/peakFlops, gib(peaked), load, recompute),
		More: map[string]any{
			"steps": t.steps, "fastest_ms": 1000 * slices.Min(seconds[t.warm:]), "first_ms": 1000 * seconds[0], "losses": losses,
			"peak_gib": gib(peaked), "load_s": load, "load_gb_s": float64(weights.bytes) / load / 1e9, "recompute": recompute,
			"weights_multiplied": n, "flops_of_token": 4*n + attention, "mfu": float64(t.seq) * (4*n + attention) / step / peakFlops,
			"mfu_without_attention": float64(t.seq) * 4 * n / step / peakFlops,
		},
	}
	return r, nil
}

// name says what is trained.
func (t training) name() string {
	s := fmt.Sprintf("train %s %s %s %s %dx%d", t.model, t.adapter, t.precision, t.base, t.documents, t.seq/max(t.documents, 1))
	if t.recompute == "true" {
		s += " recompute"
	}
	if t.eight {
		s += " 8bit"
	}
	if t.paged > 0 {
		s += " paged"
	}
	return s
}

// row is a row of documents of one length, with a target at each position.
func (t training) row(c model.Config) model.Batch {
	ids := tokens(c, t.seq+1, 1)
	b := model.Batch{IDs: ids[:t.seq]}
	for i := range t.documents {
		b.Starts = append(b.Starts, int32(i*t.seq/t.documents))
	}
	for i := range t.seq {
		b.Rows, b.Targets = append(b.Rows, int32(i)), append(b.Targets, ids[i+1])
	}
	return b
}

// attention is the operations of attention for a token: forward 2 products of a
// query with half of the keys, backward twice as many.
func (t training) attention(c model.Config) float64 {
	keys := float64(t.seq) / float64(t.documents) / 2
	return 3 * 2 * 2 * keys * float64(c.Heads*c.HeadDim*c.Layers)
}

func baseOf(name string) (tensor.DType, error) {
	for _, dt := range []tensor.DType{tensor.BF16, tensor.F16, tensor.NF4, tensor.Q8_0, tensor.Q4_0, tensor.Q4_K} {
		if dt.String() == name {
			return dt, nil
		}
	}
	return 0, fmt.Errorf("base %q: must be bf16, f16, nf4, q8_0, q4_0 or q4_k", name)
}

func gib(bytes int64) float64 { return float64(bytes) / (1 << 30) }

// A watcher notes the most memory in use.
type watcher struct {
	most   atomic.Int64
	done   chan struct{}
	closed bool
}

// watch looks at the memory of b now and then until stop.
func watch(b device) *watcher {
	w := &watcher{done: make(chan struct{})}
	if b.memory == nil {
		return w
	}
	look := func() {
		if free, total, err := b.memory(); err == nil {
			w.most.Store(max(w.most.Load(), total-free))
		}
	}
	look()
	go func() {
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-w.done:
				tick.Stop()
				return
			case <-tick.C:
				look()
			}
		}
	}()
	return w
}

// stop returns the most memory that was in use, in bytes.
func (w *watcher) stop() int64 {
	if !w.closed {
		close(w.done)
		w.closed = true
	}
	return w.most.Load()
}
