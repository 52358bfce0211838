package journal

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTorn cuts the file at every byte: what was whole stays, the rest is
// asked again, and the file mends.
func TestTorn(t *testing.T) {
	whole := written(t, "one", "two")
	firstLen := bytes.IndexByte(whole, '\n') + 1
	path := filepath.Join(t.TempDir(), "j.jsonl")
	for n := range len(whole) + 1 {
		want := 0
		if n >= firstLen-1 {
			want = 1
		}
		if n >= len(whole)-1 {
			want = 2
		}
		if err := os.WriteFile(path, whole[:n], 0o666); err != nil {
			t.Fatal(err)
		}
		if ro, err := OpenReadOnly(path); err != nil || ro.Len() != want {
			t.Fatalf("read only, cut at %d: %v", n, err)
		}
		j, err := Open(path)
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if j.Len() != want {
			t.Fatalf("cut at %d: %d answers, want %d", n, j.Len(), want)
		}
		w := j.Wrap(&fake{id: "big"})
		complete(t, w, ask("one"))
		complete(t, w, ask("two"))
		j.Close()
		if b, _ := os.ReadFile(path); !bytes.Equal(b, whole) {
			t.Fatalf("cut at %d: the file did not mend:\n%s", n, b)
		}
	}
}

// TestTornElsewhere: blocks of the last line that never reached the disk.
func TestTornElsewhere(t *testing.T) {
	whole := written(t, "one", "two")
	firstLen := bytes.IndexByte(whole, '\n') + 1
	holes := map[string][]byte{
		"zeros":        append(bytes.Clone(whole[:firstLen]), make([]byte, 700)...),
		"hole":         bytes.Clone(whole),
		"line of zero": append(append(bytes.Clone(whole[:firstLen]), make([]byte, 50)...), '\n'),
	}
	clear(holes["hole"][firstLen+20 : firstLen+90])
	for name, b := range holes {
		path := filepath.Join(t.TempDir(), "j.jsonl")
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		j, err := Open(path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		complete(t, j.Wrap(&fake{id: "big"}), ask("two"))
		j.Close()
		if got, _ := os.ReadFile(path); !bytes.Equal(got, whole) {
			t.Errorf("%s: the file did not mend", name)
		}
	}
}

func TestDamaged(t *testing.T) {
	whole := written(t, "one", "two", "three")
	lines := bytes.SplitAfter(whole, []byte("\n"))
	flip := bytes.Clone(whole)
	flip[len(lines[0])+bytes.Index(lines[1], []byte("re: two"))] ^= 1
	stolen := bytes.Replace(whole, lines[1][10:74], lines[0][10:74], 1) // a key with another's request
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"flipped bit":  {flip, "j.jsonl:2: the journal is damaged: the checksum"},
		"wrong key":    {stolen, "j.jsonl:2: "},
		"blank line":   {append([]byte("\n"), whole...), "j.jsonl:1: "},
		"other file":   {[]byte("the only copy of a thesis"), "j.jsonl:1: the journal is damaged: not a journal line"},
		"other JSONL":  {[]byte("{\"text\":\"a\"}\n"), "j.jsonl:1: "},
		"glued":        {bytes.Replace(whole, []byte("\n"), nil, 1), "j.jsonl:1: "},
		"lost its end": {bytes.Replace(whole, lines[0], append(lines[0][:40:40], '\n'), 1), "j.jsonl:1: "},
	} {
		path := filepath.Join(t.TempDir(), "j.jsonl")
		if err := os.WriteFile(path, c.data, 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenReadOnly(path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, read only: %v", name, err)
		}
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if b, _ := os.ReadFile(path); !bytes.Equal(b, c.data) {
			t.Errorf("%s: a refused file was changed", name)
		}
	}
	if _, err := OpenReadOnly(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "provider") {
		t.Errorf("no file: %v", err)
	}
}

// TestTwoWriters: two journals on one file, one of which dies in a write.
func TestTwoWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.jsonl")
	a, b := open(t, path), open(t, path)
	complete(t, a.Wrap(&fake{id: "big"}), ask("one"))
	if _, err := a.file.Write([]byte(lineStart + strings.Repeat("x", 9000))); err != nil {
		t.Fatal(err)
	}
	complete(t, b.Wrap(&fake{id: "big"}), ask("two"))
	complete(t, a.Wrap(&fake{id: "big"}), ask("three"))
	if got, _ := os.ReadFile(path); !bytes.Equal(got, written(t, "one", "two", "three")) {
		t.Errorf("the file is\n%s", got)
	}
}

// TestWindowsLines: a checkout may have turned line feeds into CR LF.
func TestWindowsLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.jsonl")
	if err := os.WriteFile(path, bytes.ReplaceAll(written(t, "one", "two"), []byte("\n"), []byte("\r\n")), 0o666); err != nil {
		t.Fatal(err)
	}
	if j, err := OpenReadOnly(path); err != nil || j.Len() != 2 {
		t.Error(err)
	}
}

// FuzzOpen: any file is an error that leaves it as it was, or a journal that
// takes an answer and opens again with one more.
func FuzzOpen(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed.jsonl")
	j, err := Open(path)
	if err != nil {
		f.Fatal(err)
	}
	w := j.Wrap(&fake{id: "big"})
	for _, s := range []string{"one", "two"} {
		if _, err := w.Complete(f.Context(), ask(s)); err != nil {
			f.Fatal(err)
		}
	}
	j.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(whole[:len(whole)-30])
	f.Add([]byte(lineStart + `","sum":"`))
	f.Add([]byte("\x00\x00\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "j.jsonl")
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		j, err := Open(path)
		if err != nil {
			if b, _ := os.ReadFile(path); !bytes.Equal(b, data) {
				t.Fatal("a refused file was changed")
			}
			return
		}
		n := j.Len()
		a := complete(t, j.Wrap(&fake{id: "fuzz"}), ask("new"))
		j.Close()
		if !a.Replayed {
			n++
		}
		j, err = Open(path)
		if err != nil || j.Len() != n {
			t.Fatalf("the journal does not open again: %v", err)
		}
		j.Close()
	})
}
