package engine

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pipe/runtime/stage"
)

// FuzzChanges: pre-images are read from the store, which anybody may have
// written to.
func FuzzChanges(f *testing.F) {
	f.Add([]byte(`{"kind":"step","version":1,"spec":{"Text":"a","From":null},"inputs":{"from[0]":"sha256:`+strings.Repeat("0", 64)+`"}}`),
		[]byte(`{"kind":"step","version":2,"spec":{"Text":["a",{"b":1e999}],"Shape":{"Size":[[]]}},"sources":[{"path":"x"}]}`))
	f.Add([]byte(`{"spec":[[[]]]}`), []byte(`{"spec":{"":{"":{"":null}},"a.b[":1}}`))
	kind := stage.Kind{New: func() stage.Stage { return &stepStage{} }}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		cs, err := ChangesOf(a, b, kind)
		if err != nil {
			return
		}
		for _, c := range cs {
			if c.String() == "" || c.What == "" && c.Old == "" && c.New == "" && c.How == "" {
				t.Errorf("a change without words: %+v", c)
			}
		}
		if same, err := ChangesOf(a, a, kind); err != nil || len(same) > 0 {
			t.Errorf("%s differs from itself: %v, %v", a, same, err)
		}
	})
}

// FuzzExcerpts: what is shown of two texts is short, whole characters, and
// differs when they do.
func FuzzExcerpts(f *testing.F) {
	f.Add("a", "b")
	f.Add(strings.Repeat("word ", 50)+"ä", strings.Repeat("word ", 50)+"ö")
	f.Add(strings.Repeat("x", 500), strings.Repeat("x", 501))
	f.Fuzz(func(t *testing.T, a, b string) {
		if !utf8.ValidString(a) || !utf8.ValidString(b) {
			return
		}
		x, y := excerpts(a, b)
		for _, s := range []string{x, y} {
			if !utf8.ValidString(s) || utf8.RuneCountInString(s) > excerptMiddle+2*excerptContext+len("…… … ") {
				t.Errorf("%q of %q and %q", s, a, b)
			}
		}
	})
}
