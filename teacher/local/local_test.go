package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pipe/model/modeltest"
	"pipe/teacher"
	"pipe/tensor"
	"pipe/tensor/cpu"
)

func open(t *testing.T, c Config) *Teacher {
	t.Helper()
	b := cpu.New(2)
	t.Cleanup(func() { b.Close() })
	c.Backend = b
	if c.Model == "" {
		c.Model = modeltest.Directory(t, true)
	}
	x, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}

func ask(s string, seed uint64) teacher.Request {
	return teacher.Request{Messages: []teacher.Message{{Role: "user", Content: s}}, MaxTokens: 12, Temperature: 1, TopP: 1, Seed: seed}
}

// TestBatching: an answer does not depend on what is decoded with it.
func TestBatching(t *testing.T) {
	for _, name := range tensor.Precisions() {
		t.Run(name, func(t *testing.T) { testBatching(t, tensor.Precision(name)) })
	}
}

func testBatching(t *testing.T, precision tensor.DType) {
	dir := modeltest.Directory(t, true)
	const n = 24
	request := func(i int) teacher.Request {
		r := ask(strings.Repeat(fmt.Sprint(i), 1+i%5), uint64(i))
		r.MaxTokens = 1 + i%13
		return r
	}
	alone := open(t, Config{ID: "x", Model: dir, Batch: 1, Precision: precision})
	var want [n]teacher.Answer
	different := map[string]bool{}
	for i := range n {
		var err error
		if want[i], err = alone.Complete(t.Context(), request(i)); err != nil {
			t.Fatal(err)
		}
		different[want[i].Content] = true
		if want[i].PromptTokens == 0 || want[i].Tokens > request(i).MaxTokens || want[i].Replayed {
			t.Errorf("%d: %+v", i, want[i])
		}
	}
	if len(different) < n/2 {
		t.Fatalf("only %d different answers; the test would show nothing", len(different))
	}
	together := open(t, Config{ID: "x", Model: dir, Batch: 5, Precision: precision})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			got, err := together.Complete(t.Context(), request(i))
			if err != nil || got != want[i] {
				t.Errorf("%d: %+v, %v; alone it was %+v", i, got, err, want[i])
			}
		})
	}
	wg.Wait()
}

func TestPrompt(t *testing.T) {
	x := open(t, Config{ID: "x"})
	req, _, err := x.request(teacher.Request{Messages: []teacher.Message{{Role: "system", Content: "s"}, {Role: "user", Content: "hi"}}, MaxTokens: 1})
	if err != nil {
		t.Fatal(err)
	}
	const want = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
	if got := x.model.Tokenizer.Decode(req.Prompt); got != want || req.Prompt[0] != 257 {
		t.Errorf("prompt %q %v", got, req.Prompt)
	}
	if len(req.StopIDs) != 1 || req.StopIDs[0] != 258 {
		t.Errorf("stop ids %v", req.StopIDs)
	}
}

