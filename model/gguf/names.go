package gguf

import (
	"strconv"
	"strings"

	"pipe/model"
)

// ropeFreqs holds the divisors of the rotary frequencies: how GGUF keeps the
// llama3 scaling.
const ropeFreqs = "rope_freqs.weight"

// The names outside layers, GGUF and Hugging Face.
var topNames = [][2]string{
	{"token_embd.weight", "model.embed_tokens.weight"},
	{"output_norm.weight", "model.norm.weight"},
	{"output.weight", "lm_head.weight"},
}

// The modules of a layer, after "blk.N." and "model.layers.N.".
var layerNames = [][2]string{
	{"attn_norm", "input_layernorm"},
	{"attn_q", "self_attn.q_proj"},
	{"attn_k", "self_attn.k_proj"},
	{"attn_v", "self_attn.v_proj"},
	{"attn_output", "self_attn.o_proj"},
	{"ffn_norm", "post_attention_layernorm"},
	{"ffn_gate", "mlp.gate_proj"},
	{"ffn_up", "mlp.up_proj"},
	{"ffn_down", "mlp.down_proj"},
}

// toHF translates a tensor name; false for one that llama does not have.
func toHF(name string) (string, bool) { return translate(name, 0, "blk.", "model.layers.") }

// toGGUF is the inverse of toHF.
func toGGUF(name string) (string, bool) { return translate(name, 1, "model.layers.", "blk.") }

// translate looks a name up in column from of the tables.
func translate(name string, from int, prefix, newPrefix string) (string, bool) {
	for _, n := range topNames {
		if n[from] == name {
			return n[1-from], true
		}
	}
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return "", false
	}
	layer, rest, ok := strings.Cut(rest, ".")
	if n, err := strconv.Atoi(layer); !ok || err != nil || n < 0 || strconv.Itoa(n) != layer {
		return "", false
	}
	for _, n := range layerNames {
		tail, ok := strings.CutPrefix(rest, n[from])
		if ok && (tail == ".weight" || tail == ".bias") {
			return newPrefix + layer + "." + n[1-from] + tail, true
		}
	}
	return "", false
}

// headsOf returns the heads of a tensor (by its Hugging Face name) whose rows
// GGUF permutes.
func headsOf(c model.Config, name string) (heads int, permuted bool) {
	switch {
	case strings.Contains(name, ".self_attn.q_proj."):
		return c.Heads, true
	case strings.Contains(name, ".self_attn.k_proj."):
		return c.KVHeads, true
	}
	return 0, false
}
