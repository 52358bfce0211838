package bnb_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pipe/model"
	"pipe/model/bnb"
	"pipe/model/modeltest"
	"pipe/model/safetensors"
	"pipe/tensor"
	"pipe/tensor/quant"
)

func digest(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

// saved returns the path of a checkpoint that transformers saved, the one that
// the fixture speaks of.
func saved(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(modeltest.Dir(), name, "model.safetensors")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if digest(data) != modeltest.Load(t, "nf4.safetensors").Meta(name+".sha256") {
		t.Fatalf("%s is not the file that the fixture was made with; run gen.py again", path)
	}
	return path
}

func values(w model.Weight) []byte {
	x := make([]float32, w.Shape[0]*w.Shape[1])
	quant.Dequantize(x, w.DType, w.Data)
	b := make([]byte, 4*len(x))
	quant.Quantize(b, tensor.F32, x)
	return b
}

// TestOpen: what transformers saved in 4 bits has the names of the plain
// checkpoint, and bitsandbytes' values to the last bit.
func TestOpen(t *testing.T) {
	fix := modeltest.Load(t, "nf4.safetensors")
	c, plain := modeltest.Checkpoint(t, "nf4")
	for _, name := range []string{"nf4_double", "nf4_single"} {
		saved(t, name)
		_, src := modeltest.Checkpoint(t, name)
		if !slices.Equal(src.Names(), plain.Names()) {
			t.Errorf("%s has tensors %q", name, src.Names())
		}
		if err := model.CheckWeights(c, src); err != nil {
			t.Error(err)
		}
		seen := map[tensor.DType]int{}
		for _, n := range src.Names() {
			w, err := src.Weight(n)
			if err != nil {
				t.Fatal(err)
			}
			d, err := model.Describe(src, n)
			if err != nil || d.DType != w.DType || !slices.Equal(d.Shape, w.Shape) {
				t.Errorf("%s is described as %s %v, and is %s %v; %v", n, d.DType, d.Shape, w.DType, w.Shape, err)
			}
			if !bnb.Quantizes(n, w.Shape) {
				continue
			}
			seen[w.DType]++
			if digest(values(w)) != fix.Meta(name+"."+n+".sha256") {
				t.Errorf("%s: the values of %s differ from bitsandbytes'", name, n)
			}
		}
		if seen[tensor.NF4] != 12 || seen[tensor.F32] != 2 { // rows of o_proj are not whole blocks
			t.Errorf("%s: types %v", name, seen)
		}
	}
}

// TestQuantize: the plain checkpoint, quantised here, is what bitsandbytes
// makes of it.
func TestQuantize(t *testing.T) {
	c, plain := modeltest.Checkpoint(t, "nf4")
	_, theirs := modeltest.Checkpoint(t, "nf4_double")
	ours, err := bnb.Quantize(plain)
	if err != nil {
		t.Fatal(err)
	}
	if err := model.CheckWeights(c, ours); err != nil {
		t.Error(err)
	}
	for _, n := range ours.Names() {
		got, err := ours.Weight(n)
		if err != nil {
			t.Fatal(err)
		}
		want, err := theirs.Weight(n)
		if err != nil {
			t.Fatal(err)
		}
		if got.DType != want.DType || !slices.Equal(got.Shape, want.Shape) || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("%s: %s %v, want %s %v; the same bytes: %t", n, got.DType, got.Shape, want.DType, want.Shape, bytes.Equal(got.Data, want.Data))
		}
	}
	if _, err := bnb.Quantize(theirs); err == nil || !strings.Contains(err.Error(), "in 4 bits already") {
		t.Errorf("quantised twice: %v", err)
	}
	again, err := bnb.Quantize(ours)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Weight("model.layers.0.mlp.up_proj.weight"); err == nil || !strings.Contains(err.Error(), "in nf4 already") {
		t.Errorf("quantised twice: %v", err)
	}
}

