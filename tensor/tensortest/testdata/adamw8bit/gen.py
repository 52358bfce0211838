"""Makes adamw8bit.safetensors: 8-bit AdamW of bitsandbytes on its CPU back end.

    python gen.py [out-directory]

The fixture records the versions, the seed and the sha256 of this file; the
tests refuse one that another gen.py made. Two runs of the same gradients:

  plain   weight decay 0, states after the first and the last step;
  decay   p *= 1 - lr*wd after each step, which is the order of the CUDA
          kernels (the CPU back end decays before the step).

States are rounded by bitsandbytes' default back end: the table of the native
CPU library (0.50) is too coarse to tell 0 from 3e-5. Sizes are not a multiple of the block; gradients span eight decades, and one
block and some elements have none.
"""
import hashlib
import os
import sys

import bitsandbytes as bnb
import bitsandbytes.backends.cpu.ops as cpu_ops
import torch
from bitsandbytes.functional import create_dynamic_map
from safetensors.torch import save_file

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
SEED, N, STEPS, BLOCK = 20261124, 4096 + 333, 5, 256
LR, WD, BETAS, EPS = 1e-3, 0.1, (0.9, 0.98), 1e-8
torch.manual_seed(SEED)
torch.set_num_threads(1)
out = {"signed": create_dynamic_map(True), "unsigned": create_dynamic_map(False)}



def quantize(x, code, absmax, codes, blocksize):
    default = torch._C.DispatchKey.CompositeExplicitAutograd
    q, most = torch.ops.bitsandbytes.quantize_blockwise.default._op_dk(default, x, code, blocksize)
    codes.copy_(q)
    absmax.copy_(most)


cpu_ops._quant_blockwise_fp32_direct = quantize

w = torch.randn(N)
size = 10.0 ** torch.linspace(-6, 2, (N + BLOCK - 1) // BLOCK).repeat_interleave(BLOCK)[:N]
grads = [torch.randn(N) * size for _ in range(STEPS)]
for g in grads:
    g[BLOCK:2 * BLOCK] = 0
    g[5::97] = 0
out["w"] = w
for i, g in enumerate(grads):
    out[f"g{i}"] = g

for run, decay in (("plain", 0.0), ("decay", WD)):
    p = torch.nn.Parameter(w.clone())
    opt = bnb.optim.AdamW8bit([p], lr=LR, betas=BETAS, eps=EPS, weight_decay=0.0)
    for i, g in enumerate(grads):
        p.grad = g.clone()
        opt.step()
        p.data.mul_(1 - LR * decay)
        if i in (0, STEPS - 1):
            s = opt.state[p]
            assert s["state1"].dtype == torch.uint8
            k = f"{run}.{i}."
            out[k + "w"] = p.detach().clone()
            out[k + "m"], out[k + "v"] = s["state1"].to(torch.int32), s["state2"].to(torch.int32)
            out[k + "mmax"], out[k + "vmax"] = s["absmax1"].clone(), s["absmax2"].clone()

meta = {"generator_sha256": hashlib.sha256(open(__file__, "rb").read()).hexdigest(), "torch": torch.__version__,
        "bitsandbytes": bnb.__version__, "seed": str(SEED)}
save_file({k: v.detach().contiguous().clone() for k, v in out.items()}, os.path.join(OUT, "adamw8bit.safetensors"), meta)
