package pack

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sort"

	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/runtime/stage"
)

// Lineage implements stage.Tracer: a packed row has one parent a document.
func (s *spec) Lineage(env *stage.Env, made stage.Outputs, output string) iter.Seq2[stage.Descent, error] {
	return func(yield func(stage.Descent, error) bool) {
		a, err := made(output)
		if err != nil {
			yield(stage.Descent{}, err)
			return
		}
		for r, err := range artifact.Rows[artifact.Packed](a) {
			var d stage.Descent
			for i, id := range r.Rows {
				from, to := span(&r, i)
				d.Parents = append(d.Parents, stage.Parent{Input: "input", ID: id, Part: fmt.Sprintf("tokens %d to %d", from, to-1)})
			}
			if !yield(d, err) {
				return
			}
		}
	}
}

// span returns the tokens of document i of a packed row.
func span(r *artifact.Packed, i int) (from, to int) {
	if from, to = len(r.IDs), len(r.IDs); i < len(r.Starts) {
		from = int(r.Starts[i])
	}
	if i+1 < len(r.Starts) {
		to = int(r.Starts[i+1])
	}
	to = min(max(to, 0), len(r.IDs))
	return min(max(from, 0), to), to
}

// around is how many tokens before and after one are shown with it.
const around = 12

// Tell implements stage.Teller: it says what a token is, which document it
// belongs to, and where it stands in that.
func (s *spec) Tell(ctx context.Context, env *stage.Env, made stage.Outputs, p stage.Place) (*stage.Told, error) {
	row, err := packedRow(made, p.Row)
	if err != nil {
		return nil, err
	}
	told := &stage.Told{Parent: -1}
	if p.At < 0 {
		told.Facts = []stage.Fact{{What: "packed", Text: fmt.Sprintf("%s in %s, of which %d are learned", stage.Count(len(row.Rows), "document"), stage.Count(len(row.IDs), "token"), learnedTokens(row))}}
		return told, nil
	}
	if p.At >= len(row.IDs) {
		return nil, fmt.Errorf("the packed row has %s, the first being 0; there is no token %d", stage.Count(len(row.IDs), "token"), p.At)
	}
	m, err := s.open(env)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	doc := sort.Search(len(row.Starts), func(i int) bool { return int(row.Starts[i]) > p.At }) - 1
	if doc < 0 || doc >= len(row.Rows) {
		return nil, errors.New("the packed row does not say which document the token belongs to")
	}
	cut, err := s.cut(ctx, env, m, row, p.Row, doc)
	if err != nil {
		return nil, err
	}
	from, to := span(row, doc)
	id := row.IDs[p.At]
	text := func(a, b int) string { return m.Tokenizer.Decode(row.IDs[max(from, a):min(to, b)]) }
	told.Facts = []stage.Fact{
		{What: fmt.Sprintf("token %d", p.At), Text: fmt.Sprintf("%q (id %d), %s", m.Tokenizer.Decode([]int32{id}), id, learnedWord(row, p.At, from))},
		{What: "around it", Text: text(p.At-around, p.At) + "⟦" + text(p.At, p.At+1) + "⟧" + text(p.At+1, p.At+1+around)},
		{What: "document", Text: fmt.Sprintf("%s: number %d of %d in the packed row, its token %d%s", row.Rows[doc], doc+1, len(row.Rows), cut+p.At-from, partWord(cut))},
	}
	told.Parent = doc
	told.At, err = s.place(env, m, row.Rows[doc], cut+p.At-from)
	return told, err
}

func learnedWord(row *artifact.Packed, at, from int) string {
	for i := 0; i+1 < len(row.Loss); i += 2 {
		if int(row.Loss[i]) <= at && at < int(row.Loss[i+1]) && at > from {
			return "learned"
		}
	}
	return "context only"
}

func partWord(cut int) string {
	if cut == 0 {
		return ""
	}
	return fmt.Sprintf(" (the document was cut: this part begins with its token %d)", cut)
}

func packedRow(made stage.Outputs, n int) (*artifact.Packed, error) {
	a, err := made("dataset")
	if err != nil {
		return nil, err
	}
	i := 0
	for r, err := range artifact.Rows[artifact.Packed](a) {
		if err != nil {
			return nil, err
		}
		if i++; i > n {
			return &r, nil
		}
	}
	return nil, fmt.Errorf("the dataset has %s, the first being 0; there is no row %d", stage.Count(i, "row"), n)
}

// cut returns where in its own tokens a document of packed row n begins. Only
// where documents are cut into parts all rows must be packed again to know.
func (s *spec) cut(ctx context.Context, env *stage.Env, m *pretrained.Model, row *artifact.Packed, n, doc int) (int, error) {
	if s.Strategy == "bfd" && s.Overflow != "split" {
		return 0, nil
	}
	a, err := env.Store.Open(s.Input.Ref)
	if err != nil {
		return 0, err
	}
	rows, err := artifact.All[artifact.Row](a)
	if err != nil {
		return 0, err
	}
	sequences, err := newEncoder(m, s).all(ctx, rows, func(int) {})
	if err != nil {
		return 0, err
	}
	p, err := s.pack(sequences)
	if err != nil {
		return 0, err
	}
	if n >= len(p.rows) || !slices.Equal(p.rows[n].IDs, row.IDs) || doc >= len(p.cuts[n]) {
		return 0, errors.New("packing the same rows again makes other rows: where the document was cut is not known")
	}
	return p.cuts[n][doc], nil
}

// place returns the byte of a document's text that its token n begins at, -1
// when the row is no document or the tokenizer does not tell.
func (s *spec) place(env *stage.Env, m *pretrained.Model, id string, n int) (int, error) {
	a, err := env.Store.Open(s.Input.Ref)
	if err != nil {
		return -1, err
	}
	for r, err := range artifact.Rows[artifact.Row](a) {
		if err != nil {
			return -1, err
		}
		if r.ID != id {
			continue
		}
		if conversation(&r) != nil || r.Text == "" {
			return -1, nil
		}
		ids, spans := m.Tokenizer.EncodeSpans(r.Text)
		wrapped := m.Tokenizer.Wrap(ids)
		before := 0 // control tokens in front
		for before < len(wrapped) && !slices.Equal(wrapped[before:min(len(wrapped), before+len(ids))], ids) {
			before++
		}
		switch at := n - before; {
		case !slices.Equal(ids, m.Tokenizer.EncodePlain(r.Text)):
			return -1, nil // the text holds what reads as a control token
		case at < 0:
			return 0, nil
		case at >= len(spans):
			return len(r.Text), nil
		default:
			return spans[at][0], nil
		}
	}
	return -1, fmt.Errorf("the input has no row %q", id)
}
