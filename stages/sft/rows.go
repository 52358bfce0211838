package sft

import (
	"fmt"
	"math"

	"pipe/model"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/train"
)

// rows reads the packed rows to learn from and those held out.
func (s *spec) rows(env *stage.Env, c model.Config) (learn, held []model.Batch, err error) {
	if learn, err = read(env, s.Data, "data", c); err != nil {
		return nil, nil, err
	}
	switch {
	case s.EvalData != nil:
		held, err = read(env, *s.EvalData, "eval_data", c)
	case s.EvalSplit > 0 && len(learn) > 1:
		learn, held = split(learn, s.EvalSplit, env.Seed)
	case s.EvalSplit > 0:
		env.Note("data has a single row: nothing is held out, so there is no eval.loss")
	}
	return learn, held, err
}

// split holds out a share of the rows, at least one, chosen by the seed.
func split(rows []model.Batch, share float64, seed uint64) (learn, held []model.Batch) {
	n := min(max(1, int(math.Round(share*float64(len(rows))))), len(rows)-1)
	out := map[int]bool{}
	for _, i := range model.NewStream(seed, "held-out rows").Perm(len(rows))[:n] {
		out[i] = true
	}
	for i, r := range rows {
		if out[i] {
			held = append(held, r)
		} else {
			learn = append(learn, r)
		}
	}
	return learn, held
}

func read(env *stage.Env, d stage.Dataset, field string, c model.Config) ([]model.Batch, error) {
	a, err := env.Store.Open(d.Ref)
	if err != nil {
		return nil, err
	}
	var rows []model.Batch
	for r, err := range artifact.Rows[artifact.Packed](a) {
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", d, err)
		}
		b, err := batch(r, c)
		if err != nil {
			return nil, fmt.Errorf("%s row %d: %w", d, len(rows), err)
		}
		rows = append(rows, b)
	}
	if len(rows) == 0 {
		return nil, stage.Fieldf(field, "%s has no rows", d)
	}
	return rows, nil
}

// batch turns a packed row into what the model takes: the token before each
// learned token predicts it. The first token of a document has none before it
// and is never predicted.
func batch(r artifact.Packed, c model.Config) (model.Batch, error) {
	b := model.Batch{IDs: r.IDs, Starts: r.Starts}
	n := int32(len(r.IDs))
	if n == 0 || len(r.Starts) == 0 || r.Starts[0] != 0 || len(r.Loss)%2 != 0 {
		return b, fmt.Errorf("%d tokens, %d documents and %d ends of spans: not a packed row", n, len(r.Starts), len(r.Loss))
	}
	first := make(map[int32]bool, len(r.Starts))
	for i, s := range r.Starts {
		end := n
		if i+1 < len(r.Starts) {
			end = r.Starts[i+1]
		}
		if s >= end || end > n {
			return b, fmt.Errorf("document %d goes from token %d to %d of %d", i, s, end, n)
		}
		if int(end-s) > c.MaxPositions {
			return b, fmt.Errorf("document %d has %d tokens; the model's context is %d: lower seq_len of the pack stage", i, end-s, c.MaxPositions)
		}
		first[s] = true
	}
	at := int32(0)
	for i := 0; i < len(r.Loss); i += 2 {
		from, to := r.Loss[i], r.Loss[i+1]
		if from < at || to < from || to > n {
			return b, fmt.Errorf("learned span %d goes from token %d to %d of %d", i/2, from, to, n)
		}
		for t := from; t < to; t++ {
			if !first[t] {
				b.Rows, b.Targets = append(b.Rows, t-1), append(b.Targets, r.IDs[t])
			}
		}
		at = to
	}
	for _, id := range r.IDs {
		if id < 0 || int(id) >= c.VocabSize {
			return b, fmt.Errorf("token id %d is outside the model's vocabulary of %d: it was packed for another model", id, c.VocabSize)
		}
	}
	return b, nil
}

// checked rows with several documents are compared with their documents alone.
const checked = 2

// checkPacking proves on a few rows, before the first step, that packing does
// not change the loss of a document.
func checkPacking(d *model.Decoder, rows []model.Batch) error {
	left := checked
	for i, r := range rows {
		if len(r.Starts) < 2 {
			continue
		}
		if err := train.CheckPacking(d, r); err != nil {
			return fmt.Errorf("packed row %d: %w", i, err)
		}
		if left--; left == 0 {
			break
		}
	}
	return nil
}
