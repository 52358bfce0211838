// Package legal_test holds the question set of pipelines/legal.hcl to what it
// promises.
package legal_test

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type row struct {
	ID       string
	Question string
	Answer   string
	Choices  []string
	Gold     *int
	Text     string
}

func read(t *testing.T, path string) (rows []row) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := map[string]bool{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var r row
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if r.ID == "" || seen[r.ID] {
			t.Errorf("%s: id %q is empty or not the only one", path, r.ID)
		}
		seen[r.ID] = true
		rows = append(rows, r)
	}
	return rows
}

func TestChoice(t *testing.T) {
	rows := read(t, "questions/choice.jsonl")
	var gold [4]int
	longest := 0
	for _, r := range rows {
		if len(r.Choices) != 4 || r.Gold == nil || *r.Gold < 0 || *r.Gold > 3 {
			t.Fatalf("%s: needs four choices and a gold among them", r.ID)
		}
		gold[*r.Gold]++
		texts, most := map[string]bool{}, 0
		for i, c := range r.Choices {
			texts[strings.ToLower(c)] = true
			if len(c) > len(r.Choices[most]) {
				most = i
			}
		}
		if len(texts) != 4 {
			t.Errorf("%s: two choices are the same", r.ID)
		}
		if most == *r.Gold {
			longest++
		}
	}
	if len(rows) < 60 {
		t.Errorf("%d questions, want 60", len(rows))
	}
	for i, n := range gold {
		if n*4 != len(rows) {
			t.Errorf("choice %d is right %d times of %d", i, n, len(rows))
		}
	}
	t.Logf("the right choice is the longest in %d of %d", longest, len(rows))
}

// TestAnswers: every answer can be read in its clause.
func TestAnswers(t *testing.T) {
	rows := read(t, "questions/answer.jsonl")
	if len(rows) < 30 {
		t.Errorf("%d questions, want 30", len(rows))
	}
	for _, r := range rows {
		clause, question, ok := strings.Cut(r.Question, "\n\n")
		if !ok || !strings.HasSuffix(question, "?") && !strings.HasSuffix(question, ".") {
			t.Errorf("%s: no clause and question: %q", r.ID, r.Question)
		}
		if r.Answer == "" || !strings.Contains(strings.ToLower(clause), strings.ToLower(r.Answer)) {
			t.Errorf("%s: %q is not in the clause", r.ID, r.Answer)
		}
	}
}

// TestHeldOut: the corpus holds at least 40 texts, and none of the paragraphs
// that the suite prose measures.
func TestHeldOut(t *testing.T) {
	files, err := filepath.Glob("corpus/*.txt")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d texts in corpus, want 40: %v", len(files), err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(strings.Join(strings.Fields(string(b)), " ") + "\n")
	}
	for _, name := range []string{"prose.jsonl", "questions/choice.jsonl"} {
		for _, r := range read(t, name) {
			text, _, _ := strings.Cut(r.Text+r.Question, "\n\n")
			if strings.Contains(all.String(), strings.Join(strings.Fields(text), " ")) {
				t.Errorf("%s: %s stands in the corpus", name, r.ID)
			}
		}
	}
}
