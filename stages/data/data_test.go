package data

import (
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/runtime/stage/stagetest"
)

// run reads files (name -> content) with a block.
func run(t *testing.T, files map[string]string, edit func(s *spec)) ([]artifact.Row, error) {
	t.Helper()
	b := stagetest.New(t)
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(b.Dir, name)), 0o777); err != nil {
			t.Fatal(err)
		}
		b.WriteFile(name, content)
	}
	s := newStage().(*spec)
	edit(s)
	r, err := b.Try(context.Background(), Kind, s)
	if err != nil {
		return nil, err
	}
	return stagetest.Rows[artifact.Row](r, ""), nil
}

func source(p string) func(s *spec) { return func(s *spec) { s.Source = p } }

func ids(rows []artifact.Row) []string {
	var out []string
	for _, r := range rows {
		out = append(out, r.ID)
	}
	return out
}

func TestDocuments(t *testing.T) {
	rows, err := run(t, map[string]string{
		"docs/b.txt":       "second\r\nline\r",
		"docs/a.md":        "\ufefffirst",
		"docs/deep/c.txt":  "third",
		"docs/.git/d.txt":  "hidden",
		"docs/[x].txt":     "bracket",
		"docs/ignored.bin": "no",
	}, func(s *spec) { s.Files = []string{"./docs/*.md", "./docs/**/*.txt", "docs/a.md"} })
	if err != nil {
		t.Fatal(err)
	}
	want := []artifact.Row{
		{ID: "docs/a.md", Text: "first", Gold: -1, Source: "docs/a.md"},
		{ID: "docs/[x].txt", Text: "bracket", Gold: -1, Source: "docs/[x].txt"},
		{ID: "docs/b.txt", Text: "second\nline\n", Gold: -1, Source: "docs/b.txt"},
		{ID: "docs/deep/c.txt", Text: "third", Gold: -1, Source: "docs/deep/c.txt"},
	}
	if !reflect.DeepEqual(rows, want) {
		t.Errorf("got %+v\nwant %+v", rows, want)
	}
}

func TestSourcesAreTheFilesRead(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"b.txt", "a.txt"} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte("x"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	s := newStage().(*spec)
	s.Source = "*.txt"
	var src stage.Sourcer = s
	got, err := src.Sources(dir)
	if want := []string{filepath.Join(dir, "a.txt"), filepath.Join(dir, "b.txt")}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// However the path of a file is spelt, the file is read once.
func TestOneFileIsReadOnce(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.txt"), []byte("x"), 0o666); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for _, from := range []string{dir, "."} {
		s := newStage().(*spec)
		s.Files = []string{"./a.txt", "./../" + filepath.Base(dir) + "/a.txt", filepath.Join(dir, "*.txt"), "x/../a.txt"}
		if got, err := s.Sources(from); err != nil || !slices.Equal(got, []string{filepath.Join(from, "a.txt")}) {
			t.Errorf("from %s: got %q, %v", from, got, err)
		}
	}
}

func TestGzipAndTables(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write([]byte("{\"text\":\"packed\"}\n"))
	w.Close()
	rows, err := run(t, map[string]string{
		"a.jsonl.gz": z.String(),
		"b.csv":      "question,choices,answer\n\"What, now?\",\"[\"\"x\"\", \"\"y\"\"]\",B\n",
		"c.tsv":      "question\tanswer\tnote\nWhy?\t42\t[citation needed]\n",
		"d.json":     "[\n {\"text\": \"one\"},\n {\"text\": \"two\"}\n]",
	}, func(s *spec) { s.Files = []string{"*.gz", "*.csv", "*.tsv", "*.json"} })
	if err != nil {
		t.Fatal(err)
	}
	want := []artifact.Row{
		{ID: "a.jsonl.gz:1", Text: "packed", Gold: -1},
		{ID: "b.csv:2", Messages: user("What, now?"), Choices: []string{"x", "y"}, Gold: 1},
		{ID: "c.tsv:2", Messages: user("Why?"), Answer: "42", Gold: -1, Meta: `{"note":"[citation needed]"}`},
		{ID: "d.json:2", Text: "one", Gold: -1},
		{ID: "d.json:3", Text: "two", Gold: -1},
	}
	for i := range want {
		want[i].Source = want[i].ID
	}
	if !reflect.DeepEqual(rows, want) {
		t.Errorf("got %+v\nwant %+v", rows, want)
	}
}

