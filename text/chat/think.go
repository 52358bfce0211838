package chat

import "strings"

// Begun returns what of the assistant's turn a prompt has written already, where that
// is the beginning of a thought: some templates of models that think end with <think>
// and a newline when they ask. An answer that follows is whole with it in front.
func Begun(prompt string) string {
	if at := strings.LastIndex(prompt, "<think>"); at >= 0 && trimRight(prompt[at:]) == "<think>" {
		return prompt[at:]
	}
	return ""
}
