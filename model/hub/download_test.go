package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

const weights = "/cdn/model.safetensors"

// TestResume: a connection that breaks is taken up where it broke, in the same
// run and in the next.
func TestResume(t *testing.T) {
	h := newHub(t, bigModel())
	r := h.resolver(t)
	data := h.files["model.safetensors"]
	var breaks atomic.Int32
	breaks.Store(1000)
	h.change = func(w http.ResponseWriter, q *http.Request) bool {
		if q.URL.Path != weights || breaks.Add(-1) < 0 {
			return false
		}
		at := 0
		if rng := q.Header.Get("Range"); rng != "" {
			fmt.Sscanf(rng, "bytes=%d-", &at)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, len(data)-1, len(data)))
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)-at))
		if at > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		fmt.Fprint(w, data[at:at+1000]) // and no more
		return true
	}
	_, _, err := r.Resolve(context.Background(), "hf://org/name", "", nil)
	if err == nil || !strings.Contains(err.Error(), "the connection ended after 4000 of 160000 bytes; run again") {
		t.Fatalf("got %v", err)
	}
	if part, _ := filepath.Glob(filepath.Join(r.Cache, "*/blobs/*.incomplete")); len(part) != 1 {
		t.Fatalf("parts %v", part)
	}
	h.count("")
	breaks.Store(1)
	path, _, err := r.Resolve(context.Background(), "hf://org/name", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(path, "model.safetensors")); err != nil || string(b) != data {
		t.Error("the resumed file differs")
	}
	h.mu.Lock()
	got := strings.Join(h.requests, "\n")
	h.mu.Unlock()
	for _, want := range []string{"GET " + weights + " bytes=4000-", "GET " + weights + " bytes=5000-"} {
		if !strings.Contains(got, want) {
			t.Errorf("no request %q in\n%s", want, got)
		}
	}
}

// TestResumeWrongPart: a part that belongs to other content is found out by
// the hash and fetched anew.
func TestResumeWrongPart(t *testing.T) {
	for name, ignoreRange := range map[string]bool{"range": false, "no range": true} {
		h := newHub(t, bigModel())
		r := h.resolver(t)
		data := h.files["model.safetensors"]
		h.change = func(w http.ResponseWriter, q *http.Request) bool {
			if ignoreRange {
				q.Header.Del("Range")
			}
			return false
		}
		blobs := filepath.Join(r.Cache, "models--org--name", "blobs")
		write(t, blobs, map[string]string{etag("x.gguf", data) + ".incomplete": "garbage"})
		path, _, err := r.Resolve(context.Background(), "hf://org/name", "", nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if b, err := os.ReadFile(filepath.Join(path, "model.safetensors")); err != nil || string(b) != data {
			t.Errorf("%s: the file differs", name)
		}
	}
}

// TestWrongContent: nothing wrong gets into the cache.
func TestWrongContent(t *testing.T) {
	for want, body := range map[string]string{
		"the connection ended after 5 of": "short",
		"is longer than the 160000 bytes": strings.Repeat("x", 160001),
		"has hash":                        strings.Repeat("x", 160000),
	} {
		h := newHub(t, bigModel())
		h.change = func(w http.ResponseWriter, q *http.Request) bool {
			if q.URL.Path == weights {
				fmt.Fprint(w, body)
				return true
			}
			return false
		}
		r := h.resolver(t)
		_, _, err := r.Resolve(context.Background(), "hf://org/name", "", nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "model.safetensors of org/name") {
			t.Errorf("got %v, want %q", err, want)
		}
		if _, err := os.Stat(filepath.Join(r.Cache, "models--org--name/snapshots", commit, "model.safetensors")); err == nil {
			t.Error("the file is in the snapshot")
		}
	}
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		code  int
		token string
		want  string
		tries int
	}{
		{401, "", "set HF_TOKEN", 1},
		{401, "t", "does not accept the access token", 1},
		{403, "t", "accept its terms at", 1},
		{404, "t", `has no org/name at revision "main"`, 1},
		{429, "t", "slow down", attempts},
		{503, "t", "fails (503", attempts},
		{418, "t", "answers 418", 1},
	} {
		h := newHub(t, bigModel())
		h.change = func(w http.ResponseWriter, q *http.Request) bool {
			w.WriteHeader(c.code)
			return true
		}
		r := h.resolver(t)
		r.Token = c.token
		_, _, err := r.Resolve(context.Background(), "hf://org/name", "", nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%d: got %v", c.code, err)
		}
		if n := h.count("GET"); n != c.tries {
			t.Errorf("%d: %d attempts", c.code, n)
		}
	}
}

