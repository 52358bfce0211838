// Package pack is the stage that turns documents and conversations into tokens
// and lays them end to end in rows of a fixed length, ready for training.
package pack

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"

	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

//go:embed README.md
var doc string

// Kind is the stage kind "pack".
var Kind = stage.Kind{
	Name: "pack", Doc: doc, Version: 4,
	Outputs: []stage.Output{
		{Name: "dataset", Type: artifact.Dataset, Rows: artifact.PackedRows, Doc: "Packed rows (artifact.Packed): tokens, document boundaries, learned spans"},
		{Name: "metrics", Type: artifact.Metrics, Doc: "Rows, tokens, density, and what was truncated or dropped"},
	},
	New: newStage,
}

// spec is the block.
type spec struct {
	Input    stage.Dataset `hcl:"input" doc:"Documents, conversations, and questions with an answer"`
	Model    stage.Model   `hcl:"model" doc:"The model that will be trained: its tokenizer and chat template are used"`
	SeqLen   int           `hcl:"seq_len" doc:"Tokens of a packed row, at most the model's context"`
	Strategy string        `hcl:"strategy,optional" doc:"bfd (best-fit decreasing, no document is cut) or wrapped (laid end to end and cut every seq_len)"`
	Overflow string        `hcl:"overflow,optional" doc:"What bfd does with rows longer than seq_len: truncate (the end is lost), drop, or split (documents only)"`
	Loss     string        `hcl:"loss,optional" doc:"assistant: learn what the assistant says, its end-of-turn token included; all: learn every token; by default assistant for conversations and all for documents"`
	Turns    string        `hcl:"turns,optional" json:",omitempty" doc:"together: a conversation is one document; each: one for each turn of the assistant, which is learned after what preceded it, for templates that write earlier turns in another way"`
}

// eachTurn is a value of Turns.
const eachTurn = "each"

func newStage() stage.Stage { return &spec{Strategy: "bfd", Overflow: "truncate"} }

// Check implements stage.Stage.
func (s *spec) Check() error {
	var errs []error
	bad := func(wrong bool, field, format string, args ...any) {
		if wrong {
			errs = append(errs, stage.Fieldf(field, format, args...))
		}
	}
	bad(s.SeqLen < 2 || s.SeqLen > 1<<24, "seq_len", "is %d; must be between 2 and 16777216, usually 512 to 4096", s.SeqLen)
	bad(s.Strategy != "bfd" && s.Strategy != "wrapped", "strategy", "is %q; must be \"bfd\" or \"wrapped\"", s.Strategy)
	bad(!slices.Contains([]string{"truncate", "drop", "split"}, s.Overflow), "overflow", "is %q; must be \"truncate\", \"drop\" or \"split\"", s.Overflow)
	bad(!slices.Contains([]string{"", "assistant", "all"}, s.Loss), "loss", "is %q; must be \"assistant\", \"all\" or left out", s.Loss)
	bad(!slices.Contains([]string{"", "together", eachTurn}, s.Turns), "turns", "is %q; must be \"together\", %q or left out", s.Turns, eachTurn)
	bad(s.Turns == eachTurn && s.Loss == "all", "turns", "= %q learns turns of the assistant, and loss = \"all\" everything; leave one of them out", eachTurn)
	return errors.Join(errs...)
}

// NeedsWeights implements stage.Weightless.
func (*spec) NeedsWeights(string) bool { return false }

// Run implements stage.Stage.
func (s *spec) Run(ctx context.Context, env *stage.Env) error {
	m, err := s.open(env)
	if err != nil {
		return err
	}
	defer m.Close()
	a, err := env.Store.Open(s.Input.Ref)
	if err != nil {
		return err
	}
	rows, err := artifact.All[artifact.Row](a)
	if err != nil {
		return fmt.Errorf("read %s: %w", s.Input, err)
	}
	if len(rows) == 0 {
		return stage.Fieldf("input", "%s has no rows", s.Input)
	}
	e := newEncoder(m, s)
	sequences, err := e.all(ctx, rows, func(done int) { env.Progress(int64(done), int64(len(rows)), "rows") })
	if err != nil {
		return err
	}
	p, err := s.pack(sequences)
	if err != nil {
		return err
	}
	p.spoken = int(e.spoken.Load())
	return s.write(env, p, m)
}

// open opens the model and checks that seq_len fits it.
func (s *spec) open(env *stage.Env) (*pretrained.Model, error) {
	paths, err := env.Store.Model(s.Model.Ref)
	if err != nil {
		return nil, err
	}
	m, err := pretrained.Open(paths.Base, pretrained.WithTemplate(paths.Template))
	if err != nil {
		return nil, err
	}
	if s.SeqLen > m.Config.MaxPositions {
		m.Close()
		return nil, stage.Fieldf("seq_len", "is %d; the context of %s is %d tokens", s.SeqLen, s.Model, m.Config.MaxPositions)
	}
	return m, nil
}

