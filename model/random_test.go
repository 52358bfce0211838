package model_test

import (
	"encoding/binary"
	"hash/fnv"
	"testing"

	"pipe/model"
)

// TestNewStream: streams are those of FNV-1a, which runs of earlier versions have.
func TestNewStream(t *testing.T) {
	for _, label := range []string{"", "sample", "dropout of step 12"} {
		for _, seed := range []uint64{0, 1, 0xfedcba9876543210} {
			h := fnv.New64a()
			h.Write(binary.LittleEndian.AppendUint64(nil, seed))
			h.Write([]byte(label))
			// At mixes, as NewStream does, after it has added the constant.
			want := model.Stream(h.Sum64() - 0x9e3779b97f4a7c15).At(0)
			if got := uint64(model.NewStream(seed, label)); got != want {
				t.Errorf("seed %d, %q: %#x; want %#x", seed, label, got, want)
			}
			if model.NewStream(seed, []byte(label)) != model.NewStream(seed, label) {
				t.Errorf("%q differs as bytes", label)
			}
		}
	}
}
