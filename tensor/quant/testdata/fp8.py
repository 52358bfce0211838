"""Writes fp8.json: the values of all codes of float8_e4m3fn, and what floats round to, by PyTorch.

Usage: python fp8.py   (needs torch and numpy)

Floats beyond 448 are left out: PyTorch makes those above 464 NaN, where hardware saturates.
"""

import base64
import hashlib
import json
import os

import numpy as np
import torch

SEED = 20261127
here = os.path.dirname(os.path.abspath(__file__))


def b64(a):
    return base64.b64encode(a.tobytes()).decode()


def probes():
    """All values of bfloat16 of at most 448 in absolute value, then the midpoints of
    neighbouring codes, and the floats before and after each, then the same negated."""
    x = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    v = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    half = (v[1:] + v[:-1]) / np.float32(2)
    near = np.stack([half, np.nextafter(half, np.float32(0)), np.nextafter(half, np.float32(1e9))], 1).ravel()
    return np.concatenate([x[np.abs(x) <= 448], near, -near])


def code(x):
    return torch.from_numpy(x).to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def main():
    values = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    rng = np.random.default_rng(SEED)
    some = rng.standard_normal(512).astype(np.float32) * np.exp2(rng.integers(-12, 7, 512)).astype(np.float32)
    x = probes()
    with open(os.path.abspath(__file__), "rb") as f:
        sha = hashlib.sha256(f.read()).hexdigest()
    out = {
        "generator_sha256": sha,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "seed": SEED,
        "values": b64(values),
        "probes_sha256": hashlib.sha256(x.tobytes()).hexdigest(),
        "codes_sha256": hashlib.sha256(code(x).tobytes()).hexdigest(),
        "input": b64(some),
        "codes": b64(code(some)),
    }
    with open(os.path.join(here, "fp8.json"), "w") as f:
        json.dump(out, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
