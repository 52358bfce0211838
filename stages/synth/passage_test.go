package synth

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestCut(t *testing.T) {
	for _, c := range []struct {
		name, text string
		n          int
		want       []string
	}{
		{"short", " one paragraph \n", 50, []string{"one paragraph"}},
		{"empty", "\n \n", 50, nil},
		{"paragraphs", strings.Repeat("a", 30) + "\n\n" + strings.Repeat("b", 30), 50, []string{strings.Repeat("a", 30), strings.Repeat("b", 30)}},
		{"carriage returns", "a b\r\n\r\nc d", 50, []string{"a b\n\nc d"}},
		{"sentences", "One two three four five. Six seven eight nine ten. Eleven twelve thirteen fourteen.", 50,
			[]string{"One two three four five. Six seven eight nine ten.", "Eleven twelve thirteen fourteen."}},
		{"heading with what follows", "Title\n\n" + strings.TrimSpace(strings.Repeat("word ", 10)), 50,
			[]string{"Title\n\n" + strings.TrimSpace(strings.Repeat("word ", 8))}},
		{"short rest left out", strings.Repeat("x", 50) + "\n\nrest", 50, []string{strings.Repeat("x", 50)}},
		{"one long word", strings.Repeat("é", 70), 50, []string{strings.Repeat("é", 50), strings.Repeat("é", 20)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := cut(c.text, c.n)
			if strings.Join(got, "|") != strings.Join(c.want, "|") || len(got) != len(c.want) {
				t.Errorf("cut(%q, %d)\n got %q\nwant %q", c.text, c.n, got, c.want)
			}
		})
	}
}

// squeeze leaves only what must not be lost.
func squeeze(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s)
}

func TestCutLosesNothing(t *testing.T) {
	text := rapid.StringOfN(rapid.SampledFrom([]rune("ab. \n\r\té語�?  ..\n\n")), 0, 400, -1)
	rapid.Check(t, func(t *rapid.T) {
		s, n := text.Draw(t, "text"), rapid.IntRange(50, 120).Draw(t, "n")
		got := cut(s, n)
		for i, p := range got {
			if k := utf8.RuneCountInString(p); k > n || k == 0 {
				t.Fatalf("piece %d has %d characters", i, k)
			}
			if !utf8.ValidString(p) || p != strings.TrimSpace(p) {
				t.Fatalf("piece %d is %q", i, p)
			}
		}
		all, kept := squeeze(s), squeeze(strings.Join(got, ""))
		if !strings.HasPrefix(all, kept) {
			t.Fatalf("kept %q\nof %q", kept, all)
		}
		if rest := utf8.RuneCountInString(all[len(kept):]); rest >= n/5 {
			t.Fatalf("%d characters are lost: %q", rest, all[len(kept):])
		}
	})
}

func FuzzCut(f *testing.F) {
	f.Add("one. two\n\nthree", 50)
	f.Add(strings.Repeat("\x80", 200), 50)
	f.Add(strings.Repeat(" ", 300)+"x", 60)
	f.Fuzz(func(t *testing.T, s string, n int) {
		if n < 50 || n > 1000 || len(s) > 1<<14 {
			t.Skip()
		}
		for _, p := range cut(s, n) {
			if k := utf8.RuneCountInString(p); k == 0 || k > n || !utf8.ValidString(p) {
				t.Errorf("%d characters: %q", k, p)
			}
		}
	})
}
