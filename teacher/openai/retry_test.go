package openai

import (
	"net/http"
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		attempt int
		after   time.Duration
		rand    float64
		want    time.Duration
	}{
		{0, 0, 0, 500 * time.Millisecond},
		{0, 0, 1, time.Second},
		{3, 0, 0, 4 * time.Second},
		{3, 0, 0.5, 6 * time.Second},
		{6, 0, 1, time.Minute}, // 64 s, bounded
		{1 << 40, 0, 1, time.Minute},
		{0, 5 * time.Second, 0, 5 * time.Second},
		{0, 5 * time.Second, 0.5, 5500 * time.Millisecond},
		{5, time.Second, 0, 16 * time.Second}, // our own wait is the longer one
	} {
		x := &Teacher{wait: time.Second, rand: func() float64 { return c.rand }}
		if got := x.backoff(c.attempt, c.after); got != c.want {
			t.Errorf("attempt %d, Retry-After %v, rand %v: %v, want %v", c.attempt, c.after, c.rand, got, c.want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"":                              0,
		"7":                             7 * time.Second,
		" 0.25 ":                        250 * time.Millisecond,
		"0":                             0,
		"-3":                            0,
		"NaN":                           0,
		"1e300":                         maxRetryAfter,
		"99999999999999999999":          maxRetryAfter,
		"soon":                          0,
		"Tue, 24 Nov 2026 12:00:30 GMT": 30 * time.Second,
		"Tue, 24 Nov 2026 11:00:00 GMT": 0,
		"Tue, 24 Nov 2037 11:00:00 GMT": maxRetryAfter,
	} {
		h := http.Header{}
		h.Set("Retry-After", v)
		if got := retryAfter(h, now); got != want {
			t.Errorf("%q: %v, want %v", v, got, want)
		}
	}
}

// FuzzDecode: no body of an answer or of an error makes it panic, and what is
// told of it stays short.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"choices":[{"message":{"content":"a","reasoning_content":"b"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}`))
	f.Add([]byte(`{"error":{"message":"x"},"detail":[{}]}`))
	f.Add([]byte("\xff\x00<html>"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if n := len([]rune(reason(data))); n > 310 {
			t.Errorf("the reason has %d characters", n)
		}
		if _, err := decode(data, 10); err != nil && len(err.Error()) > 4000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}

// A connection that was kept open may have been closed before the request, which
// fails at once and cost nothing; a server that takes its time worked.
func TestWay(t *testing.T) {
	for _, c := range []struct {
		old, answered bool
		sent          time.Duration // ago; 0: not
		lost          bool
	}{
		{old: false, sent: 0, lost: false},
		{old: false, sent: time.Millisecond, lost: true},
		{old: true, sent: time.Millisecond, lost: false},
		{old: true, sent: time.Minute, lost: true},
		{old: true, answered: true, sent: time.Millisecond, lost: true},
	} {
		var w way
		w.old.Store(c.old)
		w.answered.Store(c.answered)
		if at := time.Now().Add(-c.sent); c.sent > 0 {
			w.sent.Store(&at)
		}
		if w.lost() != c.lost {
			t.Errorf("%+v: lost %v", c, w.lost())
		}
	}
}
