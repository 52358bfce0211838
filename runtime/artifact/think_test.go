package artifact

import "testing"

func TestCutThought(t *testing.T) {
	for _, c := range []struct {
		text, thought, said string
		done                bool
	}{
		{"Four.", "", "Four.", true},
		{" Four.\n", "", " Four.\n", true},
		{"<think>\nTwo and two.\n</think>\n\nFour.", "Two and two.", "Four.", true},
		{"\n<think></think>Four.", "", "Four.", true},
		{"Two and two.\n</think>\n\nFour.", "Two and two.", "Four.", true},
		{"<think>\nTwo and", "Two and", "", false},
		{"Write <think> before.", "", "Write <think> before.", true},
		{"Write <think> and </think>.", "", "Write <think> and </think>.", true},
		{"<think>a</think>b</think>c", "a", "b</think>c", true},
	} {
		if thought, said, done := CutThought(c.text); thought != c.thought || said != c.said || done != c.done {
			t.Errorf("CutThought(%q) = %q, %q, %v; want %q, %q, %v", c.text, thought, said, done, c.thought, c.said, c.done)
		}
	}
	if got, want := Think("\nhm\n", "\nFour."), "<think>\nhm\n</think>\n\nFour."; got != want {
		t.Errorf("Think = %q, want %q", got, want)
	}
	if got := Think(" \n", "Four."); got != "Four." {
		t.Errorf("Think without a thought = %q", got)
	}
}
