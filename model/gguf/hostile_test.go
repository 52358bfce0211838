package gguf_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"pipe/model/gguf"
	"pipe/tensor"
)

// A maker builds files by hand, whether they make sense or not.
type maker struct{ bytes.Buffer }

func (m *maker) num(vs ...any) *maker {
	for _, v := range vs {
		if s, ok := v.(string); ok {
			binary.Write(m, binary.LittleEndian, uint64(len(s)))
			m.WriteString(s)
			continue
		}
		binary.Write(m, binary.LittleEndian, v)
	}
	return m
}

func start(tensors, keys uint64) *maker {
	m := &maker{}
	m.WriteString("GGUF")
	return m.num(uint32(3), tensors, keys)
}

type bad struct {
	want string
	file []byte
}

// hostile lists files that must be refused, by what the message must say.
func hostile() []bad {
	const (
		u32, boolean, str, arr = uint32(4), uint32(7), uint32(8), uint32(9)
	)
	one := func(name string, dims []uint64, typ uint32, offset uint64, data int) []byte {
		m := start(1, 0).num(name, uint32(len(dims)), dims, typ, offset)
		m.Write(make([]byte, -m.Len()&31+data))
		return m.Bytes()
	}
	two := func(second string, offset uint64, data int) []byte {
		m := start(2, 0).num("a", uint32(1), uint64(1), uint32(0), uint64(0), second, uint32(1), uint64(8), uint32(0), offset)
		m.Write(make([]byte, -m.Len()&31+data))
		return m.Bytes()
	}
	v := func(version uint32) []byte {
		m := &maker{}
		m.WriteString("GGUF")
		return m.num(version, uint64(0), uint64(0)).Bytes()
	}
	return []bad{
		{"not a GGUF file", nil},
		{"not a GGUF file", []byte("GGML....")},
		{"file ends", []byte("GGUF\x03\x00\x00\x00")},
		{"version 1", v(1)},
		{"version 4", v(4)},
		{"big-endian", v(3 << 24)},
		{"claims 1099511627776 tensors", start(1<<40, 0).Bytes()},
		{"claims 18446744073709551615 metadata", start(0, 1<<64-1).Bytes()},
		{"metadata key 0: the file ends", start(0, 1).Bytes()},
		{"claims 18446744073709551615 bytes", start(0, 1).num(uint64(1<<64 - 1)).Bytes()},
		{"file ends", start(0, 1).num(uint64(1<<30), "x").Bytes()},
		{"is empty", start(0, 1).num("", u32, uint32(1)).Bytes()},
		{"not UTF-8", start(0, 1).num("\xff", u32, uint32(1)).Bytes()},
		{`"k" appears twice`, start(0, 2).num("k", u32, uint32(1), "k", u32, uint32(1)).Bytes()},
		{"value type 13 is unknown", start(0, 1).num("k", uint32(13)).Bytes()},
		{"arrays of arrays", start(0, 1).num("k", arr, arr, uint64(1)).Bytes()},
		{"element type 99", start(0, 1).num("k", arr, uint32(99), uint64(1)).Bytes()},
		{"claims 1073741825 elements", start(0, 1).num("k", arr, u32, uint64(1<<30+1)).Bytes()},
		{"claims 1000 elements", start(0, 1).num("k", arr, u32, uint64(1000), uint32(1)).Bytes()},
		{"claims 4 elements", start(0, 1).num("k", arr, str, uint64(4), "abc").Bytes()},
		{"element 1: a string claims", start(0, 1).num("k", arr, str, uint64(2), "abcdefgh", uint64(1<<62)).Bytes()},
		{"general.alignment is 3", start(0, 1).num("general.alignment", u32, uint32(3)).Bytes()},
		{"general.alignment is 0", start(0, 1).num("general.alignment", u32, uint32(0)).Bytes()},
		{"not a 32-bit number", start(0, 1).num("general.alignment", boolean, true).Bytes()},
		{"name is empty", one("", []uint64{1}, 0, 0, 4)},
		{"not shorter than 64", one(strings.Repeat("n", 64), []uint64{1}, 0, 0, 4)},
		{"has 5 dimensions", one("a", []uint64{1, 1, 1, 1, 1}, 0, 0, 4)},
		{"is too large", one("a", []uint64{1 << 63}, 0, 0, 4)},
		{"or too large", one("a", []uint64{1 << 40, 1 << 40}, 0, 0, 4)},
		{"element type 77", one("a", []uint64{1}, 77, 0, 4)},
		{"not whole blocks", one("a", []uint64{33}, 8, 0, 68)},
		{"lies at offset 32 where 0", one("a", []uint64{1}, 0, 32, 64)},
		{"file ends", one("a", []uint64{2}, 0, 0, 7)},
		{"appears twice", two("a", 32, 64)},
		{"lies at offset 4 where 32", two("b", 4, 64)},
		{"file ends", two("b", 32, 63)},
		{"file ends", two("b", 32, 4)},
		{"general.architecture\" is missing", start(0, 0).Bytes()},
		{"architecture \"phi3\" is not", start(0, 1).num("general.architecture", str, "phi3").Bytes()},
		{"not a UTF-8 string", start(0, 1).num("general.architecture", u32, uint32(1)).Bytes()},
		{"holds \"adapter\"", start(0, 2).num("general.architecture", str, "llama", "general.type", str, "adapter").Bytes()},
		{"one of 3 parts", start(0, 2).num("general.architecture", str, "llama", "split.count", u32, uint32(3)).Bytes()},
		{"embedding_length\" is missing", start(0, 1).num("general.architecture", str, "llama").Bytes()},
	}
}

