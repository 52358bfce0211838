package engine

import (
	"context"
	"encoding/json"
	"testing"

	"pipe/runtime/artifact"
)

// The pre-image of a key is a format: when this test must be changed, every
// user's store is recomputed, and keyFormat must be raised.
func TestGoldenPreimage(t *testing.T) {
	l := newLab(t)
	l.write("a.txt", "abc")
	prog := l.load(`
pipeline "p" { seed = 42 }
data "docs" {
  id     = "docs"
  source = "a.txt"
}
step "one" {
  id    = "one"
  from  = [data.docs]
  text  = "<é>"
  scale = 1e-4
  shape { size = 3 }
}`)
	e, err := newEngine(prog, l.options())
	if err != nil {
		t.Fatal(err)
	}
	e.made("data.docs", map[string]artifact.Object{"": {Digest: artifact.Digest{1, 2, 3}}})
	for addr, want := range map[string]struct{ pre, key string }{
		"data.docs": {
			`{"format":1,"kind":"data","version":1,"spec":{"Source":"a.txt"},"seed":7155685741901376095,"sources":[{"path":"a.txt","digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}]}`,
			"f9e44fede91f06ce83ce6e7c0a70802b67df7e90606485458442f75ec891a8c7",
		},
		"step.one": {
			`{"format":1,"kind":"step","version":1,"spec":{"Text":"\u003cé\u003e","Scale":0.0001,"From":[{"type":"dataset","digest":"sha256:0102030000000000000000000000000000000000000000000000000000000000"}],"Teacher":null,"Shape":{"Size":3}},"inputs":{"from[0]":"sha256:0102030000000000000000000000000000000000000000000000000000000000"},"seed":7730016602942965197}`,
			"972c98225ea6b7c594c99006b6e6f6d087a5abe5c36cf1912959ee1d6a56bec1",
		},
	} {
		n := prog.Node(addr)
		e.bind(n)
		a, err := e.action(context.Background(), n)
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(a.pre)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, addr+" pre-image", string(got), want.pre)
		equal(t, addr+" key", a.key.String(), want.key)
		var back preimage
		if err := json.Unmarshal(got, &back); err != nil || back.key() != a.key {
			t.Errorf("%s: the record's pre-image has another key (%v)", addr, err)
		}
	}
}

func TestEveryFieldIsInTheKey(t *testing.T) {
	d := artifact.Digest{1}
	base := func() preimage {
		return preimage{Format: 1, Kind: "k", Version: 1, Spec: json.RawMessage(`{}`), Inputs: map[string]artifact.Digest{"a": d}, Seed: 1, Backend: "b", Sources: []source{{"x", d}, {"y", d}}}
	}
	keys := map[artifact.Key]string{}
	for name, change := range map[string]func(*preimage){
		"nothing":         func(*preimage) {},
		"format":          func(p *preimage) { p.Format = 2 },
		"kind":            func(p *preimage) { p.Kind = "k1" },
		"version":         func(p *preimage) { p.Version = 11 },
		"spec":            func(p *preimage) { p.Spec = json.RawMessage(`{"a":1}`) },
		"input name":      func(p *preimage) { p.Inputs = map[string]artifact.Digest{"b": d} },
		"input content":   func(p *preimage) { p.Inputs = map[string]artifact.Digest{"a": {2}} },
		"more inputs":     func(p *preimage) { p.Inputs["b"] = d },
		"seed":            func(p *preimage) { p.Seed = 2 },
		"backend":         func(p *preimage) { p.Backend = "c" },
		"source name":     func(p *preimage) { p.Sources[0].Path = "z" },
		"source content":  func(p *preimage) { p.Sources[0].Digest = artifact.Digest{2} },
		"source order":    func(p *preimage) { p.Sources[0], p.Sources[1] = p.Sources[1], p.Sources[0] },
		"fields run over": func(p *preimage) { p.Kind, p.Version = "k1", 1; p.Backend = "" },
	} {
		p := base()
		change(&p)
		if other, dup := keys[p.key()]; dup {
			t.Errorf("%s and %s have the same key", name, other)
		}
		keys[p.key()] = name
	}
}

func TestSeedsDifferByKindAndPipeline(t *testing.T) {
	seen := map[uint64]bool{}
	for _, seed := range []uint64{0, 1, 12} {
		for _, kind := range []string{"sft", "dpo", "2sft"} {
			seen[deriveSeed(seed, kind)] = true
		}
	}
	if len(seen) != 9 {
		t.Errorf("%d different seeds of 9", len(seen))
	}
}
