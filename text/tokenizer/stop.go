package tokenizer

import "strings"

// StopAt returns a function that is given the ids of a text one by one, as they
// are generated, and reports whether one of the strings stands in the text so
// far, across tokens or within one. Empty strings stand nowhere. It looks at
// each byte a few times, however long the text becomes.
func (t *Tokenizer) StopAt(stops ...string) func(id int32) bool {
	s := t.NewStream(false)
	longest := 0
	for _, stop := range stops {
		longest = max(longest, len(stop))
	}
	tail, found := "", false // tail: what a string may have begun in
	return func(id int32) bool {
		text := tail + s.Push(id)
		for _, stop := range stops {
			found = found || stop != "" && strings.Contains(text, stop)
		}
		tail = text[max(0, len(text)-longest+1):]
		return found
	}
}
