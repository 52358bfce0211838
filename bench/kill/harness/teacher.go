package harness

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"time"
)

// A call is what makes two requests the same request, in whatever words it was
// sent or recorded.
type call [sha256.Size]byte

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// callOf names a request. The sampling seed, which servers take with 53 bits,
// tells a deliberate second try from the first.
func callOf(ms []message, seed uint64) call {
	b, err := json.Marshal([]any{ms, seed})
	if err != nil {
		panic(err) // of strings and a number
	}
	return sha256.Sum256(b)
}

// A reply is an answer; "length" ends one that was cut off.
type reply struct{ text, end string }

// A Teacher is an OpenAI-compatible server that keeps an account of every call.
type Teacher struct {
	answer func(c call, prompt string) (reply, bool)
	server *httptest.Server

	mu       sync.Mutex
	asked    map[call]int  // since Begin
	paid     map[call]bool // answers known to be in the journal
	run      map[call]bool // asked since Run
	twice    []string      // calls that were asked although they were in the journal
	strange  int           // requests without an answer
	answered chan struct{}
}

func newTeacher(answer func(c call, prompt string) (reply, bool)) *Teacher {
	t := &Teacher{answer: answer, answered: make(chan struct{}, 1<<16)}
	t.Begin()
	t.server = httptest.NewServer(http.HandlerFunc(t.serve))
	return t
}

// Close stops the server.
func (t *Teacher) Close() {
	t.server.CloseClientConnections()
	t.server.Close()
}

// Begin forgets everything: the next run has an empty journal.
func (t *Teacher) Begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked, t.paid, t.twice, t.strange = map[call]int{}, map[call]bool{}, nil, 0
	t.run = map[call]bool{}
}

// Run is called before a process starts.
func (t *Teacher) Run() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.run = map[call]bool{}
	for len(t.answered) > 0 {
		<-t.answered
	}
}

func (t *Teacher) serve(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Messages []message `json:"messages"`
		Seed     uint64    `json:"seed"`
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || len(q.Messages) == 0 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c, prompt := callOf(q.Messages, q.Seed), q.Messages[len(q.Messages)-1].Content
	a, ok := t.answer(c, prompt)
	t.mu.Lock()
	t.asked[c]++
	t.run[c] = true
	if t.paid[c] {
		t.twice = append(t.twice, prompt)
	}
	if !ok {
		t.strange++
	}
	t.mu.Unlock()
	if !ok {
		http.Error(w, "this was never recorded", http.StatusBadRequest)
		return
	}
	time.Sleep(time.Duration(c[0]) * 10 * time.Microsecond) // calls overlap
	fmt.Fprintf(w, `{"choices":[{"message":{"role":"assistant","content":%s},"finish_reason":%q}],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}`,
		quote(a.text), a.end, len(prompt)/4, len(a.text)/4)
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
	select {
	case t.answered <- struct{}{}:
	default:
	}
}

func quote(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return b
}

// Calls returns how many calls there were since Begin, and how many different ones.
func (t *Teacher) Calls() (all, distinct int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.asked {
		all += n
	}
	return all, len(t.asked)
}

// settle reads the journal that a run left. From now on, asking for one of its
// answers is paying twice. It returns how many calls of the run are not in it:
// those that were in flight.
func (t *Teacher) settle(journal string) (inFlight int, torn bool, err error) {
	b, err := os.ReadFile(journal)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return 0, false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r := bufio.NewReader(bytes.NewReader(b))
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if err != nil { // the last line has no end
			torn = len(line) > 0
			break
		}
		var l struct {
			Request struct {
				Messages []message `json:"messages"`
				Seed     uint64    `json:"seed"`
			} `json:"request"`
		}
		if err := json.Unmarshal(line, &l); err != nil {
			return 0, false, fmt.Errorf("%s:%d: %w", journal, n, err)
		}
		t.paid[callOf(l.Request.Messages, l.Request.Seed>>11)] = true
	}
	for c := range t.run {
		if !t.paid[c] {
			inFlight++
		}
	}
	return inFlight, torn, nil
}

// check reports calls that were paid twice.
func (t *Teacher) check() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.twice) > 0 {
		return fmt.Errorf("%d calls were asked again although their answers were in the journal, the first: %q", len(t.twice), t.twice[0])
	}
	if t.strange > 0 {
		return fmt.Errorf("%d requests were none that an uninterrupted run makes", t.strange)
	}
	return nil
}

// recorded answers from a journal file.
func recorded(journal string) (func(call, string) (reply, bool), error) {
	b, err := os.ReadFile(journal)
	if err != nil {
		return nil, err
	}
	answers := map[call]reply{}
	for line := range strings.Lines(string(b)) {
		var l struct {
			Request struct {
				Messages []message `json:"messages"`
				Seed     uint64    `json:"seed"`
			} `json:"request"`
			Answer struct {
				Content string `json:"content"`
				Stopped bool   `json:"stopped"`
			} `json:"answer"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			return nil, fmt.Errorf("%s: %w", journal, err)
		}
		end := "stop"
		if !l.Answer.Stopped {
			end = "length"
		}
		answers[callOf(l.Request.Messages, l.Request.Seed>>11)] = reply{l.Answer.Content, end}
	}
	return func(c call, _ string) (reply, bool) {
		a, ok := answers[c]
		return a, ok
	}, nil
}
