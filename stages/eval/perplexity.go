package eval

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"pipe/model"
	"pipe/runtime/artifact"
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
	ps := make([]passage, len(rows))
	var cs []model.Continuation
	var owner []int
	for i, row := range rows {
		p, err := r.passage(row)
		if err != nil {
			return nil, fmt.Errorf("row %s: %w", row.ID, err)
		}
		ps[i] = p
		for _, s := range p.spans {
			for _, c := range windows(p.ids, s[0], s[1], min(u.Window, r.subject.Config.MaxPositions-1)) {
				cs, owner = append(cs, c), append(owner, i)
			}
		}
	}
	nll, tokens, bytes := make([]float64, len(rows)), make([]float64, len(rows)), make([]float64, len(rows))
	for i, p := range ps {
		for _, s := range p.spans {
			tokens[i] += float64(s[1] - s[0])
		}
		bytes[i] = float64(p.bytes)
	}
	if r.blind {
		unigram(ps, nll)
	} else {
		scores, err := r.score(cs)
		if err != nil {
			return nil, err
		}
		for k, s := range scores {
			nll[owner[k]] -= sumLogP(s)
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

// passage tokenises a row. A document is predicted from its first token on,
// after the model's beginning-of-text token.
func (r *runner) passage(row artifact.Row) (p passage, err error) {
	s := r.subject
	if len(row.Messages) > 0 && s.Template != nil {
		in := chat.Input{Special: s.Special}
		for _, m := range row.Messages {
			in.Messages = append(in.Messages, chat.Message{Role: m.Role, Content: m.Content})
			if m.Role == "assistant" {
				p.bytes += len(m.Content)
			}
		}
		ids, mask, err := s.Template.Tokenize(s.Tokenizer, in)
		if err != nil {
			return p, err
		}
		p.ids = ids
		for i := 1; i < len(mask); i++ {
			if mask[i] && (i == 1 || !mask[i-1]) {
				p.spans = append(p.spans, [2]int{i, i})
			}
			if mask[i] {
				p.spans[len(p.spans)-1][1] = i + 1
			}
		}
	} else {
		text := row.Text
		if len(row.Messages) > 0 {
			text = plain(row.Messages)
		}
		p.ids = append(append(p.ids, s.start()...), s.Tokenizer.Encode(text)...)
		p.bytes = len(text)
		p.spans = [][2]int{{1, len(p.ids)}}
	}
	if len(p.spans) == 0 || len(p.ids) < 2 {
		if p.bytes > 0 && len(row.Messages) > 0 {
			return p, errors.New("has nothing to predict: the chat template leaves out what the assistant says, or does not mark it")
		}
		return p, errors.New("has nothing to predict: no text and no assistant turn")
	}
	return p, nil
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

// unigram fills nll with that of a model which knows the tokens' frequencies
// and nothing else.
func unigram(ps []passage, nll []float64) {
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
		each(p, func(id int32) { nll[i] -= math.Log(count[id] / total) })
	}
}

// normalize prepares an answer for comparison.
func normalize(how, s string) string {
	switch how {
	case "number":
		return lastNumber(s)
	case "exact":
		return strings.TrimSpace(s)
	}
	return words(s)
}
