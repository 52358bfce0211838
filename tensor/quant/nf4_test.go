package quant_test

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"pipe/tensor"
	"pipe/tensor/quant"
)

// A bnbFixture is what bitsandbytes made of the same numbers.
type bnbFixture struct {
	Generator             string `json:"generator_sha256"`
	Input, Packed, Absmax []byte
	Values                string `json:"values_sha256"`
	QuantMap              []byte `json:"quant_map"`
	DynamicMap            []byte `json:"dynamic_map"`
	Double                []struct {
		N       int
		Offset  []byte
		Codes   string `json:"codes_sha256"`
		Absmax  string `json:"absmax_sha256"`
		Decoded string `json:"decoded_sha256"`
	}
}

func loadBNB(t *testing.T) (f bnbFixture) {
	t.Helper()
	const dir = "testdata/bitsandbytes/"
	data, err := os.ReadFile(dir + "fixture.json")
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		t.Fatal(err)
	}
	gen, err := os.ReadFile(dir + "gen.py")
	if err != nil {
		t.Fatal(err)
	}
	if hash(gen) != f.Generator {
		t.Fatal("fixture.json was not made by the gen.py beside it; run gen.py again")
	}
	return f
}

// TestNF4 compares blocks and values with bitsandbytes', bit by bit.
func TestNF4(t *testing.T) {
	f := loadBNB(t)
	x := floats(f.Input)
	got := make([]byte, tensor.NF4.Bytes(len(x)))
	quant.Quantize(got, tensor.NF4, x)
	for i := 0; i*36 < len(got); i++ {
		want := slices.Concat(f.Absmax[4*i:4*i+4], f.Packed[32*i:32*i+32])
		if !bytes.Equal(got[36*i:36*i+36], want) {
			t.Errorf("block %d\ngot  %x\nwant %x", i, got[36*i:36*i+36], want)
		}
	}
	y := make([]float32, len(x))
	quant.Dequantize(y, tensor.NF4, got)
	if hash(bytesOf(y)) != f.Values {
		t.Error("the dequantised values differ from bitsandbytes'")
	}
	m := quant.NF4Map()
	if !bytes.Equal(bytesOf(m[:]), f.QuantMap) {
		t.Error("the map differs from bitsandbytes'")
	}
}

// TestNF4Codes: every float at and beside a threshold has the code that
// comparing with all thresholds gives, and so have numbers all over.
func TestNF4Codes(t *testing.T) {
	m := quant.NF4Map()
	probe := []float32{0, float32(math.Copysign(0, -1)), 1e-45, -1e-45}
	for i := range 15 {
		b := (m[i] + m[i+1]) / 2
		probe = append(probe, b, math.Nextafter32(b, 2), math.Nextafter32(b, -2))
	}
	for i := -4096; i <= 4096; i++ {
		v := float32(i) / 4096
		probe = append(probe, v, max(-1, math.Nextafter32(v, -2)), min(1, math.Nextafter32(v, 2)))
	}
	for len(probe) > 0 {
		var x [64]float32
		n := copy(x[:63], probe)
		probe = probe[n:]
		x[63] = 1
		var b [36]byte
		quant.Quantize(b[:], tensor.NF4, x[:])
		for i, v := range x {
			want := 0
			for want < 15 && v > (m[want]+m[want+1])/2 {
				want++
			}
			if got := int(b[4+i/2] >> (4 - i%2*4) & 15); got != want {
				t.Errorf("the code of %v is %d, want %d", v, got, want)
			}
		}
	}
}

// TestDoubleQuantisation compares offset, codes, scales and decoded scales
// with bitsandbytes', bit by bit, for short, whole and many blocks.
func TestDoubleQuantisation(t *testing.T) {
	f := loadBNB(t)
	m := quant.DynamicMap()
	if !bytes.Equal(bytesOf(m[:]), f.DynamicMap) {
		t.Fatal("the dynamic map differs from bitsandbytes'")
	}
	if len(f.Double) < 10 {
		t.Fatalf("only %d cases", len(f.Double))
	}
	for _, c := range f.Double {
		x := make([]float32, c.N)
		for i := range x {
			x[i] = float32(uint32(i)*2654435761>>8+1) / (1 << 24)
		}
		offset := quant.Mean(x)
		if !bytes.Equal(bytesOf([]float32{offset}), c.Offset) {
			t.Errorf("%d scales: mean is %v, want %v", c.N, offset, floats(c.Offset)[0])
			continue
		}
		for i := range x {
			x[i] -= offset
		}
		q, scale := make([]byte, c.N), make([]float32, (c.N+255)/256)
		quant.QuantizeDynamic(q, scale, x)
		quant.DequantizeDynamic(x, q, scale, &m, quant.DynamicBlock, offset)
		if hash(q) != c.Codes || hash(bytesOf(scale)) != c.Absmax || hash(bytesOf(x)) != c.Decoded {
			t.Errorf("%d scales: codes right %t, scales %t, decoded %t", c.N, hash(q) == c.Codes, hash(bytesOf(scale)) == c.Absmax, hash(bytesOf(x)) == c.Decoded)
		}
	}
}

// TestNF4Golden holds the vector of the specification.
func TestNF4Golden(t *testing.T) {
	x := make([]float32, 64)
	for i := range 32 {
		x[i] = (float32(i) - 15.5) / 4
		if i%3 == 0 {
			x[i] = float32(float64(x[i]) * -0.7)
		}
		x[32+i] = x[i] / 2
	}
	got := make([]byte, 36)
	quant.Quantize(got, tensor.NF4, x)
	want := append(bytesOf([]float32{3.875}), []byte("\xe0\x0d\x11\xc2\x2b\x34\x95\x67\x78\x6a\xa4\xcc\x3d\xe2\xef\x1f\xb2\x3a\x34\xa4\x49\x55\x86\x67\x78\x68\x96\xaa\x5b\xb4\xcc\x4c")...)
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	// Values that are values of codes come back as they are, and again.
	y, again := make([]float32, 64), make([]float32, 64)
	quant.Dequantize(y, tensor.NF4, got)
	quant.Quantize(got, tensor.NF4, y)
	quant.Dequantize(again, tensor.NF4, got)
	if !slices.Equal(y, again) {
		t.Error("quantising what was dequantised changes it")
	}
}
