package tensortest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

func fixture(header string, data ...byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), data...)
}

func TestParseFixture(t *testing.T) {
	gen := []byte("print(1)\n")
	sum := sha256.Sum256(gen)
	meta := `"__metadata__":{"torch":"2","generator_sha256":"` + hex.EncodeToString(sum[:]) + `"}`
	good := fixture(`{`+meta+`,"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"i":{"dtype":"I64","shape":[1],"data_offsets":[8,16]}}`,
		0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	f, err := parseFixture(good, gen)
	if err != nil {
		t.Fatal(err)
	}
	f.t = t
	x, shape := f.Floats("a")
	Close(t, "a", x, []float64{1, -2}, Exact)
	if len(shape) != 2 || shape[1] != 2 || f.Ints("i")[0] != -1 || f.Meta["torch"] != "2" {
		t.Errorf("shape %v, i %v, metadata %v", shape, f.Ints("i"), f.Meta)
	}
	for name, c := range map[string]struct {
		data, gen []byte
		want      string
	}{
		"another generator": {good, []byte("print(2)\n"), "run it again"},
		"no hash":           {fixture(`{}`), gen, "run it again"},
		"cut short":         {good[:20], gen, "cut short"},
		"empty":             {nil, gen, "cut short"},
		"beyond the end":    {fixture(`{` + meta + `,"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`), gen, "a: type F32"},
		"unknown type":      {fixture(`{` + meta + `,"a":{"dtype":"F64","shape":[0],"data_offsets":[0,0]}}`), gen, "a: type F64"},
	} {
		if _, err := parseFixture(c.data, c.gen); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}
