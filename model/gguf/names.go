package gguf

import (
	"slices"
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
	{"attn_q_norm", "self_attn.q_norm"},
	{"attn_k_norm", "self_attn.k_norm"},
	{"ffn_norm", "post_attention_layernorm"},
	{"ffn_gate", "mlp.gate_proj"},
	{"ffn_up", "mlp.up_proj"},
	{"ffn_down", "mlp.down_proj"},
}

// toHF translates a tensor name; false for one that no layer has.
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

// An arch is an architecture of GGUF.
type arch struct {
	name     string
	family   model.Family
	permuted bool // rows of q and k are: see the package's text
}

// archs are those that are read and, the first of a family, written.
var archs = []arch{{"llama", model.Llama, true}, {"llama", model.Mistral, true}, {"qwen2", model.Qwen2, false}, {"qwen3", model.Qwen3, false}, {"smollm3", model.SmolLM3, true}}

// archOf returns the architecture of a family.
func archOf(f model.Family) arch {
	return archs[slices.IndexFunc(archs, func(a arch) bool { return a.family == f })]
}

// archNamed returns the architecture of that name.
func archNamed(name string) (arch, bool) {
	i := slices.IndexFunc(archs, func(a arch) bool { return a.name == name })
	if i < 0 {
		return arch{}, false
	}
	return archs[i], true
}

// archNames lists them.
func archNames() string {
	var names []string
	for _, a := range archs {
		names = append(names, strconv.Quote(a.name))
	}
	return strings.Join(slices.Compact(names), ", ")
}

// noRopeEvery is how often, in GGUF, a layer of a SmolLM3 sees no positions.
const noRopeEvery = 4

// noRope returns which layers of so many do not.
func noRope(layers int) []bool {
	no := make([]bool, layers)
	for i := range no {
		no[i] = (i+1)%noRopeEvery == 0
	}
	return no
}

// headsOf returns the heads of a tensor (by its Hugging Face name) whose rows
// GGUF permutes.
func headsOf(c model.Config, name string) (heads int, permuted bool) {
	switch {
	case !archOf(c.Family).permuted:
		return 0, false
	case strings.Contains(name, ".self_attn.q_proj."):
		return c.Heads, true
	case strings.Contains(name, ".self_attn.k_proj."):
		return c.KVHeads, true
	}
	return 0, false
}
