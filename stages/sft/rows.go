package sft

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"

	"pipe/model"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/train"
)

// rows reads the packed rows to learn from and those held out. It refuses rows
// that were packed for another model.
func (s *spec) rows(env *stage.Env, student *train.Student, paths stage.ModelPath) (learn, held []model.Batch, err error) {
	c := student.Config
	if learn, err = read(env, s.Data, "data", c); err != nil {
		return nil, nil, err
	}
	if err := s.packedFor(env, student, paths, s.Data, "data", learn); err != nil {
		return nil, nil, err
	}
	switch {
	case s.EvalData != nil:
		if held, err = read(env, *s.EvalData, "eval_data", c); err != nil {
			return nil, nil, err
		}
		if err := s.packedFor(env, student, paths, *s.EvalData, "eval_data", held); err != nil {
			return nil, nil, err
		}
		if n := len(shared(learn, held)); n > 0 {
			env.Note("eval_data shares %s with data: eval.loss is lower for it", stage.Count(n, "document"))
		}
	case s.EvalSplit > 0:
		of, err := conversations(env, s.Data)
		if err != nil {
			return nil, nil, err
		}
		if learn, held = split(learn, of, s.EvalSplit, env.Seed); len(held) == 0 {
			env.Note("data has no two rows of different documents: nothing is held out, so there is no eval.loss")
		}
	}
	return learn, held, nil
}

// split holds out a share of the rows, at least one, chosen by the seed. A
// document of a row held out is not learned from any other row, and neither is another
// turn of its conversation, where of tells of these: what is left of
// such rows is context. When nothing would be left to learn, nothing is held out.
func split(rows []model.Batch, of [][]string, share float64, seed uint64) (learn, held []model.Batch) {
	sizes := make([]int, len(rows))
	for i := range sizes {
		sizes[i] = 1
	}
	out := train.HoldOut(sizes, share, model.NewStream(seed, "held-out rows"))
	gone := map[digest]bool{} // names of documents held out
	for i, r := range rows {
		if !out[i] {
			continue
		}
		held = append(held, r)
		for _, n := range slices.Concat(names(r, of, i)...) {
			gone[n] = true
		}
	}
	for i, r := range rows {
		if out[i] {
			continue
		}
		drop := make([]bool, len(r.Starts))
		for k, ns := range names(r, of, i) {
			drop[k] = slices.ContainsFunc(ns, func(n digest) bool { return gone[n] })
		}
		if !slices.Contains(drop, true) {
			learn = append(learn, r)
		} else if left := without(r, drop); len(left.Rows) > 0 {
			learn = append(learn, left)
		}
	}
	if len(learn) == 0 {
		return rows, nil
	}
	return learn, held
}

// names returns what each document of row i is known by: its tokens, and its conversation.
func names(r model.Batch, of [][]string, i int) (all [][]digest) {
	for _, ids := range documents(r) {
		n := []digest{sum(ids)}
		if k := len(all); i < len(of) && k < len(of[i]) {
			n = append(n, sha256.Sum256([]byte(of[i][k])))
		}
		all = append(all, n)
	}
	return all
}

// documents yields the tokens of each document of b and where they begin.
func documents(b model.Batch) iter.Seq2[int32, []int32] {
	return func(yield func(int32, []int32) bool) {
		for i, from := range b.Starts {
			to := int32(len(b.IDs))
			if i+1 < len(b.Starts) {
				to = b.Starts[i+1]
			}
			if !yield(from, b.IDs[from:to]) {
				return
			}
		}
	}
}

// A digest names a document by its tokens.
type digest [sha256.Size]byte

func sum(ids []int32) digest {
	data := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		data = binary.LittleEndian.AppendUint32(data, uint32(id))
	}
	return sha256.Sum256(data)
}

// scored names the documents of rows in which something is scored, by their
// tokens: the items of eval.loss, in their order.
func scored(rows []model.Batch) (names []string) {
	for _, b := range rows {
		at := 0
		for from, ids := range documents(b) {
			first := at
			for at < len(b.Rows) && b.Rows[at] < from+int32(len(ids)) {
				at++
			}
			if at > first {
				d := sum(ids)
				names = append(names, hex.EncodeToString(d[:16]))
			}
		}
	}
	return names
}

// shared returns the documents that both a and b have.
func shared(a, b []model.Batch) map[digest]bool {
	in := map[digest]bool{}
	for _, r := range b {
		for _, ids := range documents(r) {
			in[sum(ids)] = true
		}
	}
	both := map[digest]bool{}
	for _, r := range a {
		for _, ids := range documents(r) {
			if d := sum(ids); in[d] {
				both[d] = true
			}
		}
	}
	return both
}

// without returns a row in which nothing of the documents to drop is scored.
func without(r model.Batch, drop []bool) model.Batch {
	kept, doc := model.Batch{IDs: r.IDs, Starts: r.Starts}, 0
	for i, t := range r.Rows {
		for doc+1 < len(r.Starts) && r.Starts[doc+1] <= t {
			doc++
		}
		if !drop[doc] {
			kept.Rows, kept.Targets = append(kept.Rows, t), append(kept.Targets, r.Targets[i])
		}
	}
	return kept
}

func read(env *stage.Env, d stage.PackedDataset, field string, c model.Config) ([]model.Batch, error) {
	a, err := env.Store.Open(d.Ref)
	if err != nil {
		return nil, err
	}
	var rows []model.Batch
	for r, err := range artifact.Rows[artifact.Packed](a) {
		if wrong := (*artifact.WrongRows)(nil); errors.As(err, &wrong) {
			return nil, stage.Fieldf(field, "%s is a dataset of %s, and packed ones are trained on: write pack \"NAME\" { input = %s ... }, and here pack.NAME.dataset", d, artifact.RowWords(wrong.Have), d)
		}
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
// not change losses and gradients.
func checkPacking(p *model.Pass, d *model.Decoder, rows []model.Batch) error {
	left := checked
	for i, r := range rows {
		if len(r.Starts) < 2 {
			continue
		}
		if err := train.CheckPacking(p, d, r); err != nil {
			return fmt.Errorf("packed row %d: %w", i, err)
		}
		if left--; left == 0 {
			break
		}
	}
	return nil
}
