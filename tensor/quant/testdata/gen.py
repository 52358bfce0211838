"""Writes blocks.json: float rows, their ggml blocks and the blocks' values.

Usage: python gen.py   (needs numpy and llama-cpp-python, whose libggml-base is
the reference: its quantize_row_*_ref and dequantize_row_* are called directly)
"""

import base64
import ctypes
import glob
import hashlib
import json
import os

import llama_cpp
import numpy as np

SEED = 20260811
TYPES = {  # name: (block elements, block bytes, quantiser exists in package quant)
    "q4_0": (32, 18, True),
    "q4_1": (32, 20, True),
    "q5_0": (32, 22, True),
    "q5_1": (32, 24, True),
    "q8_0": (32, 34, True),
    "q4_K": (256, 144, True),
    "q5_K": (256, 176, False),
    "q6_K": (256, 210, True),
}

here = os.path.dirname(os.path.abspath(__file__))
base = os.path.join(os.path.dirname(llama_cpp.__file__), "lib")
lib = ctypes.CDLL(sorted(glob.glob(os.path.join(base, "libggml-base*.so*")))[0])


def call(name, src, dst, n):
    f = getattr(lib, name)
    f.restype = None
    f.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    f(src.ctypes.data, dst.ctypes.data, n)


def rows(rng):
    """Rows of 256: gaussian, heavy tails, positive, tiny (half subnormals), zero, ties and constants."""
    yield rng.standard_normal(256)
    yield rng.standard_t(2, 256) * 0.02
    yield np.abs(rng.standard_normal(256)) + 3
    yield rng.standard_normal(256) * 3e-6
    x = np.zeros(256)
    x[100] = -1.5
    yield x
    yield rng.integers(-8, 9, 256) / 4.0
    yield np.repeat([0.7, -0.7, 1.0, 1e-20], 64)
    yield np.repeat(rng.standard_normal(8) * np.logspace(-6, 4, 8), 32) * rng.standard_normal(256)


def b64(a):
    return base64.b64encode(a.tobytes()).decode()


def main():
    rng = np.random.default_rng(SEED)
    x = np.stack([r.astype(np.float32) for r in rows(rng)])
    out = {
        "generator_sha256": hashlib.sha256(open(__file__, "rb").read()).hexdigest(),
        "llama_cpp_python": llama_cpp.__version__,
        "numpy": np.__version__,
        "seed": SEED,
        "input": b64(x),
        "types": {},
    }
    for name, (block, size, ours) in TYPES.items():
        blocks = np.zeros(x.size // block * size, np.uint8)
        call(f"quantize_row_{name}_ref", x, blocks, x.size)
        values = np.zeros(x.size, np.float32)
        call(f"dequantize_row_{name}", blocks, values, x.size)
        out["types"][name.lower()] = {
            "quantizes": ours,
            "blocks": b64(blocks),
            "values_sha256": hashlib.sha256(values.tobytes()).hexdigest(),
            "head": values[:256].astype(float).tolist()[:8],
        }
    # Every half, and floats around every rounding boundary of half precision.
    h = np.arange(65536, dtype=np.uint16)
    f = np.zeros(65536, np.float32)
    call("ggml_fp16_to_fp32_row", h, f, h.size)
    finite = f[np.isfinite(f)]
    with np.errstate(all="ignore"):
        probe = np.concatenate([
            np.nextafter(finite, np.float32(np.inf)), np.nextafter(finite, np.float32(-np.inf)),
            (finite.astype(np.float64) + np.roll(finite, 1)) / 2,
            [65519.996, 65520.0, 1e30, -1e30, 1e-40, 2.0**-25, 2.0**-25 * 1.0000001],
        ]).astype(np.float32)
    g = np.zeros(probe.size, np.uint16)
    bf = np.zeros(probe.size, np.uint16)
    call("ggml_fp32_to_fp16_row", probe, g, probe.size)
    call("ggml_fp32_to_bf16_row_ref", probe, bf, probe.size)
    out["half"] = {
        "finite_f16_sha256": hashlib.sha256(finite.tobytes()).hexdigest(),
        "probe_sha256": hashlib.sha256(probe.tobytes()).hexdigest(),
        "f16_sha256": hashlib.sha256(g.tobytes()).hexdigest(),
        "bf16_sha256": hashlib.sha256(bf.tobytes()).hexdigest(),
    }
    with open(os.path.join(here, "blocks.json"), "w") as w:
        json.dump(out, w, indent=1)
        w.write("\n")


main()
