package stages

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pipe/runtime/artifact"
	"pipe/runtime/engine"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

var update = flag.Bool("update", false, "write the golden files of new kinds, and of kinds whose version was raised")

const golden = "testdata/golden"

// A goldenKey is a golden file: what the key of a stage is made of.
type goldenKey struct {
	Key      artifact.Key    `json:"key"`
	Preimage json.RawMessage `json:"preimage"`
}

func versionOf(t *testing.T, kinds []stage.Kind, name string) int {
	t.Helper()
	for _, k := range kinds {
		if k.Name == name {
			return k.Version
		}
	}
	t.Fatalf("there is no kind %q", name)
	return 0
}

// TestKeysStayWhatTheyAre: what is in people's stores is found again by the
// next pipe. A new attribute must leave the pre-image as it was when it is not
// written (omitzero); a change that must move the bytes raises the version of
// the kind, and then the golden files are written anew with -update.
func TestKeysStayWhatTheyAre(t *testing.T) {
	prog, diags := lang.Load(filepath.Join(golden, "recipe.hcl"), All, lang.Options{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	store, err := artifact.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range prog.Nodes {
		for _, in := range n.Inputs {
			in.Ref.Digest = sha256.Sum256([]byte(in.Ref.String()))
		}
	}
	held := map[string]bool{}
	for _, n := range prog.Nodes {
		if n.Kind == nil {
			continue
		}
		held[n.Type] = true
		pre, key, err := engine.Preimage(context.Background(), prog, n, store, "cpu")
		if err != nil {
			t.Fatal(err)
		}
		checkKey(t, n, goldenKey{key, pre})
	}
	for _, k := range All {
		if !held[k.Name] {
			t.Errorf("no stage of kind %s stands in %s/recipe.hcl: add one, and run this test with -update", k.Name, golden)
		}
	}
}

// checkKey holds one stage against its golden file.
func checkKey(t *testing.T, n *lang.Node, got goldenKey) {
	t.Helper()
	path := filepath.Join(golden, strings.NewReplacer(`["`, "-", `"]`, "").Replace(n.Addr)+".json")
	var want goldenKey
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &want)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var flat bytes.Buffer
	if len(want.Preimage) > 0 {
		if err := json.Compact(&flat, want.Preimage); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	if got.Key == want.Key && bytes.Equal(flat.Bytes(), got.Preimage) {
		return
	}
	var was struct{ Version int }
	if len(want.Preimage) > 0 {
		if err := json.Unmarshal(want.Preimage, &was); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	if was.Version == n.Kind.Version {
		what := "in the order of its fields alone"
		if cs, err := engine.Changes(want.Preimage, got.Preimage, n); err == nil && len(cs) > 0 {
			what = fmt.Sprint(cs)
		}
		t.Errorf("the key of %s moved and its version is still %d: %s", n.Addr, was.Version, what)
		return
	}
	if !*update {
		t.Errorf("%s is of version %d of %s, which is %d: run this test with -update", path, was.Version, n.Type, n.Kind.Version)
		return
	}
	writeGolden(t, path, got)
}

func writeGolden(t *testing.T, path string, v any) {
	t.Helper()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
}
