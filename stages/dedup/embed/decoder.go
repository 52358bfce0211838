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
// model over its tokens.
type Decoder struct {
	model   *pretrained.Model
	decoder *model.Decoder
}

// OpenDecoder loads the model at base, with the PEFT adapter in the directory
// peft unless that is "".
func OpenDecoder(b tensor.Backend, base, peft string) (*Decoder, error) {
	m, err := pretrained.Open(base)
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
		ids := d.model.Tokenizer.EncodePlain(t)
		if len(ids) == 0 {
			continue
		}
		docs, rows = append(docs, ids), append(rows, i)
	}
	means, err := d.decoder.Embed(ctx, docs, model.ScoreOptions{Progress: progress})
	if err != nil {
		return v, err
	}
	for i, m := range means {
		copy(v.Row(rows[i]), m)
	}
	v.Normalize()
	return v, nil
}

// Close implements Embedder.
func (d *Decoder) Close() error {
	d.decoder.Close()
	return d.model.Close()
}
