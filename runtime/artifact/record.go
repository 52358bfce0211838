package artifact

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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
	Series   []Point           `json:"-"` // kept beside the record; see [Store.Series]
	Seconds  float64           `json:"seconds"`
	Created  time.Time         `json:"created"`
	Run      string            `json:"run"` // the run that made it
	// Written are the paths of the attributes that stood in the pipeline file;
	// the others had their defaults. Empty in records of old.
	Written []string `json:"written,omitempty"`
	Spent   *Spent   `json:"spent,omitempty"` // nil: it asked no teacher, or the record is old
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
	if err := s.putJSON(s.seriesPath(r.Key), columnsOf(r.Series)); err != nil {
		return fmt.Errorf("series of action %v: %w", r.Key, err)
	}
	if err := s.putJSON(s.recordPath(r.Key), r); err != nil {
		return fmt.Errorf("record %v: %w", r.Key, err)
	}
	return nil
}

// putJSON publishes a small file.
func (s *Store) putJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	dir, err := s.tempDir("record")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, filepath.Base(path))
	if err := writeSealed(tmp, b); err != nil {
		return err
	}
	return publish(tmp, path)
}

// getJSON reads a small file. One that is missing or damaged is ErrNotFound.
func getJSON(path string, v any) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotFound
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s is damaged: %w", path, ErrNotFound)
	}
	return nil
}

// points is one series as its file spells it.
type points struct {
	Series string    `json:"series"`
	Steps  []int64   `json:"steps"`
	Values []float64 `json:"values"`
}

// columnsOf sorts points by their series, in the order in which these begin.
func columnsOf(list []Point) []points {
	out := []points{}
	at := map[string]int{}
	for _, p := range list {
		i, ok := at[p.Series]
		if !ok {
			i = len(out)
			at[p.Series] = i
			out = append(out, points{Series: p.Series})
		}
		out[i].Steps, out[i].Values = append(out[i].Steps, p.Step), append(out[i].Values, p.Value)
	}
	return out
}

func (s *Store) seriesPath(k Key) string {
	return strings.TrimSuffix(s.recordPath(k), ".json") + ".series.json"
}

// Series returns the points that the action k recorded, one series after the
// other. They are for people: an action whose series are lost (ErrNotFound) is
// none the worse.
func (s *Store) Series(k Key) (list []Point, err error) {
	var cols []points
	if err := getJSON(s.seriesPath(k), &cols); err != nil {
		return nil, fmt.Errorf("series of action %v: %w", k, err)
	}
	for _, c := range cols {
		if len(c.Steps) != len(c.Values) {
			return nil, fmt.Errorf("series of action %v: %q has %d steps and %d values: %w", k, c.Series, len(c.Steps), len(c.Values), ErrNotFound)
		}
		for i := range c.Steps {
			list = append(list, Point{c.Series, c.Steps[i], c.Values[i]})
		}
	}
	return list, nil
}

// Record returns what the action k made. It is ErrNotFound when nobody ran it,
// and also when a file of an output is missing or has the wrong size, or the
// record itself is damaged: the action must then run again.
func (s *Store) Record(k Key) (*Record, error) {
	var r Record
	if err := getJSON(s.recordPath(k), &r); err != nil {
		return nil, fmt.Errorf("action %v: %w", k, err)
	}
	if r.Key != k {
		return nil, fmt.Errorf("action %v: its record is that of %v: %w", k, r.Key, ErrNotFound)
	}
	for name, o := range r.Outputs {
		if !s.Has(o.Digest) {
			return nil, fmt.Errorf("action %v: output %s: %w", k, name, ErrNotFound)
		}
	}
	return &r, nil
}
