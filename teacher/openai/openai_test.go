package openai

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pipe/teacher"
)

const secret = "sk-very-secret"

// serve returns a teacher at a server with the given handler; it waits little
// between attempts.
func serve(t *testing.T, c Config, h func(n int, w http.ResponseWriter, r *http.Request)) (*Teacher, *atomic.Int64) {
	t.Helper()
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h(int(asked.Add(1)), w, r)
	}))
	t.Cleanup(s.Close)
	t.Setenv("TEACHER_KEY", secret)
	c.Endpoint, c.Model = s.URL+"/v1", "org/big"
	if c.APIKeyEnv == "" {
		c.APIKeyEnv = "TEACHER_KEY"
	}
	x, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	x.wait = time.Millisecond
	return x, &asked
}

func reply(w http.ResponseWriter, content, finish string) {
	fmt.Fprintf(w, `{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":%q}],"usage":{"prompt_tokens":7,"completion_tokens":3}}`, content, finish)
}

var question = teacher.Request{
	Messages:  []teacher.Message{{Role: "system", Content: "be brief"}, {Role: "user", Content: "why <b>?"}},
	MaxTokens: 64, Temperature: 0, TopP: 0.9, Stop: []string{"\n\n"}, Seed: 1 << 63,
}

func TestRequest(t *testing.T) {
	x, _ := serve(t, Config{}, func(_ int, w http.ResponseWriter, r *http.Request) {
		var got map[string]any
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		want := map[string]any{
			"model": "org/big", "max_tokens": 64.0, "temperature": 0.0, "top_p": 0.9, "stop": []any{"\n\n"}, "seed": float64(1 << 52),
			"messages": []any{map[string]any{"role": "system", "content": "be brief"}, map[string]any{"role": "user", "content": "why <b>?"}},
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("body %v\nwant %v", got, want)
		}
		if r.Method != "POST" || r.URL.Path != "/v1/chat/completions" || r.Header.Get("Authorization") != "Bearer "+secret || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		reply(w, "because", "stop")
	})
	a, err := x.Complete(t.Context(), question)
	if want := (teacher.Answer{Content: "because", PromptTokens: 7, Tokens: 3, Stopped: true}); err != nil || a != want {
		t.Errorf("%+v, %v", a, err)
	}
	if x.ID() != "org/big" {
		t.Error(x.ID())
	}
}