// TestPassingFailure: a server that fails once for each file is asked again.
func TestPassingFailure(t *testing.T) {
	h := newHub(t, bigModel())
	var failed sync.Map
	h.change = func(w http.ResponseWriter, q *http.Request) bool {
		if _, again := failed.LoadOrStore(q.URL.Path, true); !again {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(502)
			return true
		}
		return false
	}
	if _, _, err := h.resolver(t).Resolve(context.Background(), "hf://org/name", "", nil); err != nil {
		t.Error(err)
	}
}

// TestHostileListing: names that lead out of the cache are never written.
func TestHostileListing(t *testing.T) {
	files := bigModel()
	delete(files, "config.json")
	h := newHub(t, files)
	h.names = []string{"../config.json", "/config.json", "x/../../config.json", "..\\config.json"}
	if _, _, err := h.resolver(t).Resolve(context.Background(), "hf://org/name", "", nil); err == nil || !strings.Contains(err.Error(), "has no config.json") {
		t.Errorf("got %v", err)
	}
	for body, want := range map[string]string{
		`{"sha":"../../etc"}`: "has no commit",
		`[`:                   "cannot be read",
		`{"sha":"` + commit + `","siblings":[{"rfilename":"config.json","size":3,"blobId":"../../x"},{"rfilename":"model.safetensors","size":3,"blobId":"00"}]}`: "no usable hash",
	} {
		h.change = func(w http.ResponseWriter, q *http.Request) bool {
			fmt.Fprint(w, body)
			return true
		}
		if _, _, err := h.resolver(t).Resolve(context.Background(), "hf://org/name", "", nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestAdapterRepository(t *testing.T) {
	h := newHub(t, map[string]string{"adapter_config.json": "{}", "adapter_model.safetensors": "x", "tokenizer.json": "{}"})
	if _, _, err := h.resolver(t).Resolve(context.Background(), "hf://org/name", "", nil); err == nil || !strings.Contains(err.Error(), "org/name is an adapter, and no model: name a directory") {
		t.Errorf("got %v", err)
	}
}

func TestNoWeights(t *testing.T) {
	h := newHub(t, map[string]string{"config.json": "{}", "tokenizer.json": "{}", "pytorch_model.bin": "x", "a.gguf": "GGUF"})
	if _, _, err := h.resolver(t).Resolve(context.Background(), "hf://org/name", "", nil); err == nil || !strings.Contains(err.Error(), `hf://org/name/FILE: ["a.gguf"]`) {
		t.Errorf("got %v", err)
	}
}

func TestCancel(t *testing.T) {
	h := newHub(t, bigModel())
	ctx, cancel := context.WithCancel(context.Background())
	h.change = func(w http.ResponseWriter, q *http.Request) bool {
		if q.URL.Path == weights {
			cancel()
			<-q.Context().Done()
			return true
		}
		return false
	}
	if _, _, err := h.resolver(t).Resolve(ctx, "hf://org/name", "", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// fullDisk takes the first n bytes.
type fullDisk struct{ n int }

func (d *fullDisk) Write(b []byte) (int, error) {
	n := min(d.n, len(b))
	if d.n -= n; n < len(b) {
		return n, &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	}
	return n, nil
}

// A full disk is told from a connection that ends, and says how much it lacks.
func TestFullDiskIsNotTheConnection(t *testing.T) {
	c := &counter{w: &fullDisk{1000}, at: 24, progress: func(int64) {}}
	if _, err := io.Copy(c, bytes.NewReader(make([]byte, 3000))); err == nil || c.err == nil {
		t.Fatal("no error")
	}
	if err := c.unwritten(3024); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "after 1.0 KiB: 2.0 KiB more are needed") {
		t.Errorf("got %v", err)
	}
	if temporary(c.unwritten(3024)) {
		t.Error("it is tried again")
	}
}
