package quant_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"pipe/tensor"
	"pipe/tensor/quant"
)

type fixture struct {
	Generator string `json:"generator_sha256"`
	Input     []byte
	Types     map[string]struct {
		Quantizes bool
		Blocks    []byte
		Values    string `json:"values_sha256"`
		Head      []float32
	}
	Half map[string]string
}

func load(t *testing.T) (f fixture) {
	t.Helper()
	data, err := os.ReadFile("testdata/blocks.json")
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		t.Fatal(err)
	}
	gen, err := os.ReadFile("testdata/gen.py")
	if err != nil {
		t.Fatal(err)
	}
	if hash(gen) != f.Generator {
		t.Fatal("blocks.json was not made by the gen.py beside it; run gen.py again")
	}
	return f
}

func hash(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

func bytesOf(x []float32) []byte {
	b := make([]byte, 4*len(x))
	quant.Quantize(b, tensor.F32, x)
	return b
}

func floats(b []byte) []float32 {
	x := make([]float32, len(b)/4)
	quant.Dequantize(x, tensor.F32, b)
	return x
}

var blockTypes = []tensor.DType{tensor.Q4_0, tensor.Q4_1, tensor.Q5_0, tensor.Q5_1, tensor.Q8_0, tensor.Q4_K, tensor.Q5_K, tensor.Q6_K}

// allBlockTypes are those of GGUF and of bitsandbytes.
var allBlockTypes = append(slices.Clone(blockTypes), tensor.NF4)

// TestBlocks compares every block format with ggml, bit by bit.
func TestBlocks(t *testing.T) {
	f := load(t)
	x := floats(f.Input)
	for _, dt := range blockTypes {
		t.Run(dt.String(), func(t *testing.T) {
			want, ok := f.Types[dt.String()]
			if !ok {
				t.Fatal("the fixture has no such type")
			}
			y := make([]float32, len(x))
			quant.Dequantize(y, dt, want.Blocks)
			for i, v := range want.Head {
				if y[i] != v {
					t.Errorf("value %d is %v, want %v", i, y[i], v)
				}
			}
			if hash(bytesOf(y)) != want.Values {
				t.Error("the dequantised values differ from ggml's")
			}
			if quant.CanQuantize(dt) != want.Quantizes {
				t.Fatalf("CanQuantize is %v", quant.CanQuantize(dt))
			}
			if !want.Quantizes {
				return
			}
			got := make([]byte, dt.Bytes(len(x)))
			quant.Quantize(got, dt, x)
			size := dt.Bytes(dt.Block())
			for i := 0; i < len(got); i += size {
				if !bytes.Equal(got[i:i+size], want.Blocks[i:i+size]) {
					t.Errorf("block %d\ngot  %x\nwant %x", i/size, got[i:i+size], want.Blocks[i:i+size])
				}
			}
		})
	}
}

// TestHalf compares the half precisions with ggml: all values, and floats at
// and beside every rounding boundary.
func TestHalf(t *testing.T) {
	f := load(t)
	var finite []float32
	for h := range 65536 {
		v := quant.FromF16(uint16(h))
		if !math.IsNaN(float64(v)) && !math.IsInf(float64(v), 0) {
			finite = append(finite, v)
		}
		if back := quant.ToF16(v); back != uint16(h) && v == v {
			t.Fatalf("f16 %#04x became %#04x", h, back)
		} else if v != v && (back|0x200) != uint16(h)|0x200 {
			t.Fatalf("NaN %#04x became %#04x", h, back)
		}
		if back := quant.ToBF16(quant.FromBF16(uint16(h))); back|0x40 != uint16(h)|0x40 {
			t.Fatalf("bf16 %#04x became %#04x", h, back)
		}
	}
	if got := hash(bytesOf(finite)); got != f.Half["finite_f16_sha256"] {
		t.Error("the values of half precision differ from ggml's")
	}
	var probe []float32
	for _, towards := range []float32{float32(math.Inf(1)), float32(math.Inf(-1))} {
		for _, v := range finite {
			probe = append(probe, math.Nextafter32(v, towards))
		}
	}
	for i, v := range finite {
		prev := finite[(i+len(finite)-1)%len(finite)]
		probe = append(probe, float32((float64(v)+float64(prev))/2))
	}
	probe = append(probe, 65519.996, 65520, 1e30, -1e30, 1e-40, 1.0/(1<<25), float32(1.0000001/(1<<25)))
	if hash(bytesOf(probe)) != f.Half["probe_sha256"] {
		t.Fatal("the probes differ from the generator's")
	}
	b := make([]byte, 2*len(probe))
	quant.Quantize(b, tensor.F16, probe)
	if hash(b) != f.Half["f16_sha256"] {
		t.Error("rounding to f16 differs from ggml's")
	}
	quant.Quantize(b, tensor.BF16, probe)
	if hash(b) != f.Half["bf16_sha256"] {
		t.Error("rounding to bf16 differs from ggml's")
	}
}

// TestGolden holds the vectors of the specification.
func TestGolden(t *testing.T) {
	x := make([]float32, 32)
	for i := range x {
		x[i] = (float32(i) - 15.5) / 4
		if i%3 == 0 {
			x[i] = float32(float64(x[i]) * -0.7)
		}
	}
	q8 := []int8{89, -119, -111, 72, -94, -86, 54, -70, -61, 37, -45, -37, 20, -20, -12, 3, 4, 12, -14, 29, 37, -32, 53, 61, -49, 78, 86, -66, 102, 111, -83, 127}
	b := []byte{0xd0, 0x27}
	for _, q := range q8 {
		b = append(b, byte(q))
	}
	for _, c := range []struct {
		dt   tensor.DType
		want string
	}{
		{tensor.Q8_0, hex.EncodeToString(b)},
		{tensor.Q4_0, "c0b7" + "827f9f636ead554cbc363bca2719d908"},
		{tensor.Q4_1, "0038" + "40c3" + "8d80619ca252bbb344cad535e8e627f7"},
	} {
		got := make([]byte, c.dt.Bytes(32))
		quant.Quantize(got, c.dt, x)
		if hex.EncodeToString(got) != c.want {
			t.Errorf("%s: got %x, want %s", c.dt, got, c.want)
		}
	}
}

// TestError bounds the loss by the step of each format.
func TestError(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, 4096)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	for dt, tol := range map[tensor.DType]float64{ // mean square error over variance
		tensor.F16: 1e-7, tensor.BF16: 1e-5, tensor.Q8_0: 5e-5, tensor.Q6_K: 5e-4,
		tensor.Q5_1: 2e-3, tensor.Q5_0: 2e-3, tensor.Q4_K: 6e-3, tensor.Q4_1: 8e-3, tensor.Q4_0: 8e-3, tensor.NF4: 1e-2,
	} {
		b, y := make([]byte, dt.Bytes(len(x))), make([]float32, len(x))
		quant.Quantize(b, dt, x)
		quant.Dequantize(y, dt, b)
		var e, v float64
		for i := range x {
			e += float64(x[i]-y[i]) * float64(x[i]-y[i])
			v += float64(x[i]) * float64(x[i])
		}
		if !(e/v <= tol) {
			t.Errorf("%s: relative error %.3g, want at most %g", dt, e/v, tol)
		}
	}
}

