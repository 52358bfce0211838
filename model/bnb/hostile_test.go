package bnb_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/model/bnb"
	"pipe/model/safetensors"
	"pipe/tensor"
	"pipe/tensor/quant"
)

const (
	weight      = "model.layers.0.mlp.up_proj.weight"
	stateSuffix = ".quant_state.bitsandbytes__nf4"
)

// small returns the tensors of a weight [3, 128], or of the shape given.
func small(t testing.TB, shape ...int) []safetensors.Tensor {
	t.Helper()
	if shape == nil {
		shape = []int{3, 128}
	}
	x := make([]float32, shape[0]*shape[1])
	for i := range x {
		x[i] = float32(math.Sin(float64(i)))
	}
	data := make([]byte, 4*len(x))
	quant.Quantize(data, tensor.F32, x)
	ts, err := bnb.Tensors(weight, weightOf(shape, data), tensor.F32)
	if err != nil {
		t.Fatal(err)
	}
	return ts
}

func open(t testing.TB, dir string, ts []safetensors.Tensor) *safetensors.File {
	t.Helper()
	path := filepath.Join(dir, "model.safetensors")
	var b bytes.Buffer
	if err := safetensors.WriteTo(&b, ts, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestHostile: what does not fit together is refused, and the tensor named.
func TestHostile(t *testing.T) {
	const state = stateSuffix
	replace := func(old, new string) func([]safetensors.Tensor) []safetensors.Tensor {
		return func(ts []safetensors.Tensor) []safetensors.Tensor {
			i := slices.IndexFunc(ts, func(x safetensors.Tensor) bool { return x.Name == weight+state })
			ts[i].Data = bytes.Replace(ts[i].Data, []byte(old), []byte(new), 1)
			ts[i].Shape = []int{len(ts[i].Data)}
			return ts
		}
	}
	change := func(suffix string, f func(*safetensors.Tensor)) func([]safetensors.Tensor) []safetensors.Tensor {
		return func(ts []safetensors.Tensor) []safetensors.Tensor {
			f(&ts[slices.IndexFunc(ts, func(x safetensors.Tensor) bool { return x.Name == weight+suffix })])
			return ts
		}
	}
	without := func(suffix string) func([]safetensors.Tensor) []safetensors.Tensor {
		return func(ts []safetensors.Tensor) []safetensors.Tensor {
			return slices.DeleteFunc(ts, func(x safetensors.Tensor) bool { return x.Name == weight+suffix })
		}
	}
	cut := func(n int) func(*safetensors.Tensor) {
		return func(x *safetensors.Tensor) {
			x.Shape = []int{n}
			x.Data = x.Data[:n*x.DType.Bytes(1)]
		}
	}
	number := func(i int, v float32) func(*safetensors.Tensor) {
		return func(x *safetensors.Tensor) { quant.Quantize(x.Data[4*i:4*i+4], tensor.F32, []float32{v}) }
	}
	nan := float32(math.NaN())
	for name, c := range map[string]struct {
		change func([]safetensors.Tensor) []safetensors.Tensor
		want   string
	}{
		"no json":           {replace("{", "["), "quant_state is not what"},
		"another type":      {replace(`"nf4"`, `"fp4"`), "quant_type"},
		"block of 0":        {replace(`"blocksize": 64`, `"blocksize": 0`), "blocksize is 0"},
		"negative block":    {replace(`"blocksize": 64`, `"blocksize": -64`), "blocksize is -64"},
		"odd block":         {replace(`"blocksize": 64`, `"blocksize": 96`), "blocksize is 96"},
		"larger blocks":     {replace(`"blocksize": 64`, `"blocksize": 128`), "absmax has 6 codes"},
		"unknown dtype":     {replace("float32", "complex64"), "dtype is"},
		"other shape":       {replace("[3, 128]", "[4, 128]"), "192 bytes of codes; shape [4 128] needs 256"},
		"overflowing shape": {replace("[3, 128]", "[4294967296, 4294967296]"), "must be [out, in]"},
		"huge shape":        {replace("[3, 128]", "[2147483647, 2147483647]"), "bytes of codes"},
		"negative shape":    {replace("[3, 128]", "[-3, -128]"), "must be [out, in]"},
		"one dimension":     {replace("[3, 128]", "[384]"), "must be [out, in]"},
		"no shape":          {replace(`"shape"`, `"shade"`), "must be [out, in]"},
		"no codes":          {without(""), "no such tensor"},
		"no scales":         {without(".absmax"), "absmax"},
		"no map":            {without(".quant_map"), "quant_map"},
		"no nested map":     {without(".nested_quant_map"), "nested_quant_map"},
		"no nested scales":  {without(".nested_absmax"), "nested_absmax is missing"},
		"no offset":         {replace("nested_offset", "nested_offsex"), "nested_offset is missing"},
		"huge offset":       {replace(`"nested_offset": `, `"nested_offset": 1e300, "x": `), "nested_offset"},
		"nested block of 0": {replace(`"nested_blocksize": 256`, `"nested_blocksize": 0`), "nested_blocksize"},
		"nested float16":    {replace(`"nested_dtype": "float32"`, `"nested_dtype": "float16"`), "nested_dtype"},
		"few codes":         {change("", cut(100)), "100 bytes of codes"},
		"few scales":        {change(".absmax", cut(5)), "absmax has 5 codes"},
		"short map":         {change(".quant_map", cut(15)), "has 15 numbers; must have 16"},
		"short nested map":  {change(".nested_quant_map", cut(255)), "has 255 numbers; must have 256"},
		"another map":       {change(".quant_map", number(3, -0.4)), "is not that of NF4"},
		"nan in map":        {change(".quant_map", number(3, nan)), "NaN"},
		"nan in nested map": {change(".nested_quant_map", number(3, nan)), "NaN"},
		"nan in scales":     {change(".nested_absmax", number(0, nan)), "NaN"},
		"infinite scale":    {change(".nested_absmax", number(0, float32(math.Inf(1)))), "+Inf"},
		"scales overflow": {func(ts []safetensors.Tensor) []safetensors.Tensor {
			return change(".nested_absmax", overflow)(change(".nested_quant_map", overflow)(ts))
		}, "scale of block"},
		"scales of bytes": {change(".nested_absmax", func(x *safetensors.Tensor) { x.DType, x.Shape = tensor.U8, []int{4} }), "is of type U8"},
		"json of floats":  {change(state, func(x *safetensors.Tensor) { x.DType, x.Shape, x.Data = tensor.F32, []int{1}, make([]byte, 4) }), "is of type F32"},
		"long json":       {change(state, func(x *safetensors.Tensor) { x.Shape, x.Data = []int{70000}, bytes.Repeat([]byte(" "), 70000) }), "at most"},
		"fp4":             {change(state, func(x *safetensors.Tensor) { x.Name = weight + ".quant_state.bitsandbytes__fp4" }), "fp4, which is not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t, t.TempDir(), c.change(small(t)))
			defer f.Close()
			_, err := bnb.Open(f).Weight(weight)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), weight) {
				t.Errorf("error is %v, want one with %q and the tensor", err, c.want)
			}
		})
	}
}

