"""Compares what `export` wrote with the engines that load it.

Usage: python bench/fidelity/export.py EXPORT_DIR PROMPT [--base DIR] [--pipe CMD] [-n 24]

EXPORT_DIR holds peft/, safetensors/ and gguf/ as the export stage writes them;
what is missing is skipped. PROMPT is used as it is. --pipe is the command of
bench/fidelity/greedy (built with go build), whose tokens and log-probabilities
are compared too; --base is the Hugging Face directory under peft/.

Needs torch, transformers, peft and llama-cpp-python. Exit status 1: a
difference. float types must give the same greedy tokens everywhere; q8_0 and
q4_0 are compared between llama.cpp and pipe, which run the same blocks, up to
the first token whose two best candidates are closer than --margin: llama.cpp
also rounds activations to 8 bits.
"""

import argparse
import glob
import json
import os
import subprocess
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
arg = argparse.ArgumentParser()
arg.add_argument("export")
arg.add_argument("prompt")
arg.add_argument("--base")
arg.add_argument("--pipe")
arg.add_argument("--margin", type=float, default=0.5)
arg.add_argument("-n", type=int, default=24)
a = arg.parse_args()
failed = []


def check(what, ok, detail=""):
    print(("ok      " if ok else "DIFFERS ") + what, detail)
    if not ok:
        failed.append(what)


def torch_greedy(m, ids, n, eos):
    """Greedy tokens and the logits at each of them, without a cache."""
    ids, out, rows = list(ids), [], []
    with torch.no_grad():
        while len(out) < n:
            row = m(torch.tensor([ids])).logits[0, -1].float()
            t = int(row.argmax())
            if t in eos:
                break
            out.append(t)
            rows.append(row.numpy())
            ids.append(t)
    return out, rows


def llama_greedy(path, ids, n, eos):
    import ctypes

    import llama_cpp as L

    quiet = L.llama_log_callback(lambda *_: None)
    L.llama_log_set(quiet, ctypes.c_void_p(0))
    mp = L.llama_model_default_params()
    mp.use_extra_bufts = False  # the blocks of the file, not repacked ones
    m = L.llama_model_load_from_file(path.encode(), mp)
    assert m, f"llama.cpp does not load {path}"
    cp = L.llama_context_default_params()
    cp.n_ctx, cp.n_batch = len(ids) + n + 8, len(ids) + n + 8
    c = L.llama_init_from_model(m, cp)
    v = L.llama_model_get_vocab(m)
    size = L.llama_vocab_n_tokens(v)
    raw = a.prompt.encode()
    buf = (L.llama_token * 4096)()
    count = L.llama_tokenize(v, raw, len(raw), buf, 4096, False, True)
    check(f"{os.path.basename(path)}: llama.cpp's tokens of the prompt", list(buf[:count]) == list(ids), list(buf[:count]))
    out, rows, cur = [], [], list(ids)
    while len(out) < n:
        batch = (L.llama_token * len(cur))(*cur)
        assert L.llama_decode(c, L.llama_batch_get_one(batch, len(cur))) == 0
        row = np.array(np.ctypeslib.as_array(L.llama_get_logits_ith(c, -1), shape=(size,)))
        t = int(row.argmax())
        if t in eos:
            break
        out.append(t)
        rows.append(row)
        cur = [t]
    L.llama_free(c)
    L.llama_model_free(m)
    return out, rows


def ours(path, adapter=None):
    cmd = [a.pipe, "-model", path, "-prompt", a.prompt, "-n", str(a.n)] + (["-adapter", adapter] if adapter else [])
    return json.loads(subprocess.run(cmd, check=True, capture_output=True, text=True).stdout)


def logprobs(out, rows):
    return [float(r[t] - (r.max() + np.log(np.exp(r - r.max()).sum()))) for t, r in zip(out, rows)]


def compare(what, got, want, rows, margin=0.0):
    """Token lists must be equal up to a near tie of the wanted side's logits."""
    for i, w in enumerate(want):
        g = got[i] if i < len(got) else None
        if g != w:
            top = np.sort(rows[i])[-2:]
            check(what, top[1] - top[0] < margin, f"token {i}: {g} for {w}, margin {top[1] - top[0]:.3f}")
            return
    check(what, len(got) == len(want) or margin > 0, f"{len(want)} tokens")


hf = os.path.join(a.export, "safetensors")
tok = AutoTokenizer.from_pretrained(hf)
ids = tok(a.prompt, add_special_tokens=False).input_ids
merged = AutoModelForCausalLM.from_pretrained(hf, torch_dtype="auto").float()
gen = merged.generation_config.eos_token_id
eos = set(gen if isinstance(gen, list) else [gen])
want, rows = torch_greedy(merged, ids, a.n, eos)
print("transformers:", repr(tok.decode(want)))

if a.pipe:
    o = ours(hf)
    check("pipe's tokens of the prompt", o["prompt_ids"] == ids, o["prompt_ids"])
    compare("pipe on safetensors, tokens", o["ids"], want, rows)
    if o["ids"] == want and want:
        d = max(abs(x - y) for x, y in zip(o["logprobs"], logprobs(want, rows)))
        check("pipe on safetensors, log-probabilities", d <= 2e-3, f"max difference {d:.2e}")

peft_dir = os.path.join(a.export, "peft")
if os.path.isdir(peft_dir) and a.base:
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(a.base, torch_dtype="auto").float()
    adapted = PeftModel.from_pretrained(base, peft_dir)
    with torch.no_grad():
        x = torch.tensor([ids])
        d = (adapted(x).logits - merged(x).logits).abs().max().item()
        with adapted.disable_adapter():
            effect = (adapted(x).logits - merged(x).logits).abs().max().item()
    check("PEFT over the base against the merged model, logits", d <= 0.05 * max(effect, 1e-6) + 2e-2, f"max difference {d:.2e}, the adapter changes {effect:.2e}")

for path in sorted(glob.glob(os.path.join(a.export, "gguf", "*.gguf"))):
    name = os.path.basename(path)
    got, lrows = llama_greedy(path, ids, a.n, eos)
    exact = any(name.endswith(f"-{t}.gguf") for t in ("f32", "f16", "bf16"))
    if exact:
        compare(f"{name}: llama.cpp against transformers, tokens", got, want, rows, 0.05)
    else:
        print("        " + name, repr(tok.decode(got)))
    if a.pipe:
        o = ours(path)
        compare(f"{name}: pipe against llama.cpp, tokens", o["ids"], got, lrows, 0.05 if exact else a.margin)

sys.exit(1 if failed else 0)
