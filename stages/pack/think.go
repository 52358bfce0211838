package pack

import (
	"strings"

	"pipe/runtime/artifact"
	"pipe/text/chat"
)

// forgotten counts the turns of the assistant that are learned without what is thought
// in them, since the template leaves that out. With each, a turn is learned where it
// ends the conversation.
func forgotten(t *chat.Template, in chat.Input, each bool) (n int) {
	for i, m := range in.Messages {
		if m.Role != "assistant" {
			continue
		}
		thought, _, _ := artifact.CutThought(m.Content)
		if thought == "" {
			continue
		}
		part := in
		if each {
			part.Messages = in.Messages[:i+1]
		}
		if text, err := t.Text(part); err == nil && !strings.Contains(text, thought) {
			n++
		}
	}
	return n
}
