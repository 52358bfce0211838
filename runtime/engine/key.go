package engine

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strconv"

	"pipe/runtime/artifact"
	"pipe/runtime/lang"
	"pipe/runtime/stage"
)

// keyFormat is raised when the same action gets another key.
const keyFormat = 1

// A preimage is everything that can change what an action makes. Records keep
// it as JSON, for people and for explain.
type preimage struct {
	Format  int                        `json:"format"`
	Kind    string                     `json:"kind"`
	Version int                        `json:"version"`           // of the kind
	Spec    json.RawMessage            `json:"spec"`              // with handles as digests and defaults spelled out
	Inputs  map[string]artifact.Digest `json:"inputs,omitempty"`  // by the path of the handle in the spec
	Seed    uint64                     `json:"seed"`              // derived
	Backend string                     `json:"backend,omitempty"` // of stages that compute
	Sources []source                   `json:"sources,omitempty"` // files outside the store, in the order they are read

	// Journals are the files of recorded answers that teacher blocks name, by the
	// path of the teacher's handle in the spec.
	Journals map[string]artifact.Digest `json:"journals,omitempty"`
}

// key hashes the fields, each with its length before it and each list with
// its count, so that no two pre-images write the same bytes.
func (p *preimage) key() artifact.Key {
	f := framer{sha256.New()}
	f.text("pipe action")
	f.text(strconv.Itoa(p.Format))
	f.text(p.Kind)
	f.text(strconv.Itoa(p.Version))
	f.bytes(p.Spec)
	f.digests(p.Inputs)
	f.text(strconv.FormatUint(p.Seed, 10))
	f.text(p.Backend)
	f.count(len(p.Sources))
	for _, s := range p.Sources {
		f.text(s.Path)
		f.bytes(s.Digest[:])
	}
	if len(p.Journals) > 0 { // else the key is what it was before there were any
		f.digests(p.Journals)
	}
	return artifact.Key(f.sum())
}

// A framer hashes fields with their lengths.
type framer struct{ h hash.Hash }

func (f framer) count(n int) {
	f.h.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

func (f framer) bytes(b []byte) {
	f.count(len(b))
	f.h.Write(b)
}

func (f framer) text(s string) { f.bytes([]byte(s)) }

func (f framer) digests(m map[string]artifact.Digest) {
	f.count(len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		d := m[name]
		f.text(name)
		f.bytes(d[:])
	}
}

func (f framer) sum() [32]byte { return [32]byte(f.h.Sum(nil)) }

// deriveSeed gives each kind its own stream of random numbers. The block's
// name has no part in it: renaming a stage must not change its result.
func deriveSeed(seed uint64, kind string) uint64 {
	f := framer{sha256.New()}
	f.text("pipe seed")
	f.text(strconv.FormatUint(seed, 10))
	f.text(kind)
	sum := f.sum()
	return binary.BigEndian.Uint64(sum[:8])
}

// An action is a stage with the content of all it depends on.
type action struct {
	pre      preimage
	key      artifact.Key
	files    []sourceFile
	journals []sourceFile
}

// action reads what n's key is made of. The digests of its handles are set.
func (e *engine) action(ctx context.Context, n *lang.Node) (*action, error) {
	spec, err := json.Marshal(n.Stage)
	if err != nil {
		return nil, fmt.Errorf("encode the spec: %w", err)
	}
	a := &action{pre: preimage{
		Format: keyFormat, Kind: n.Kind.Name, Version: n.Kind.Version, Spec: spec,
		Inputs: map[string]artifact.Digest{}, Seed: deriveSeed(e.prog.Seed, n.Kind.Name),
	}}
	for _, in := range n.Inputs {
		a.pre.Inputs[in.Path] = in.Ref.Digest
	}
	if n.Kind.Compute {
		a.pre.Backend = e.BackendName
	}
	if s, ok := n.Stage.(stage.Sourcer); ok {
		if a.files, err = e.readSources(ctx, n, s); err != nil {
			return nil, err
		}
		for _, f := range a.files {
			a.pre.Sources = append(a.pre.Sources, f.source)
		}
	}
	if a.pre.Journals, a.journals, err = e.journals(ctx, n); err != nil {
		return nil, err
	}
	a.key = a.pre.key()
	return a, nil
}

// Preimage returns what the key of n is made of, as its record would keep it,
// and the key. The digests of its handles must be set; backend is the name of
// the device of stages that compute.
func Preimage(ctx context.Context, prog *lang.Program, n *lang.Node, store *artifact.Store, backend string) (json.RawMessage, artifact.Key, error) {
	e := &engine{Options: Options{Store: store, BackendName: backend}, prog: prog}
	a, err := e.action(ctx, n)
	if err != nil {
		return nil, artifact.Key{}, err
	}
	pre, err := json.Marshal(a.pre)
	return pre, a.key, err
}
