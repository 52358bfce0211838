package quant_test

import (
	"encoding/json"
	"math"
	"os"
	"testing"

	"pipe/tensor/quant"
)

// TestE4M3 compares all codes, and what floats round to, with PyTorch's.
func TestE4M3(t *testing.T) {
	var f struct {
		Generator            string `json:"generator_sha256"`
		Values, Input, Codes []byte
		Probes               string `json:"probes_sha256"`
		Rounded              string `json:"codes_sha256"`
	}
	data, err := os.ReadFile("testdata/fp8.json")
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		t.Fatal(err)
	}
	if gen, err := os.ReadFile("testdata/fp8.py"); err != nil || hash(gen) != f.Generator {
		t.Fatal("fp8.json was not made by the fp8.py beside it; run fp8.py again")
	}
	values := floats(f.Values)
	if len(values) != 256 {
		t.Fatalf("%d values", len(values))
	}
	for c, want := range values {
		v := quant.FromE4M3(uint8(c))
		if c&0x7f == 0x7f {
			if v == v || want == want || quant.ToE4M3(v) != uint8(c) {
				t.Errorf("code %#02x is %v, and comes back as %#02x", c, v, quant.ToE4M3(v))
			}
			continue
		}
		if math.Float32bits(v) != math.Float32bits(want) || quant.ToE4M3(v) != uint8(c) {
			t.Errorf("code %#02x is %v; want %v; it comes back as %#02x", c, v, want, quant.ToE4M3(v))
		}
	}
	code := func(x []float32) []byte {
		b := make([]byte, len(x))
		for i, v := range x {
			b[i] = quant.ToE4M3(v)
			if got := quant.RoundE4M3(v); math.Float32bits(got) != math.Float32bits(quant.FromE4M3(b[i])) {
				t.Fatalf("%v rounds to %v, and to the code of %v", v, got, quant.FromE4M3(b[i]))
			}
		}
		return b
	}
	if x := e4m3Probes(values); hash(bytesOf(x)) != f.Probes {
		t.Error("the probes differ from the generator's")
	} else if hash(code(x)) != f.Rounded {
		t.Error("rounding differs from PyTorch's")
	}
	some := floats(f.Input)
	for i, c := range code(some) {
		if len(f.Codes) != len(some) || c != f.Codes[i] {
			t.Fatalf("%v became %#02x", some[i], c)
		}
	}
	for _, v := range []float32{448.1, 464, 465, 1e30, float32(math.Inf(1))} {
		if c := code([]float32{v, -v}); c[0] != 0x7e || c[1] != 0xfe {
			t.Errorf("%v and its negative became %#02x", v, c)
		}
	}
}

// e4m3Probes are those of fp8.py.
func e4m3Probes(values []float32) (x []float32) {
	for h := range 65536 {
		if v := quant.FromBF16(uint16(h)); math.Abs(float64(v)) <= quant.MaxE4M3 {
			x = append(x, v)
		}
	}
	var near []float32
	for c := range 126 {
		v := (values[c] + values[c+1]) / 2
		near = append(near, v, math.Nextafter32(v, 0), math.Nextafter32(v, 1e9))
	}
	x = append(x, near...)
	for _, v := range near {
		x = append(x, -v)
	}
	return x
}

// TestScaleE4M3: the least power of two that brings a number to 448 or less.
func TestScaleE4M3(t *testing.T) {
	for _, most := range []float32{448, 448.00003, 1, 1.75, 1.7500001, 3, 0.001, 1e38, math.MaxFloat32, 1e-30, 0x1p-117, 1.75 * 0x1p-118} {
		s := quant.ScaleE4M3(most)
		if frac, _ := math.Frexp(float64(s)); frac != 0.5 || most/s > quant.MaxE4M3 || most/s <= quant.MaxE4M3/2 {
			t.Errorf("the scale of %v is %v", most, s)
		}
		if quant.ScaleE4M3(-most) != s {
			t.Errorf("the scale of %v is another than that of %v", -most, most)
		}
	}
	for _, most := range []float32{0x1p-149, 0x1p-126, 1e-37} {
		if s := quant.ScaleE4M3(most); s != 0x1p-126 {
			t.Errorf("the scale of %v is %v", most, s)
		}
	}
	if s := quant.ScaleE4M3(0); s != 1 {
		t.Errorf("the scale of 0 is %v", s)
	}
	for _, most := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		if s := quant.ScaleE4M3(float32(most)); s == s {
			t.Errorf("the scale of %v is %v", most, s)
		}
	}
}