// TestSmallTypes covers the types that are no weights.
func TestSmallTypes(t *testing.T) {
	y := make([]float32, 3)
	quant.Dequantize(y, tensor.U8, []byte{0, 7, 255})
	if y[0] != 0 || y[1] != 7 || y[2] != 255 {
		t.Errorf("u8: %v", y)
	}
	b := binary.LittleEndian.AppendUint32(nil, 0xffffffff)
	quant.Dequantize(y[:1], tensor.I32, b)
	if y[0] != -1 {
		t.Errorf("i32: %v", y[0])
	}
}

func TestPanics(t *testing.T) {
	for name, f := range map[string]func(){
		"part of a block": func() { quant.Dequantize(make([]float32, 31), tensor.Q4_0, make([]byte, 18)) },
		"short data":      func() { quant.Dequantize(make([]float32, 64), tensor.Q4_0, make([]byte, 35)) },
		"no such type":    func() { quant.Dequantize(nil, tensor.DType(200), nil) },
		"no quantiser":    func() { quant.Quantize(make([]byte, 176), tensor.Q5_K, make([]float32, 256)) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: did not panic", name)
				}
			}()
			f()
		}()
	}
}

func TestNoAllocation(t *testing.T) {
	x, b := make([]float32, 512), make([]byte, 4096)
	for _, dt := range allBlockTypes {
		src := b[:dt.Bytes(len(x))]
		if n := testing.AllocsPerRun(10, func() { quant.Dequantize(x, dt, src) }); n != 0 {
			t.Errorf("%s: %v allocations", dt, n)
		}
	}
}

// FuzzDequantize: no bytes make a panic, infinite and NaN scales included, on
// the way out or back.
func FuzzDequantize(f *testing.F) {
	f.Add(bytes.Repeat([]byte{0x11, 0x3c}, 128))
	f.Add(bytes.Repeat([]byte{0xff}, 256))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4096 {
			data = data[:4096]
		}
		for _, dt := range allBlockTypes {
			size := dt.Bytes(dt.Block())
			n := len(data) / size
			y := make([]float32, n*dt.Block())
			quant.Dequantize(y, dt, data[:n*size])
			if quant.CanQuantize(dt) {
				quant.Quantize(make([]byte, n*size), dt, y)
			}
		}
	})
}

func BenchmarkDequantize(b *testing.B) {
	x := make([]float32, 1<<14)
	for i := range x {
		x[i] = float32(math.Sin(float64(i)))
	}
	for _, dt := range append([]tensor.DType{tensor.F32, tensor.F16, tensor.BF16}, allBlockTypes...) {
		src := make([]byte, dt.Bytes(len(x)))
		if quant.CanQuantize(dt) {
			quant.Quantize(src, dt, x)
		}
		b.Run(fmt.Sprint(dt), func(b *testing.B) {
			b.SetBytes(int64(4 * len(x)))
			for b.Loop() {
				quant.Dequantize(x, dt, src)
			}
		})
	}
}
