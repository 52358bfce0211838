package openai

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"pipe/teacher"
)

// A transient error may go away: the request is sent again.
type transient struct {
	err   error
	after time.Duration // what the server asked to wait; 0: nothing
	lost  bool          // the server worked on an answer, which did not arrive
}

func (e *transient) Error() string        { return e.err.Error() }
func (e *transient) Unwrap() error        { return e.err }
func (e *transient) Is(target error) bool { return e.lost && target == teacher.ErrLost }

// Waits are bounded, whatever the server says.
const (
	maxBackoff    = time.Minute
	maxRetryAfter = 10 * time.Minute
)

// backoff returns the wait after the failure of an attempt, counted from 0:
// between half of and all of wait·2^attempt, and no less than the server asked
// for.
func (t *Teacher) backoff(attempt int, after time.Duration) time.Duration {
	d := maxBackoff
	if attempt < 16 {
		d = min(d, t.wait<<attempt)
	}
	d = d/2 + time.Duration(t.rand()*float64(d/2))
	if after > d {
		// Those who were sent away together should not come back together.
		d = after + time.Duration(t.rand()*float64(t.wait))
	}
	return d
}

// random spreads waits. It touches no result.
func random() float64 { return rand.Float64() }

// retryAfter reads the header Retry-After, seconds or a date; 0: none.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	var d time.Duration
	if s, err := strconv.ParseFloat(v, 64); err == nil {
		if !(s > 0) {
			return 0
		}
		d = time.Duration(min(s, maxRetryAfter.Seconds()) * float64(time.Second))
	} else if at, err := http.ParseTime(v); err == nil {
		d = at.Sub(now)
	}
	return max(0, min(d, maxRetryAfter))
}
