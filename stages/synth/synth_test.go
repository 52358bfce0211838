package synth

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"pipe/runtime/artifact"
	"pipe/runtime/stage"
	"pipe/runtime/stage/stagetest"
)

const passage = "The licensee may copy the program. A warranty is not given. Copies must keep the notice of the authors."

// A server is a teacher that answers by what the prompt asks for.
type server struct {
	*httptest.Server
	mu    sync.Mutex
	calls int
	// reply returns the answer to a prompt; n counts how often the same prompt
	// came before. "" is a failure with status 500.
	reply func(prompt string, n int) string
	seen  map[string]int
}

func serve(t *testing.T, reply func(prompt string, n int) string) *server {
	s := &server{reply: reply, seen: map[string]int{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Messages []struct{ Content string } `json:"messages"`
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || len(q.Messages) != 1 {
			t.Errorf("a request of %d messages: %v", len(q.Messages), err)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		prompt := q.Messages[0].Content
		s.calls++
		answer := s.reply(prompt, s.seen[prompt])
		s.seen[prompt]++
		if answer == "" {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, `{"choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}]}`, answer)
	}))
	t.Cleanup(s.Close)
	return s
}

// count returns the calls so far.
func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// good answers every step well.
func good(prompt string, _ int) string {
	switch {
	case strings.HasPrefix(prompt, "Read this text."):
		return "Question: What must copies keep?"
	case strings.Contains(prompt, "Think step by step"):
		return "The text says that copies must keep the notice."
	case strings.Contains(prompt, "Now answer the question"):
		return "Answer: The notice of the authors."
	case strings.Contains(prompt, "Does the text support"):
		return "Yes."
	}
	return "They keep a receipt."
}

func spec1(s *server, method string) *spec {
	c := stage.NewTeacherConfig()
	c.Provider, c.Endpoint, c.ModelID, c.Retries = "openai", s.URL+"/v1", "big", 0
	x := Kind.New().(*spec)
	x.Teacher, x.Method, x.Count = stage.Teacher{Config: c}, method, 3
	return x
}

func documents(b *stagetest.Bench, texts ...string) *stage.Dataset {
	var rows []artifact.Row
	for i, s := range texts {
		rows = append(rows, artifact.Row{ID: fmt.Sprintf("doc%d", i), Text: s, Gold: -1})
	}
	d := stagetest.Dataset(b, rows...)
	return &d
}

func TestDialogue(t *testing.T) {
	s := serve(t, good)
	b := stagetest.New(t)
	x := spec1(s, dialogues)
	x.Documents, x.SelfCorrect, x.Context, x.System = documents(b, passage, "12 34"), true, true, "be brief"
	r := b.Run(Kind, x)
	rows := stagetest.Rows[artifact.Row](r, "dataset")
	if len(rows) != 3 || len(stagetest.Rows[artifact.Drop](r, "rejects")) != 0 {
		t.Fatalf("%d rows", len(rows))
	}
	want := []artifact.Message{
		{Role: "system", Content: "be brief"},
		{Role: "user", Content: passage + "\n\nWhat must copies keep?"},
		{Role: "assistant", Content: "The text says that copies must keep the notice.\n\nAnswer: The notice of the authors."},
	}
	if !reflect.DeepEqual(rows[1].Messages, want) || rows[1].ID != "dialogue-000001" || rows[1].Source != "doc0#0" {
		t.Errorf("got %+v", rows[1])
	}
	var meta map[string]any
	if err := json.Unmarshal([]byte(rows[1].Meta), &meta); err != nil {
		t.Fatal(err)
	}
	if meta["teacher"] != "big" || meta["question"] != "What must copies keep?" || meta["corrected"] != false || meta["document"] != "doc0" {
		t.Errorf("meta %v", meta)
	}
	if s.count() != 12 {
		t.Errorf("%d calls, want 4 for each of 3 rows", s.count())
	}
}