// packing is the result of a pack.
type packing struct {
	rows      []artifact.Packed
	cuts      [][]int // of each of rows: where in their own tokens its documents begin
	sequences int     // packed, parts of split ones counted each
	truncated int
	lost      int      // tokens that truncation cut off
	dropped   []string // ids of rows that were too long
	hollow    []string // ids of rows of which truncation left nothing to learn
	idle      int      // packed rows that held nothing to learn
	spoken    int
	talk      bool     // a conversation was rendered
	others    int      // conversations in which others than the assistant are learned as well
	silent    int      // conversations in which the assistant is not learned
	empty     int      // turns of the assistant that say nothing
	mum       []string // ids of the rows that have them
	dumb      int      // turns of the assistant that are learned without their thought
	ends      bool     // a conversation teaches a token that ends a text
}

// pack lays sequences into rows.
func (s *spec) pack(all []sequence) (*packing, error) {
	p := &packing{talk: slices.ContainsFunc(all, func(q sequence) bool { return q.talk })}
	for i := range all {
		p.ends = p.ends || all[i].ends
		switch all[i].whose {
		case others:
			p.others++
		case onlyOthers:
			p.silent++
		}
		p.dumb += all[i].dumb
		if all[i].empty > 0 {
			p.empty, p.mum = p.empty+all[i].empty, append(p.mum, all[i].row)
		}
	}
	if s.Strategy == "wrapped" {
		p.wrap(all, s.SeqLen)
	} else if err := s.fit(p, all); err != nil {
		return nil, err
	}
	if len(p.rows) == 0 {
		return nil, stage.Fieldf("seq_len", "is %d, and no row is left: %d are longer, and of %d truncation leaves nothing to learn", s.SeqLen, len(p.dropped), len(p.hollow))
	}
	return p, nil
}

// fit packs by best-fit decreasing.
func (s *spec) fit(p *packing, all []sequence) error {
	var parts []sequence
	for i := range all {
		q := &all[i]
		over := len(q.ids) - s.SeqLen
		switch {
		case over <= 0:
			parts = append(parts, *q)
		case s.Overflow == "drop":
			p.dropped = append(p.dropped, q.row)
		case s.Overflow == "split" && q.talk:
			return fmt.Errorf("row %q is a conversation of %d tokens, more than seq_len, and overflow = \"split\" cuts documents only; use \"truncate\" or \"drop\", or raise seq_len", q.row, len(q.ids))
		case s.Overflow == "split":
			for from := 0; from < len(q.ids); from += s.SeqLen {
				parts = append(parts, q.part(from, min(from+s.SeqLen, len(q.ids))))
			}
		default:
			part := q.part(0, s.SeqLen)
			if part.learned() == 0 {
				p.hollow = append(p.hollow, q.row)
				break
			}
			p.truncated++
			p.lost += over
			parts = append(parts, part)
		}
	}
	lengths := make([]int, len(parts))
	for i := range parts {
		lengths[i] = len(parts[i].ids)
	}
	p.sequences = len(parts)
	for _, bin := range bestFit(lengths, s.SeqLen) {
		var row artifact.Packed
		var cuts []int
		for _, i := range bin {
			appendSequence(&row, &parts[i])
			cuts = append(cuts, parts[i].from)
		}
		p.add(row, cuts)
	}
	return nil
}

// add keeps a packed row that holds something to learn.
func (p *packing) add(row artifact.Packed, cuts []int) {
	switch {
	case learnedTokens(&row) > 0:
		p.rows, p.cuts = append(p.rows, row), append(p.cuts, cuts)
	case len(row.IDs) > 0:
		p.idle++
	}
}

// wrap lays sequences end to end and cuts every size tokens. The parts of a
// sequence that is cut are documents of their own.
func (p *packing) wrap(all []sequence, size int) {
	var row artifact.Packed
	var cuts []int
	flush := func() {
		p.add(row, cuts)
		row, cuts = artifact.Packed{}, nil
	}
	for i := range all {
		q := &all[i]
		for from := 0; from < len(q.ids); {
			to := min(len(q.ids), from+size-len(row.IDs))
			part := q.part(from, to)
			appendSequence(&row, &part)
			cuts = append(cuts, part.from)
			p.sequences++
			if from = to; len(row.IDs) == size {
				flush()
			}
		}
	}
	flush()
}

// appendSequence adds a document to a packed row.
func appendSequence(row *artifact.Packed, q *sequence) {
	at := int32(len(row.IDs))
	row.IDs = append(row.IDs, q.ids...)
	row.Starts = append(row.Starts, at)
	row.Rows = append(row.Rows, q.row)
	for _, l := range q.learn {
		row.Loss = append(row.Loss, at+l[0], at+l[1])
	}
}
