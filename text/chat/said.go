package chat

import "strings"

// Said returns a reply without what a reasoning model thinks before it, between <think>
// and </think>, and without the space around it. Templates may write the first of these in
// the prompt. ok is false when the thoughts do not end: then nothing is said.
func Said(reply string) (said string, ok bool) {
	reply = strings.TrimSpace(reply)
	before, after, closed := strings.Cut(reply, "</think>")
	switch opened := strings.HasPrefix(reply, "<think>"); {
	case closed && (opened || !strings.Contains(before, "<think>")):
		return strings.TrimSpace(after), true
	case opened:
		return "", false
	}
	return reply, true
}
