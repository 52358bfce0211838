"""The peer of bench/gemm: the same products with NumPy's OpenBLAS and with torch.

Usage: python peer.py THREADS

For each line "M N K" on standard input it multiplies [M,K] by the transpose of
[N,K] for some time and prints a line of JSON: GFLOP/s by OpenBLAS in float32 and
by torch in float32 and bfloat16.
"""

import json
import os
import sys
import time

threads = sys.argv[1]
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = threads

import numpy as np
import torch

torch.set_num_threads(int(threads))


def rate(flops, run):
    run()
    n, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.3:
        run()
        n += 1
    return flops * n / (time.perf_counter() - start) / 1e9


print(json.dumps({"ready": f"numpy {np.__version__}, torch {torch.__version__}"}), flush=True)
for line in sys.stdin:
    m, n, k = map(int, line.split())
    a, w = np.random.rand(m, k).astype(np.float32), np.random.rand(n, k).astype(np.float32)
    c, flops = np.empty((m, n), np.float32), 2 * m * n * k
    out = {"openblas": rate(flops, lambda: np.matmul(a, w.T, out=c))}
    with torch.no_grad():
        for name, dtype in (("torch", torch.float32), ("torch_bf16", torch.bfloat16)):
            x, y = torch.from_numpy(a).to(dtype), torch.from_numpy(w).to(dtype)
            z = torch.empty(m, n, dtype=dtype)
            out[name] = rate(flops, lambda: torch.matmul(x, y.T, out=z))
    print(json.dumps(out), flush=True)
