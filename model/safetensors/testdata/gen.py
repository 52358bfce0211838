"""Writes reference.json: a small file as the safetensors library writes it.

Usage: python gen.py   (needs numpy, torch and safetensors)
"""

import base64
import hashlib
import json
import os

import safetensors
import torch
from safetensors.torch import save

here = os.path.dirname(os.path.abspath(__file__))
g = torch.Generator().manual_seed(7)
tensors = {
    "b.weight": torch.randn(3, 5, generator=g),
    "a.weight": torch.randn(2, 3, generator=g),
    "half": torch.randn(7, generator=g).half(),
    "brain": torch.randn(2, 2, 2, generator=g).bfloat16(),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
    "ids": torch.arange(4, dtype=torch.int32),
    "bytes": torch.arange(3, dtype=torch.uint8),
    "strange \"<é>\"": torch.zeros(1),
}
data = save(tensors, metadata={"format": "pt"})
with open(os.path.join(here, "reference.json"), "w") as w:
    json.dump({
        "generator_sha256": hashlib.sha256(open(__file__, "rb").read()).hexdigest(),
        "safetensors": safetensors.__version__,
        "torch": torch.__version__,
        "seed": 7,
        "file": base64.b64encode(data).decode(),
        "a_weight": tensors["a.weight"].flatten().tolist(),
        "brain": tensors["brain"].float().flatten().tolist(),
    }, w, indent=1)
    w.write("\n")
