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
// has a prompt of its own.
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
	if _, err := g.once(d, 1, 2); err != nil { // loads the kernels
		return err
	}
	for _, batch := range g.batches {
		l, err := g.once(d, batch, g.fresh)
		if err != nil {
			return err
		}
		made := float64(batch * (g.fresh - 1))
		report(record{
			Side: "pipe", Name: fmt.Sprintf("decode %s %s batch %d", g.model, g.base, batch), Value: made / l.decode.Seconds(), Unit: "tokens/s",
			MS:   1000 * l.decode.Seconds() / float64(g.fresh-1),
			Note: fmt.Sprintf("prompt of %d at %.0f tokens/s, peak %.1f GiB", g.prompt, float64(batch*g.prompt)/l.prefill.Seconds(), gib(peak.most.Load())),
			More: map[string]any{"prefill_s": l.prefill.Seconds(), "decode_s": l.decode.Seconds(), "precision": g.precision},
		})
	}
	return nil
}

// A lap is how long the prompts took, up to the first token of each, and the
// tokens after them.
type lap struct{ prefill, decode time.Duration }

func (g decoding) once(d *model.Decoder, batch, fresh int) (l lap, err error) {
	reqs, begun := make([]model.Request, batch), 0
	start := time.Now()
	for i := range reqs {
		reqs[i] = model.Request{Prompt: tokens(d.Config, g.prompt, uint64(i)), MaxTokens: fresh, Stop: func(ids []int32) bool {
			if len(ids) == 1 {
				if begun++; begun == batch {
					l.prefill = time.Since(start)
				}
			}
			return false
		}}
	}
	err = d.Generate(context.Background(), reqs, model.GenerateOptions{Batch: batch}, func(int, model.Result) error { return nil })
	l.decode = time.Since(start) - l.prefill
	return l, err
}
