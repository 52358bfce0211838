package journal

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipe/teacher"
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
		if ro, err := OpenReadOnly(path, true); err != nil || ro.Len() != want {
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
		for asks, advice := range map[bool]string{true: "delete the line to have its request asked again", false: "take an undamaged copy of the file; nobody is asked"} {
			if _, err := OpenReadOnly(path, asks); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), advice) {
				t.Errorf("%s, read only, asks %v: %v", name, asks, err)
			}
		}
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if b, _ := os.ReadFile(path); !bytes.Equal(b, c.data) {
			t.Errorf("%s: a refused file was changed", name)
		}
	}
	if _, err := OpenReadOnly(filepath.Join(t.TempDir(), "none"), false); err == nil || !strings.Contains(err.Error(), "provider") {
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
	if j, err := OpenReadOnly(path, true); err != nil || j.Len() != 2 {
		t.Error(err)
	}
}

// FuzzOpen: any file is an error, or a journal that takes one more line behind
// its last whole one and then reads as before, and that line. It reads what
// Open reads, without a disk; the data is tried as a line with a valid
// checksum too, which no fuzzer finds by itself.
func FuzzOpen(f *testing.F) {
	key, err := Key("big", ask("one"))
	if err != nil {
		f.Fatal(err)
	}
	one, err := line{Key: key, Teacher: "big", Request: ask("one"), Answer: &teacher.Answer{Content: "a <b>"}}.encode()
	if err != nil {
		f.Fatal(err)
	}
	if key, err = Key("fuzz", ask("new")); err != nil {
		f.Fatal(err)
	}
	added, err := line{Key: key, Teacher: "fuzz", Request: ask("new"), Refused: "no"}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Repeat(one, 2))
	f.Add(one[:len(one)-1])
	f.Add(append(bytes.Clone(one), one[:30]...))
	f.Add(one[:bytes.Index(one, []byte(sumMark))])
	f.Add([]byte(lineStart + `","sum":"`))
	f.Add([]byte("\x00\x00\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, data := range [][]byte{data, seal(data)} {
			j := &Journal{path: "j", entries: map[string]line{}}
			end, err := j.read(bytes.NewReader(data), true)
			if err != nil {
				continue
			}
			if end < 0 || end > int64(len(data)) || end > 0 != (j.Len() > 0) {
				t.Fatalf("%d lines end at byte %d of %d", j.Len(), end, len(data))
			}
			whole := bytes.TrimSuffix(data[:end], []byte("\n"))
			if len(whole) > 0 {
				whole = append(bytes.Clone(whole), '\n')
			}
			again := &Journal{path: "j", entries: map[string]line{}}
			if _, err := again.read(bytes.NewReader(append(whole, added...)), true); err != nil {
				t.Fatalf("the journal does not open again: %v", err)
			}
			j.add(line{Key: key, Refused: "no"})
			if again.Len() != j.Len() {
				t.Fatalf("%d answers became %d", j.Len(), again.Len())
			}
		}
	})
}

// seal makes a line of any bytes before the checksum.
func seal(body []byte) []byte {
	sum := sha256.Sum256(body)
	return fmt.Appendf(nil, "%s%s%x%s\n", body, sumMark, sum, lineEnd)
}

// TestOtherProcess: what another process has recorded meanwhile is not asked
// again, whole lines only, and its own lines do not count twice.
func TestOtherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.jsonl")
	a, b := open(t, path), open(t, path)
	first, second := &fake{id: "big"}, &fake{id: "big"}
	want := complete(t, a.Wrap(first), ask("one"))
	got := complete(t, b.Wrap(second), ask("one"))
	if !got.Replayed || got.Content != want.Content || second.asked != 0 {
		t.Errorf("got %+v after %d calls", got, second.asked)
	}
	complete(t, b.Wrap(second), ask("two"))
	complete(t, b.Wrap(second), ask("three"))
	if got := complete(t, a.Wrap(first), ask("three")); !got.Replayed || first.asked != 1 {
		t.Errorf("got %+v after %d calls", got, first.asked)
	}
	// Half a line of a process that is writing is left alone, then mended.
	if _, err := a.file.Write([]byte(lineStart + "half")); err != nil {
		t.Fatal(err)
	}
	if got := complete(t, b.Wrap(second), ask("four")); got.Replayed || second.asked != 3 {
		t.Errorf("got %+v after %d calls", got, second.asked)
	}
	if got := complete(t, a.Wrap(first), ask("four")); !got.Replayed || first.asked != 1 {
		t.Errorf("got %+v after %d calls", got, first.asked)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, written(t, "one", "two", "three", "four")) {
		t.Errorf("the file is\n%s", got)
	}
	if a.end != b.end || a.Len() != 4 || b.Len() != 4 {
		t.Errorf("ends %d and %d, %d and %d answers", a.end, b.end, a.Len(), b.Len())
	}
	// What is no line is an error, and nothing is asked.
	if _, err := b.file.Write([]byte("some other program's log\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Wrap(first).Complete(t.Context(), ask("five")); err == nil || !strings.Contains(err.Error(), "j.jsonl: the journal is damaged at byte") || first.asked != 1 {
		t.Errorf("after %d calls: %v", first.asked, err)
	}
}

// A slowDisk notes when it is told to flush.
type slowDisk struct {
	file
	written, flushed int
	err              error
}

func (d *slowDisk) Write(b []byte) (int, error) {
	d.written++
	return d.file.Write(b)
}

func (d *slowDisk) Sync() error {
	d.flushed = d.written
	if d.err != nil {
		return d.err
	}
	return d.file.Sync()
}

// TestFlushed: each answer is on the disk before anybody sees it.
func TestFlushed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.jsonl")
	j := open(t, path)
	d := &slowDisk{file: j.file}
	j.file = d
	w := j.Wrap(&fake{id: "big"})
	for i, q := range []string{"one", "two", "three"} {
		complete(t, w, ask(q))
		if d.written != i+1 || d.flushed != d.written {
			t.Errorf("after %d answers %d are written and %d flushed", i+1, d.written, d.flushed)
		}
	}
	d.err = errors.New("the disk is gone")
	if a, err := w.Complete(t.Context(), ask("four")); err == nil || !strings.Contains(err.Error(), "record an answer in "+path+": the disk is gone") || a.Content != "" {
		t.Errorf("an answer that was not flushed: %+v, %v", a, err)
	}
}
