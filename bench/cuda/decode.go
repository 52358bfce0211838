package main

import (
	"context"
	"fmt"
	"time"

	"pipe/model"
	"pipe/tensor"
)

// A decoding says what to generate.
type decoding struct {
	model, base, precision string
	batches                []int
	prompt, fresh          int // tokens of a prompt, and of a continuation
}

// run loads a model and generates with each number of sequences, of which each
// has a prompt of its own, without graphs first if the backend has them.
func (g decoding) run(open func() (device, error), report func(record)) error {
	c, err := configOf(g.model)
	if err != nil {
		return err
	}
	base, err := baseOf(g.base)
	if err != nil {
		return err
	}
	b, err := open()
	if err != nil {
		return err
	}
	defer b.Close()
	peak := watch(b)
	defer peak.stop()
	d, err := model.Load(b.Backend, c, newCheckpoint(c, base), false)
	if err != nil {
		return err
	}
	defer d.Close()
	d.SetPrecision(tensor.Precision(g.precision))
	if _, err := g.once(b, d, 1, 2); err != nil { // loads the kernels
		return err
	}
	for _, batch := range g.batches {
		name := fmt.Sprintf("decode %s %s batch %d", g.model, g.base, batch)
		if s, ok := b.Backend.(interface{ Graphs(on bool) }); ok {
			s.Graphs(false)
			if err := g.measure(b, d, peak, name+" without graphs", batch, report); err != nil {
				return err
			}
			s.Graphs(true)
		}
		if err := g.measure(b, d, peak, name, batch, report); err != nil {
			return err
		}
	}
	return nil
}

// measure generates with so many sequences and reports that under a name.
func (g decoding) measure(b device, d *model.Decoder, peak *watcher, name string, batch int, report func(record)) error {
	l, err := g.once(b, d, batch, g.fresh)
	if err != nil {
		return err
	}
	steps := float64(g.fresh - 1)
	report(record{
		Side: "pipe", Name: name, Value: float64(batch) * steps / l.decode.Seconds(), Unit: "tokens/s",
		MS: 1000 * l.decode.Seconds() / steps,
		Note: fmt.Sprintf("prompt of %d at %.0f tokens/s, peak %.1f GiB, %.0f calls a step", g.prompt, float64(batch*g.prompt)/l.prefill.Seconds(), gib(peak.most.Load()),
			float64(l.calls)/steps),
		More: map[string]any{"prefill_s": l.prefill.Seconds(), "decode_s": l.decode.Seconds(), "precision": g.precision, "peak_bytes": peak.most.Load()},
	})
	return nil
}

// A lap is how long the prompts took, up to the first token of each, and the
// tokens after them, and how many calls of the driver these took.
type lap struct {
	prefill, decode time.Duration
	calls           int
}

func (g decoding) once(b device, d *model.Decoder, batch, fresh int) (l lap, err error) {
	calls := func() int { return 0 }
	if b.calls != nil {
		calls = b.calls
	}
	reqs, begun := make([]model.Request, batch), 0
	start := time.Now()
	for i := range reqs {
		reqs[i] = model.Request{Prompt: tokens(d.Config, g.prompt, uint64(i)), MaxTokens: fresh, Stop: func(ids []int32) bool {
			if len(ids) == 1 {
				if begun++; begun == batch {
					l.prefill, l.calls = time.Since(start), calls()
				}
			}
			return false
		}}
	}
	err = d.Generate(context.Background(), reqs, model.GenerateOptions{Batch: batch}, func(int, model.Result) error { return nil })
	l.decode, l.calls = time.Since(start)-l.prefill, calls()-l.calls
	return l, err
}