func TestStop(t *testing.T) {
	x := open(t, Config{ID: "x"})
	r := ask("tell", 3)
	r.MaxTokens = 40
	full, err := x.Complete(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	runes := []rune(full.Content)
	if len(runes) < 6 {
		t.Fatalf("%q is too short for the test", full.Content)
	}
	stop := string(runes[3:5])
	r.Stop = []string{"never in there", "", stop}
	got, err := x.Complete(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if want := full.Content[:strings.Index(full.Content, stop)]; got.Content != want || !got.Stopped || got.Tokens >= full.Tokens {
		t.Errorf("%+v, want %q, the beginning of %q", got, want, full.Content)
	}
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		text string
		stop []string
		want int
	}{{"abcabc", []string{"ca", "b"}, 1}, {"abc", []string{"", "d"}, -1}, {"abc", nil, -1}, {"aé\n\n", []string{"\n\n"}, 3}} {
		if got := cut(c.text, c.stop); got != c.want {
			t.Errorf("cut(%q, %q) = %d, want %d", c.text, c.stop, got, c.want)
		}
	}
}

func TestRefused(t *testing.T) {
	template := filepath.Join(t.TempDir(), "t.jinja")
	if err := os.WriteFile(template, []byte(`{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}`), 0o666); err != nil {
		t.Fatal(err)
	}
	x := open(t, Config{ID: "x", Template: template})
	for want, ms := range map[string][]teacher.Message{
		"the prompt has 128 tokens; the model's context of 128": {{Role: "user", Content: strings.Repeat("a", 128)}},
		"no system turn":      {{Role: "system", Content: "x"}},
		"the prompt is empty": {{Role: "user"}},
	} {
		_, err := x.Complete(t.Context(), teacher.Request{Messages: ms, MaxTokens: 4})
		if !errors.Is(err, teacher.ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	a, err := x.Complete(t.Context(), teacher.Request{Messages: []teacher.Message{{Role: "user", Content: strings.Repeat("a", 126)}}, MaxTokens: 50})
	if err != nil || a.Tokens > 2 {
		t.Errorf("an answer beyond the context: %+v, %v", a, err)
	}
	for _, r := range []teacher.Request{{MaxTokens: 0}, {MaxTokens: 1, Temperature: -1}} {
		r.Messages = []teacher.Message{{Role: "user", Content: "a"}}
		if _, err := x.Complete(t.Context(), r); err == nil || errors.Is(err, teacher.ErrRefused) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

// TestCancel: one who gives up takes nobody along, and all who give up end the
// work.
func TestCancel(t *testing.T) {
	x := open(t, Config{ID: "x", Batch: 3})
	want, err := x.Complete(t.Context(), ask("stay", 1))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			if _, err := x.Complete(ctx, ask("go", uint64(i))); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	wg.Go(func() {
		if got, err := x.Complete(t.Context(), ask("stay", 1)); err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	})
	cancel()
	wg.Wait()
	if _, err := x.Complete(ctx, ask("late", 1)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if got, err := x.Complete(t.Context(), ask("stay", 1)); err != nil || got != want {
		t.Errorf("afterwards: %+v, %v", got, err)
	}
}

func TestClose(t *testing.T) {
	x := open(t, Config{ID: "x"})
	errs := make(chan error)
	for i := range 4 {
		go func() {
			r := ask("long", uint64(i))
			r.MaxTokens = 100
			_, err := x.Complete(t.Context(), r)
			errs <- err
		}()
	}
	done := make(chan struct{})
	go func() {
		for range 4 {
			if err := <-errs; err != nil && !errors.Is(err, errClosed) {
				t.Error(err)
			}
		}
		close(done)
	}()
	x.stop() // the first half of Close: nobody may ask when it frees the model
	<-done
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	if err := x.Close(); err != nil {
		t.Error("a second time:", err)
	}
}

func TestOpen(t *testing.T) {
	b := cpu.New(2)
	defer b.Close()
	if _, err := Open(Config{Model: filepath.Join(t.TempDir(), "none"), Backend: b}); err == nil {
		t.Error("no model: no error")
	}
	dir := modeltest.Directory(t, true)
	if _, err := Open(Config{Model: dir, Adapter: filepath.Join(dir, "none"), Backend: b}); err == nil || !strings.Contains(err.Error(), "adapter") {
		t.Errorf("no adapter: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), []byte(`{"eos_token":"<|im_end|>"}`), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Model: dir, Backend: b}); err == nil || !strings.Contains(err.Error(), "no chat template") {
		t.Errorf("base model: %v", err)
	}
}

// TestSampling: every setting of a request reaches the sampler.
func TestSampling(t *testing.T) {
	x := open(t, Config{ID: "x"})
	answer := func(change func(r *teacher.Request)) string {
		r := ask("sample", 5)
		r.MaxTokens, r.Temperature = 40, 1.5
		change(&r)
		a, err := x.Complete(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return a.Content
	}
	free, greedy := answer(func(*teacher.Request) {}), answer(func(r *teacher.Request) { r.Temperature = 0 })
	if free == greedy {
		t.Fatal("the sample is the greedy answer; the test would show nothing")
	}
	for name, change := range map[string]func(r *teacher.Request){
		"top_k": func(r *teacher.Request) { r.TopK = 1 },
		"top_p": func(r *teacher.Request) { r.TopP = 1e-9 },
		"min_p": func(r *teacher.Request) { r.MinP = 1 },
	} {
		if got := answer(change); got != greedy {
			t.Errorf("%s leaves one token, but gives %q; greedy is %q", name, got, greedy)
		}
	}
	if got := answer(func(r *teacher.Request) { r.Temperature, r.RepetitionPenalty = 0, 100 }); got == greedy {
		t.Errorf("with a penalty too it is %q", got)
	}
}

// TestBegunThought: an answer has the beginning of the thought that the template wrote.
func TestBegunThought(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.jinja")
	if err := os.WriteFile(path, []byte(`{{ messages[0].content + '|<think>\n' }}`), 0o666); err != nil {
		t.Fatal(err)
	}
	x := open(t, Config{ID: "x", Template: path})
	a, err := x.Complete(t.Context(), ask("why?", 1))
	if err != nil || !strings.HasPrefix(a.Content, "<think>\n") || len(a.Content) == len("<think>\n") {
		t.Errorf("%+v, %v", a, err)
	}
}