func TestDialogueCorrects(t *testing.T) {
	s := serve(t, func(prompt string, n int) string {
		switch {
		case strings.Contains(prompt, "Does the text support"):
			return "No, it does not."
		case strings.Contains(prompt, "This answer is wrong"):
			return "Copies must keep the notice."
		}
		return good(prompt, n)
	})
	b := stagetest.New(t)
	x := spec1(s, dialogues)
	x.Documents, x.SelfCorrect, x.Count = documents(b, passage), true, 1
	row := stagetest.Rows[artifact.Row](b.Run(Kind, x), "dataset")[0]
	if got := row.Messages[1].Content; got != "Copies must keep the notice." { // the wrong reasoning is left out
		t.Errorf("assistant says %q", got)
	}
	if !strings.Contains(row.Meta, `"first_answer":"The notice of the authors."`) || !strings.Contains(row.Meta, `"corrected":true`) {
		t.Errorf("meta %s", row.Meta)
	}
}

func TestDialogueWithoutReasoning(t *testing.T) {
	s := serve(t, func(prompt string, n int) string {
		if strings.HasSuffix(prompt, "Answer the question in one sentence.") {
			return "The notice."
		}
		return good(prompt, n)
	})
	b := stagetest.New(t)
	x := spec1(s, dialogues)
	x.Documents, x.Reasoning, x.Count = documents(b, passage), "none", 1
	if got := stagetest.Rows[artifact.Row](b.Run(Kind, x), "dataset")[0].Messages[1].Content; got != "The notice." {
		t.Errorf("assistant says %q", got)
	}
}

// Malformed replies are asked for again, with another seed, and rejected when
// no attempt is usable; other rows are not hurt.
func TestMalformed(t *testing.T) {
	s := serve(t, func(prompt string, n int) string {
		switch {
		case strings.Contains(prompt, "Planets") && strings.HasPrefix(prompt, "Read this"):
			return "What is the passage about?" // not a word of the passage
		case strings.HasPrefix(prompt, "Read this") && n == 0:
			return "Here you are."
		}
		return good(prompt, n)
	})
	b := stagetest.New(t)
	x := spec1(s, dialogues)
	x.Documents, x.Count = documents(b, passage, "Planets circle around their star in one plane."), 2
	r := b.Run(Kind, x)
	rows, rejects := stagetest.Rows[artifact.Row](r, "dataset"), stagetest.Rows[artifact.Drop](r, "rejects")
	if len(rows) != 1 || len(rejects) != 1 {
		t.Fatalf("%d rows, %d rejects", len(rows), len(rejects))
	}
	d := rejects[0]
	if d.ID != "dialogue-000001" || d.Reason != "malformed" || d.Partner != "doc1#0" || !strings.Contains(d.Detail, "question, after 3 attempts") || !strings.Contains(d.Detail, "passage about") {
		t.Errorf("reject %+v", d)
	}
}

// A reply that did not end by itself is rejected, with what is known of why.
func TestCutOff(t *testing.T) {
	for usage, want := range map[string]string{
		`{"completion_tokens":512}`: "the reply was cut off at max_tokens = 512",
		`{"completion_tokens":40}`:  "the reply ended after 40 tokens, before max_tokens = 512: the context of the teacher is full",
		`null`:                      "the reply was cut off at max_tokens = 512",
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"choices":[{"message":{"content":"What must copies keep?"},"finish_reason":"length"}],"usage":%s}`, usage)
		}))
		b := stagetest.New(t)
		x := spec1(&server{Server: s}, dialogues)
		x.Documents = documents(b, passage)
		if _, err := b.Try(t.Context(), Kind, x); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("usage %s: %v; want %q", usage, err, want)
		}
		s.Close()
	}
}

// Nothing is published of a stage without a row: its error tells what became of
// them, and where all of them are.
func TestAllRejected(t *testing.T) {
	b := stagetest.New(t)
	x := spec1(serve(t, func(prompt string, n int) string {
		if strings.Contains(prompt, "Planets") {
			return good(prompt, n)
		}
		return "no."
	}), dialogues)
	x.Documents, x.Count = documents(b, passage, "Planets circle around their star in one plane."), 5
	_, err := b.Try(t.Context(), Kind, x)
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 5 || lines[0] != "5 rows, all rejected: 5 malformed" || !strings.Contains(lines[4], "try another teacher, other prompts or more attempts") {
		t.Fatalf("error %v", err)
	}
	for i, want := range []string{`the reply was "no."`, "less than grounding = 0.5", `the reply was "no."`} {
		if !strings.HasPrefix(lines[1+i], fmt.Sprintf("dialogue-%06d malformed: question, after 3 attempts: ", i)) || !strings.Contains(lines[1+i], want) {
			t.Errorf("line %q", lines[1+i])
		}
	}
	path, _, _ := strings.Cut(strings.TrimPrefix(lines[4], "all of them are in "), ";")
	text, err := os.ReadFile(path)
	if err != nil || strings.Count(string(text), "\n") != 5 || !strings.HasPrefix(string(text), `{"id":"dialogue-000000","reason":"malformed","partner":"doc0#0","detail":"question, after 3`) {
		t.Errorf("the file holds %q, error %v", text, err)
	}
}

