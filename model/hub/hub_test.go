package hub

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// oneTensor is a safetensors file; what is in it does not matter here.
const oneTensor = "\x08\x00\x00\x00\x00\x00\x00\x00{}      "

var smallModel = map[string]string{
	"config.json": `{"model_type":"llama"}`, "tokenizer.json": "{}", "model.safetensors": oneTensor,
}

func write(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDirectory(t *testing.T) {
	dir := write(t, t.TempDir(), smallModel)
	r := &Resolver{Scratch: t.TempDir()}
	path, first, err := r.Resolve(context.Background(), "./"+filepath.Base(dir), filepath.Dir(dir), nil)
	if err != nil || path != dir {
		t.Fatal(path, err)
	}
	digest := func() [32]byte {
		t.Helper()
		_, d, err := r.Resolve(context.Background(), dir, "/elsewhere", nil)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	write(t, dir, map[string]string{"README.md": "x", "pytorch_model.bin": "x", "other.safetensors": "x"})
	if digest() != first {
		t.Error("files that do not matter changed the digest")
	}
	seen := map[[32]byte]string{first: "nothing"}
	for _, name := range []string{"config.json", "tokenizer.json", "model.safetensors", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"} {
		write(t, dir, map[string]string{name: name})
		d := digest()
		if seen[d] != "" {
			t.Errorf("changing %s left the digest as after changing %s", name, seen[d])
		}
		seen[d] = name
	}
	other := write(t, t.TempDir(), smallModel)
	if _, d, err := r.Resolve(context.Background(), other, "", nil); err != nil || d != first {
		t.Errorf("the same model elsewhere has another digest: %v", err)
	}
}

func TestGGUFFile(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"a.gguf": "GGUF", "b.gguf": "GGUF", "c.gguf": "GGUf", "d.bin": ""})
	r := &Resolver{Scratch: t.TempDir()}
	get := func(name string) [32]byte {
		t.Helper()
		path, d, err := r.Resolve(context.Background(), name, dir, nil)
		if err != nil || path != filepath.Join(dir, name) {
			t.Fatal(path, err)
		}
		return d
	}
	if get("a.gguf") != get("b.gguf") || get("a.gguf") == get("c.gguf") {
		t.Error("the digest must be that of the content")
	}
}

func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"noconfig/x": "", "peft/adapter_config.json": `{"base_model_name_or_path":"org/base\u001b[2J"}`, "broken/adapter_config.json": "{",
		"noweights/config.json": "{}", "noweights/tokenizer.json": "{}", "noweights/pytorch_model.bin": "",
		"notok/config.json": "{}", "lost/config.json": "{}", "lost/tokenizer.json": "{}",
		"lost/model.safetensors.index.json": `{"weight_map":{"a":"1.safetensors"}}`,
		"esc/config.json":                   "{}", "esc/tokenizer.json": "{}",
		"esc/model.safetensors.index.json": `{"weight_map":{"a":"../../secret.safetensors"}}`,
		"d.bin":                            "",
	})
	r := &Resolver{Scratch: t.TempDir(), Offline: true, Cache: t.TempDir(), Embedded: nil}
	for source, want := range map[string]string{
		"absent":             "no such file",
		"noconfig":           "has no config.json",
		"peft":               `peft is an adapter over the base "org/base\x1b[2J", and no model: name a directory in which the adapter is merged`,
		"broken":             "broken is an adapter, and no model: ",
		"notok":              "has no tokenizer.json",
		"noweights":          "pickled .bin and .pt files are never read",
		"lost":               "has no 1.safetensors, which its index names",
		"esc":                "must be the bare name",
		"d.bin":              "not a .gguf file",
		"https://x/y":        "https:// is not supported",
		"embedded://nope":    "no such embedded model",
		"hf://a":             "is not of the form hf://org/name",
		"hf://a/..":          "is not of the form",
		"hf://../b":          "is not of the form",
		"hf://a/b@../x":      "is not a branch",
		"hf://a/b@x%2F..%2F": "is not a branch",
		"hf://a/b@":          "is not a branch",
		"hf://a/b/../x.gguf": "is not the path of a .gguf file",
		"hf://a/b/x.bin":     "is not the path of a .gguf file",
		"hf://a/b/c\\d.gguf": "is not the path of a .gguf file",
		"hf://a/b":           "HF_HUB_OFFLINE is set",
	} {
		_, _, err := r.Resolve(context.Background(), source, dir, nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), source[:3]) {
			t.Errorf("%s: got %v, want %q", source, err, want)
		}
	}
}

