"""Makes layers.safetensors: layers of a Llama with every gradient, by PyTorch.

    python gen.py [out-directory]

The fixture records the versions, the seed and the sha256 of this file; the
tests refuse one that another gen.py made. Dimensions are odd and unequal on
purpose: a transposed axis cannot pass.
"""
import hashlib
import os
import sys

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
SEED = 20261124
torch.manual_seed(SEED)
torch.use_deterministic_algorithms(True)
torch.set_num_threads(1)
out = {}


def leaf(name, *shape, scale=1.0):
    t = (torch.randn(*shape) * scale).requires_grad_()
    out[name] = t
    return t


def done(prefix, y, *leaves):
    """Stores y, a gradient dy of it, and the gradients of the leaves."""
    dy = torch.randn_like(y)
    grads = torch.autograd.grad(y, [out[prefix + n] for n in leaves], dy)
    out[prefix + "y"], out[prefix + "dy"] = y, dy
    for n, g in zip(leaves, grads):
        out[prefix + "d" + n] = g


# RMSNorm, 7 tokens of width 24.
x, w = leaf("norm.x", 7, 24), leaf("norm.w", 24)
norm = LlamaRMSNorm(24, eps=1e-5)
norm.weight = torch.nn.Parameter(w.detach())
y = norm(x)
assert torch.equal(y, w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)))
done("norm.", w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)), "x", "w")

# RoPE, 7 tokens, 3 heads of width 10, positions far apart.
x = leaf("rope.x", 7, 3, 10)
pos = torch.tensor([0, 1, 2, 77, 1000, 4095, 8191], dtype=torch.int32)
inv = 1.0 / 10000.0 ** (torch.arange(0, 10, 2, dtype=torch.float32) / 10)
a = pos.float()[:, None] * inv[None, :]
emb = torch.cat([a, a], -1)[None]
y, _ = apply_rotary_pos_emb(x.transpose(0, 1)[None], x.transpose(0, 1)[None], emb.cos(), emb.sin())
out["rope.pos"], out["rope.inv"] = pos, inv
done("rope.", y[0].transpose(0, 1), "x")

# SwiGLU, width 37, gates large enough to saturate.
g, u = leaf("swiglu.gate", 5, 37, scale=4.0), leaf("swiglu.up", 5, 37)
done("swiglu.", F.silu(g) * u, "gate", "up")


def attend(q, k, v):
    """Causal attention of the last queries of a sequence; [tokens, heads, width]."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (t.transpose(0, 1)[None] for t in (q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)))
    n, m = q.shape[2], k.shape[2]
    mask = torch.ones(n, m, dtype=torch.bool).tril(m - n)
    lse = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf).logsumexp(-1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1), lse[0].transpose(0, 1)


# Attention, 6 heads on 2, width 10: three packed segments, the second with
# keys of a cache, the third decoding one token.
q, k, v = leaf("attn.q", 17, 6, 10), leaf("attn.k", 41, 2, 10), leaf("attn.v", 41, 2, 10)
Q, K, KLEN = [0, 11, 16, 17], [0, 11, 24], [11, 13, 17]
parts = [attend(q[Q[s]:Q[s + 1]], k[K[s]:K[s] + KLEN[s]], v[K[s]:K[s] + KLEN[s]]) for s in range(3)]
out["attn.lse"] = torch.cat([p[1] for p in parts])
for n, t in (("Q", Q), ("K", K), ("KLen", KLEN)):
    out["attn." + n] = torch.tensor(t, dtype=torch.int32)
done("attn.", torch.cat([p[0] for p in parts]), "q", "k", "v")

# Log-probabilities of a head, 53 words, width 24.
x, w = leaf("head.x", 9, 24), leaf("head.w", 53, 24, scale=0.5)
target = torch.randint(0, 53, (9,))
z = x @ w.t()
out["head.target"], out["head.lse"], out["head.argmax"] = target, z.logsumexp(-1), z.argmax(-1)
done("head.", z.log_softmax(-1).gather(1, target[:, None])[:, 0], "x", "w")

# AdamW, 4 steps.
p = torch.nn.Parameter(torch.randn(31))
out["adamw.w"] = p.detach().clone()
opt = torch.optim.AdamW([p], lr=0.013, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.07)
for i in range(4):
    p.grad = torch.randn(31) * 10.0 ** (1 - i)
    out[f"adamw.g{i}"] = p.grad.clone()
    opt.step()
state = opt.state[p]
out["adamw.w4"], out["adamw.m4"], out["adamw.v4"] = p, state["exp_avg"], state["exp_avg_sq"]

meta = {"generator_sha256": hashlib.sha256(open(__file__, "rb").read()).hexdigest(),
        "torch": torch.__version__, "transformers": transformers.__version__, "seed": str(SEED)}
save_file({k: v.detach().contiguous().clone() for k, v in out.items()}, os.path.join(OUT, "layers.safetensors"), meta)
