package artifact

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// A Key names an action: the SHA-256 over everything that can change what it
// makes.
type Key [32]byte

// String returns 64 hexadecimal digits.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// MarshalText implements encoding.TextMarshaler.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Key) UnmarshalText(b []byte) error {
	if len(b) != 2*len(k) {
		return errors.New("not a key")
	}
	_, err := hex.Decode(k[:], b)
	return err
}

// A Record says what an action made. It is found by the action's key.
type Record struct {
	Key      Key               `json:"key"`
	Addr     string            `json:"addr"` // of the block, when it ran
	Kind     string            `json:"kind"`
	Preimage json.RawMessage   `json:"preimage"` // what Key is the hash of, for people and explain
	Outputs  map[string]Object `json:"outputs"`
	Notes    []string          `json:"notes,omitempty"`
	Series   []Point           `json:"series,omitempty"`
	Seconds  float64           `json:"seconds"`
	Created  time.Time         `json:"created"`
	Run      string            `json:"run"` // the run that made it
}

const maxRecord = 256 << 20 // bytes

func (s *Store) recordPath(k Key) string {
	h := k.String()
	return filepath.Join(s.dir, "actions", h[:2], h+".json")
}

// PutRecord publishes r. Its outputs must be in the store.
func (s *Store) PutRecord(r *Record) error {
	for name, o := range r.Outputs {
		if !s.Has(o.Digest) {
			return fmt.Errorf("record %v: output %s is not in the store", r.Key, name)
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record %v: %w", r.Key, err)
	}
	dir, err := os.MkdirTemp(filepath.Join(s.dir, "tmp"), "record-")
	if err != nil {
		return fmt.Errorf("record %v: %w", r.Key, err)
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "record.json")
	if err := writeSealed(tmp, b); err != nil {
		return fmt.Errorf("record %v: %w", r.Key, err)
	}
	if err := publish(tmp, s.recordPath(r.Key)); err != nil {
		return fmt.Errorf("record %v: %w", r.Key, err)
	}
	return nil
}

// Record returns what the action k made. It is ErrNotFound when nobody ran it,
// and also when a file of an output is missing or has the wrong size, or the
// record itself is damaged: the action must then run again.
func (s *Store) Record(k Key) (*Record, error) {
	f, err := os.Open(s.recordPath(k))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("action %v: %w", k, ErrNotFound)
		}
		return nil, fmt.Errorf("action %v: %w", k, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return nil, fmt.Errorf("action %v: %w", k, err)
	}
	var r Record
	if err := json.Unmarshal(b, &r); err != nil || r.Key != k {
		return nil, fmt.Errorf("action %v: its record is damaged: %w", k, ErrNotFound)
	}
	for name, o := range r.Outputs {
		if !s.Has(o.Digest) {
			return nil, fmt.Errorf("action %v: output %s: %w", k, name, ErrNotFound)
		}
	}
	return &r, nil
}
