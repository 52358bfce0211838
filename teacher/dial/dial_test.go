package dial

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipe/model/modeltest"
	"pipe/teacher"
	"pipe/teacher/journal"
	"pipe/tensor/cpu"
)

var question = teacher.Request{Messages: []teacher.Message{{Role: "user", Content: "hi"}}, MaxTokens: 6, Temperature: 1, TopP: 1, Seed: 9}

// once opens a teacher, asks it and closes it.
func once(t *testing.T, c Config) (teacher.Answer, error) {
	t.Helper()
	x, closeTeacher, err := Open(t.Context(), c)
	if err != nil {
		return teacher.Answer{}, err
	}
	a, err := x.Complete(t.Context(), question)
	if x.ID() != c.ID() {
		t.Errorf("ID %q, want %q", x.ID(), c.ID())
	}
	if err := closeTeacher(); err != nil {
		t.Error(err)
	}
	return a, err
}

// TestLocal records with the local provider, and replays with both.
func TestLocal(t *testing.T) {
	b := cpu.New(2)
	defer b.Close()
	file := filepath.Join(t.TempDir(), "journals", "teacher.jsonl")
	c := Config{Provider: "local", ModelPath: modeltest.Directory(t, true), ModelDigest: "sha256:ab12", Backend: b, Concurrency: 4, WriteTo: file}
	want, err := once(t, c)
	if err != nil || want.Replayed {
		t.Fatalf("%+v, %v", want, err)
	}
	want.Replayed = true

	for name, again := range map[string]Config{
		"own journal, no model": {Provider: "local", ModelDigest: "ab12", ModelPath: "gone", WriteTo: file},
		"other journal":         {Provider: "local", ModelDigest: "ab12", ModelPath: "gone", Journal: file, WriteTo: filepath.Join(t.TempDir(), "own.jsonl")},
		"journal by digest":     {Provider: "journal", ModelDigest: "sha256:ab12", Journal: file},
		"journal by name":       {Provider: "journal", ModelID: "sha256:ab12", Journal: file},
	} {
		if got, err := once(t, again); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
	}
	c.Precision = "bf16"
	if got, err := once(t, c); err != nil || got.Replayed {
		t.Errorf("in another precision: %+v, %v; want it to be asked", got, err)
	}
	if got, err := once(t, Config{Provider: "journal", ModelDigest: "ab12", Precision: "bf16", Journal: file}); err != nil || !got.Replayed {
		t.Errorf("the answer in another precision: %+v, %v; want it replayed", got, err)
	}
	if _, err := once(t, Config{Provider: "journal", ModelDigest: "cd34", Journal: file}); !errors.Is(err, journal.ErrMissing) {
		t.Errorf("another model: %v", err)
	}
	c.ModelID, c.ModelPath = "named", "gone"
	if _, err := once(t, c); err == nil || errors.Is(err, journal.ErrMissing) {
		t.Errorf("under another name the model is asked: %v", err)
	}
}

func TestOpenAI(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"choices":[{"message":{"content":"yes"},"finish_reason":"stop"}]}`)
	}))
	defer s.Close()
	file := filepath.Join(t.TempDir(), "j.jsonl")
	a, err := once(t, Config{Provider: "openai", Endpoint: s.URL, ModelID: "big", WriteTo: file})
	if err != nil || a.Content != "yes" || a.Replayed {
		t.Fatalf("%+v, %v", a, err)
	}
	s.Close()
	if a, err := once(t, Config{Provider: "journal", ModelID: "big", Journal: file}); err != nil || a.Content != "yes" || !a.Replayed {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	torn := filepath.Join(dir, "torn.jsonl")
	if err := os.WriteFile(torn, []byte("{\"x\":1}\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(dir, "own.jsonl")
	for want, c := range map[string]Config{
		"set model_id":         {Provider: "local", WriteTo: own},
		"set journal":          {Provider: "journal", ModelID: "m"},
		"torn.jsonl:1":         {Provider: "openai", Endpoint: "http://h", ModelID: "m", WriteTo: torn},
		"recorded answers":     {Provider: "journal", ModelID: "m", Journal: filepath.Join(dir, "none")},
		"needs a journal":      {Provider: "local", ModelID: "m"},
		`provider is "gpt"`:    {Provider: "gpt", ModelID: "m", WriteTo: own},
		"must be a base URL":   {Provider: "openai", ModelID: "m", WriteTo: own},
		"NO_SUCH_KEY is empty": {Provider: "openai", Endpoint: "http://h", ModelID: "m", APIKeyEnv: "NO_SUCH_KEY", WriteTo: own},
	} {
		if _, _, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