// Members of the body that a block gives replace and add; null takes out.
func TestExtra(t *testing.T) {
	x, _ := serve(t, Config{}, func(_ int, w http.ResponseWriter, r *http.Request) {
		var got map[string]any
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		want := map[string]any{
			"model": "org/big", "max_completion_tokens": 64.0, "top_p": 0.9, "stop": []any{"\n\n"}, "seed": 5.0,
			"messages":             []any{map[string]any{"role": "system", "content": "be brief"}, map[string]any{"role": "user", "content": "why <b>?"}},
			"chat_template_kwargs": map[string]any{"enable_thinking": false},
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("body %v\nwant %v", got, want)
		}
		reply(w, "because", "stop")
	})
	r := question
	r.Extra = map[string]json.RawMessage{"chat_template_kwargs": []byte(`{"enable_thinking":false}`), "max_tokens": []byte("null"),
		"max_completion_tokens": []byte("64"), "temperature": []byte("null"), "seed": []byte("5"), "unknown": []byte("null")}
	if _, err := x.Complete(t.Context(), r); err != nil {
		t.Error(err)
	}
}

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want teacher.Answer
	}{
		"no usage":           {`{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}`, teacher.Answer{Content: "a", Stopped: true}},
		"null usage":         {`{"usage":null,"choices":[{"message":{"content":""},"finish_reason":"stop"}]}`, teacher.Answer{Stopped: true}},
		"cut":                {`{"choices":[{"message":{"content":"a"},"finish_reason":"length"}]}`, teacher.Answer{Content: "a"}},
		"no reason":          {`{"choices":[{"message":{"content":"a"},"finish_reason":null}]}`, teacher.Answer{Content: "a"}},
		"no reason, short":   {`{"choices":[{"message":{"content":"a"}}],"usage":{"completion_tokens":9}}`, teacher.Answer{Content: "a", Tokens: 9, Stopped: true}},
		"no reason, full":    {`{"choices":[{"message":{"content":"a"}}],"usage":{"completion_tokens":10}}`, teacher.Answer{Content: "a", Tokens: 10}},
		"another reason":     {`{"choices":[{"message":{"content":"a"},"finish_reason":"eos_token"}]}`, teacher.Answer{Content: "a", Stopped: true}},
		"shouted reason":     {`{"choices":[{"message":{"content":"a"},"finish_reason":"STOP"}]}`, teacher.Answer{Content: "a", Stopped: true}},
		"cut, shouted":       {`{"choices":[{"message":{"content":"a"},"finish_reason":"MAX_TOKENS"}]}`, teacher.Answer{Content: "a"}},
		"usage of floats":    {`{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7.0,"completion_tokens":"3"}}`, teacher.Answer{Content: "a", PromptTokens: 7, Tokens: 3, Stopped: true}},
		"usage of words":     {`{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":"many"}`, teacher.Answer{Content: "a", Stopped: true}},
		"parts":              {`{"choices":[{"message":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"hm"}]},{"type":"text","text":"a"},{"type":"text","text":"b"}]},"finish_reason":"stop"}]}`, teacher.Answer{Content: "ab", Reasoning: "hm", Stopped: true}},
		"other reasoning":    {`{"choices":[{"message":{"content":"a","reasoning":{"summary":"so"}},"finish_reason":"stop"}]}`, teacher.Answer{Content: "a", Stopped: true}},
		"reasoning_content":  {`{"choices":[{"message":{"content":"a","reasoning_content":"so"},"finish_reason":"stop"}]}`, teacher.Answer{Content: "a", Reasoning: "so", Stopped: true}},
		"reasoning":          {`{"choices":[{"message":{"content":"a","reasoning":"so"},"finish_reason":"stop"}]}`, teacher.Answer{Content: "a", Reasoning: "so", Stopped: true}},
		"only reasoning":     {`{"choices":[{"message":{"content":null,"reasoning_content":"so"},"finish_reason":"length"}]}`, teacher.Answer{Reasoning: "so"}},
		"thoughts apart":     {`{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":32,"completion_tokens":9,"total_tokens":135,"completion_tokens_details":{"reasoning_tokens":94}}}`, teacher.Answer{Content: "a", PromptTokens: 32, Tokens: 103, Stopped: true}},
		"thoughts counted":   {`{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":32,"completion_tokens":103,"total_tokens":135}}`, teacher.Answer{Content: "a", PromptTokens: 32, Tokens: 103, Stopped: true}},
		"no completion":      {`{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":32,"total_tokens":30}}`, teacher.Answer{Content: "a", PromptTokens: 32, Stopped: true}},
		"several choices":    {`{"choices":[{"message":{"content":"a"},"finish_reason":"stop"},{"message":{"content":"b"}}]}`, teacher.Answer{Content: "a", Stopped: true}},
		"negative usage":     {`{"usage":{"completion_tokens":-4},"choices":[{"message":{"content":"a"}}]}`, teacher.Answer{Content: "a"}},
		"null refusal field": {`{"choices":[{"message":{"content":"a","refusal":null}}]}`, teacher.Answer{Content: "a"}},
	} {
		if got, err := decode([]byte(c.body), 10); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// TestRetried: each of these goes away at the third attempt.
func TestRetried(t *testing.T) {
	for name, fail := range map[string]func(w http.ResponseWriter){
		"429":         func(w http.ResponseWriter) { w.WriteHeader(429) },
		"408":         func(w http.ResponseWriter) { w.WriteHeader(408) },
		"500":         func(w http.ResponseWriter) { http.Error(w, "oops", 500) },
		"503":         func(w http.ResponseWriter) { w.WriteHeader(503) },
		"garbage":     func(w http.ResponseWriter) { io.WriteString(w, "<html>") },
		"half JSON":   func(w http.ResponseWriter) { io.WriteString(w, `{"choices":[{"mess`) },
		"nothing":     func(w http.ResponseWriter) {},
		"no choices":  func(w http.ResponseWriter) { io.WriteString(w, `{"choices":[]}`) },
		"no content":  func(w http.ResponseWriter) { io.WriteString(w, `{"choices":[{"message":{}}]}`) },
		"wrong types": func(w http.ResponseWriter) { io.WriteString(w, `{"choices":[{"message":{"content":[1]}}]}`) },
		"broken off":  func(w http.ResponseWriter) { reply(w, "a", "error") },
		"too large":   func(w http.ResponseWriter) { w.Write(bytes.Repeat([]byte(" "), maxBody+1)) },
		"cut off": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "{")
		},
		"hang up": func(w http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			x, asked := serve(t, Config{Retries: 2}, func(n int, w http.ResponseWriter, _ *http.Request) {
				if n < 3 {
					fail(w)
					return
				}
				reply(w, "ok", "stop")
			})
			a, err := x.Complete(t.Context(), question)
			if err != nil || a.Content != "ok" || asked.Load() != 3 {
				t.Errorf("%+v, %v after %d attempts", a, err, asked.Load())
			}
		})
	}
}

