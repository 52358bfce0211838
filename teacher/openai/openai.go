// Package openai is a teacher behind an OpenAI-compatible server, as vLLM,
// llama.cpp, SGLang, Ollama and the hosted services speak it: POST
// {endpoint}/chat/completions.
package openai

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"pipe/teacher"
)

// A Config says where the teacher is. Endpoint and Model are needed.
type Config struct {
	Endpoint    string        // base URL, such as http://gpu-box:8000/v1
	Model       string        // the name the endpoint knows the model by; what ID returns
	APIKeyEnv   string        // environment variable that holds the API key; "": no key
	Concurrency int           // connections kept open; 0: 8
	Timeout     time.Duration // of one attempt; 0: 120 s
	Retries     int           // attempts after the first

	// Around, unless nil, wraps the teacher that makes one attempt: what it sees
	// are the requests that go out, and what became of each.
	Around func(teacher.Teacher) teacher.Teacher
}

// A Teacher asks a server.
type Teacher struct {
	config Config
	once   teacher.Teacher // makes one attempt
	url    string
	where  string // the URL as messages name it: without a query, which may hold a key
	key    string
	client *http.Client
	// wait is how long an attempt waits after the first failure, twice that
	// after the second and so on.
	wait time.Duration
	rand func() float64
}

var _ teacher.Teacher = (*Teacher)(nil)

// New checks the configuration and reads the key. It asks the server nothing.
func New(c Config) (*Teacher, error) {
	u, err := url.Parse(c.Endpoint)
	switch {
	case err != nil:
		return nil, errors.New("endpoint is not a URL; give the base URL, such as \"http://localhost:8000/v1\"") // url.Error would print a password
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return nil, fmt.Errorf("endpoint is %q; must be a base URL, such as \"http://localhost:8000/v1\"", u.Redacted())
	case u.User != nil:
		return nil, fmt.Errorf("endpoint %q holds a user name; put the key into an environment variable and name it with api_key_env", u.Redacted())
	case c.Model == "":
		return nil, errors.New("model_id is empty; give the name the endpoint knows the model by")
	}
	t := &Teacher{config: c, wait: time.Second, rand: random}
	if c.APIKeyEnv != "" {
		if t.key = strings.TrimSpace(os.Getenv(c.APIKeyEnv)); t.key == "" {
			return nil, fmt.Errorf("the environment variable %s is empty; set it to the API key of %s", c.APIKeyEnv, u.Redacted())
		}
		if strings.ContainsFunc(t.key, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, fmt.Errorf("the environment variable %s holds characters that an API key cannot have", c.APIKeyEnv)
		}
	}
	if t.config.Timeout <= 0 {
		t.config.Timeout = 120 * time.Second
	}
	if t.config.Concurrency <= 0 {
		t.config.Concurrency = 8
	}
	u = u.JoinPath("chat/completions")
	t.url = u.String()
	u.RawQuery = ""
	t.where = u.String()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, t.config.Concurrency
	t.client = &http.Client{Transport: transport, CheckRedirect: sameHost}
	if t.once = (attempt{t}); c.Around != nil {
		t.once = c.Around(t.once)
	}
	return t, nil
}

// sameHost keeps a server from sending prompts elsewhere, and a POST from
// turning into a GET.
func sameHost(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Close closes idle connections.
func (t *Teacher) Close() error {
	t.client.CloseIdleConnections()
	return nil
}

// ID returns the model's name.
func (t *Teacher) ID() string { return t.config.Model }

// Complete asks until there is an answer, the request is refused, the retries
// are used up, or nothing is to be sent any more ([teacher.End]).
func (t *Teacher) Complete(ctx context.Context, r teacher.Request) (teacher.Answer, error) {
	for attempt := 0; ; attempt++ {
		a, err := t.once.Complete(ctx, r)
		if err == nil {
			return a, nil
		}
		if ctx.Err() != nil {
			return teacher.Answer{}, ctx.Err()
		}
		var again *transient
		if !errors.As(err, &again) {
			return teacher.Answer{}, t.wrap(err)
		}
		if attempt >= t.config.Retries {
			return teacher.Answer{}, t.wrap(fmt.Errorf("gave up after %s: %w", attempts(attempt+1), err))
		}
		select {
		case <-time.After(t.backoff(attempt, again.after)):
		case <-teacher.End(ctx):
			return teacher.Answer{}, t.wrap(fmt.Errorf("not sent again, since the run ends: %w", err))
		case <-ctx.Done():
			return teacher.Answer{}, ctx.Err()
		}
	}
}

// wrap tells who was asked, and keeps the key out of what is told.
func (t *Teacher) wrap(err error) error {
	err = fmt.Errorf("ask the teacher %q at %s: %w", t.config.Model, t.where, err)
	if t.key == "" || !strings.Contains(err.Error(), t.key) {
		return err
	}
	return &redacted{strings.ReplaceAll(err.Error(), t.key, "[API key]"), errors.Is(err, teacher.ErrRefused)}
}

// A redacted error is one whose text held the API key.
type redacted struct {
	text    string
	refused bool
}

func (e *redacted) Error() string        { return e.text }
func (e *redacted) Is(target error) bool { return e.refused && target == teacher.ErrRefused }

func attempts(n int) string {
	if n == 1 {
		return "1 attempt"
	}
	return fmt.Sprintf("%d attempts", n)
}
