package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pipe/teacher"
)

// A fake teacher answers with the last message and counts.
type fake struct {
	id     string
	mu     sync.Mutex
	asked  int
	answer func(ctx context.Context, r teacher.Request) (teacher.Answer, error)
}

func (f *fake) ID() string { return f.id }

func (f *fake) Complete(ctx context.Context, r teacher.Request) (teacher.Answer, error) {
	f.mu.Lock()
	f.asked++
	f.mu.Unlock()
	if f.answer != nil {
		return f.answer(ctx, r)
	}
	return teacher.Answer{Content: "re: " + r.Messages[0].Content, Reasoning: "<b>&", PromptTokens: 3, Tokens: 2, Stopped: true}, nil
}

func ask(s string) teacher.Request {
	return teacher.Request{Messages: []teacher.Message{{Role: "user", Content: s}}, MaxTokens: 5, Temperature: 0.7, TopP: 0.95, Stop: []string{"\n"}, Seed: 1<<64 - 1}
}

func open(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func complete(t *testing.T, x teacher.Teacher, r teacher.Request) teacher.Answer {
	t.Helper()
	a, err := x.Complete(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// written returns the file of a journal that answered the given requests.
func written(t *testing.T, asks ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "j.jsonl")
	j := open(t, path)
	w := j.Wrap(&fake{id: "big"})
	for _, s := range asks {
		complete(t, w, ask(s))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAnswersOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "j.jsonl")
	f := &fake{id: "big"}
	j := open(t, path)
	w := j.Wrap(f)
	first := complete(t, w, ask("a <é> &\u2028"))
	again := complete(t, w, ask("a <é> &\u2028"))
	if first.Replayed || !again.Replayed || f.asked != 1 {
		t.Fatalf("replayed %v then %v, asked %d times", first.Replayed, again.Replayed, f.asked)
	}
	j.Close()

	j = open(t, path)
	after := complete(t, j.Wrap(f), ask("a <é> &\u2028"))
	first.Replayed = true
	if after != first || f.asked != 1 || j.Len() != 1 {
		t.Errorf("after reopening: %+v, want %+v; asked %d times", after, first, f.asked)
	}
	second := ask("a <é> &\u2028")
	second.Attempt = 1
	if complete(t, j.Wrap(f), second).Replayed {
		t.Error("another attempt is another request")
	}
	if complete(t, j.Wrap(&fake{id: "other"}), ask("a <é> &\u2028")).Replayed {
		t.Error("another teacher must answer for itself")
	}
}

// TestKey pins the key, computed by hashing the array written by hand: journals committed beside recipes depend on it.
func TestKey(t *testing.T) {
	const want = "3e5bbad06f9d86ae15e44b0fdc1a32363945e68e8f0e09725f8ac62c7b395064"
	got, err := Key("big", ask("hi"))
	if err != nil || got != want {
		t.Errorf("key %s, %v; want %s", got, err, want)
	}
	r := ask("hi")
	r.Stop, r.Messages = []string{}, nil
	a, _ := Key("big", r)
	r.Stop, r.Messages = nil, []teacher.Message{}
	if b, _ := Key("big", r); a != b {
		t.Error("nil and empty make different keys")
	}
	r.TopP = 1 / (r.TopP - r.TopP)
	if _, err := Key("big", r); err == nil {
		t.Error("no error for a request that is not JSON")
	}
}

func TestInvalidUTF8(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.jsonl")
	f := &fake{id: "big", answer: func(context.Context, teacher.Request) (teacher.Answer, error) {
		return teacher.Answer{Content: "half a rune: \xe2\x82"}, nil
	}}
	r := ask("broken \xff")
	r.Stop = []string{"\xfe"}
	j := open(t, path)
	a := complete(t, j.Wrap(f), r)
	j.Close()
	b := complete(t, open(t, path).Wrap(f), r)
	if a.Content != b.Content || f.asked != 1 || a.Content != "half a rune: \uFFFD" {
		t.Errorf("%q, then %q from the journal; asked %d times", a.Content, b.Content, f.asked)
	}
}

func TestReplay(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "recorded.jsonl")
	if err := os.WriteFile(path, written(t, "one", "two"), 0o444); err != nil {
		t.Fatal(err)
	}
	recorded, err := OpenReadOnly(path, true)
	if err != nil {
		t.Fatal(err)
	}
	only := Recorded("big", recorded)
	if a := complete(t, only, ask("two")); a.Content != "re: two" || !a.Replayed {
		t.Errorf("%+v", a)
	}
	_, err = only.Complete(t.Context(), ask("three"))
	if !errors.Is(err, ErrMissing) || errors.Is(err, teacher.ErrRefused) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), `provider "openai" or "local"`) {
		t.Errorf("a missing answer: %v", err)
	}
	if _, err := Recorded("other", recorded).Complete(t.Context(), ask("two")); !errors.Is(err, ErrMissing) {
		t.Errorf("another teacher's answer: %v", err)
	}
	f := &fake{id: "big"}
	own := open(t, filepath.Join(dir, "own.jsonl"))
	w := own.Wrap(f, recorded)
	if !complete(t, w, ask("one")).Replayed || complete(t, w, ask("three")).Replayed || f.asked != 1 || own.Len() != 1 {
		t.Errorf("asked %d times, recorded %d", f.asked, own.Len())
	}
}

