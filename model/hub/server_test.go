package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// A fakeHub serves one repository, org/name, as the hub does: an API listing
// with hashes, and files of LFS by redirect to another server.
type fakeHub struct {
	*httptest.Server
	cdn   *httptest.Server
	files map[string]string
	names []string // listed besides files

	mu       sync.Mutex
	requests []string // method path range
	// change may spoil an answer; it returns true when it has answered.
	change func(w http.ResponseWriter, r *http.Request) bool
	plain  bool // leave hashes out of the listing
}

func newHub(t *testing.T, files map[string]string) *fakeHub {
	h := &fakeHub{files: files}
	h.Server = httptest.NewServer(http.HandlerFunc(h.serve))
	h.cdn = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.Close)
	t.Cleanup(h.cdn.Close)
	return h
}

func lfs(name string) bool {
	return strings.HasSuffix(name, ".safetensors") || strings.HasSuffix(name, ".gguf")
}

func etag(name, data string) string {
	if lfs(name) {
		return hex.EncodeToString(sha(data))
	}
	s := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(data), data))
	return hex.EncodeToString(s[:])
}

func sha(data string) []byte { s := sha256.Sum256([]byte(data)); return s[:] }

func (h *fakeHub) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.requests = append(h.requests, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
	change := h.change
	h.mu.Unlock()
	if r.Host == strings.TrimPrefix(h.cdn.URL, "http://") && r.Header.Get("Authorization") != "" {
		http.Error(w, "the token went to another server", http.StatusTeapot)
		return
	}
	if change != nil && change(w, r) {
		return
	}
	if r.URL.Path == "/api/models/org/name/revision/main" {
		h.list(w)
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/org/name/resolve/"+commit+"/")
	if cdn, found := strings.CutPrefix(r.URL.Path, "/cdn/"); found {
		name, ok = cdn, true
	}
	data, there := h.files[name]
	if !ok || !there {
		http.Error(w, "no such file", http.StatusNotFound)
		return
	}
	if lfs(name) && !strings.HasPrefix(r.URL.Path, "/cdn/") {
		w.Header().Set("X-Linked-Etag", `"`+etag(name, data)+`"`)
		w.Header().Set("X-Linked-Size", strconv.Itoa(len(data)))
		http.Redirect(w, r, h.cdn.URL+"/cdn/"+name, http.StatusFound)
		return
	}
	w.Header().Set("ETag", `"`+etag(name, data)+`"`)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(data))
}

func (h *fakeHub) list(w http.ResponseWriter) {
	type m = map[string]any
	var siblings []m
	for name, data := range h.files {
		s := m{"rfilename": name}
		if !h.plain {
			s["size"], s["blobId"] = len(data), etag("", data)
			if lfs(name) {
				s["lfs"] = m{"sha256": etag(name, data), "size": len(data)}
			}
		}
		siblings = append(siblings, s)
	}
	for _, name := range h.names {
		siblings = append(siblings, m{"rfilename": name, "size": 1, "blobId": etag("", "x")})
	}
	json.NewEncoder(w).Encode(m{"sha": commit, "siblings": siblings})
}

