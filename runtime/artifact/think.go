package artifact

import "strings"

// What a model thinks before it speaks stands in the content of its turn, in the form
// that most datasets have and chat templates read.
const (
	thinkOpen  = "<think>"
	thinkClose = "</think>"
)

// Think returns the content of a turn in which the assistant thinks, and then says
// something; without a thought, what it says.
func Think(thought, said string) string {
	if thought = strings.TrimSpace(thought); thought == "" {
		return said
	}
	return thinkOpen + "\n" + thought + "\n" + thinkClose + "\n\n" + strings.TrimLeft(said, "\n")
}

// CutThought parts a text into what is thought, before </think>, and what is said
// after it. The <think> before may be missing: some chat templates write it into the
// prompt. A thought that does not end is no more than that: done is false, and said is
// empty.
func CutThought(text string) (thought, said string, done bool) {
	begun, opened := strings.CutPrefix(strings.TrimSpace(text), thinkOpen)
	before, after, closed := strings.Cut(begun, thinkClose)
	switch {
	case closed && (opened || !strings.Contains(before, thinkOpen)):
		return strings.TrimSpace(before), strings.TrimSpace(after), true
	case opened:
		return strings.TrimSpace(begun), "", false
	}
	return "", text, true
}

// Said is what is said in a text, without what is thought before.
func Said(text string) string {
	_, said, _ := CutThought(text)
	return said
}
