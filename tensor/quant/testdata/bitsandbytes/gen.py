"""Writes fixture.json: NF4 and double quantisation as bitsandbytes does them.

Usage: python gen.py   (needs torch and bitsandbytes)

The reference is bitsandbytes' default back end, which takes the nearest code,
as its CUDA kernels do: its CPU library looks 8-bit codes up in a table and
takes the neighbour of the nearest one now and then. Sums of torch depend on
the number of threads and on the width of vectors: one thread is used, and
torch sums floats eight at a time on every x86 processor with AVX2.
"""
import base64
import ctypes
import hashlib
import json
import os
from unittest import mock

os.environ["TORCHDYNAMO_DISABLE"] = "1"

import numpy as np
import torch

with mock.patch.object(ctypes.cdll, "LoadLibrary", side_effect=OSError("the default back end is wanted")):
    import bitsandbytes
    import bitsandbytes.functional as F

SEED = 20261124
torch.set_num_threads(1)
here = os.path.dirname(os.path.abspath(__file__))


def rows(rng):
    """Rows of 256: gaussian, heavy tails, values at and beside every threshold, tiny, zero, ties and constants."""
    yield rng.standard_normal(256)
    yield rng.standard_t(2, 256) * 0.02
    code = F.get_4bit_type("nf4", device="cpu").numpy()
    mid = (code[1:] + code[:-1]) / np.float32(2)
    for near in (mid, np.nextafter(mid, np.float32(2)), np.nextafter(mid, np.float32(-2))):
        x = np.zeros(256, np.float32)
        x[0], x[1:16], x[16:31] = 1, near, -near
        x[64:128] = x[:64] * np.float32(3.7)
        x[128:192] = x[:64] * np.float32(-1e-3)
        x[192:] = x[:64] * np.float32(2.0 ** -130)
        yield x
    yield np.zeros(256)
    yield np.repeat([0.7, -0.7, 1.0, 1e-39], 64)
    yield np.repeat(rng.standard_normal(8) * np.logspace(-6, 4, 8), 32) * rng.standard_normal(256)


def spread(n):
    """n numbers in (0, 1], the same in every language."""
    i = np.arange(n, dtype=np.uint64)
    return torch.from_numpy((((i * 2654435761 & 0xFFFFFFFF) >> 8) + 1).astype(np.float32) / np.float32(1 << 24))


def b64(t):
    return base64.b64encode(np.ascontiguousarray(t.numpy() if isinstance(t, torch.Tensor) else t).tobytes()).decode()


def sha(t):
    return hashlib.sha256(t.numpy().tobytes()).hexdigest()


def main():
    rng = np.random.default_rng(SEED)
    x = torch.from_numpy(np.stack([np.asarray(r, np.float32) for r in rows(rng)]))
    packed, state = F.quantize_4bit(x, quant_type="nf4", compress_statistics=False)
    out = {
        "generator_sha256": hashlib.sha256(open(__file__, "rb").read()).hexdigest(),
        "torch": torch.__version__, "bitsandbytes": bitsandbytes.__version__, "seed": SEED,
        "input": b64(x), "packed": b64(packed), "absmax": b64(state.absmax),
        "values_sha256": sha(F.dequantize_4bit(packed, state)),
        "quant_map": b64(state.code), "dynamic_map": b64(F.create_dynamic_map()),
        "double": [],
    }
    for n in (1, 3, 8, 31, 64, 255, 256, 257, 511, 513, 1000, 4096, 5000, 32767, 40000, 70001):
        absmax = spread(n)
        offset = absmax.mean()
        q, nested = F.quantize_blockwise(absmax - offset, blocksize=256)
        decoded = F.dequantize_blockwise(q, nested) + offset
        out["double"].append({"n": n, "offset": b64(offset.reshape(1)), "codes_sha256": sha(q),
                              "absmax_sha256": sha(nested.absmax), "decoded_sha256": sha(decoded)})
    with open(os.path.join(here, "fixture.json"), "w") as w:
        json.dump(out, w, indent=1)
        w.write("\n")


main()
