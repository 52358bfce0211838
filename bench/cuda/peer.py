"""The peer of bench/cuda: the same models in PyTorch, transformers and PEFT.

    python peer.py train --model 8b --cases lora,lora+recompute,dora --seq 4096
    python peer.py decode --model 8b --cases eager,compiled --batch 1,16,64
    python peer.py products --model 8b

Weights are random, made on the device in bfloat16. A case of train is an adapter
(lora or dora) of rank 16 on all linear layers, its parameters in bfloat16, and
after plus signs:

    recompute   gradient checkpointing
    amp         parameters of the adapter in float32 under autocast, as the
                trainers of transformers and TRL have it with bf16=True
    layers      each decoder layer compiled
    compiled    the whole model compiled
    chunked     the loss in pieces of 1024 tokens, made again for the gradient

A step is one row of SEQ tokens, all of them learned: forward, backward, clipping
by norm and fused AdamW. Attention is PyTorch's own (SDPA), which is flash
attention here. products times torch.matmul and SDPA at the sizes of a layer.

Each measurement is a line of JSON. A case that does not fit is reported, and the
next one runs. No case begins after --deadline seconds.
"""

import argparse
import gc
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F

PEAK = 989.4e12  # of an H100 SXM in bfloat16, dense, by its data sheet
MODELS = {  # layers, hidden, ffn, heads, kv heads, head dim, vocabulary, tied
    "1b": (16, 2048, 8192, 32, 8, 64, 128256, True),
    "8b": (32, 4096, 14336, 32, 8, 128, 128256, False),
    "tiny": (2, 256, 512, 4, 2, 64, 512, True),
}

p = argparse.ArgumentParser()
p.add_argument("what", choices=["train", "decode", "products"])
p.add_argument("--model", default="8b", choices=MODELS)
p.add_argument("--cases", default="")
p.add_argument("--seq", type=int, default=4096)
p.add_argument("--steps", type=int, default=8)
p.add_argument("--warm", type=int, default=3)
p.add_argument("--batch", default="1,16,64")
p.add_argument("--prompt", type=int, default=512)
p.add_argument("--new", type=int, default=128)
p.add_argument("--deadline", type=float, default=1e9)
p.add_argument("--device", default="cuda")
o = p.parse_args()
begun = time.perf_counter()
layers, hidden, ffn, heads, kv_heads, head_dim, vocab, tied = MODELS[o.model]
cuda = o.device == "cuda"


def sync():
    if cuda:
        torch.cuda.synchronize()


def report(name, **r):
    print(json.dumps({"side": "pytorch", "name": name, **r}), flush=True)


def late(name):
    if time.perf_counter() - begun < o.deadline:
        return False
    report(name, error=f"not begun: {o.deadline:.0f} s are over")
    return True


