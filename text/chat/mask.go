package chat

import (
	"errors"
	"fmt"
	"sort"
)

// An Encoder is the part of a tokenizer that Tokenize needs.
type Encoder interface {
	// EncodeSpans returns the ids of text and the bytes [start, end) of each.
	EncodeSpans(text string) ([]int32, [][2]int)
}

// Tokenize renders a conversation and returns its token ids, and for each
// whether the assistant says it: the tokens from the one that holds the first
// byte of a span to the one that holds its last, and those before it that hold
// no byte of the text, such as the first of two tokens of a character that was
// composed. Special tokens in the text
// are parsed and none is added, as templates write their own.
func (t *Template) Tokenize(tok Encoder, in Input) (ids []int32, mask []bool, err error) {
	r, err := t.Render(in)
	if err != nil {
		return nil, nil, err
	}
	return r.tokenize(tok)
}

// TokenizeLast is Tokenize of a conversation that a turn of the assistant ends, of
// which it tells what is said in that turn. It demands nothing of the text of earlier
// ones, which some templates render in another way when more follows: without what was
// thought, say.
func (t *Template) TokenizeLast(tok Encoder, in Input) (ids []int32, mask []bool, err error) {
	if n := len(in.Messages); n == 0 || in.Messages[n-1].Role != "assistant" {
		return nil, nil, errors.New("the conversation does not end with a turn of the assistant")
	}
	text, spans, err := t.run(in)
	if err == nil {
		spans, err = t.lastSpans(in, text, spans)
	}
	if err != nil {
		return nil, nil, err
	}
	return Rendered{text, spans}.tokenize(tok)
}

// tokenize is Tokenize of what was rendered.
func (r Rendered) tokenize(tok Encoder) (ids []int32, mask []bool, err error) {
	ids, spans := tok.EncodeSpans(r.Text)
	mask = make([]bool, len(ids))
	for _, a := range r.Assistant {
		if a[0] >= a[1] {
			continue
		}
		first := sort.Search(len(spans), func(i int) bool { return spans[i][1] > a[0] })
		last := sort.Search(len(spans), func(i int) bool { return spans[i][1] >= a[1] })
		if first == len(spans) {
			return nil, nil, fmt.Errorf("chat template: no token holds byte %d of the text", a[0])
		}
		for first > 0 && spans[first-1][0] >= a[0] {
			first--
		}
		for i := first; i <= last && i < len(mask); i++ {
			mask[i] = true
		}
	}
	return ids, mask, nil
}
