// Package artifact keeps what stages make: small trees of files (an Arrow
// table, safetensors, JSON) that are written once, named by the SHA-256 of
// their content, and found again by the key of the action that made them.
package artifact

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
)

// A Type says what an artifact or handle is good for. A reference of the wrong
// type is an error on its line of the pipeline file.
type Type string

// The types of handles.
const (
	Dataset Type = "dataset" // an Arrow table, file "rows.arrow"
	Model   Type = "model"   // weights, tokenizer and chat template, or an adapter over another model
	Metrics Type = "metrics" // JSON, file "metrics.json": see [Metric]
	Teacher Type = "teacher" // never stored: a configuration
	File    Type = "file"    // any tree of files, such as an export
)

// A Digest is the SHA-256 of some content.
type Digest [sha256.Size]byte

// String returns "sha256:" and 64 hexadecimal digits.
func (d Digest) String() string { return "sha256:" + hex.EncodeToString(d[:]) }

// IsZero reports whether d is unset.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// ErrBadDigest is returned for text that is not a digest.
var ErrBadDigest = errors.New("not a sha256 digest")

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(b []byte) error {
	const p = "sha256:"
	if len(b) != len(p)+2*sha256.Size || string(b[:len(p)]) != p {
		return ErrBadDigest
	}
	_, err := hex.Decode(d[:], b[len(p):])
	if err != nil {
		return ErrBadDigest
	}
	return nil
}

// A Ref is what a reference in a pipeline file evaluates to: a known, typed
// handle. The engine fills Digest in before a stage runs; Addr is for people
// and never part of a key.
type Ref struct {
	Type   Type
	Addr   string // "data.docs", "synth.cot", `sft.legal["rank=8"]`, "model.base"
	Output string // "dataset"; empty for data, model and teacher blocks
	Digest Digest // of the content; zero until known
}

// String returns the reference as a pipeline file spells it.
func (r Ref) String() string {
	if r.Output == "" {
		return r.Addr
	}
	return r.Addr + "." + r.Output
}

// MarshalJSON makes the reference's content, and nothing else, part of the
// canonical spec.
func (r Ref) MarshalJSON() ([]byte, error) {
	return []byte(`{"type":"` + string(r.Type) + `","digest":"` + r.Digest.String() + `"}`), nil
}