// count returns how many requests began so, and forgets them all.
func (h *fakeHub) count(prefix string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.requests {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	h.requests = nil
	return n
}

func (h *fakeHub) resolver(t *testing.T) *Resolver {
	return &Resolver{
		Endpoint: h.URL, Cache: t.TempDir(), Scratch: t.TempDir(), Token: "secret", Client: h.Client(),
		sleep: func(ctx context.Context, d time.Duration) error { return ctx.Err() },
	}
}

func bigModel() map[string]string {
	return map[string]string{
		"config.json": `{"model_type":"llama"}`, "tokenizer.json": "{}", "README.md": "no", "pytorch_model.bin": "no",
		"model.safetensors": strings.Repeat("weights ", 20000), "onnx/model.onnx": "no",
		"q/tiny.gguf": "GGUF" + strings.Repeat("x", 5000),
	}
}

func TestDownload(t *testing.T) {
	h := newHub(t, bigModel())
	r := h.resolver(t)
	var last [2]int64
	path, digest, err := r.Resolve(context.Background(), "hf://org/name", "", func(done, total int64) {
		if done < last[0] || done > total {
			t.Errorf("progress went from %v to %d of %d", last, done, total)
		}
		last = [2]int64{done, total}
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(r.Cache, "models--org--name", "snapshots", commit); path != want {
		t.Errorf("path %s", path)
	}
	if last[0] != last[1] || last[1] != 160000+2+22 {
		t.Errorf("progress ended at %v", last)
	}
	for name, data := range h.files {
		got, err := os.ReadFile(filepath.Join(path, name))
		if needed := slices.Contains([]string{"config.json", "tokenizer.json", "model.safetensors"}, name); needed != (err == nil) || needed && string(got) != data {
			t.Errorf("%s: %v", name, err)
		}
	}
	if target, err := os.Readlink(filepath.Join(path, "config.json")); err != nil || target != "../../blobs/"+etag("", h.files["config.json"]) {
		t.Errorf("link to %q, %v: not the layout of the hub's cache", target, err)
	}
	if ref, err := os.ReadFile(filepath.Join(r.Cache, "models--org--name/refs/main")); err != nil || string(ref) != commit {
		t.Errorf("ref %q, %v", ref, err)
	}
	if left, _ := filepath.Glob(filepath.Join(r.Cache, "*/blobs/*.incomplete")); left != nil {
		t.Errorf("left %v", left)
	}
	h.count("")

	// Again: only the listing is asked for. By commit or offline: nothing is.
	again, digest2, err := r.Resolve(context.Background(), "hf://org/name@main", "", nil)
	if n := h.count("GET /org"); err != nil || again != path || digest2 != digest || n != 0 {
		t.Errorf("%s, %v, %d downloads", again, err, n)
	}
	if p, _, err := r.Resolve(context.Background(), "hf://org/name@"+commit, "", nil); err != nil || p != path || h.count("") != 0 {
		t.Errorf("by commit: %s, %v", p, err)
	}
	r.Offline = true
	if p, d, err := r.Resolve(context.Background(), "hf://org/name", "", nil); err != nil || p != path || d != digest || h.count("") != 0 {
		t.Errorf("offline: %s, %v", p, err)
	}
	if _, _, err := r.Resolve(context.Background(), "hf://org/name@v2", "", nil); err == nil || !strings.Contains(err.Error(), `does not have revision "v2"`) {
		t.Errorf("offline: %v", err)
	}
	// Unreachable: the cache serves, and says so.
	r.Offline = false
	h.Server.Close()
	warned := ""
	r.Warn = func(f string, args ...any) { warned = fmt.Sprintf(f, args...) }
	if p, _, err := r.Resolve(context.Background(), "hf://org/name", "", nil); err != nil || p != path || !strings.Contains(warned, "cannot be reached") {
		t.Errorf("unreachable: %s, %v, %q", p, err, warned)
	}
	if _, _, err := r.Resolve(context.Background(), "hf://org/name@v2", "", nil); err == nil || !strings.Contains(err.Error(), "connect") {
		t.Errorf("unreachable and unknown: %v", err)
	}
}

func TestDownloadOneFile(t *testing.T) {
	h := newHub(t, bigModel())
	r := h.resolver(t)
	path, _, err := r.Resolve(context.Background(), "hf://org/name/q/tiny.gguf", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != h.files["q/tiny.gguf"] {
		t.Error(err)
	}
	if h.count("GET /cdn/") != 1 {
		t.Error("more was downloaded")
	}
	if _, _, err := r.Resolve(context.Background(), "hf://org/name/x.gguf", "", nil); err == nil || !strings.Contains(err.Error(), `its .gguf files are ["q/tiny.gguf"]`) {
		t.Errorf("got %v", err)
	}
}

func TestDownloadShards(t *testing.T) {
	files := map[string]string{
		"config.json": "{}", "tokenizer.json": "{}", "1.safetensors": "one", "2.safetensors": "two", "3.safetensors": "not named",
		"model.safetensors.index.json": `{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}`,
	}
	h := newHub(t, files)
	path, _, err := h.resolver(t).Resolve(context.Background(), "hf://org/name", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(path, "2.safetensors")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(path, "3.safetensors")); err == nil {
		t.Error("a shard that the index does not name was downloaded")
	}
	for index, want := range map[string]string{
		`{"weight_map":{"a":"../../../x.safetensors"}}`: "must be the bare name",
		`{"weight_map":{"a":"4.safetensors"}}`:          "has no 4.safetensors",
	} {
		files["model.safetensors.index.json"] = index
		if _, _, err := h.resolver(t).Resolve(context.Background(), "hf://org/name", "", nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestMirror: a listing without hashes; they come from the files' headers.
func TestMirror(t *testing.T) {
	h := newHub(t, bigModel())
	h.plain = true
	path, _, err := h.resolver(t).Resolve(context.Background(), "hf://org/name", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(path, "model.safetensors")); err != nil || string(b) != h.files["model.safetensors"] {
		t.Error(err)
	}
}