// A teacher that fails ends the run, and nothing that it answered is paid twice.
func TestResume(t *testing.T) {
	broken := true
	s := serve(t, func(prompt string, n int) string {
		if broken && strings.Contains(prompt, "Now answer") {
			return ""
		}
		return good(prompt, n)
	})
	b := stagetest.New(t)
	x := spec1(s, dialogues)
	x.Teacher.Config.Concurrency = 1
	x.Documents = documents(b, passage)
	_, err := b.Try(t.Context(), Kind, x)
	if err == nil || !strings.Contains(err.Error(), "row 0: ask the teacher for the answer") || !strings.Contains(err.Error(), "500") {
		t.Fatalf("error %v", err)
	}
	before := s.count()
	s.mu.Lock()
	broken = false
	s.mu.Unlock()
	first := b.Run(Kind, x)
	if paid := s.count() - before; paid != 3*3-2 { // the first row's question and reasoning are in the journal
		t.Errorf("%d calls after the failure, want 7", paid)
	}
	before = s.count()
	x.Count = 4
	second := b.Run(Kind, x)
	if paid := s.count() - before; paid != 3 {
		t.Errorf("one row more cost %d calls, want 3", paid)
	}
	if got := stagetest.Rows[artifact.Row](second, "dataset"); !reflect.DeepEqual(got[:3], stagetest.Rows[artifact.Row](first, "dataset")) {
		t.Error("earlier rows changed")
	}
	if !strings.Contains(strings.Join(second.Notes, "\n"), "9 replayed from journals") {
		t.Errorf("notes %q", second.Notes)
	}
	s.Close() // now from the journal alone, as the quickstart does
	y := *x
	y.Teacher.Config = stage.NewTeacherConfig()
	y.Teacher.Config.Provider, y.Teacher.Config.ModelID = "journal", "big"
	paths, _ := filepath.Glob(filepath.Join(b.Journals(), "*.jsonl"))
	if len(paths) != 1 {
		t.Fatalf("journals %v", paths)
	}
	y.Teacher.Config.Journal = paths[0]
	c := stagetest.New(t)
	y.Documents = documents(c, passage)
	if got := stagetest.Rows[artifact.Row](c.Run(Kind, &y), "dataset"); !reflect.DeepEqual(got, stagetest.Rows[artifact.Row](second, "dataset")) {
		t.Error("the replay differs")
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b := stagetest.New(t)
	x := spec1(serve(t, func(p string, n int) string { cancel(); return good(p, n) }), dialogues)
	x.Documents = documents(b, passage)
	if _, err := b.Try(ctx, Kind, x); err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Errorf("error %v", err)
	}
}

// The rows do not depend on how many are asked for at once.
func TestConcurrency(t *testing.T) {
	var want []artifact.Row
	for _, n := range []int{1, 7} {
		b := stagetest.New(t)
		x := spec1(serve(t, good), dialogues)
		x.Teacher.Config.Concurrency, x.Count = n, 20
		x.Documents = documents(b, passage, "A second text about keeping the notice in copies.")
		got := stagetest.Rows[artifact.Row](b.Run(Kind, x), "dataset")
		if want == nil {
			want = got
		} else if !reflect.DeepEqual(got, want) {
			t.Errorf("with concurrency %d the rows differ", n)
		}
	}
}