// overflow sets all numbers to the largest one.
func overflow(x *safetensors.Tensor) {
	for i := range len(x.Data) / 4 {
		quant.Quantize(x.Data[4*i:4*i+4], tensor.F32, []float32{math.MaxFloat32})
	}
}

// TestShapes: sizes around whole blocks and bytes are read as they were
// written, and codes may be stored as another type.
func TestShapes(t *testing.T) {
	for _, shape := range [][]int{{1, 1}, {1, 63}, {3, 33}, {1, 64}, {2, 65}, {5, 320}, {300, 64}} {
		ts := small(t, shape...)
		f := open(t, t.TempDir(), ts)
		w, err := bnb.Open(f).Weight(weight)
		if err != nil {
			t.Fatalf("%v: %v", shape, err)
		}
		x := make([]float32, shape[0]*shape[1])
		quant.Dequantize(x, w.DType, w.Data)
		for i, v := range x {
			if want := math.Sin(float64(i)); !(math.Abs(float64(v)-want) <= 0.16) {
				t.Errorf("%v: element %d is %v, was %v", shape, i, v, want)
			}
		}
		f.Close()
		if len(ts[0].Data)%2 == 0 {
			ts[0].DType, ts[0].Shape = tensor.BF16, []int{len(ts[0].Data) / 2, 1}
			f := open(t, t.TempDir(), ts)
			if again, err := bnb.Open(f).Weight(weight); err != nil || !bytes.Equal(again.Data, w.Data) {
				t.Errorf("%v stored as bf16: %v", shape, err)
			}
			f.Close()
		}
	}
}

// FuzzOpen: no parts of a weight make a panic, and none a weight that is much
// larger than they are.
func FuzzOpen(f *testing.F) {
	for _, shape := range [][]int{{2, 64}, {3, 33}} {
		p := map[string][]byte{}
		for _, x := range small(f, shape...) {
			p[strings.TrimPrefix(x.Name, weight)] = x.Data
		}
		for _, half := range []string{"64", "32"} {
			state := bytes.Replace(p[stateSuffix], []byte(`ize": 64`), []byte(`ize": `+half), 1)
			f.Add(state, p[""], p[".absmax"], p[".quant_map"], p[".nested_absmax"], p[".nested_quant_map"])
		}
		f.Add([]byte(`{"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":[2,64]}`), p[""], make([]byte, 8), p[".quant_map"], []byte(nil), []byte(nil))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, state, codes, absmax, values, scale, nested []byte) {
		size := len(state) + len(codes) + len(absmax) + len(values) + len(scale) + len(nested)
		if size > 1<<16 {
			return
		}
		ts := []safetensors.Tensor{part("", codes, tensor.U8), part(stateSuffix, state, tensor.U8), part(".quant_map", values, tensor.F32)}
		if len(scale) > 0 {
			ts = append(ts, part(".absmax", absmax, tensor.U8), part(".nested_absmax", scale, tensor.F32), part(".nested_quant_map", nested, tensor.F32))
		} else {
			ts = append(ts, part(".absmax", absmax, tensor.F32))
		}
		file := open(t, dir, ts)
		defer file.Close()
		w, err := bnb.Open(file).Weight(weight)
		if err != nil {
			return
		}
		if len(w.Data) > 8*size {
			t.Fatalf("%d bytes from %d", len(w.Data), size)
		}
		if n := w.Shape[0] * w.Shape[1]; len(w.Data) != w.DType.Bytes(n) {
			t.Fatalf("%s %v has %d bytes", w.DType, w.Shape, len(w.Data))
		}
	})
}

// part is a tensor of as many whole elements as data has.
func part(suffix string, data []byte, dt tensor.DType) safetensors.Tensor {
	n := len(data) / dt.Bytes(1)
	return safetensors.Tensor{Name: weight + suffix, DType: dt, Shape: []int{n}, Data: data[:n*dt.Bytes(1)]}
}