func TestRefusesHostile(t *testing.T) {
	for i, c := range hostile() {
		path := put(t, c.file)
		f, err := gguf.Open(path)
		if err == nil {
			f.Close()
			t.Errorf("case %d (%s) was opened", i, c.want)
		} else if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("case %d: got %v, want %q", i, err, c.want)
		}
	}
}

// TestRefusesModels: files that are well made but are no model we run.
func TestRefusesModels(t *testing.T) {
	const eps = "llama.attention.layer_norm_rms_epsilon"
	bare := []gguf.KV{
		{Key: "general.architecture", Value: "llama"}, {Key: "llama.embedding_length", Value: uint32(32)},
		{Key: "llama.feed_forward_length", Value: uint32(64)}, {Key: "llama.block_count", Value: uint32(1)},
		{Key: "llama.attention.head_count", Value: uint32(4)}, {Key: "llama.context_length", Value: uint32(9)},
	}
	kvs := func(more ...gguf.KV) []gguf.KV {
		return slices.Concat(bare, []gguf.KV{{Key: eps, Value: float32(1e-5)}}, more)
	}
	llama4 := func(more ...gguf.KV) (all []gguf.KV) {
		for _, kv := range kvs() {
			kv.Key = strings.Replace(kv.Key, "llama", "llama4", 1)
			if all = append(all, kv); kv.Value == "llama" {
				all[len(all)-1].Value = "llama4"
			}
		}
		return append(append(all, gguf.KV{Key: "llama4.expert_count", Value: uint32(4)}, gguf.KV{Key: "llama4.expert_used_count", Value: uint32(1)},
			gguf.KV{Key: "llama4.interleave_moe_layer_step", Value: uint32(1)}, gguf.KV{Key: "llama4.expert_feed_forward_length", Value: uint32(64)}), more...)
	}
	zeros := func(name string, shape ...int) gguf.Tensor {
		n := 1
		for _, d := range shape {
			n *= d
		}
		return gguf.Tensor{Name: name, DType: tensor.F32, Shape: shape, Fill: func(w io.Writer) error { _, err := w.Write(make([]byte, 4*n)); return err }}
	}
	floats := func(name string, v ...float32) gguf.Tensor {
		return gguf.Tensor{Name: name, DType: tensor.F32, Shape: []int{len(v)}, Fill: func(w io.Writer) error { return binary.Write(w, binary.LittleEndian, v) }}
	}
	embed := zeros("token_embd.weight", 8, 32)
	for _, c := range []struct {
		want    string
		kvs     []gguf.KV
		tensors []gguf.Tensor
	}{
		{"mixtures of experts", kvs(gguf.KV{Key: "llama.expert_count", Value: uint32(8)}), []gguf.Tensor{embed}},
		{"rope scaling \"yarn\"", kvs(gguf.KV{Key: "llama.rope.scaling.type", Value: "yarn"}), []gguf.Tensor{embed}},
		{"beside divisors", kvs(gguf.KV{Key: "llama.rope.scaling.factor", Value: float32(4)}), []gguf.Tensor{embed, floats("rope_freqs.weight", 1, 1, 1, 1)}},
		{"factor is -4", kvs(gguf.KV{Key: "llama.rope.scale_linear", Value: float32(-4)}), []gguf.Tensor{embed}},
		{"factor is NaN", kvs(gguf.KV{Key: "llama.rope.scaling.factor", Value: float32(math.NaN())}), []gguf.Tensor{embed}},
		{"attn_factor 0.5", kvs(gguf.KV{Key: "llama.rope.scaling.attn_factor", Value: float32(0.5)}), []gguf.Tensor{embed}},
		{"llama.attention.scale 0.25", kvs(gguf.KV{Key: "llama.attention.scale", Value: float32(0.25)}), []gguf.Tensor{embed}},
		{"rotating 4 of 8", kvs(gguf.KV{Key: "llama.rope.dimension_count", Value: uint32(4)}), []gguf.Tensor{embed}},
		{"values of width 4", kvs(gguf.KV{Key: "llama.attention.value_length", Value: uint32(4)}), []gguf.Tensor{embed}},
		{"not a multiple of num_key_value_heads 3", kvs(gguf.KV{Key: "llama.attention.head_count_kv", Value: uint32(3)}), []gguf.Tensor{embed}},
		{"missing or not a matrix", kvs(), nil},
		{"missing or not a matrix", kvs(), []gguf.Tensor{zeros("token_embd.weight", 32)}},
		{"does not belong to", kvs(), []gguf.Tensor{embed, zeros("blk.0.ssm_in.weight", 8)}},
		{"does not belong to", kvs(), []gguf.Tensor{embed, zeros("blk.00.attn_q.weight", 32, 32)}},
		{"does not belong to", kvs(), []gguf.Tensor{embed, zeros("blk.0.attn_q.scale", 1)}},
		{"has 3 divisors", kvs(), []gguf.Tensor{embed, zeros("rope_freqs.weight", 3)}},
		{"rope_freqs[1] is NaN", kvs(), []gguf.Tensor{embed, floats("rope_freqs.weight", 1, float32(math.NaN()), 1, 1)}},
		{"rope_freqs[0] is +Inf", kvs(), []gguf.Tensor{embed, floats("rope_freqs.weight", float32(math.Inf(1)), 1, 1, 1)}},
		{"rope_freqs[3] is 1e-40", kvs(), []gguf.Tensor{embed, floats("rope_freqs.weight", 1, 1, 1, 1e-40)}},
		{"rope_theta is NaN", kvs(gguf.KV{Key: "llama.rope.freq_base", Value: float32(math.NaN())}), []gguf.Tensor{embed}},
		{"rope_theta is +Inf", kvs(gguf.KV{Key: "llama.rope.freq_base", Value: float32(math.Inf(1))}), []gguf.Tensor{embed}},
		{"rms_norm_eps is NaN", slices.Concat(bare, []gguf.KV{{Key: eps, Value: float32(math.NaN())}}), []gguf.Tensor{embed}},
		{`"llama.attention.layer_norm_rms_epsilon" is missing`, bare, []gguf.Tensor{embed}},
		{"llama.attention.causal is false", kvs(gguf.KV{Key: "llama.attention.causal", Value: false}), []gguf.Tensor{embed}},
		{"not a truth value", kvs(gguf.KV{Key: "llama.attention.causal", Value: uint32(0)}), []gguf.Tensor{embed}},
		{"layers whose attention is chunked", llama4(gguf.KV{Key: "llama4.rope.freq_base_swa", Value: float32(1e4)}), []gguf.Tensor{embed}},
		{"layers whose attention is chunked", llama4(gguf.KV{Key: "llama4.rope.scaling.type", Value: "none"}, gguf.KV{Key: "llama4.rope.scaling.factor", Value: float32(8)}), []gguf.Tensor{embed}},
		{`"tokenizer.ggml.bos_token_id" is 4294967298`, kvs(gguf.KV{Key: "tokenizer.ggml.bos_token_id", Value: uint64(1<<32 + 2)}), []gguf.Tensor{embed}},
		{`"tokenizer.ggml.eos_token_id" is -5`, kvs(gguf.KV{Key: "tokenizer.ggml.eos_token_id", Value: int32(-5)}), []gguf.Tensor{embed}},
		{"not a vector of f32", kvs(), []gguf.Tensor{embed, zeros("rope_freqs.weight", 1, 4)}},
		{"not a whole number", kvs(gguf.KV{Key: "llama.expert_count", Value: "8"}), []gguf.Tensor{embed}},
	} {
		path := put(t, nil)
		if err := gguf.Write(path, c.kvs, c.tensors); err != nil {
			t.Fatal(err)
		}
		f, err := gguf.Open(path)
		if err == nil {
			f.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	// A q of the wrong height fails when it is read: its rows cannot be moved.
	path := put(t, nil)
	if err := gguf.Write(path, kvs(), []gguf.Tensor{embed, zeros("blk.0.attn_q.weight", 31, 32)}); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, path).Weight("model.layers.0.self_attn.q_proj.weight"); err == nil || !strings.Contains(err.Error(), "4 heads of 8 need 32 rows") {
		t.Errorf("got %v", err)
	}
}
