package model

import "fmt"

// A Batch is tokens of whole documents laid end to end, and which of them are
// scored.
type Batch struct {
	IDs    []int32
	Starts []int32 // first token of each document, ascending; Starts[0] == 0
	// Rows[i] is a token whose successor is scored as Targets[i], ascending.
	// The successor need not be in IDs.
	Rows, Targets []int32
}

// Reset empties b and keeps its memory.
func (b *Batch) Reset() {
	b.IDs, b.Starts, b.Rows, b.Targets = b.IDs[:0], b.Starts[:0], b.Rows[:0], b.Targets[:0]
}

// Add appends c as a document of its own, all of its target scored.
func (b *Batch) Add(c Continuation) {
	b.Starts = append(b.Starts, int32(len(b.IDs)))
	b.IDs = append(b.IDs, c.Context...)
	for _, id := range c.Target {
		b.Rows = append(b.Rows, int32(len(b.IDs)-1))
		b.Targets = append(b.Targets, id)
		b.IDs = append(b.IDs, id)
	}
}

// Join appends the documents of o.
func (b *Batch) Join(o Batch) {
	at := int32(len(b.IDs))
	b.IDs = append(b.IDs, o.IDs...)
	b.Targets = append(b.Targets, o.Targets...)
	for _, s := range o.Starts {
		b.Starts = append(b.Starts, at+s)
	}
	for _, r := range o.Rows {
		b.Rows = append(b.Rows, at+r)
	}
}

// Split returns each document as a batch of its own.
func (b Batch) Split() []Batch {
	var out []Batch
	r := 0
	for i, from := range b.Starts {
		to := int32(len(b.IDs))
		if i+1 < len(b.Starts) {
			to = b.Starts[i+1]
		}
		one := Batch{IDs: b.IDs[from:to], Starts: []int32{0}}
		for ; r < len(b.Rows) && b.Rows[r] < to; r++ {
			one.Rows = append(one.Rows, b.Rows[r]-from)
			one.Targets = append(one.Targets, b.Targets[r])
		}
		out = append(out, one)
	}
	return out
}

// Check reports what would make a pass over b read outside the model.
func (d *Decoder) Check(b Batch) error {
	if len(b.IDs) == 0 || len(b.Starts) == 0 || b.Starts[0] != 0 {
		return fmt.Errorf("batch of %d tokens and %d documents: must hold at least one document that starts at 0", len(b.IDs), len(b.Starts))
	}
	for i, s := range b.Starts {
		end := len(b.IDs)
		if i+1 < len(b.Starts) {
			end = int(b.Starts[i+1])
		}
		if end <= int(s) || end > len(b.IDs) {
			return fmt.Errorf("document %d starts at %d and ends at %d of %d tokens", i, s, end, len(b.IDs))
		}
	}
	if len(b.Rows) != len(b.Targets) {
		return fmt.Errorf("%d rows and %d targets", len(b.Rows), len(b.Targets))
	}
	for _, r := range b.Rows {
		if r < 0 || int(r) >= len(b.IDs) {
			return fmt.Errorf("row %d of %d tokens", r, len(b.IDs))
		}
	}
	return d.checkIDs(b.IDs, b.Targets)
}

// checkIDs reports a token that the model does not know.
func (d *Decoder) checkIDs(lists ...[]int32) error {
	for _, ids := range lists {
		for _, id := range ids {
			if id < 0 || int(id) >= d.Config.VocabSize {
				return fmt.Errorf("token id %d is outside the model's vocabulary of %d: tokenizer and model do not match", id, d.Config.VocabSize)
			}
		}
	}
	return nil
}
