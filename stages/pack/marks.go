package pack

import (
	"slices"
	"strings"

	"pipe/text/chat"
)

// What is put at the ends of turns to find them again in the rendered text.
const (
	saidMark  = "\ue000" // the assistant's
	otherMark = "\ue001" // anyone else's
)

// Whose words a chat template marks with {% generation %}.
type marked int

const (
	assistants marked = iota // the assistant's, or it cannot be told
	others                   // somebody else's as well
	onlyOthers               // the assistant's in no turn of it
)

// whose returns whose words of a conversation the template says are learned. It
// renders the conversation once more, with a character at the end of each turn
// that tells whose it is.
func whose(t *chat.Template, in chat.Input) marked {
	if !t.HasGeneration() {
		return assistants // the spans are made of the assistant's turns
	}
	in.Messages = slices.Clone(in.Messages)
	for i := range in.Messages {
		m := &in.Messages[i]
		if strings.Contains(m.Content, saidMark) || strings.Contains(m.Content, otherMark) {
			return assistants
		}
		if m.Role == "assistant" {
			m.Content += saidMark
		} else {
			m.Content += otherMark
		}
	}
	r, err := t.Render(in)
	if err != nil { // it takes no such content, such as in what a tool returned
		return assistants
	}
	var said, other bool
	for _, a := range r.Assistant {
		said = said || strings.Contains(r.Text[a[0]:a[1]], saidMark)
		other = other || strings.Contains(r.Text[a[0]:a[1]], otherMark)
	}
	switch {
	case !said && strings.Contains(r.Text, saidMark):
		return onlyOthers
	case other:
		return others
	}
	return assistants
}
