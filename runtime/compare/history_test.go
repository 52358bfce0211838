package compare

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"pipe/runtime/artifact"
)

// A crash may tear the last line; the nights before and after it stay.
func TestHistorySurvivesATornLine(t *testing.T) {
	s := store(t)
	h := OpenHistory(s, "x")
	if nights, bad, err := h.Nights(); len(nights)+bad != 0 || err != nil {
		t.Fatal(nights, bad, err)
	}
	night := func(run string) Night {
		return Night{Run: run, Time: time.Unix(0, 0).UTC(), Verdict: "a\nb", Metrics: map[string]map[string]artifact.Metric{"eval.e": {"qa.acc": {N: 1, Value: 0.5}}}}
	}
	for _, run := range []string{"a", "b"} {
		if err := h.Append(night(run)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(s.Dir(), "history", "x.jsonl")
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, st.Size()-9); err != nil {
		t.Fatal(err)
	}
	if nights, bad, err := h.Nights(); len(nights) != 1 || bad != 1 || err != nil {
		t.Fatal(nights, bad, err)
	}
	if err := h.Append(night("c")); err != nil {
		t.Fatal(err)
	}
	nights, bad, err := h.Nights()
	if len(nights) != 2 || bad != 1 || err != nil || nights[1].Run != "c" || nights[1].Metrics["eval.e"]["qa.acc"].Value != 0.5 {
		t.Fatal(nights, bad, err)
	}
}

func FuzzHistory(f *testing.F) {
	f.Add([]byte("{\"run\":\"a\"}\n{\"run\""))
	f.Add([]byte("\n\n[]\n{\"run\":\"b\",\"metrics\":{\"e\":{\"m\":{\"value\":1e999}}}}\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, "h.jsonl")
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		h := History{filepath.Dir(path), path}
		before, _, err := h.Nights()
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Append(Night{Run: "z"}); err != nil {
			t.Fatal(err)
		}
		after, _, err := h.Nights()
		if err != nil || len(after) != len(before)+1 || after[len(before)].Run != "z" {
			t.Fatalf("%d nights became %d, %v", len(before), len(after), err)
		}
	})
}