// Every broken input gives one message with the place and the reason.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name    string
		files   map[string]string
		source  string
		message string
	}{
		{"broken line", map[string]string{"r.jsonl": "{\"text\":\"a\"}\n\n{\"text\": oops}\n"}, "r.jsonl", "r.jsonl:3: broken JSON at byte 10"},
		{"cut off", map[string]string{"r.jsonl": "{\"text\":\"a\"}\n{\"text\":"}, "r.jsonl", "r.jsonl:2: broken JSON: it ends in the middle"},
		{"two objects", map[string]string{"r.jsonl": "{\"text\":\"a\"} {\"text\":\"b\"}\n"}, "r.jsonl", "r.jsonl:1: there is more after the JSON object"},
		{"no object", map[string]string{"r.jsonl": "[1]\n"}, "r.jsonl", "r.jsonl:1: is a list; each row must be a JSON object"},
		{"no shape", map[string]string{"r.jsonl": "{\"q\":\"a\",\"b\":1}\n"}, "r.jsonl", `r.jsonl:1: is no row: it has the columns ["b" "q"]`},
		{"duplicate id", map[string]string{"r.jsonl": "{\"id\":7,\"text\":\"a\"}\n{\"id\":\"7\",\"text\":\"b\"}\n"}, "r.jsonl", `r.jsonl:2: the id "7" was already given to r.jsonl:1`},
		{"no match", nil, "./none/*.txt", `no file matches "./none/*.txt" in /`},
		{"missing", nil, "gone.txt", "gone.txt: the file does not exist"},
		{"folder", map[string]string{"d/a.txt": "x"}, "d", "d: is a folder; name the files in it"},
		{"latin-1", map[string]string{"a.txt": "ok\ncaf\xe9\n"}, "a.txt", "a.txt:2: byte 0xe9 is not UTF-8"},
		{"utf-16", map[string]string{"a.txt": "\xff\xfeh\x00"}, "a.txt", "begins like UTF-16"},
		{"latin-1 in JSON", map[string]string{"a.jsonl": "{\"text\":\"x\"}\n{\"text\":\"\xe9\"}"}, "a.jsonl", "a.jsonl:2: byte 0xe9"},
		{"binary", map[string]string{"a.txt": "x\n\x00"}, "a.txt", "a.txt:2: holds a zero byte"},
		{"empty document", map[string]string{"a.txt": " \n"}, "a.txt", "a.txt: holds no text"},
		{"no rows", map[string]string{"a.jsonl": "\n"}, "a.jsonl", `"a.jsonl" holds no rows`},
		{"zstandard", map[string]string{"a.jsonl.zst": "\x28\xb5\x2f\xfd"}, "a.jsonl.zst", "a.jsonl.zst: of compressed files only those of gzip are read"},
		{"arrow", map[string]string{"a.arrow": "ARROW1"}, "a.arrow", "convert it to JSON lines"},
		{"parquet", map[string]string{"a.parquet": "PAR1"}, "a.parquet", "convert it to JSON lines"},
		{"unknown ending", map[string]string{"a.xyz": "?"}, "a.xyz", "set format to one of"},
		{"not gzip", map[string]string{"a.jsonl.gz": "{\"text\": \"plain\"}"}, "a.jsonl.gz", "a.jsonl.gz: gzip: invalid header"},
		{"cut gzip", map[string]string{"a.jsonl.gz": "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"}, "a.jsonl.gz", "a.jsonl.gz:1: unexpected EOF"},
		{"ragged csv", map[string]string{"a.csv": "text,x\na,b\nc\n"}, "a.csv", "a.csv: line 3 has another number of fields"},
		{"open quote", map[string]string{"a.csv": "text\n\"abc\n"}, "a.csv", "a.csv: line"},
		{"unnamed column", map[string]string{"a.csv": "text,\na,b\n"}, "a.csv", "a.csv:1: column 2 has no name"},
		{"empty csv", map[string]string{"a.csv": ""}, "a.csv", "a.csv: is empty"},
		{"json object", map[string]string{"a.json": "{}"}, "a.json", "a.json:1: must be a JSON array of objects"},
		{"json element", map[string]string{"a.json": "[\n{\"text\":\"x\"},\n3]"}, "a.json", "a.json:3: is a number"},
		{"json syntax", map[string]string{"a.json": "[\n{\"text\":\"x\"},\n{]"}, "a.json", "a.json:3: broken JSON"},
		{"json syntax on one line", map[string]string{"a.json": "[{\"text\":\"x\"}, {\"text\":\"y\"},]"}, "a.json", "a.json:1: broken JSON at byte 29 of the line: invalid character ']'"},
		{"json syntax inside", map[string]string{"a.json": "[{\"text\":\"x\"},\n {\"text\":\n  oops}]"}, "a.json", "a.json:3: broken JSON at byte 3 of the line: invalid character 'o'"},
		{"json without a comma", map[string]string{"a.json": "[{\"text\":\"x\"} {\"text\":\"y\"}]"}, "a.json", "a.json:1: broken JSON at byte 15 of the line: a comma or the end of the array is missing before '{'"},
		{"json cut off", map[string]string{"a.json": "[{\"text\":\"x\"}, {\"te"}, "a.json", "a.json:1 (element 2 of the array): broken JSON: it ends in the middle"},
		{"json element on one line", map[string]string{"a.json": "[{\"text\":\"x\"}, 3]"}, "a.json", "a.json:1 (element 2 of the array): is a number"},
		{"json ids on one line", map[string]string{"a.json": "[{\"id\":\"k\",\"text\":\"x\"}, {\"id\":\"k\",\"text\":\"y\"}]"}, "a.json", `a.json:1 (element 2 of the array): the id "k" was already given to a.json:1;`},
		{"json and more", map[string]string{"a.json": "[{\"text\":\"x\"}]\n[{\"text\":\"y\"}]"}, "a.json", "a.json:2: there is more after the array, at byte 1 of the line"},
		{"json empty", map[string]string{"a.json": ""}, "a.json", "a.json:1: must be a JSON array"},
		{"weight", map[string]string{"a.jsonl": "{\"text\":\"x\"}\n{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\",\"weight\":0}]}"}, "a.jsonl", "a.jsonl:2: message 2 of messages has weight 0, which a row cannot hold"},
		{"half a character", map[string]string{"a.json": `[{"text":"x"},
 {"text":"\ud83d"}]`}, "a.json", `a.json:2: the escape \ud83d is half of a character`},
		{"json open", map[string]string{"a.json": "[{\"text\":\"x\"}"}, "a.json", "a.json:1: the array is not closed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := run(t, c.files, source(c.source))
			if err == nil || !strings.Contains(err.Error(), c.message) {
				t.Errorf("got %v; want a message with %q", err, c.message)
			}
		})
	}
}

