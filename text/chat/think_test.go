package chat

import "testing"

func TestBegun(t *testing.T) {
	for prompt, want := range map[string]string{
		"<|im_start|>assistant\n<think>\n":                   "<think>\n",
		"<|Assistant|><think>":                               "<think>",
		"<|im_start|>assistant\n<think>\n\n</think>\n\n":     "",
		"<|im_start|>user\n<think>\n<|im_start|>assistant\n": "",
		"": "",
	} {
		if got := Begun(prompt); got != want {
			t.Errorf("Begun(%q) = %q, want %q", prompt, got, want)
		}
	}
}
