package tokenizer

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// An AddedToken is a token that is cut out of the text before anything else
// looks at it. Field names are those of tokenizer.json.
type AddedToken struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"` // not inside a word
	LStrip     bool   `json:"lstrip"`      // swallows whitespace before it
	RStrip     bool   `json:"rstrip"`      // swallows whitespace after it
	Normalized bool   `json:"normalized"`  // searched for after normalisation
	Special    bool   `json:"special"`
}

// A matcher finds added tokens: a trie over their bytes.
type matcher struct {
	first  [256]bool
	nodes  []matchNode
	tokens []AddedToken
}

type matchNode struct {
	edges string // the bytes that lead on, parallel to next
	next  []int32
	token int32 // index into tokens, -1: none ends here
}

// Limits on added tokens: a trie takes 80 bytes for each of theirs, and a search
// may look at as many as the longest has at each place of the text.
const (
	maxAddedToken = 1024
	maxAdded      = 8 << 20 // together
)

func checkAdded(list []AddedToken) error {
	total := 0
	for _, a := range list {
		if len(a.Content) > maxAddedToken {
			return fmt.Errorf("added token %.40q... is %d bytes long; at most %d are supported", a.Content, len(a.Content), maxAddedToken)
		}
		total += len(a.Content)
	}
	if total > maxAdded {
		return fmt.Errorf("the added tokens have %d bytes together; at most %d are supported", total, maxAdded)
	}
	return nil
}

func newMatcher() *matcher { return &matcher{nodes: []matchNode{{token: -1}}} }

// add adds a token under the text that it is found by.
func (m *matcher) add(text string, tok AddedToken) {
	if text == "" {
		return
	}
	m.first[text[0]] = true
	at := int32(0)
	for i := range len(text) {
		n := &m.nodes[at]
		if k := strings.IndexByte(n.edges, text[i]); k >= 0 {
			at = n.next[k]
			continue
		}
		to := int32(len(m.nodes))
		n.edges += text[i : i+1]
		n.next = append(n.next, to)
		m.nodes = append(m.nodes, matchNode{token: -1})
		at = to
	}
	m.nodes[at].token = int32(len(m.tokens))
	m.tokens = append(m.tokens, tok)
}

// find returns the leftmost longest match in s at or after from.
func (m *matcher) find(s string, from int) (start, end int, tok *AddedToken) {
	for i := from; i < len(s); i++ {
		if !m.first[s[i]] {
			continue
		}
		at, best := int32(0), int32(-1)
		for j := i; j < len(s); j++ {
			n := &m.nodes[at]
			k := strings.IndexByte(n.edges, s[j])
			if k < 0 {
				break
			}
			at = n.next[k]
			if t := m.nodes[at].token; t >= 0 {
				best, end = t, j+1
			}
		}
		if best >= 0 {
			return i, end, &m.tokens[best]
		}
	}
	return 0, 0, nil
}

// split cuts s into added tokens and the text between them. plain leaves
// special tokens in the text.
func (m *matcher) split(s string, plain bool, text func(start, end int), token func(start, end int, id int32)) {
	done := 0
	if len(m.tokens) > 0 {
		for from := 0; ; {
			start, end, tok := m.find(s, from)
			if tok == nil {
				break
			}
			from = end
			if plain && tok.Special || tok.SingleWord && !aloneAt(s, start, end) {
				continue
			}
			// What lies before done is taken, and what lies between end and
			// done is whitespace that an earlier token swallowed.
			start = max(start, done)
			if tok.LStrip {
				start = done + len(strings.TrimRightFunc(s[done:start], unicode.IsSpace))
			}
			if tok.RStrip {
				end = len(s) - len(strings.TrimLeftFunc(s[max(end, done):], unicode.IsSpace))
			}
			if done < start {
				text(done, start)
			}
			token(start, max(start, end), tok.ID)
			done = max(done, end)
		}
	}
	if done < len(s) {
		text(done, len(s))
	}
}

// aloneAt reports whether no word character touches s[start:end].
func aloneAt(s string, start, end int) bool {
	t := classes()
	if start > 0 {
		if r, _ := utf8.DecodeLastRuneInString(s[:start]); t.of(r)&word != 0 {
			return false
		}
	}
	if end < len(s) {
		if b, _ := t.at(s, end); b&word != 0 {
			return false
		}
	}
	return true
}
