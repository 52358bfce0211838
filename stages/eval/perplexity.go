package eval

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"pipe/model"
	"pipe/runtime/artifact"
	"pipe/text/answer"
	"pipe/text/chat"
	"pipe/train"
)

// A passage is a tokenised text with the tokens that are predicted.
type passage struct {
	ids   []int32
	spans [][2]int // tokens [start, end) that count
	bytes int      // of the text that they stand for
}

// perplexity measures how well texts are predicted: all of a document, the
// assistant's words of a conversation. Blind is the entropy of the tokens'
// own frequencies: the best that a model without context could do.
func perplexity(r *runner, u *suite, rows []artifact.Row) (*result, error) {
	var ps []passage
	var cs []model.Continuation
	var owner, asked []int // rows of passages, and of continuations
	nll, tokens, bytes := make([]float64, len(rows)), make([]float64, len(rows)), make([]float64, len(rows))
	for i, row := range rows {
		some, err := r.subject.passages(row)
		if err != nil {
			return nil, fmt.Errorf("row %s: %w", row.ID, err)
		}
		for _, p := range some {
			ps, owner = append(ps, p), append(owner, i)
			bytes[i] += float64(p.bytes)
			for _, s := range p.spans {
				tokens[i] += float64(s[1] - s[0])
				for _, c := range windows(p.ids, s[0], s[1], min(u.Window, r.subject.Config.MaxPositions-1)) {
					cs, asked = append(cs, c), append(asked, i)
				}
			}
		}
	}
	if r.blind {
		unigram(ps, owner, nll)
	} else {
		scores, err := r.score(cs)
		if err != nil {
			return nil, err
		}
		for k, s := range scores {
			nll[asked[k]] -= sumLogP(s)
		}
	}
	m, res := train.RatioOf(nll, tokens), &result{}
	res.put("nll", m, -1)
	res.put("perplexity", m.Exp(), -1)
	res.put("bits_per_byte", train.RatioOf(nll, bytes).Scale(1/math.Ln2), -1)
	for i, row := range rows {
		res.items = append(res.items, item(row, "", map[string]any{"nll": nll[i], "tokens": tokens[i], "bytes": bytes[i]}))
	}
	return res, nil
}

// passages tokenises a row. A document is predicted from its first token on,
// after the model's beginning-of-text token.
func (s *subject) passages(row artifact.Row) ([]passage, error) {
	if len(row.Messages) > 0 && s.Template != nil {
		return s.conversation(row.Messages)
	}
	text := row.Text
	if len(row.Messages) > 0 {
		text = plain(row.Messages)
	}
	p := passage{ids: append(slices.Clone(s.start()), s.Tokenizer.Encode(text)...), bytes: len(text)}
	if len(p.ids) < 2 {
		return nil, errNothing
	}
	p.spans = [][2]int{{1, len(p.ids)}}
	return []passage{p}, nil
}

var errNothing = errors.New("has nothing to predict: no text and no assistant turn")

// conversation tokenises a conversation, of which the assistant's words are predicted.
// Where the chat template renders earlier turns otherwise when more follows, each of the
// assistant's is a passage, after what preceded it, as pack's turns = "each" has it.
func (s *subject) conversation(ms []artifact.Message) ([]passage, error) {
	in, said := chat.Input{Special: s.Special}, 0
	for _, m := range ms {
		in.Messages = append(in.Messages, chat.Message{Role: m.Role, Content: m.Content})
		if m.Role == "assistant" {
			said += len(m.Content)
		}
	}
	ids, mask, err := s.Template.Tokenize(s.Tokenizer, in)
	ps := predicted(nil, ids, mask, said)
	if errors.Is(err, chat.ErrHistory) {
		ps, err = s.turns(in)
	}
	switch {
	case err != nil:
		return nil, err
	case len(ps) > 0:
		return ps, nil
	case said > 0:
		return nil, errors.New("has nothing to predict: the chat template leaves out what the assistant says, or does not mark it")
	}
	return nil, errNothing
}

// turns returns a passage for each turn of the assistant.
func (s *subject) turns(in chat.Input) (ps []passage, err error) {
	for i, m := range in.Messages {
		if m.Role != "assistant" {
			continue
		}
		part := in
		part.Messages = in.Messages[:i+1]
		ids, mask, err := s.Template.TokenizeLast(s.Tokenizer, part)
		if err != nil {
			return nil, err
		}
		ps = predicted(ps, ids, mask, len(m.Content))
	}
	return ps, nil
}

// predicted adds a passage of the tokens of mask, which stand for so many bytes, unless
// there are none. Nothing predicts the first token.
func predicted(ps []passage, ids []int32, mask []bool, bytes int) []passage {
	p := passage{ids: ids, bytes: bytes}
	for i := 1; i < len(mask); i++ {
		if mask[i] && (i == 1 || !mask[i-1]) {
			p.spans = append(p.spans, [2]int{i, i})
		}
		if mask[i] {
			p.spans[len(p.spans)-1][1] = i + 1
		}
	}
	if p.spans == nil {
		return ps
	}
	return append(ps, p)
}

// windows cuts the prediction of ids[from:to] into continuations of at most
// size inputs: each next window predicts what the one before did not, with as
// much context before it as fits (lm-evaluation-harness, context_len 1).
func windows(ids []int32, from, to, size int) []model.Continuation {
	var out []model.Continuation
	for from < to {
		begin, end := 0, min(to, size+1)
		if from > size {
			end = min(to, from+size)
			begin = end - 1 - size
		}
		out = append(out, model.Continuation{Context: ids[begin:from], Target: ids[from:end]})
		from = end
	}
	return out
}

// unigram takes from nll, by row, what a model which knows the tokens' frequencies and
// nothing else gives the passages; rows has the row of each.
func unigram(ps []passage, rows []int, nll []float64) {
	count := map[int32]float64{}
	total := 0.0
	each := func(p passage, f func(id int32)) {
		for _, s := range p.spans {
			for _, id := range p.ids[s[0]:s[1]] {
				f(id)
			}
		}
	}
	for _, p := range ps {
		each(p, func(id int32) { count[id]++; total++ })
	}
	for i, p := range ps {
		each(p, func(id int32) { nll[rows[i]] -= math.Log(count[id] / total) })
	}
}

// normalize prepares what an answer says, after all that was thought, for comparison.
func normalize(how, s string) string { return answer.Normalize(how, artifact.Said(s)) }