def failed(name, e):
    report(name, error=f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"[:200])


def clear():
    gc.collect()
    if cuda:
        torch._dynamo.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory():
    if not cuda:
        return 0.0, 0.0
    return torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30


def new_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head_dim, tie_word_embeddings=tied, max_position_embeddings=131072,
        rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, attn_implementation="sdpa",
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(o.device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return model.to(torch.bfloat16)


def loss_of(model, x, y, chunked):
    if not chunked:
        return F.cross_entropy(model(input_ids=x).logits[0].float(), y)
    inner = model.base_model.model
    h = inner.model(input_ids=x).last_hidden_state[0]

    def piece(h, y):
        return F.cross_entropy(inner.lm_head(h).float(), y, reduction="sum")

    total = 0
    for i in range(0, len(y), 1024):
        total = total + torch.utils.checkpoint.checkpoint(piece, h[i : i + 1024], y[i : i + 1024], use_reentrant=False)
    return total / len(y)


def train(case):
    from peft import LoraConfig, get_peft_model

    adapter, *how = case.split("+")
    unknown = set(how) - {"recompute", "amp", "layers", "compiled", "chunked"}
    if unknown or adapter not in ("lora", "dora"):
        sys.exit(f"case {case}: unknown")
    model = new_model()
    model.config.use_cache = False
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", use_dora=adapter == "dora")
    model = get_peft_model(model, config, autocast_adapter_dtype="amp" in how)
    if "recompute" in how:
        model.base_model.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    params = [q for q in model.parameters() if q.requires_grad]
    opt = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0, fused=cuda)
    if "layers" in how:
        for layer in model.base_model.model.model.layers:
            layer.compile(dynamic=False)
    if "compiled" in how:
        model.compile(dynamic=False)
    ids = torch.randint(vocab, (1, o.seq + 1), device=o.device, generator=torch.Generator(o.device).manual_seed(1))
    x, y = ids[:, :-1], ids[0, 1:]
    seconds, losses = [], []
    for _ in range(o.warm + o.steps):
        sync()
        start = time.perf_counter()
        with torch.autocast(o.device, torch.bfloat16, enabled="amp" in how):
            loss = loss_of(model, x, y, "chunked" in how)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        losses.append(loss.item())
        sync()
        seconds.append(time.perf_counter() - start)
    step = statistics.median(seconds[o.warm :])
    n = layers * (2 * hidden * heads * head_dim + 2 * hidden * kv_heads * head_dim + 3 * hidden * ffn) + vocab * hidden
    attention = 3 * 2 * o.seq * heads * head_dim * layers
    mfu = o.seq * (4 * n + attention) / step / PEAK
    allocated, reserved = memory()
    report(
        f"train {o.model} {case} x{o.seq}", value=o.seq / step, unit="tokens/s", ms=1000 * step,
        note=f"MFU {mfu:.3f}, peak {allocated:.1f} GiB, reserved {reserved:.1f}, first step {seconds[0]:.1f} s",
        more={"losses": losses, "peak_gib": allocated, "reserved_gib": reserved, "mfu": mfu, "fastest_ms": 1000 * min(seconds[o.warm :]),
              "trained": sum(q.numel() for q in params)},
    )


def decode(case):
    from transformers import StoppingCriteria, StoppingCriteriaList

    class First(StoppingCriteria):
        at = None

        def __call__(self, ids, scores, **_):
            if self.at is None:
                sync()
                self.at = time.perf_counter()
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    model = new_model().eval()
    for batch in map(int, o.batch.split(",")):
        name = f"decode {o.model} {case} batch {batch}"
        if late(name):
            continue
        ids = torch.randint(vocab, (batch, o.prompt), device=o.device)
        try:
            for _ in range(2 if case == "eager" else 3):  # the last one counts
                first = First()
                sync()
                start = time.perf_counter()
                model.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=o.new, min_new_tokens=o.new, do_sample=False,
                    cache_implementation="static", disable_compile=case == "eager", stopping_criteria=StoppingCriteriaList([first]),
                )
                sync()
                end = time.perf_counter()
        except Exception as e:
            failed(name, e)
            continue
        s = end - first.at
        report(
            name, value=batch * (o.new - 1) / s, unit="tokens/s", ms=1000 * s / (o.new - 1),
            note=f"prompt of {o.prompt} at {batch * o.prompt / (first.at - start):.0f} tokens/s, peak {memory()[0]:.1f} GiB",
        )


def products():
    def timed(name, flops, op):
        for i in range(3):
            op(i)
        all = []
        for i in range(12):
            pad.zero_()
            if cuda:
                a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                a.record()
                op(i)
                b.record()
                b.synchronize()
                all.append(a.elapsed_time(b))
            else:
                a = time.perf_counter()
                op(i)
                all.append(1000 * (time.perf_counter() - a))
        ms = statistics.median(all)
        report(name, value=flops / ms / 1e9, unit="TFLOP/s", ms=ms)

    t, q, kv = o.seq, heads * head_dim, kv_heads * head_dim
    new = lambda *shape: torch.randn(shape, device=o.device, dtype=torch.bfloat16)
    pad = torch.empty(1 << (29 if cuda else 16), device=o.device, dtype=torch.uint8)
    for name, out, inp in [("q", q, hidden), ("k", kv, hidden), ("gate", ffn, hidden), ("down", hidden, ffn), ("head", vocab, hidden)]:
        w, x, dy = [[new(*s) for _ in range(2)] for s in [(out, inp), (t, inp), (t, out)]]
        timed(f"gemm NT {name} {t}x{out}x{inp}", 2 * t * out * inp, lambda i: torch.matmul(x[i % 2], w[i % 2].T))
        timed(f"gemm NN {name} {t}x{inp}x{out}", 2 * t * out * inp, lambda i: torch.matmul(dy[i % 2], w[i % 2]))
        del w, x, dy
    for docs in (1, 32):
        n = t // docs
        s = [new(docs, h, n, head_dim).requires_grad_() for h in (heads, kv_heads, kv_heads)]
        attend = lambda: F.scaled_dot_product_attention(*s, is_causal=True, enable_gqa=True)
        flops = 2 * n * t * q
        timed(f"attention forward bf16 {docs}x{n}", flops, lambda i: attend())
        y = attend()
        dy = torch.randn_like(y)
        timed(f"attention backward bf16 {docs}x{n}", 2.5 * flops, lambda i: torch.autograd.grad(y, s, dy, retain_graph=True))


if o.what == "products":
    products()
else:
    for case in o.cases.split(","):
        clear()
        name = f"{o.what} {o.model} {case}"
        if late(name):
            continue
        try:
            (train if o.what == "train" else decode)(case)
        except Exception as e:  # what does not fit is a result too
            failed(name, e)
            e.__traceback__ = None
