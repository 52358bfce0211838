package lock

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pipe/runtime/artifact"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

func digest(b byte) artifact.Digest { return artifact.Digest{b} }

func sample() *File {
	return &File{
		Modules: []Module{{"git::https://example.org/r.git//m?ref=v1", commit, digest(1)}},
		Models:  []Model{{Source: "hf://org/name", Commit: commit}, {Source: "embedded://tiny", Digest: digest(2)}},
		Data: []Data{NewData("docs/*.txt", map[string]artifact.Digest{"docs/b.txt": digest(3), "docs/a.txt": digest(4)}),
			NewData("a<b>&.jsonl", map[string]artifact.Digest{"a<b>&.jsonl": digest(5)})},
	}
}

// What is written is what is read, sorted, a line for each thing.
func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	if f, err := Read(dir); f != nil || err != nil {
		t.Errorf("no file: %v, %v", f, err)
	}
	f := sample()
	for i, want := range []bool{true, false} {
		if wrote, err := f.Write(dir); wrote != want || err != nil {
			t.Errorf("write %d: %v, %v", i, wrote, err)
		}
	}
	got, err := Read(dir)
	if err != nil || !reflect.DeepEqual(got, f) {
		t.Errorf("got %+v, %v", got, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, Name))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"{\n  \"version\": 1,\n", "      \"commit\": \"" + commit + "\",\n", "\"source\": \"a<b>&.jsonl\"", "\"docs/a.txt\": \"sha256:04", "}\n"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q is not in\n%s", want, b)
		}
	}
	if strings.Index(string(b), "embedded://tiny") > strings.Index(string(b), "hf://org/name") {
		t.Error("the models are not sorted")
	}
}

// A file that cannot be relied on says what is wrong with it and where.
func TestParseRefuses(t *testing.T) {
	for src, want := range map[string]string{
		``:                               ":1: EOF",
		`{`:                              ":1: unexpected EOF",
		"{\n\"version\": x}":             ":2: invalid character 'x'",
		`{"version": 2, "other": []}`:    ": it has version 2, and this version of pipe reads version 1",
		`{}`:                             "it has version 0",
		"{\"version\": 1,\n\"mods\": 1}": `:2: json: unknown field "mods"`,
		"{\"version\": 1,\n\n\"modules\": [{\"source\": 1}]}": ":3: modules.source is a number",
		`{"version": 1} {}`:                                                                              "there is more after the end",
		"{\n<<<<<<< HEAD\n\"version\": 1}":                                                               ":2: it holds a conflict of a merge",
		`{"version": 1, "modules": [{"commit": ""}]}`:                                                    "a module has no source",
		`{"version": 1, "modules": [{"source": "a", "commit": "main"}]}`:                                 `module a: "main" is not the hash of a commit`,
		`{"version": 1, "models": [{"source": "a"}]}`:                                                    "model a: an entry has either commit or digest",
		`{"version": 1, "models": [{"source": "a", "commit": "x"}]}`:                                     `model a: "x" is not`,
		`{"version": 1, "models": [{"source": "a", "digest": "sha256:00"}]}`:                             "not a sha256 digest",
		`{"version": 1, "data": [{"source": "a", "files": -1, "digest": "` + digest(1).String() + `"}]}`: "data a: it claims -1 files",
		`{"version": 1, "data": [{"source": "a", "files": 2, "digest": "` + digest(1).String() + `", "list": {"b": "` + digest(1).String() + `"}}]}`: "it claims 2 files and lists 1",
		`{"version": 1, "models": [{"source": "a", "commit": "` + commit + `"}, {"source": "a", "commit": "` + commit + `"}]}`:                       "model a stands in it twice",
	} {
		if f, err := Parse([]byte(src)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, %v; want %q", src, f, err, want)
		}
	}
}

