package embed

import (
	"context"
	"errors"
	"fmt"

	"pipe/model"
	"pipe/model/adapter"
	"pipe/model/pretrained"
	"pipe/stages/dedup/index"
	"pipe/tensor"
)

// Decoder embeds a text as the mean of the final hidden states of a language
// model over its tokens. A text longer than the model's context is read in
// pieces of nearly one length that each fit, so that all of it counts.
type Decoder struct {
	model   *pretrained.Model
	decoder *model.Decoder
}

// OpenDecoder loads the model at base, with the PEFT adapter in the directory
// peft and quantised as in a model block, unless these are "".
func OpenDecoder(b tensor.Backend, base, peft, quantize string) (*Decoder, error) {
	m, err := pretrained.Open(base, pretrained.WithQuantization(quantize))
	if err != nil {
		return nil, err
	}
	d := &Decoder{model: m}
	if d.decoder, err = model.Load(b, m.Config, m.Weights, false); err != nil {
		return nil, errors.Join(fmt.Errorf("load %s: %w", base, err), m.Close())
	}
	if peft != "" {
		if _, err := adapter.Load(d.decoder, peft); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	return d, nil
}

// Embed implements Embedder. Text that looks like a control token is text.
func (d *Decoder) Embed(ctx context.Context, texts []string, progress func(done int)) (index.Vectors, error) {
	v := index.Vectors{Data: make([]float32, len(texts)*d.model.Config.Hidden), Width: d.model.Config.Hidden}
	var docs [][]int32
	var rows []int
	for i, t := range texts {
		for _, piece := range windows(d.model.Tokenizer.EncodePlain(t), d.model.Config.MaxPositions) {
			docs, rows = append(docs, piece), append(rows, i)
		}
	}
	means, err := d.decoder.Embed(ctx, docs, model.ScoreOptions{Progress: func(done int) {
		if done == len(docs) {
			progress(len(texts))
		} else {
			progress(rows[done])
		}
	}})
	if err != nil {
		return v, err
	}
	for i, m := range means {
		row := v.Row(rows[i])
		for k, x := range m {
			row[k] += float32(len(docs[i])) * x
		}
	}
	v.Normalize()
	return v, nil
}

// windows cuts ids into the fewest pieces of at most that many; their lengths
// differ by at most one.
func windows(ids []int32, most int) [][]int32 {
	n := (len(ids) + most - 1) / most
	out := make([][]int32, n)
	for i := range n {
		out[i] = ids[i*len(ids)/n : (i+1)*len(ids)/n]
	}
	return out
}

// Close implements Embedder.
func (d *Decoder) Close() error {
	d.decoder.Close()
	return d.model.Close()
}
