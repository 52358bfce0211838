"""Writes tiny.json: a tiny llama GGUF file made by the gguf package, with the
Hugging Face weights that it holds.

Usage: python gen.py   (needs numpy and gguf)

The permutation of q and k is written here as llama.cpp's converter states it.
"""

import base64
import hashlib
import json
import os
import tempfile

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants

SEED = 11
V, H, F, L, NQ, NKV, D = 12, 32, 64, 2, 4, 2, 8
here = os.path.dirname(os.path.abspath(__file__))
rng = np.random.default_rng(SEED)


def permute(w, heads):
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def rand(*shape):
    return rng.standard_normal(shape).astype(np.float32)


tensors = [("token_embd.weight", "model.embed_tokens.weight", rand(V, H), T.F16, 0)]
for i in range(L):
    b, m = f"blk.{i}.", f"model.layers.{i}."
    tensors += [
        (b + "attn_norm.weight", m + "input_layernorm.weight", rand(H), T.F32, 0),
        (b + "attn_q.weight", m + "self_attn.q_proj.weight", rand(NQ * D, H), T.Q8_0, NQ),
        (b + "attn_k.weight", m + "self_attn.k_proj.weight", rand(NKV * D, H), T.Q4_1, NKV),
        (b + "attn_v.weight", m + "self_attn.v_proj.weight", rand(NKV * D, H), T.Q5_0, 0),
        (b + "attn_output.weight", m + "self_attn.o_proj.weight", rand(H, NQ * D), T.Q5_1, 0),
        (b + "ffn_norm.weight", m + "post_attention_layernorm.weight", rand(H), T.F32, 0),
        (b + "ffn_gate.weight", m + "mlp.gate_proj.weight", rand(F, H), T.Q4_0, 0),
        (b + "ffn_up.weight", m + "mlp.up_proj.weight", rand(F, H), T.BF16, 0),
        (b + "ffn_down.weight", m + "mlp.down_proj.weight", rand(H, F), T.Q8_0, 0),
    ]
tensors += [
    ("output_norm.weight", "model.norm.weight", rand(H), T.F32, 0),
    ("output.weight", "lm_head.weight", rand(V, H), T.F32, 0),
]
freqs = np.array([1, 1.5, 4, 8], np.float32)

path = os.path.join(tempfile.mkdtemp(), "tiny.gguf")
w = gguf.GGUFWriter(path, "llama")
w.add_name("tiny")
w.add_block_count(L)
w.add_context_length(64)
w.add_embedding_length(H)
w.add_feed_forward_length(F)
w.add_head_count(NQ)
w.add_head_count_kv(NKV)
w.add_layer_norm_rms_eps(1e-6)
w.add_rope_freq_base(500000.0)
w.add_rope_dimension_count(D)
w.add_tokenizer_model("gpt2")
w.add_tokenizer_pre("llama-bpe")
w.add_token_list(["a", "b", "c", "\u0120", "ab", "\u0120c", "abc", "d", "[PAD8]", "<|bos|>", "<|eot_id|>", "user text"])
w.add_token_types([1, 1, 1, 1, 1, 1, 1, 1, 5, 3, 3, 4])
w.add_token_merges(["a b", "\u0120 c", "ab c"])
w.add_bos_token_id(9)
w.add_eos_token_id(10)
w.add_chat_template("{{ messages }}")
w.add_tensor("rope_freqs.weight", freqs)
expect = {}
for name, hf, x, t, heads in tensors:
    stored = permute(x, heads) if heads else x
    q = quants.quantize(stored, t)
    w.add_tensor(name, q, raw_dtype=t if t not in (T.F32, T.F16) else None)
    plain = quants.quantize(x, t)  # rows are quantised one by one, so order does not matter
    expect[hf] = {"shape": list(x.shape), "type": t.name.lower(), "sha256": hashlib.sha256(plain.tobytes()).hexdigest()}
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()

with open(os.path.join(here, "tiny.json"), "w") as out:
    json.dump({
        "generator_sha256": hashlib.sha256(open(__file__, "rb").read()).hexdigest(),
        "numpy": np.__version__,
        "gguf": __import__("importlib.metadata").metadata.version("gguf"),
        "seed": SEED,
        "file": base64.b64encode(open(path, "rb").read()).decode(),
        "tensors": expect,
    }, out, indent=1)
    out.write("\n")