func TestReplaceInvalidUTF8(t *testing.T) {
	rows, err := run(t, map[string]string{"a.txt": "caf\xe9", "b.jsonl": "{\"text\":\"\xff\"}", "c.json": `[{"text":"\ud83d"}]`}, func(s *spec) {
		s.Files, s.InvalidUTF8 = []string{"a.txt", "b.jsonl", "c.json"}, "replace"
	})
	if err != nil || rows[0].Text != "caf\ufffd" || rows[1].Text != "\ufffd" || rows[2].Text != "\ufffd" {
		t.Errorf("got %q, %v", rows, err)
	}
}

func TestShuffleAndLimit(t *testing.T) {
	var lines strings.Builder
	for range 100 {
		lines.WriteString("{\"text\":\"x\"}\n")
	}
	files := map[string]string{"r.jsonl": lines.String()}
	plain, err := run(t, files, source("r.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	first, err := run(t, files, func(s *spec) { s.Source, s.Limit = "r.jsonl", 7 })
	if err != nil || !slices.Equal(ids(first), ids(plain)[:7]) {
		t.Errorf("limit: got %q, %v", ids(first), err)
	}
	shuffled, err := run(t, files, func(s *spec) { s.Source, s.Shuffle = "r.jsonl", true })
	if err != nil || slices.Equal(ids(shuffled), ids(plain)) {
		t.Errorf("shuffle did not change the order (%v)", err)
	}
	again, _ := run(t, files, func(s *spec) { s.Source, s.Shuffle, s.Limit = "r.jsonl", true, 7 })
	if !slices.Equal(ids(again), ids(shuffled)[:7]) {
		t.Error("limit keeps other rows than the first of the shuffled ones")
	}
	sorted := ids(shuffled)
	slices.Sort(sorted)
	want := ids(plain)
	slices.Sort(want)
	if !slices.Equal(sorted, want) {
		t.Error("shuffling lost rows")
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		edit func(s *spec)
		want string
	}{
		{func(s *spec) {}, "source: is missing"},
		{func(s *spec) { s.Source, s.Files = "a", []string{"b"} }, "sources: cannot stand beside source"},
		{source("hf://datasets/x"), "datasets of the hub cannot be read yet"},
		{source("https://x/y.jsonl"), "only files can be read"},
		{source("a[.txt"), "is not a pattern"},
		{func(s *spec) { s.Source, s.Format = "a", "xml" }, `format: is "xml"`},
		{func(s *spec) { s.Source, s.Split = "a", "page" }, `split: is "page"`},
		{func(s *spec) { s.Source, s.MaxChars = "a", 5 }, "max_chars: needs split"},
		{func(s *spec) { s.Source, s.Limit = "a", -1 }, "limit: is -1"},
		{func(s *spec) { s.Source, s.Map = "a", map[string]string{"qestion": "q"} }, `map: has the field "qestion"`},
		{func(s *spec) { s.Source, s.InvalidUTF8 = "a", "drop" }, `invalid_utf8: is "drop"`},
	} {
		s := newStage().(*spec)
		c.edit(s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v; want %q", err, c.want)
		}
	}
}

// The benchmark files that lie beside the repository read as they are.
func TestRealFiles(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "shared", "data")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the test data is not there:", err)
	}
	for _, c := range []struct {
		file  string
		names map[string]string
		n     int
		check func(r artifact.Row) bool
	}{
		{"bench/gsm8k_test.jsonl", nil, 1319, func(r artifact.Row) bool { return len(r.Messages) == 1 && strings.Contains(r.Answer, "####") }},
		{"bench/HumanEval.jsonl.gz", map[string]string{"id": "task_id", "completion": "canonical_solution"}, 164, func(r artifact.Row) bool {
			return len(r.Messages) == 2 && strings.HasPrefix(r.ID, "HumanEval/") && strings.HasPrefix(r.Meta, `{"entry_point"`)
		}},
		{"general/self_instruct_seed_tasks.jsonl", map[string]string{"input": "instances.0.input", "output": "instances.0.output"}, 175, func(r artifact.Row) bool {
			return len(r.Messages) == 2 && r.Messages[1].Role == "assistant" && r.Messages[1].Content != ""
		}},
	} {
		n := 0
		s := newStage().(*spec)
		s.Map = c.names
		r := reader{spec: s, path: filepath.Join(dir, c.file), name: c.file}
		err := r.read(context.Background(), func(row artifact.Row) error {
			if n++; !c.check(row) {
				t.Errorf("%s: unexpected row %+v", c.file, row)
			}
			return nil
		})
		if err != nil || n != c.n {
			t.Errorf("%s: %d rows, %v; want %d", c.file, n, err, c.n)
		}
	}
}

