package artifact

import (
	"bytes"
	"crypto/sha256"
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
	Run      string            `json:"run"`             // the run that made it
	Spent    *Spent            `json:"spent,omitempty"` // by that run, on teachers; nil: none was asked
	// Written are the paths of the attributes that stood in the pipeline file;
	// the others had their defaults. Empty in records of old.
	Written []string `json:"written,omitempty"`
}

const maxRecord = 256 << 20 // bytes

func (s *Store) recordPath(k Key) string {
	h := k.String()
	return filepath.Join(s.dir, "actions", h[:2], h+".json")
}

// PutRecord publishes r. Its outputs must be in the store.
func (s *Store) PutRecord(r *Record) error {
	s.note(noteKey + r.Key.String())
	for name, o := range r.Outputs {
		if !s.Has(o.Digest) {
			return fmt.Errorf("record %v: output %s is not in the store", r.Key, name)
		}
	}
	if err := s.putJSON(s.seriesPath(r.Key), columnsOf(r.Series)); err != nil {
		return s.Advise(fmt.Errorf("series of action %v: %w", r.Key, err))
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record %v: %w", r.Key, err)
	}
	if err := s.putFile(s.recordPath(r.Key), addSum(b), 0o444, true); err != nil {
		return s.Advise(fmt.Errorf("record %v: %w", r.Key, err))
	}
	return nil
}

// What stands at the end of a record: the SHA-256 of the object without it.
const (
	sumMark = `,"sum":"`
	sumEnd  = `"}`
	sumTail = len(sumMark) + 2*sha256.Size + len(sumEnd)
)

// addSum puts the checksum into a JSON object that is not empty.
func addSum(b []byte) []byte {
	sum := sha256.Sum256(b)
	b = append(b[:len(b)-1:len(b)-1], sumMark...)
	return append(hex.AppendEncode(b, sum[:]), sumEnd...)
}

// checkSum reports whether a JSON object is what its checksum is of. Records of
// the first versions of pipe have none: they end with the name of a run, which
// is shorter.
func checkSum(b []byte) bool {
	if len(b) <= sumTail {
		return true
	}
	body, tail := b[:len(b)-sumTail], b[len(b)-sumTail:]
	_, err := hex.DecodeString(string(tail[len(sumMark) : len(tail)-len(sumEnd)]))
	if err != nil && !bytes.HasPrefix(tail, []byte(sumMark)) {
		return true
	}
	return bytes.Equal(addSum(append(bytes.Clone(body), '}')), b)
}

// putJSON publishes a small file that is not changed again.
func (s *Store) putJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.putFile(path, b, 0o444, true)
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
	r, err := s.readRecord(k)
	notes := []string{noteKey + k.String()}
	if err == nil {
		for _, o := range r.Outputs {
			notes = append(notes, noteObject+o.Digest.String())
		}
	}
	s.note(notes...)
	if err != nil {
		return nil, err
	}
	for name, o := range r.Outputs { // that are there now will stay
		if !s.Has(o.Digest) {
			return nil, fmt.Errorf("action %v: output %s: %w", k, name, ErrNotFound)
		}
	}
	return r, nil
}

// readRecord is Record without a look at the outputs.
func (s *Store) readRecord(k Key) (*Record, error) {
	var raw json.RawMessage
	if err := getJSON(s.recordPath(k), &raw); err != nil {
		return nil, fmt.Errorf("action %v: %w", k, err)
	}
	var r Record
	if !checkSum(raw) || json.Unmarshal(raw, &r) != nil {
		return nil, fmt.Errorf("action %v: its record is damaged: %w", k, ErrNotFound)
	}
	if r.Key != k {
		return nil, fmt.Errorf("action %v: its record is that of %v: %w", k, r.Key, ErrNotFound)
	}
	return &r, nil
}

// Records visits the records in the store. Those that are damaged are passed
// over, and nothing is said of whether the outputs are there: see [Store.Record].
func (s *Store) Records(visit func(*Record)) error {
	return s.eachRecord(func(k Key, _ string, _ fs.FileInfo) error {
		r, err := s.readRecord(k)
		if err == nil {
			visit(r)
		} else if !errors.Is(err, ErrNotFound) {
			return err
		}
		return nil
	})
}
