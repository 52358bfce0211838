package chat

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Begun returns what of the assistant's turn a prompt has written already, where that
// is the beginning of a thought: some templates of models that think end with <think>
// and a newline when they ask. An answer that follows is whole with it in front.
func Begun(prompt string) string {
	if at := strings.LastIndex(prompt, "<think>"); at >= 0 && trimRight(prompt[at:]) == "<think>" {
		return prompt[at:]
	}
	return ""
}

// Parts is the error that full, a conversation with a turn of the assistant, does not
// begin with prompt, which asks for that turn.
func Parts(prompt, full string) error {
	at := 0
	for at < min(len(prompt), len(full)) && prompt[at] == full[at] {
		at++
	}
	for at > 0 && at < len(prompt) && !utf8.RuneStart(prompt[at]) {
		at--
	}
	why := ""
	if Begun(prompt) != "" {
		why = ": it begins a thought there, and writes none in the turn; set a chat_template in the model block that does"
	} else if strings.Contains(prompt[at:], "</think>") {
		why = ": it asks for a turn without a thought; leave thoughts out, with reasoning = \"drop\" in the data block or \"none\" in synth, or let the template ask for one"
	}
	return fmt.Errorf("the chat template asks for a turn of the assistant in other words than it begins it with, %.40q and %.40q%s", prompt[at:], full[at:], why)
}