// The ids of an array's elements are unique in every layout, and the line alone
// wherever that is enough.
func TestArrayLayouts(t *testing.T) {
	for in, want := range map[string]string{
		`[{"text":"a"}, {"text":"b"},{"text":"c"}]`:                                "a.json:1 a.json:1.2 a.json:1.3",
		"[{\"text\":\"a\"},\n{\"text\":\"b\"}\n]\n":                                "a.json:1 a.json:2",
		"[\n {\n  \"text\": \"a\"\n },\n {\n  \"text\": \"b\"\n }\n]":              "a.json:2 a.json:5",
		"[\n{\"text\":\"a\"}, {\"text\":\n\"b\"}, {\"text\":\"c\"}\n]":             "a.json:2 a.json:2.2 a.json:3",
		`[{"id":"k","text":"a"}, {"text":"b"}, {"id":"l","text":"c"}]`:             "k a.json:1 l",
		"\ufeff[{\"text\":\"a\"}]":                                                 "a.json:1",
		`[{"id":"k","text":"a"}, {"text":"b"}, {"text":"c"}, {"id":7,"text":"d"}]`: "k a.json:1 a.json:1.2 7",
	} {
		rows, err := run(t, map[string]string{"a.json": in}, source("a.json"))
		if got := strings.Join(ids(rows), " "); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", in, got, err, want)
		}
		for _, r := range rows {
			if !strings.HasPrefix(r.ID, "a.json") && r.Source != "a.json:1" || strings.HasPrefix(r.ID, "a.json") && r.Source != r.ID {
				t.Errorf("%s: row %q comes from %q", in, r.ID, r.Source)
			}
		}
	}
}

