package artifact

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"testing"
)

// A record in which any bit is not what it was is not believed.
func TestEveryBitOfARecordCounts(t *testing.T) {
	s := testStore(t)
	o := commit(t, s, testRows...)
	k := Key{1}
	r := &Record{Key: k, Addr: "sft.a", Kind: "sft", Preimage: json.RawMessage(`{"spec":{}}`), Outputs: map[string]Object{"x": o}, Notes: []string{"a note"}, Seconds: 12}
	if err := s.PutRecord(r); err != nil {
		t.Fatal(err)
	}
	path := s.recordPath(k)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := range whole {
		for _, bit := range []byte{1, 4, 32} {
			b := bytes.Clone(whole)
			b[at] ^= bit
			overwrite(t, path, b)
			if got, err := s.Record(k); !errors.Is(err, ErrNotFound) {
				t.Fatalf("bit %#x of byte %d (%q): %+v, %v", bit, at, whole[at], got, err)
			}
		}
	}
	// A record of the first version has no checksum.
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, path, b)
	if got, err := s.Record(k); err != nil || got.Addr != "sft.a" {
		t.Errorf("without a checksum: %+v, %v", got, err)
	}
}
