"""Compares logits that `bench/fidelity/logits` wrote with those of transformers.

Usage: python compare.py MODEL.gguf DIR TOLERANCE

DIR/prompts.json names the prompts and their token ids in order; DIR/logits.f32
holds [tokens, vocabulary] little-endian floats of each, one after the other.
The weights are dequantised to f32 by the gguf package, renamed, the rows of q
and k put back into Hugging Face's order, and run by LlamaForCausalLM in f32
with eager attention. Exit status 1: a difference above TOLERANCE, or a NaN.
"""

import json
import os
import re
import sys

import gguf
import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hf_name(name):
    m = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if m:
        return f"model.layers.{m[1]}.{NAMES[m[2]]}.{m[3]}"
    stem, kind = name.rsplit(".", 1)
    return f"{TOP[stem]}.{kind}"


def halves(w, heads):
    """Rows of rotated pairs (0,1), (2,3), … become two halves of each head."""
    d = w.shape[0] // heads
    return w.reshape(heads, d // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def load(path):
    r = gguf.GGUFReader(path)

    def field(key, default=None):
        f = r.fields.get("llama." + key)
        return default if f is None else f.contents()

    heads, hidden = field("attention.head_count"), field("embedding_length")
    kv = field("attention.head_count_kv", heads)
    weights, types = {}, {}
    for t in r.tensors:
        if t.name == "rope_freqs.weight":
            sys.exit("scaled rotary frequencies: this comparison does not cover them")
        w = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        w = w.reshape([int(n) for n in reversed(t.shape)])
        if ".attn_q." in t.name:
            w = halves(w, heads)
        if ".attn_k." in t.name:
            w = halves(w, kv)
        weights[hf_name(t.name)] = torch.from_numpy(np.ascontiguousarray(w))
        types[t.tensor_type.name] = types.get(t.tensor_type.name, 0) + 1
    tied = "lm_head.weight" not in weights
    config = LlamaConfig(
        vocab_size=weights["model.embed_tokens.weight"].shape[0], hidden_size=hidden, intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"), num_attention_heads=heads, num_key_value_heads=kv,
        max_position_embeddings=field("context_length"), rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": field("rope.freq_base", 10000.0)},
        tie_word_embeddings=tied, attn_implementation="eager",
    )
    m = LlamaForCausalLM(config).float().eval()
    missing, unexpected = m.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - ({"lm_head.weight"} if tied else set()):
        sys.exit(f"weights do not fit: missing {missing}, unexpected {unexpected}")
    m.tie_weights()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; {types}, {'tied' if tied else 'own'} head")
    return m


def main():
    path, work, tolerance = sys.argv[1], sys.argv[2], float(sys.argv[3])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    m = load(path)
    prompts = json.load(open(os.path.join(work, "prompts.json")))
    ours = np.memmap(os.path.join(work, "logits.f32"), dtype="<f4", mode="r")
    vocab, at, worst, total, count, agree, rows = m.config.vocab_size, 0, 0.0, 0.0, 0, 0, 0
    for p in prompts:
        n = len(p["ids"])
        got = np.asarray(ours[at * vocab : (at + n) * vocab])
        at += n
        if got.size != n * vocab:
            sys.exit(f"{p['name']}: logits.f32 ends early: {got.size} of {n * vocab} values")
        got = got.reshape(n, vocab)
        with torch.no_grad():
            want = m(torch.tensor([p["ids"]]), use_cache=False).logits[0].numpy()
        diff = np.abs(got.astype(np.float64) - want)
        same = int((got.argmax(1) == want.argmax(1)).sum())
        print(f"{p['name']:28} {n:4} tokens  max abs {diff.max():.2e}  mean abs {diff.mean():.2e}  argmax {same}/{n}  largest logit {np.abs(want).max():.1f}")
        worst = diff.max() if not diff.max() <= worst else worst  # a NaN stays
        total, count, agree, rows = total + diff.sum(), count + diff.size, agree + same, rows + n
    if at * vocab != ours.size or rows == 0:
        sys.exit(f"logits.f32 holds {ours.size} values, the prompts ask for {at * vocab}")
    ok = worst <= tolerance
    print(f"{'ok' if ok else 'DIFFERS'}: {rows} rows of {vocab} logits: max abs {worst:.2e} (limit {tolerance:g}), mean abs {total / count:.2e}, argmax equal in {agree} of {rows}")
    sys.exit(0 if ok else 1)


main()
