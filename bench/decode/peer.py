"""Continues prompts greedily with llama.cpp, as told on standard input.

Each line is {"prompts": [[id, ...], ...], "tokens": n}; the answer is
{"seconds": s, "ids": [[id, ...], ...]}. All sequences advance together: one
llama_batch reads all prompts, then one of a token a sequence is decoded a step.
"""

import ctypes
import json
import sys
import time

import llama_cpp as lib
import numpy as np

path, threads, context, parallel = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
quiet = lib.llama_log_callback(lambda level, text, data: None)
lib.llama_log_set(quiet, ctypes.c_void_p(0))
lib.llama_backend_init()
mp = lib.llama_model_default_params()
mp.n_gpu_layers = 0
model = lib.llama_model_load_from_file(path.encode(), mp)
if not model:
    sys.exit(f"llama.cpp cannot load {path}")
cp = lib.llama_context_default_params()
cp.n_ctx, cp.n_seq_max = context * parallel, parallel
cp.n_batch, cp.n_ubatch = context * parallel, 512
cp.n_threads = cp.n_threads_batch = threads
ctx = lib.llama_init_from_model(model, cp)
if not ctx:
    sys.exit("llama.cpp cannot make a context")
vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
batch = lib.llama_batch_init(context * parallel, 0, 1)


def decode(tokens):
    """Runs (id, position, sequence, wants logits) and returns the next ids."""
    batch.n_tokens = len(tokens)
    for i, (token, pos, seq, wants) in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, pos, 1, wants
        batch.seq_id[i][0] = seq
    if code := lib.llama_decode(ctx, batch):
        sys.exit(f"llama_decode returned {code}")
    out = {}
    for i, (_, _, seq, wants) in enumerate(tokens):
        if wants:
            out[seq] = int(np.ctypeslib.as_array(lib.llama_get_logits_ith(ctx, i), (vocab,)).argmax())
    return out


def run(prompts, n):
    lib.llama_memory_clear(lib.llama_get_memory(ctx), True)
    ids = [[] for _ in prompts]
    tokens = [(t, i, s, i == len(p) - 1) for s, p in enumerate(prompts) for i, t in enumerate(p)]
    for step in range(n):
        for s, token in decode(tokens).items():
            ids[s].append(token)
        tokens = [(ids[s][-1], len(p) + step, s, True) for s, p in enumerate(prompts)]
    return ids


print(json.dumps({"ready": lib.llama_print_system_info().decode().strip()}), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    start = time.perf_counter()
    ids = run(job["prompts"], job["tokens"])
    print(json.dumps({"seconds": time.perf_counter() - start, "ids": ids}), flush=True)
