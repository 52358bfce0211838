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
}

// The feed-forward, and that of a Llama 4, whose experts are as model.Load takes them.
var (
	denseNames  = [][2]string{{"ffn_gate", "mlp.gate_proj"}, {"ffn_up", "mlp.up_proj"}, {"ffn_down", "mlp.down_proj"}}
	expertNames = [][2]string{
		{"ffn_gate", "feed_forward.gate_proj"}, {"ffn_up", "feed_forward.up_proj"}, {"ffn_down", "feed_forward.down_proj"},
		{"ffn_gate_inp", "feed_forward.router"},
		{"ffn_gate_exps", "feed_forward.experts.gate_proj"}, {"ffn_up_exps", "feed_forward.experts.up_proj"}, {"ffn_down_exps", "feed_forward.experts.down_proj"},
		{"ffn_gate_shexp", "feed_forward.shared_expert.gate_proj"}, {"ffn_up_shexp", "feed_forward.shared_expert.up_proj"}, {"ffn_down_shexp", "feed_forward.shared_expert.down_proj"},
	}
)

// toHF translates a tensor name; false for one that no layer has.
func (a arch) toHF(name string) (string, bool) { return a.translate(name, 0, "blk.", "model.layers.") }

// toGGUF is the inverse of toHF.
func (a arch) toGGUF(name string) (string, bool) {
	return a.translate(name, 1, "model.layers.", "blk.")
}

// translate looks a name up in column from of the tables.
func (a arch) translate(name string, from int, prefix, newPrefix string) (string, bool) {
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
	for _, names := range [...][][2]string{layerNames, a.feedForward} {
		for _, n := range names {
			tail, ok := strings.CutPrefix(rest, n[from])
			if ok && (tail == ".weight" || tail == ".bias") {
				return newPrefix + layer + "." + n[1-from] + tail, true
			}
		}
	}
	return "", false
}

// An arch is an architecture of GGUF.
type arch struct {
	name        string
	family      model.Family
	permuted    bool // rows of q and k are: see the package's text
	feedForward [][2]string
}

// llama4 is the architecture of Llama 4.
const llama4 = "llama4"

// archs are those that are read and, the first of a family, written.
var archs = []arch{
	{"llama", model.Llama, true, denseNames}, {"llama", model.Mistral, true, denseNames}, {"qwen2", model.Qwen2, false, denseNames},
	{"qwen3", model.Qwen3, false, denseNames}, {"smollm3", model.SmolLM3, true, denseNames}, {llama4, model.Llama, true, expertNames},
}

// archOf returns the architecture of a configuration.
func archOf(c model.Config) arch {
	return archs[slices.IndexFunc(archs, func(a arch) bool { return a.family == c.Family && (a.name == llama4) == (c.Llama4 != nil) })]
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

// noRopeEvery is how often, in GGUF, a layer of a SmolLM3 or a Llama 4 sees no positions.
const noRopeEvery = 4

// noRope returns which layers of so many do not.
func noRope(layers int) []bool {
	no := make([]bool, layers)
	for i := range no {
		no[i] = (i+1)%noRopeEvery == 0
	}
	return no
}

// What llama.cpp knows of a Llama 4 without a file that says so.
const (
	chunk4, floorScale4, attnScale4 = 8192, 8192, 0.1
	unnormed4                       = 128 // experts of the one whose queries and keys are not normed
)

// llama4Of is the Llama 4 of so many layers of which each step-th one has experts.
func llama4Of(layers, step, experts, top, dense int) *model.Llama4 {
	l := &model.Llama4{
		Experts: experts, Top: top, Dense: dense, MoE: make([]bool, layers), Rope: make([]bool, layers), Chunked: make([]bool, layers),
		Chunk: chunk4, QKNorm: experts != unnormed4, Tuned: true, FloorScale: floorScale4, AttnScale: attnScale4,
	}
	for i, no := range noRope(layers) {
		l.MoE[i], l.Rope[i], l.Chunked[i] = (i+1)%step == 0, !no, !no
	}
	return l
}

// stepOf returns how often a layer of l has experts: 0 when not at regular distances.
func stepOf(l *model.Llama4) int {
	step := slices.Index(l.MoE, true) + 1
	for i, moe := range l.MoE {
		if step > 0 && moe != ((i+1)%step == 0) {
			return 0
		}
	}
	return step
}

// headsOf returns the heads of a tensor (by its Hugging Face name) whose rows
// GGUF permutes.
func headsOf(c model.Config, name string) (heads int, permuted bool) {
	switch {
	case !archOf(c).permuted:
		return 0, false
	case strings.Contains(name, ".self_attn.q_proj."):
		return c.Heads, true
	case strings.Contains(name, ".self_attn.k_proj."):
		return c.KVHeads, true
	}
	return 0, false
}
