package bnb

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"pipe/model"
	"pipe/model/safetensors"
	"pipe/tensor"
	"pipe/tensor/quant"
)

var torchNames = map[tensor.DType]string{tensor.F32: "float32", tensor.F16: "float16", tensor.BF16: "bfloat16"}

// ConfigJSON returns the config.json of a checkpoint whose layers Tensors
// wrote: c, with the quantization_config that transformers writes for values
// computed in dt (F32, F16 or BF16).
func ConfigJSON(c model.Config, dt tensor.DType) ([]byte, error) {
	if c.Llama4 != nil {
		return nil, errors.New("a Llama 4 is not written in 4 bits")
	}
	data, err := c.JSON(torchNames[dt])
	if err != nil {
		return nil, err
	}
	var all map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // as they were written
	if err := d.Decode(&all); err != nil {
		return nil, err
	}
	all["quantization_config"] = map[string]any{
		"quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false, "_load_in_4bit": true, "_load_in_8bit": false,
		"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true, "bnb_4bit_compute_dtype": torchNames[dt],
		"bnb_4bit_quant_storage": "uint8", "llm_int8_enable_fp32_cpu_offload": false, "llm_int8_has_fp16_weight": false,
		"llm_int8_skip_modules": nil, "llm_int8_threshold": json.Number("6.0"), // transformers wants a float
	}
	return json.MarshalIndent(all, "", "  ")
}

// Tensors returns the tensors that store w, a matrix, in 4 bits under name. A
// plain weight is rounded to dt, the type of the checkpoint (F32, F16 or BF16),
// and quantised with nested scales, as bitsandbytes would load it. One in NF4
// keeps its codes and scales, as they are: nothing is lost, but its scales take
// 4 bytes.
func Tensors(name string, w model.Weight, dt tensor.DType) ([]safetensors.Tensor, error) {
	if w.DType == tensor.NF4 {
		return unpack(w, torchNames[dt]).tensors(name), nil
	}
	if err := plain(w.DType); err != nil {
		return nil, fmt.Errorf("quantise tensor %s: %w", name, err)
	}
	x, err := expand(w)
	if err == nil && dt != w.DType {
		rounded := make([]byte, dt.Bytes(len(x)))
		quant.Quantize(rounded, dt, x)
		x, err = expand(model.Weight{DType: dt, Shape: w.Shape, Data: rounded})
	}
	if err != nil {
		return nil, fmt.Errorf("quantise tensor %s: %w", name, err)
	}
	return quantize(x, w.Shape[0], w.Shape[1], torchNames[dt]).tensors(name), nil
}

// unpack takes NF4 blocks apart.
func unpack(w model.Weight, dtype string) *state {
	const size = 4 + block/2
	n := w.Shape[0] * w.Shape[1]
	s := &state{rows: w.Shape[0], cols: w.Shape[1], dtype: dtype, block: block}
	for b := range n / block {
		s.scale = append(s.scale, math.Float32frombits(binary.LittleEndian.Uint32(w.Data[b*size:])))
		s.codes = append(s.codes, w.Data[b*size+4:(b+1)*size]...)
	}
	return s
}

// tensors are the parts of a state.
func (s *state) tensors(name string) []safetensors.Tensor {
	values := quant.NF4Map()
	u8 := func(suffix string, data []byte, shape ...int) safetensors.Tensor {
		return safetensors.Tensor{Name: name + suffix, DType: tensor.U8, Shape: shape, Data: data}
	}
	f32 := func(suffix string, v []float32) safetensors.Tensor {
		data := make([]byte, 4*len(v))
		quant.Quantize(data, tensor.F32, v)
		return safetensors.Tensor{Name: name + suffix, DType: tensor.F32, Shape: []int{len(v)}, Data: data}
	}
	header := s.json()
	ts := []safetensors.Tensor{
		u8("", s.codes, len(s.codes), 1), f32(".quant_map", values[:]), u8(stateName, header, len(header)),
	}
	if s.nested == nil {
		return append(ts, f32(".absmax", s.scale))
	}
	m := quant.DynamicMap()
	return append(ts, u8(".absmax", s.nested.codes, len(s.nested.codes)), f32(".nested_absmax", s.nested.scale), f32(".nested_quant_map", m[:]))
}

// json is the quant_state, to the byte as bitsandbytes writes it.
func (s *state) json() []byte {
	b := fmt.Sprintf(`{"quant_type": "nf4", "blocksize": %d, "dtype": %q, "shape": [%d, %d]`, s.block, s.dtype, s.rows, s.cols)
	if s.nested != nil {
		b += fmt.Sprintf(`, "nested_blocksize": %d, "nested_dtype": "float32", "nested_offset": %s`, quant.DynamicBlock, number(float64(s.nested.offset)))
	}
	return []byte(b + "}")
}

// number writes a float as Python does.
func number(v float64) string {
	if a := math.Abs(v); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(v, 'e', -1, 64)
	}
	s := strconv.FormatFloat(v, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}