func TestCheck(t *testing.T) {
	d := &stage.Dataset{}
	for _, c := range []struct {
		change func(*spec)
		want   string
	}{
		{func(s *spec) {}, ""},
		{func(s *spec) { s.Method = "magic" }, `method is "magic"`},
		{func(s *spec) { s.Documents = nil }, "needs documents"},
		{func(s *spec) { s.Prompts = d }, "prompts is not used"},
		{func(s *spec) { s.Count = 0 }, "count is 0"},
		{func(s *spec) { s.Attempts = 21 }, "attempts is 21"},
		{func(s *spec) { s.Grounding = 1.5 }, "grounding is 1.5"},
		{func(s *spec) { s.QuestionPrompt = "Ask." }, "does not contain {text}"},
		{func(s *spec) { s.JudgePrompt = "{a}?" }, "must contain {a} and {b}"},
		{func(s *spec) { s.Method, s.Documents = pairs, nil }, "needs prompts"},
	} {
		s := Kind.New().(*spec)
		s.Method, s.Documents = dialogues, d
		c.change(s)
		err := s.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(strings.ReplaceAll(err.Error(), ": ", " "), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
}

// The time of a run is over while answers are on their way: they are paid for,
// so they come home and are never asked for again.
func TestTimeUpWhileAsking(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := serve(t, func(prompt string, n int) string {
		cancel(stage.TimeUp("budget_time", time.Hour))
		time.Sleep(10 * time.Millisecond)
		return good(prompt, n)
	})
	b := stagetest.New(t)
	x := spec1(s, dialogues)
	x.Count, x.Teacher.Config.Concurrency = 8, 4
	x.Documents = documents(b, passage)
	_, err := b.Try(ctx, Kind, x)
	var over *stage.BudgetError
	if !errors.As(err, &over) || over.Budget != "budget_time" || !strings.Contains(err.Error(), "0 of 8 rows done: the time of 1h0m0s") {
		t.Fatalf("error %v", err)
	}
	paid := s.count()
	if paid < 1 || paid > 4 {
		t.Fatalf("%d calls", paid)
	}
	r := b.Run(Kind, x)
	if n := s.count(); n != 8*3 {
		t.Errorf("%d calls in all, want %d: an answer was paid for twice", n, 8*3)
	}
	if !strings.Contains(strings.Join(r.Notes, "\n"), fmt.Sprintf("24 teacher answers, of which %d replayed", paid)) {
		t.Errorf("notes %q", r.Notes)
	}
}

// A failure ends the run, but not the calls in flight: they are paid for.
func TestFailureWhileAsking(t *testing.T) {
	var broken, slow sync.WaitGroup
	broken.Add(1)
	slow.Add(3)
	var mu sync.Mutex
	n, failing := 0, true
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Messages []struct{ Content string } `json:"messages"`
		}
		json.NewDecoder(r.Body).Decode(&q)
		mu.Lock()
		n++
		at, fails := n, failing
		mu.Unlock()
		if fails && at <= 4 {
			if at == 4 {
				slow.Wait() // the other three are in flight
				w.WriteHeader(http.StatusInternalServerError)
				time.AfterFunc(20*time.Millisecond, broken.Done) // the client has seen it
				return
			}
			slow.Done()
			broken.Wait()
		}
		fmt.Fprintf(w, `{"choices":[{"message":{"content":%q},"finish_reason":"stop"}]}`, good(q.Messages[0].Content, 0))
	}))
	defer s.Close()
	b := stagetest.New(t)
	x := spec1(&server{Server: s}, dialogues)
	x.Count, x.Teacher.Config.Concurrency = 8, 4
	x.Documents = documents(b, passage)
	if _, err := b.Try(t.Context(), Kind, x); err == nil || !strings.Contains(err.Error(), "500") {
		t.Fatalf("error %v", err)
	}
	if n != 4 {
		t.Errorf("%d calls, want 4: none after the failure", n)
	}
	failing = false
	b.Run(Kind, x)
	if n != 8*3+1 {
		t.Errorf("%d calls in all, want %d: an answer was paid for twice", n, 8*3+1)
	}
}

// Answers that are in flight when a budget has no room for more are kept.
func TestBudgetWhileAsking(t *testing.T) {
	s := serve(t, good)
	b := stagetest.New(t)
	x := spec1(s, dialogues)
	x.Count, x.Teacher.Config.Concurrency, x.Teacher.Config.MaxTokens = 8, 4, 10
	x.Documents = documents(b, passage)
	tokens := int64(900) // a few calls
	x.Teacher.Config.BudgetTokens = &tokens
	runs := 0
	for paid := -1; ; runs++ {
		_, err := b.Try(t.Context(), Kind, x)
		if err == nil {
			break
		}
		if !errors.As(err, new(*stage.BudgetError)) {
			t.Fatal(err)
		}
		if s.count() == paid {
			t.Fatal("a run paid for nothing")
		}
		paid = s.count()
	}
	if s.count() != 8*3 || runs < 2 {
		t.Errorf("%d calls in %d runs, want 24 in 3 or more", s.count(), runs+1)
	}
}