func TestRefusal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j.jsonl")
	f := &fake{id: "big", answer: func(context.Context, teacher.Request) (teacher.Answer, error) {
		return teacher.Answer{}, fmt.Errorf("%w: bad words", teacher.ErrRefused)
	}}
	j := open(t, path)
	for range 2 { // asked again, recorded once
		if _, err := j.Wrap(f).Complete(t.Context(), ask("x")); !errors.Is(err, teacher.ErrRefused) {
			t.Fatal(err)
		}
	}
	if b, _ := os.ReadFile(path); bytes.Count(b, []byte("\n")) != 1 || f.asked != 2 {
		t.Errorf("asked %d times, file:\n%s", f.asked, b)
	}
	ro, err := OpenReadOnly(path, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Recorded("big", ro).Complete(t.Context(), ask("x")); !errors.Is(err, teacher.ErrRefused) || !strings.Contains(err.Error(), "bad words") {
		t.Errorf("replayed refusal: %v", err)
	}
	f.answer = nil
	complete(t, j.Wrap(f), ask("x"))
	j.Close()
	if a := complete(t, open(t, path).Wrap(f), ask("x")); !a.Replayed || f.asked != 3 {
		t.Errorf("an answer must stand above a refusal: %+v", a)
	}
}

func TestErrorsAreNotRecorded(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "j.jsonl"))
	down := errors.New("server is down")
	f := &fake{id: "big", answer: func(context.Context, teacher.Request) (teacher.Answer, error) {
		return teacher.Answer{}, down
	}}
	if _, err := j.Wrap(f).Complete(t.Context(), ask("x")); !errors.Is(err, down) {
		t.Error(err)
	}
	f.answer = nil
	if a := complete(t, j.Wrap(f), ask("x")); a.Replayed {
		t.Error("an error was recorded")
	}
	j.Close()
	if _, err := j.Wrap(f).Complete(t.Context(), ask("y")); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("an answer that could not be recorded was given: %v", err)
	}
}

func TestConcurrent(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "j.jsonl"))
	gate := make(chan struct{})
	f := &fake{id: "big"}
	f.answer = func(_ context.Context, r teacher.Request) (teacher.Answer, error) {
		<-gate
		return teacher.Answer{Content: r.Messages[0].Content}, nil
	}
	w := j.Wrap(f)
	const n, kinds = 40, 4
	answers := make([]teacher.Answer, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { answers[i], _ = w.Complete(t.Context(), ask(fmt.Sprint(i%kinds))) })
	}
	close(gate)
	wg.Wait()
	fresh := 0
	for i, a := range answers {
		if a.Content != fmt.Sprint(i%kinds) {
			t.Errorf("answer %d is %q", i, a.Content)
		}
		if !a.Replayed {
			fresh++
		}
	}
	if f.asked != kinds || fresh != kinds || j.Len() != kinds {
		t.Errorf("asked %d, fresh %d, recorded %d; want %d of each", f.asked, fresh, j.Len(), kinds)
	}
}

// TestCancelled: when the one who asks gives up, the one who waits asks.
func TestCancelled(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "j.jsonl"))
	begun := make(chan struct{}, 2)
	f := &fake{id: "big"}
	f.answer = func(ctx context.Context, r teacher.Request) (teacher.Answer, error) {
		begun <- struct{}{}
		if f.asked == 1 {
			<-ctx.Done()
			return teacher.Answer{}, ctx.Err()
		}
		return teacher.Answer{Content: "yes"}, nil
	}
	w := j.Wrap(f)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() { _, err := w.Complete(ctx, ask("x")); first <- err }()
	<-begun
	second := make(chan teacher.Answer)
	go func() { a, _ := w.Complete(t.Context(), ask("x")); second <- a }()
	time.Sleep(time.Millisecond) // mostly joins the first; the result is the same
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if a := <-second; a.Content != "yes" {
		t.Errorf("%+v", a)
	}
}