func TestCompare(t *testing.T) {
	if ds := sample().Compare(sample()); len(ds) != 0 {
		t.Errorf("nothing changed: %v", ds)
	}
	now := &File{
		Modules: []Module{{"git::https://example.org/r.git//m?ref=v1", strings.Repeat("f", 40), digest(9)}, {"git::file:///new", commit, digest(1)}},
		Models:  []Model{{Source: "embedded://tiny", Digest: digest(7)}},
		Data:    []Data{NewData("docs/*.txt", map[string]artifact.Digest{"docs/a.txt": digest(9), "docs/c.txt": digest(3)})},
	}
	var text strings.Builder
	for _, d := range sample().Compare(now) {
		fmt.Fprintln(&text, d)
	}
	want := `module git::https://example.org/r.git//m?ref=v1: locked commit ` + commit + `, now commit ` + strings.Repeat("f", 40) + `
module git::file:///new: not in the lock file; now commit ` + commit + `
model embedded://tiny: locked digest 020000000000, now digest 070000000000
data docs/*.txt: locked 2 files, digest ` + short(sample().Data[0].Digest) + `, now 2 files, digest ` + short(now.Data[0].Digest) + `
  docs/a.txt changed
  docs/b.txt is gone
  docs/c.txt is new
`
	if text.String() != want {
		t.Errorf("got\n%s\nwant\n%s", text.String(), want)
	}
	changed := sample()
	changed.Modules[0].Digest = digest(8)
	if ds := sample().Compare(changed); len(ds) != 1 || !strings.Contains(ds[0].String(), "the fetched files were changed") {
		t.Errorf("got %v", ds)
	}
	var none *File
	if ds := none.Compare(sample()); len(ds) != 5 {
		t.Errorf("without a file: %v", ds)
	}
}

// Long lists are left out of the file and still compared.
func TestLongLists(t *testing.T) {
	files := map[string]artifact.Digest{}
	for i := range maxList + 1 {
		files[fmt.Sprintf("%04d", i)] = digest(byte(i))
	}
	a := &File{Data: []Data{NewData("x", files)}}
	files["0000"] = digest(99)
	b := &File{Data: []Data{NewData("x", files)}}
	if ds := a.Compare(b); a.Data[0].List != nil || len(ds) != 1 || ds[0].Files != nil {
		t.Errorf("got %v", ds)
	}
	delete(files, "0001")
	c := &File{Data: []Data{NewData("x", files)}}
	for name := range files {
		files[name] = digest(123)
	}
	d := &File{Data: []Data{NewData("x", map[string]artifact.Digest{})}}
	if ds := c.Compare(d); len(ds) != 1 || !strings.HasSuffix(ds[0].String(), "and 990 more files") {
		t.Errorf("got %v", ds)
	}
}

func TestMerge(t *testing.T) {
	now := &File{Models: []Model{{Source: "hf://org/name", Commit: strings.Repeat("f", 40)}, {Source: "hf://org/new", Commit: commit}}}
	kept := sample().Merge(now, false)
	if kept.Model("hf://org/name").Commit != commit || kept.Model("hf://org/new") == nil || len(kept.Models) != 3 || len(kept.Data) != 2 {
		t.Errorf("got %+v", kept)
	}
	if got := sample().Merge(now, true).Model("hf://org/name").Commit; got != strings.Repeat("f", 40) {
		t.Errorf("upgraded to %s", got)
	}
	var none *File
	if got := none.Merge(now, false); len(got.Models) != 2 {
		t.Errorf("got %+v", got)
	}
}

// Whatever a file holds, it is refused or means one thing: written again it
// reads the same.
func FuzzParse(f *testing.F) {
	b, err := sample().Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version": 1, "data": [{"source": "a", "files": 0, "digest": "` + digest(1).String() + `", "list": {}}]}`))
	f.Add([]byte(`{"version": 1, "Modules": [{"Source": "\u0000", "commit": "` + commit + `"}], "modules": null}`))
	f.Fuzz(func(t *testing.T, src []byte) {
		file, err := Parse(src)
		if err != nil {
			if !strings.HasPrefix(err.Error(), ":") {
				t.Errorf("error %q does not begin with a place", err)
			}
			return
		}
		b, err := file.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(b)
		if err != nil {
			t.Fatalf("%q is written as %q: %v", src, b, err)
		}
		if c, _ := again.Bytes(); !bytes.Equal(b, c) {
			t.Errorf("%q is written as %q, then as %q", src, b, c)
		}
		if ds := file.Compare(again); len(ds) > 0 {
			t.Errorf("%q differs from itself: %v", src, ds)
		}
	})
}