// Rows about pictures lose the pictures, and that is said.
func TestImagesAreSaid(t *testing.T) {
	b := stagetest.New(t)
	b.WriteFile("a.jsonl", `{"images":["a.png"],"messages":[{"role":"user","content":"<image>what"},{"role":"assistant","content":"a cat"}]}`+"\n"+
		`{"image":{"bytes":"eA=="},"text":"a dog"}`+"\n"+`{"images":[],"image":null,"text":"none"}`+"\n"+`{"text":"an \"image\"","imagery":1}`+"\n")
	s := newStage().(*spec)
	s.Source = "a.jsonl"
	want := []string{"4 rows from 1 file", "images are not read: of 2 rows with some the text alone is used"}
	if r := b.Run(Kind, s); !slices.Equal(r.Notes, want) {
		t.Errorf("notes %q, want %q", r.Notes, want)
	}
}

// What messages hold that no row does is said once, whatever the rows.
func TestUnusedKeysOfMessagesAreSaid(t *testing.T) {
	b := stagetest.New(t)
	b.WriteFile("a.jsonl", strings.Repeat(`{"messages":[{"role":"user","content":"q","name":"Ann","weight":0},{"role":"assistant","content":"a","weight":1,"refusal":"r","name":null}]}`+"\n", 3)+
		`{"conversations":[{"from":"human","value":"q","weight":null},{"from":"gpt","value":"a","name":"Bo","tool_calls":[]}]}`+"\n")
	s := newStage().(*spec)
	s.Source = "a.jsonl"
	r := b.Run(Kind, s)
	want := []string{"4 rows from 1 file", `keys of messages that are not used: "name" (in 4 messages), "refusal" (in 3 messages)`}
	if !slices.Equal(r.Notes, want) {
		t.Errorf("got %q; want %q", r.Notes, want)
	}
	if m := stagetest.Rows[artifact.Row](r, "")[0].Messages; !slices.Equal(m, talk(user("q"), assistant("a"))) {
		t.Errorf("messages are %+v", m)
	}
}
