package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

func (r *Resolver) endpoint() string {
	if r.Endpoint == "" {
		return DefaultEndpoint
	}
	return strings.TrimRight(r.Endpoint, "/")
}

// get sends a request, from byte at of the file on, and tries again what may
// pass: lost connections, 429 and 5xx. The answer is 200 or 206.
func (r *Resolver) get(ctx context.Context, p repo, method, url string, at int64) (*http.Response, error) {
	client := r.client(method)
	for try := 1; ; try++ {
		req, err := http.NewRequestWithContext(ctx, method, url, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("User-Agent", "pipe")
		req.Header.Set("Accept-Encoding", "identity") // sizes are those of the files
		if r.Token != "" {
			req.Header.Set("Authorization", "Bearer "+r.Token)
		}
		if at > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", at))
		}
		res, err := client.Do(req)
		after := ""
		if err == nil {
			if res.StatusCode < 300 || method == http.MethodHead && res.StatusCode < 400 {
				return res, nil
			}
			after = res.Header.Get("Retry-After")
			err = r.refused(p, res)
			io.Copy(io.Discard, io.LimitReader(res.Body, 1<<16))
			res.Body.Close()
		}
		var s *status
		if try == attempts || ctx.Err() != nil || errors.As(err, &s) && !s.passing() {
			return nil, err
		}
		if err := r.wait(ctx, try, after); err != nil {
			return nil, err
		}
	}
}

// client returns the client, told how to follow the hub's redirects.
func (r *Resolver) client(method string) *http.Client {
	c := http.Client{}
	if r.Client != nil {
		c = *r.Client
	}
	c.CheckRedirect = func(q *http.Request, via []*http.Request) error {
		if method == http.MethodHead { // the hash is in the hub's own answer
			return http.ErrUseLastResponse
		}
		if q.URL.Host != via[0].URL.Host {
			q.Header.Del("Authorization") // storage servers refuse tokens, and have no right to them
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}
	return &c
}

// wait sleeps before the next attempt: as long as the server asks, within
// limits, or twice as long each time.
func (r *Resolver) wait(ctx context.Context, try int, after string) error {
	d := 100 * time.Millisecond << try
	if s, err := strconv.Atoi(after); err == nil && s >= 0 {
		d = min(maxWait, time.Duration(s)*time.Second)
	}
	if r.sleep != nil {
		return r.sleep(ctx, d)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// A status is an answer other than the file.
type status struct {
	code    int
	message string
}

func (s *status) Error() string { return s.message }

// passing reports whether the same request may succeed later.
func (s *status) passing() bool { return s.code == http.StatusTooManyRequests || s.code >= 500 }

// refused says what an answer means and what to do.
func (r *Resolver) refused(p repo, res *http.Response) error {
	host, code := r.endpoint(), res.StatusCode
	s := &status{code: code}
	switch {
	case code == http.StatusUnauthorized && r.Token == "":
		s.message = fmt.Sprintf("%s wants a login for %s (401): it is private, gated or misspelt; set HF_TOKEN to an access token that may read it", host, p)
	case code == http.StatusUnauthorized:
		s.message = fmt.Sprintf("%s does not accept the access token for %s (401); make a new one and set HF_TOKEN", host, p)
	case code == http.StatusForbidden:
		s.message = fmt.Sprintf("access to %s is refused (403); accept its terms at %s/%s and set HF_TOKEN to a token that may read it", p, host, p)
	case code == http.StatusNotFound:
		s.message = fmt.Sprintf("%s has no %s at revision %q (404), or no such file in it; a private model looks the same without HF_TOKEN", host, p, p.rev)
	case code == http.StatusTooManyRequests:
		s.message = fmt.Sprintf("%s asks to slow down (429); try again later, or set HF_TOKEN for a higher limit", host)
	case code >= 500:
		s.message = fmt.Sprintf("%s fails (%s); try again later", host, res.Status)
	default:
		s.message = fmt.Sprintf("%s answers %s", host, res.Status)
	}
	return s
}