// TestLostAnswersArePaid: answers that break off on the way take room in the budget,
// each attempt of them.
func TestLostAnswersArePaid(t *testing.T) {
	calls := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		fmt.Fprint(w, `{"choices":[{"index":0,"mess`)
	}))
	t.Cleanup(s.Close)
	b := stagetest.New(t)
	x := spec1(&server{Server: s}, dialogues)
	x.Teacher.Config.Concurrency, x.Teacher.Config.MaxTokens, x.Teacher.Config.Retries = 1, 100, 50
	x.Documents = documents(b, passage)
	tokens := int64(500) // one attempt: 58 tokens of the prompt, estimated, and max_tokens; at its most 394
	x.Teacher.Config.BudgetTokens = &tokens
	_, err := b.Try(t.Context(), Kind, x)
	var over *stage.BudgetError
	if !errors.As(err, &over) || over.Spent.Lost != 1 || over.Spent.Calls != 0 || over.Spent.OutputTokens != 100 {
		t.Errorf("error %v: %+v", err, over)
	}
	if calls != 1 {
		t.Errorf("%d attempts, want 1: a budget was exceeded", calls)
	}
}

// TestGrowingCount: rows are named by their index. A larger count asks for the
// new rows only, and the earlier ones keep their bytes, in both methods.
func TestGrowingCount(t *testing.T) {
	distinct := func(prompt string, n int) string { // an answer that tells its request
		a := good(prompt, n)
		if !strings.HasPrefix(a, "Question") && !strings.Contains(prompt, "Does the text") {
			a = fmt.Sprintf("%s %x", a, sha256.Sum256([]byte(prompt)))[:len(a)+9]
		}
		return a
	}
	rows := func(r *stagetest.Result) (rows []artifact.Row) { return stagetest.Rows[artifact.Row](r, "dataset") }
	s := serve(t, distinct)
	b := stagetest.New(t)
	x := spec1(s, dialogues)
	x.SelfCorrect, x.Count, x.Grounding = true, 40, 0
	x.Documents = documents(b, passage, "A second text about keeping the notice in copies.", "A third text: copies, notice, authors.")
	first := b.Run(Kind, x)
	if s.count() != 40*4 {
		t.Fatalf("%d calls, want 4 a row", s.count())
	}
	x.Count = 60
	second := b.Run(Kind, x)
	if s.count() != 60*4 {
		t.Errorf("20 rows more cost %d calls, want 80", s.count()-40*4)
	}
	if got := rows(second); len(got) != 60 || !reflect.DeepEqual(got[:40], rows(first)) {
		t.Error("the first 40 rows changed")
	}
	for _, how := range []string{"reference", "judge"} {
		calls := map[string]int{"reference": 1, "judge": 3}[how]
		s := serve(t, func(prompt string, n int) string {
			if strings.Contains(prompt, "Which answer is better?") {
				return "Answer: A"
			}
			return distinct(prompt, n) + fmt.Sprint(n)
		})
		pair := func(from *stagetest.Result, count int) *stagetest.Result {
			p := spec1(s, pairs)
			p.Pairs, p.Count = how, count
			p.Prompts = &stage.Dataset{Ref: from.Ref("dataset")}
			p.Teacher.Config.ModelID = how // another teacher than that of the questions
			return b.Run(Kind, p)
		}
		few := pair(first, 40)
		paid := s.count()
		more := pair(second, 60) // the prompts grew too
		if paid != 40*calls || s.count()-paid != 20*calls {
			t.Errorf("%s: %d calls, then %d; want %d and %d", how, paid, s.count()-paid, 40*calls, 20*calls)
		}
		if got := rows(more); len(got) != 60 || !reflect.DeepEqual(got[:40], rows(few)) {
			t.Errorf("%s: the first 40 pairs changed", how)
		}
	}
}
