package pack

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"pipe/model/pretrained"
	"pipe/runtime/artifact"
	"pipe/text/chat"
)

// A sequence is a row as tokens, or a part of one.
type sequence struct {
	row   string     // its id
	ids   []int32    //
	learn [][2]int32 // spans of tokens that are learned, ascending
	talk  bool       // a conversation
	whose marked     // of a conversation: whose words are learned
	ends  bool       // of a conversation: a token that ends a text is learned
	empty int        // of a conversation: the assistant's turns that say nothing and are learned
	dumb  int        // of a conversation: the assistant's turns that are learned without their thought
	from  int        // of a part: where it begins in the row's tokens
}

// learned returns the number of tokens that are learned. Nothing predicts the
// first token, so it never counts.
func (s *sequence) learned() (n int) {
	for _, l := range s.learn {
		n += int(l[1] - max(1, l[0]))
	}
	return n
}

// part returns the tokens from..to as a sequence of its own.
func (s *sequence) part(from, to int) sequence {
	p := sequence{row: s.row, ids: s.ids[from:to], talk: s.talk, from: s.from + from}
	for _, l := range s.learn {
		a, b := max(int(l[0]), from), min(int(l[1]), to)
		if a < b {
			p.learn = append(p.learn, [2]int32{int32(a - from), int32(b - from)})
		}
	}
	return p
}

// An encoder turns rows into sequences.
type encoder struct {
	model   *pretrained.Model
	loss    string
	each    bool     // a turn of the assistant is a sequence, with what precedes it
	eos     int32    // appended to documents; -1: none
	special []string // texts that the tokenizer would take for control tokens
	spoken  atomic.Int64
}

func newEncoder(m *pretrained.Model, s *spec) *encoder {
	e := &encoder{model: m, loss: s.Loss, each: s.Turns == eachTurn, eos: -1}
	if id, ok := m.Tokenizer.TokenID(m.Special["eos_token"]); ok {
		e.eos = id
	} else if len(m.Config.EOS) > 0 {
		e.eos = m.Config.EOS[0]
	}
	for _, a := range m.Tokenizer.Added() {
		if a.Special {
			e.special = append(e.special, a.Content)
		}
	}
	return e
}

// all encodes rows in parallel. The error is that of the first bad row.
func (e *encoder) all(ctx context.Context, rows []artifact.Row, progress func(done int)) ([]sequence, error) {
	out, errs := make([][]sequence, len(rows)), make([]error, len(rows))
	var next, done atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(rows)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(rows) {
					return
				}
				out[i], errs[i] = e.row(&rows[i])
				progress(int(done.Add(1)))
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return slices.Concat(out...), refusals(errs)
}

// refusals joins what is wrong with rows into one message.
func refusals(errs []error) error {
	const shown = 5
	var found []string
	for _, err := range errs {
		if err != nil {
			found = append(found, err.Error())
		}
	}
	switch n := len(found); {
	case n == 0:
		return nil
	case n == 1:
		return errors.New(found[0])
	case n > shown:
		return fmt.Errorf("%d rows are refused: %s; and %d more", n, strings.Join(found[:shown], "; "), n-shown)
	default:
		return fmt.Errorf("%d rows are refused: %s", n, strings.Join(found, "; "))
	}
}

// row encodes one row.
func (e *encoder) row(r *artifact.Row) (all []sequence, err error) {
	switch turns := conversation(r); {
	case len(r.Chosen) > 0 || len(r.Rejected) > 0:
		err = errors.New("is a preference: give it to dpo, which reads preferences as they are")
	case len(r.Choices) > 0:
		err = errors.New("is a multiple-choice item, which eval asks and nothing learns")
	case turns != nil:
		all, err = e.conversation(turns)
	case r.Text != "":
		all, err = e.document(r.Text)
	default:
		err = errors.New("has neither text nor messages")
	}
	if err != nil {
		return nil, fmt.Errorf("row %q %w", r.ID, err)
	}
	for i := range all {
		all[i].row = r.ID
	}
	return all, nil
}

// conversation returns the turns of a row; nil for a document. A question with
// a reference answer is a conversation that the answer ends.
func conversation(r *artifact.Row) []artifact.Message {
	turns := r.Messages
	if r.Answer == "" {
		return turns
	}
	if turns == nil {
		turns = []artifact.Message{{Role: "user", Content: r.Text}}
	}
	if turns[len(turns)-1].Role == "assistant" {
		return turns
	}
	return append(turns[:len(turns):len(turns)], artifact.Message{Role: "assistant", Content: r.Answer})
}