// TestNotFinite: a number that would spoil its block is found.
func TestNotFinite(t *testing.T) {
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(-1))} {
		x := make([]float32, 128)
		x[70] = bad
		data := make([]byte, 4*len(x))
		quant.Quantize(data, tensor.F32, x)
		src, err := bnb.Quantize(model.Weights{weight: weightOf([]int{2, 64}, data)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := src.Weight(weight); err == nil || !strings.Contains(err.Error(), "element [1, 6] is") || !strings.Contains(err.Error(), weight) {
			t.Errorf("%v: error is %v", bad, err)
		}
		if _, err := bnb.Tensors(weight, weightOf([]int{2, 64}, data), tensor.BF16); err == nil || !strings.Contains(err.Error(), "element [1, 6] is") {
			t.Errorf("%v: error is %v", bad, err)
		}
	}
}

func BenchmarkQuantize(b *testing.B) {
	const rows, cols = 1024, 2048
	x := make([]float32, rows*cols)
	for i := range x {
		x[i] = float32(math.Sin(float64(i * i)))
	}
	data := make([]byte, tensor.BF16.Bytes(len(x)))
	quant.Quantize(data, tensor.BF16, x)
	src, err := bnb.Quantize(model.Weights{weight: {DType: tensor.BF16, Shape: []int{rows, cols}, Data: data}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := src.Weight(weight); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*rows*cols/b.Elapsed().Seconds()/1e6, "Melem/s")
}

// write writes a checkpoint in 4 bits.
func write(t *testing.T, src model.Source, dt tensor.DType) []byte {
	t.Helper()
	var ts []safetensors.Tensor
	for _, n := range src.Names() {
		w, err := src.Weight(n)
		if err != nil {
			t.Fatal(err)
		}
		if !bnb.Quantizes(n, w.Shape) {
			ts = append(ts, safetensors.Tensor{Name: n, DType: w.DType, Shape: w.Shape, Data: w.Data})
			continue
		}
		parts, err := bnb.Tensors(n, w, dt)
		if err != nil {
			t.Fatal(err)
		}
		ts = append(ts, parts...)
	}
	var b bytes.Buffer
	if err := safetensors.WriteTo(&b, ts, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestTensors: the file that is written here is the one that transformers and
// bitsandbytes write, every byte of it.
func TestTensors(t *testing.T) {
	want, err := os.ReadFile(saved(t, "nf4_double"))
	if err != nil {
		t.Fatal(err)
	}
	_, plain := modeltest.Checkpoint(t, "nf4")
	if got := write(t, plain, tensor.BF16); !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want these %d", len(got), len(want))
	}
}

// TestPassedOn: weights that are NF4 keep their values when they are written.
func TestPassedOn(t *testing.T) {
	_, src := modeltest.Checkpoint(t, "nf4_double")
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := os.WriteFile(path, write(t, src, tensor.BF16), 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	back := bnb.Open(f)
	for _, n := range src.Names() {
		want, err := src.Weight(n)
		if err != nil {
			t.Fatal(err)
		}
		got, err := back.Weight(n)
		if err != nil {
			t.Fatal(err)
		}
		if want.DType == tensor.NF4 && !bytes.Equal(got.Data, want.Data) {
			t.Errorf("%s changed", n)
		}
	}
}

func TestConfig(t *testing.T) {
	_, err := os.Stat(saved(t, "nf4_double"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(modeltest.Dir(), "nf4_double", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := model.ParseConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := bnb.ConfigJSON(c, tensor.BF16)
	if err != nil {
		t.Fatal(err)
	}
	var got, want map[string]any
	if err := errorsOf(json.Unmarshal(ours, &got), json.Unmarshal(data, &want)); err != nil {
		t.Fatal(err)
	}
	g, _ := json.Marshal(got["quantization_config"])
	w, _ := json.Marshal(want["quantization_config"])
	if !bytes.Equal(g, w) {
		t.Errorf("quantization_config is %s, want %s", g, w)
	}
	if back, err := model.ParseConfig(ours); err != nil || back.Hidden != c.Hidden {
		t.Errorf("written and read again: %+v, %v", back, err)
	}
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func weightOf(shape []int, data []byte) model.Weight {
	return model.Weight{DType: tensor.F32, Shape: shape, Data: data}
}