func TestFinal(t *testing.T) {
	for name, c := range map[string]struct {
		status   int
		body     string
		attempts int64
		refused  bool
		want     []string
	}{
		"down":        {500, `{"error":{"message":"out of\nmemory"}}`, 3, false, []string{"gave up after 3 attempts", "500 Internal Server Error: out of memory"}},
		"garbage":     {200, "hello", 3, false, []string{"gave up after 3 attempts", `it begins with "hello"`}},
		"error as OK": {200, `{"error":{"message":"no model loaded"}}`, 3, false, []string{"no choices: no model loaded"}},
		"bad request": {400, `{"message":"prompt too long"}`, 1, true, []string{"400 Bad Request: prompt too long"}},
		"policy":      {422, `{"detail":"policy"}`, 1, true, []string{"policy"}},
		"filtered":    {200, `{"choices":[{"message":{"content":""},"finish_reason":"content_filter"}]}`, 1, true, []string{"content filter"}},
		"refusal":     {200, `{"choices":[{"message":{"content":null,"refusal":"I will not"}}]}`, 1, true, []string{"I will not"}},
		"key":         {401, `{"error":"Incorrect API key provided: ` + secret + `"}`, 1, false, []string{"TEACHER_KEY", "[API key]"}},
		"forbidden":   {403, secret, 1, false, []string{"TEACHER_KEY"}},
		"no credit":   {400, `{"error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}}`, 1, false, []string{"400 Bad Request: Your credit balance", "credit"}},
		"wrong key":   {400, `{"error":{"code":400,"message":"API key not valid.","details":[{"reason":"API_KEY_INVALID"}]}}`, 1, false, []string{"API key not valid", "key"}},
		"moderated":   {403, `{"error":{"code":403,"message":"your input was flagged","metadata":{"reasons":["x"],"flagged_input":"why"}}}`, 1, true, []string{"your input was flagged"}},
		"no money":    {402, `{"error":{"message":"Insufficient Balance"}}`, 1, false, []string{"402 Payment Required: Insufficient Balance", "credit"}},
		"no model":    {404, "", 1, false, []string{"404 Not Found", "model_id"}},
		"redirect":    {307, "", 1, false, []string{"redirects are not followed"}},
		"echo":        {400, secret, 1, true, []string{"[API key]"}},
	} {
		t.Run(name, func(t *testing.T) {
			x, asked := serve(t, Config{Retries: 2}, func(_ int, w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", "http://elsewhere.invalid/")
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			})
			_, err := x.Complete(t.Context(), question)
			if err == nil || errors.Is(err, teacher.ErrRefused) != c.refused || asked.Load() != c.attempts {
				t.Fatalf("%v after %d attempts", err, asked.Load())
			}
			for _, w := range append(c.want, "org/big", "/v1/chat/completions") {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in %q", w, err)
				}
			}
			if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "\n") {
				t.Errorf("the error shows too much: %q", err)
			}
		})
	}
}