// conversation encodes a conversation: as one sequence, or as one for each turn of the
// assistant.
func (e *encoder) conversation(turns []artifact.Message) ([]sequence, error) {
	if e.model.Template == nil {
		return nil, errors.New("is a conversation, and the model has no chat template: set chat_template in its model block")
	}
	in := chat.Input{Special: e.model.Special}
	var ends []int // turns of the assistant
	for i, m := range turns {
		in.Messages = append(in.Messages, chat.Message{Role: m.Role, Content: m.Content})
		e.listen(m.Content)
		if m.Role == "assistant" {
			ends = append(ends, i+1)
		}
	}
	tokenize := e.model.Template.TokenizeLast
	if !e.each || len(ends) == 0 {
		ends, tokenize = []int{len(turns)}, e.model.Template.Tokenize
	}
	var all []sequence
	for _, end := range ends {
		part := in
		part.Messages = in.Messages[:end]
		ids, mask, err := tokenize(e.model.Tokenizer, part)
		if errors.Is(err, chat.ErrHistory) {
			return nil, fmt.Errorf("cannot be rendered: %w, or set turns = %q, with which each turn of the assistant is learned after what preceded it", err, eachTurn)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot be rendered: %w", err)
		}
		s, err := e.learning(part, ids, mask)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	if last := &all[len(all)-1]; e.loss != "all" {
		last.whose, last.dumb = whose(e.model.Template, in), forgotten(e.model.Template, in, e.each)
		for _, m := range turns {
			if m.Role == "assistant" && strings.TrimSpace(m.Content) == "" {
				last.empty++
			}
		}
	}
	return all, nil
}

// learning makes a sequence of a conversation whose tokens are ids, of which the
// assistant says those of mask.
func (e *encoder) learning(in chat.Input, ids []int32, mask []bool) (sequence, error) {
	s := sequence{ids: ids, talk: true}
	if e.loss == "all" {
		s.learn, s.ends = whole(len(ids)), e.ends(ids)
		return s, nil
	}
	for i := 0; i < len(mask); i++ {
		if mask[i] {
			from := i
			for i < len(mask) && mask[i] {
				i++
			}
			s.learn = append(s.learn, [2]int32{int32(from), int32(i)})
		}
	}
	switch n := s.learned(); {
	case n == 0:
		return s, fmt.Errorf("has no token to learn: %s", e.mute(in, len(s.learn) > 0))
	case len(s.learn) == 1 && s.learn[0] == [2]int32{0, int32(len(ids))}:
		return s, errors.New("has only tokens to learn: nothing in it is asked, or the chat template's marks are wrong; set loss = \"all\" if that is meant")
	}
	s.ends = slices.ContainsFunc(s.learn, func(l [2]int32) bool { return e.ends(ids[l[0]:l[1]]) })
	return s, nil
}

// ends reports whether one of the tokens ends a text.
func (e *encoder) ends(ids []int32) bool {
	return slices.ContainsFunc(ids, func(id int32) bool { return slices.Contains(e.model.EOS, id) })
}

// mute says why a conversation has no token to learn; first is whether its first
// token would be one.
func (e *encoder) mute(in chat.Input, first bool) string {
	said := slices.IndexFunc(in.Messages, func(m chat.Message) bool { return m.Role == "assistant" && strings.TrimSpace(m.Content) != "" })
	switch {
	case said < 0:
		return "the assistant says nothing in it"
	case first:
		return "what the assistant says is its first token, which nothing predicts"
	}
	other := in
	other.Messages = slices.Clone(in.Messages)
	other.Messages[said].Content += " and more"
	was, err := e.model.Template.Text(in)
	is, err2 := e.model.Template.Text(other)
	if err == nil && err2 == nil && was != is {
		return "the chat template marks other parts than the assistant's turns with {% generation %}"
	}
	return "the chat template leaves out the assistant's turns; set another chat_template in the model block"
}

// listen counts turns whose text holds what the tokenizer reads as a control
// token.
func (e *encoder) listen(text string) {
	for _, s := range e.special {
		if strings.Contains(text, s) {
			e.spoken.Add(1)
			return
		}
	}
}

func (e *encoder) document(text string) ([]sequence, error) {
	if e.loss == "assistant" {
		return nil, errors.New("is a document, in which nobody is the assistant: leave loss out, or set it to \"all\"")
	}
	ids := e.model.Tokenizer.Wrap(e.model.Tokenizer.EncodePlain(text))
	if e.eos >= 0 && (len(ids) == 0 || ids[len(ids)-1] != e.eos) {
		ids = append(ids, e.eos)
	}
	if len(ids) < 2 {
		return nil, errors.New("has fewer than two tokens: there is nothing to predict")
	}
	return []sequence{{ids: ids, learn: whole(len(ids))}}, nil
}

func whole(n int) [][2]int32 { return [][2]int32{{0, int32(n)}} }