func TestEmbedded(t *testing.T) {
	files := fstest.MapFS{}
	for name, data := range smallModel {
		files[name] = &fstest.MapFile{Data: []byte(data)}
	}
	r := &Resolver{Scratch: t.TempDir()}
	r.Embedded = map[string]fs.FS{"tiny": files}
	path, digest, err := r.Resolve(context.Background(), "embedded://tiny", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(path, "config.json")); err != nil || string(b) != smallModel["config.json"] {
		t.Error(string(b), err)
	}
	again, digest2, err := r.Resolve(context.Background(), "embedded://tiny", "", nil)
	if err != nil || again != path || digest2 != digest {
		t.Error(again, err)
	}
	_, plain, err := r.Resolve(context.Background(), write(t, t.TempDir(), smallModel), "", nil)
	if err != nil || plain != digest {
		t.Errorf("an embedded model differs from the same directory: %v", err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestDigestMemo: a file is not read again while its identity stays, and is
// when it changed.
func TestDigestMemo(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{"a.gguf": "one"})
	path := filepath.Join(dir, "a.gguf")
	r := &Resolver{Scratch: t.TempDir()}
	get := func() [32]byte {
		t.Helper()
		d, err := r.fileDigest(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	first := get()
	if memos, _ := filepath.Glob(filepath.Join(r.Scratch, "digests", "*")); len(memos) != 0 {
		t.Error("the hash of a file that changed just now was remembered")
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, known := identity(info); !known {
		t.Skip("this system does not tell files apart")
	}
	r.now = func() time.Time { return time.Now().Add(3 * time.Second) }
	if get() != first {
		t.Error("the hash changed")
	}
	memos, _ := filepath.Glob(filepath.Join(r.Scratch, "digests", "*"))
	if len(memos) != 1 {
		t.Fatalf("%d hashes are remembered", len(memos))
	}
	// A planted memo shows that it is used.
	if err := os.WriteFile(memos[0], []byte(strings.Repeat("ab", 32)), 0o644); err != nil {
		t.Fatal(err)
	}
	if d := get(); d[0] != 0xab {
		t.Error("the file was read again")
	}
	write(t, dir, map[string]string{"a.gguf": "two"})
	if d := get(); d[0] == 0xab || d == first {
		t.Error("a change was not seen")
	}
}

func TestFromEnv(t *testing.T) {
	home := write(t, t.TempDir(), map[string]string{"token": "secret\n"})
	env := func(m map[string]string) *Resolver {
		return FromEnv("scratch", func(k string) string { return m[k] })
	}
	r := env(map[string]string{"HF_HOME": home, "HF_HUB_OFFLINE": "True", "HF_ENDPOINT": "http://mirror/"})
	if r.Cache != filepath.Join(home, "hub") || r.Token != "secret" || !r.Offline || r.endpoint() != "http://mirror" {
		t.Errorf("%+v", r)
	}
	r = env(map[string]string{"XDG_CACHE_HOME": "/x", "HF_TOKEN": "t", "HF_HUB_CACHE": ""})
	if r.Cache != filepath.Join("/x", "huggingface", "hub") || r.Token != "t" || r.Offline || r.endpoint() != DefaultEndpoint {
		t.Errorf("%+v", r)
	}
	if r := env(map[string]string{"HF_HUB_CACHE": "/y", "HF_TOKEN": "t"}); r.Cache != "/y" {
		t.Errorf("%+v", r)
	}
}