// TestLost: answers that a server has worked on, and that do not arrive, may have to
// be paid for. Around sees each attempt.
func TestLost(t *testing.T) {
	for name, c := range map[string]struct {
		lost  bool
		reply func(w http.ResponseWriter, r *http.Request)
	}{
		"cut off": {true, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "{")
		}},
		"half JSON":  {true, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"choices":[{"mess`) }},
		"hang up":    {true, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		"broken off": {true, func(w http.ResponseWriter, _ *http.Request) { reply(w, "a", "error") }},
		"late": {true, func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}},
		"a page":      {false, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }},
		"error as OK": {false, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"error":{"message":"no"}}`) }},
		"500":         {false, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }},
	} {
		t.Run(name, func(t *testing.T) {
			var seen seen
			around := func(x teacher.Teacher) teacher.Teacher { seen.Teacher = x; return &seen }
			x, _ := serve(t, Config{Retries: 1, Timeout: 200 * time.Millisecond, Around: around}, func(_ int, w http.ResponseWriter, r *http.Request) { c.reply(w, r) })
			_, err := x.Complete(t.Context(), question)
			if err == nil || errors.Is(err, teacher.ErrLost) != c.lost {
				t.Errorf("%v: lost %v; want %v", err, errors.Is(err, teacher.ErrLost), c.lost)
			}
			if len(seen.errs) != 2 || errors.Is(seen.errs[0], teacher.ErrLost) != c.lost {
				t.Errorf("attempts: %v", seen.errs)
			}
		})
	}
	x, _ := serve(t, Config{}, nil)
	s := httptest.NewServer(nil)
	x.url = s.URL
	s.Close()
	if _, err := x.Complete(t.Context(), question); err == nil || errors.Is(err, teacher.ErrLost) {
		t.Errorf("nobody listens: %v", err)
	}
}

// seen keeps what became of each attempt.
type seen struct {
	teacher.Teacher
	errs []error
}

func (s *seen) Complete(ctx context.Context, r teacher.Request) (teacher.Answer, error) {
	a, err := s.Teacher.Complete(ctx, r)
	s.errs = append(s.errs, err)
	return a, err
}

func TestNobodyListens(t *testing.T) {
	s := httptest.NewServer(nil)
	s.Close()
	x, err := New(Config{Endpoint: s.URL + "/v1?key=" + secret, Model: "m", Retries: 1})
	if err != nil {
		t.Fatal(err)
	}
	x.wait = time.Millisecond
	_, err = x.Complete(t.Context(), question)
	if err == nil || !strings.Contains(err.Error(), s.URL+"/v1/chat/completions: gave up after 2 attempts") || strings.Contains(err.Error(), secret) {
		t.Error(err)
	}
	if want := s.URL + "/v1/chat/completions?key=" + secret; x.url != want {
		t.Errorf("asks %s; want %s", x.url, want)
	}
}

// A certificate that nobody vouches for does not get better.
func TestCertificate(t *testing.T) {
	s := httptest.NewUnstartedServer(nil)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	x, err := New(Config{Endpoint: s.URL, Model: "m", Retries: 5})
	if err != nil {
		t.Fatal(err)
	}
	x.wait = time.Hour
	if _, err := x.Complete(t.Context(), question); err == nil || !strings.Contains(err.Error(), "SSL_CERT_FILE") || errors.Is(err, teacher.ErrLost) {
		t.Error(err)
	}
}

func TestTimeout(t *testing.T) {
	x, asked := serve(t, Config{Retries: 1, Timeout: 20 * time.Millisecond}, func(_ int, _ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	_, err := x.Complete(t.Context(), question)
	if err == nil || !strings.Contains(err.Error(), "gave up after 2 attempts: no answer within 20ms") || asked.Load() != 2 {
		t.Errorf("%v after %d attempts", err, asked.Load())
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	x, asked := serve(t, Config{Retries: 9}, func(_ int, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "300")
		w.WriteHeader(429)
		cancel()
	})
	if _, err := x.Complete(ctx, question); !errors.Is(err, context.Canceled) || asked.Load() != 1 {
		t.Errorf("%v after %d attempts", err, asked.Load())
	}
}

// Once the run ends, an attempt in flight may still be answered, and a failed
// one is not made again.
func TestEnd(t *testing.T) {
	end := make(chan struct{})
	x, asked := serve(t, Config{Retries: 9}, func(n int, w http.ResponseWriter, r *http.Request) {
		if n == 1 {
			close(end)
			reply(w, "late", "stop")
			return
		}
		w.Header().Set("Retry-After", "300")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	ctx := teacher.WithEnd(t.Context(), end)
	if a, err := x.Complete(ctx, question); err != nil || a.Content != "late" {
		t.Fatalf("answer %+v, error %v", a, err)
	}
	if _, err := x.Complete(ctx, question); err == nil || !strings.Contains(err.Error(), "not sent again, since the run ends: ") || asked.Load() != 2 {
		t.Errorf("error %v after %d requests", err, asked.Load())
	}
}

func TestConcurrent(t *testing.T) {
	x, asked := serve(t, Config{Concurrency: 4, Retries: 3}, func(n int, w http.ResponseWriter, r *http.Request) {
		var b request
		if n%3 == 0 || json.NewDecoder(r.Body).Decode(&b) != nil {
			w.WriteHeader(503)
			return
		}
		reply(w, b.Messages[0].Content, "stop")
	})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			s := fmt.Sprint(i)
			r := teacher.Request{Messages: []teacher.Message{{Role: "user", Content: s}}, MaxTokens: 1}
			var a teacher.Answer
			err := errors.New("not asked")
			for range 20 { // other requests may take all the good turns
				if a, err = x.Complete(t.Context(), r); err == nil {
					break
				}
			}
			if err != nil || a.Content != s {
				t.Errorf("%s: %+v, %v", s, a, err)
			}
		})
	}
	wg.Wait()
	if asked.Load() < 16 {
		t.Error(asked.Load())
	}
}

func TestNew(t *testing.T) {
	t.Setenv("EMPTY_KEY", " ")
	t.Setenv("BAD_KEY", "a\nb")
	for name, c := range map[string]struct {
		c    Config
		want string
	}{
		"no scheme":  {Config{Endpoint: "localhost:8000", Model: "m"}, "base URL"},
		"other":      {Config{Endpoint: "ftp://h/v1", Model: "m"}, "base URL"},
		"not a URL":  {Config{Endpoint: "http://user:hunter2@h:port/%zz", Model: "m"}, "not a URL"},
		"password":   {Config{Endpoint: "http://user:hunter2@h/v1", Model: "m"}, "api_key_env"},
		"no model":   {Config{Endpoint: "http://h/v1"}, "model_id"},
		"empty key":  {Config{Endpoint: "http://h/v1", Model: "m", APIKeyEnv: "EMPTY_KEY"}, "EMPTY_KEY is empty"},
		"broken key": {Config{Endpoint: "http://h/v1", Model: "m", APIKeyEnv: "BAD_KEY"}, "BAD_KEY holds"},
	} {
		_, err := New(c.c)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if x, err := New(Config{Endpoint: "http://h:1/v1/", Model: "m"}); err != nil || x.url != "http://h:1/v1/chat/completions" || x.config.Timeout != 120*time.Second {
		t.Errorf("%+v, %v", x, err)
	}
}
