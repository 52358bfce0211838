"""Makes the fixtures of packages model, adapter and train.

    python gen.py [out-directory]

Every fixture records the versions of the libraries, the seed and the sha256
of this file; the tests refuse a fixture that another gen.py made. Dimensions
are odd and unequal on purpose: a transposed axis cannot pass.
"""
import ctypes
import hashlib
import math
import os
import shutil
import sys
import types
from unittest import mock

os.environ["TORCHDYNAMO_DISABLE"] = "1"

import torch

# The default back end of bitsandbytes takes the nearest code, as its CUDA
# kernels do: its CPU library rounds the codes of scales by a table.
with mock.patch.object(ctypes.cdll, "LoadLibrary", side_effect=OSError("the default back end is wanted")):
    import bitsandbytes
import numpy as np
import peft
import transformers
import trl
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, get_scheduler
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer

OUT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
SEED = 20261124
META = {
    "generator_sha256": hashlib.sha256(open(__file__, "rb").read()).hexdigest(),
    "torch": torch.__version__, "transformers": transformers.__version__,
    "peft": peft.__version__, "trl": trl.__version__, "bitsandbytes": bitsandbytes.__version__, "seed": str(SEED),
}
torch.use_deterministic_algorithms(True)
torch.set_num_threads(1)

DOCS = [[1, 17, 5, 42, 9, 9, 30], [1, 3, 50, 28, 11], [1, 8, 8, 21, 2, 45, 7, 33, 19]]
# Scored positions of each document: a span in the middle, all, none but one.
SPANS = [(2, 6), (1, 5), (8, 9)]

PLAIN = dict(vocab_size=53, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
             num_key_value_heads=1, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True)
BIAS = dict(vocab_size=53, hidden_size=20, intermediate_size=28, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=6, max_position_embeddings=256, rms_norm_eps=1e-6,
            tie_word_embeddings=False, attention_bias=True, mlp_bias=True,
            rope_parameters=dict(rope_type="llama3", rope_theta=500.0, factor=4.0, low_freq_factor=1.0,
                                 high_freq_factor=3.0, original_max_position_embeddings=32))

# Rows are whole blocks of 64 elements, but those of o_proj have 48.
NF4 = dict(vocab_size=53, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
           num_key_value_heads=1, head_dim=12, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True)


def build(kw):
    torch.manual_seed(SEED)
    m = LlamaForCausalLM(LlamaConfig(attn_implementation="eager", **kw)).float().eval()
    with torch.no_grad():
        for n, p in m.named_parameters():
            if "norm" in n:
                p.copy_(1 + 0.3 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * (0.3 if p.ndim == 1 else 1.3 / math.sqrt(p.shape[1])))
    return m


def in4bits(double, dtype=torch.float32):
    """The checkpoint "nf4" as transformers loads it in 4 bits."""
    q = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double, bnb_4bit_compute_dtype=dtype)
    return LlamaForCausalLM.from_pretrained(os.path.join(OUT, "nf4"), quantization_config=q, dtype=dtype,
                                            attn_implementation="eager", device_map="cpu").eval()


def weights(m):
    return {n: p.detach().clone().contiguous() for n, p in m.named_parameters()}


def logps(m, ids):
    """log p of each token given those before it, [len-1], and the logits."""
    z = m(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    lp = torch.log_softmax(z.float(), -1)
    return lp[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0], z


def likelihood(m, docs=DOCS, spans=SPANS):
    """Mean cross-entropy over the scored tokens of separate documents."""
    total, n, logits = 0.0, 0, []
    for ids, (a, b) in zip(docs, spans):
        lp, z = logps(m, ids)
        total = total - lp[a - 1:b - 1].sum()
        n += b - a
        logits.append(z)
    return total / n, torch.cat(logits)


def grads(m):
    return {"grad." + n: p.grad.detach().clone().contiguous() for n, p in m.named_parameters() if p.grad is not None}


def save(name, tensors, **meta):
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, os.path.join(OUT, name), {**META, **meta})


def decoder(name, kw):
    m = build(kw)
    m.config.save_pretrained(os.path.join(OUT, name))
    loss, logits = likelihood(m)
    loss.backward()
    gen = m.generate(torch.tensor([DOCS[0]]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    hid = m.model(input_ids=torch.tensor([DOCS[2]])).last_hidden_state[0].mean(0)
    save_file(weights(m), os.path.join(OUT, name, "model.safetensors"), META | {"format": "pt"})
    save(name + ".safetensors", {"logits": logits.detach(), "loss": loss.detach().reshape(1),
                                 "greedy": gen[0, len(DOCS[0]):].int(), "hidden_mean": hid.detach(), **grads(m)})


def adapter(name, cfg, base="plain"):
    m = get_peft_model(build(PLAIN) if base == "plain" else in4bits(True), cfg)
    torch.manual_seed(SEED + 1)
    fresh = {}
    with torch.no_grad():
        for n, p in m.named_parameters():
            if "lora_magnitude" in n:
                fresh["fresh." + n] = p.detach().clone()
                p.mul_(1 + 0.2 * torch.randn_like(p))
            elif "lora_" in n:
                p.copy_(torch.randn_like(p) * (0.4 if base == "plain" else 0.1))
    m.eval()
    m.peft_config["default"].base_model_name_or_path = base
    shutil.rmtree(os.path.join(OUT, name), ignore_errors=True)
    m.save_pretrained(os.path.join(OUT, name))
    for junk in ("README.md",):
        if os.path.exists(os.path.join(OUT, name, junk)):
            os.remove(os.path.join(OUT, name, junk))
    loss, logits = likelihood(m)
    loss.backward()
    g = {k.replace("base_model.model.", "", 1).replace(".default", ""): v for k, v in grads(m).items()}
    fresh = {k.replace("base_model.model.", "", 1).replace(".default", ""): v for k, v in fresh.items()}
    mw = {}
    if base == "plain":
        merged = m.merge_and_unload()
        mw = {"merged." + n: p for n, p in weights(merged).items() if "proj" in n and "layers.1" in n}
    save(name + ".safetensors", {"logits": logits.detach(), "loss": loss.detach().reshape(1), **g, **fresh, **mw})


PAIRS = [([1, 17, 5], [42, 9, 2], [9, 30, 30, 2]), ([1, 3, 50, 28], [11, 2], [8, 2]),
         ([1, 8], [21, 2, 45, 7, 2], [33, 2]), ([1, 40, 41], [6, 7, 2], [7, 6, 5, 2])]


class LogProbs(torch.nn.Module):
    """A model as TRL's DPO calls it: the log-probabilities of the labels."""

    def __init__(self, m):
        super().__init__()
        self.m = m

    def forward(self, input_ids, attention_mask, labels, **_):
        z = self.m(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits[:, :-1]
        lp = torch.log_softmax(z.float(), -1).gather(2, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
        return types.SimpleNamespace(log_probs=lp * (labels[:, 1:] != -100), entropy=torch.zeros_like(lp),
                                     mean_logits=z.mean(-1).detach(), is_top1=torch.zeros_like(lp).bool())


def padded(rows, fill):
    n = max(map(len, rows))
    return torch.tensor([r + [fill] * (n - len(r)) for r in rows])


def trainer():
    """What the loss functions of TRL's trainers read of their trainer."""
    t = mock.MagicMock()
    t.model.training, t.accelerator.device = False, torch.device("cpu")
    t.accelerator.gather_for_metrics = lambda x: x
    t.accelerator.gather = lambda x: x
    t.aux_loss_enabled = t.is_encoder_decoder = False
    t.ld_alpha, t.f_divergence_type, t.label_smoothing = None, "reverse_kl", 0.0
    t.precompute_ref_logps, t.beta, t.use_weighting, t.loss_weights = True, 0.1, False, [1.0]
    t.padding_value, t.label_pad_token_id = 0, -100
    return t


def dpo(m, kind, ref, pairs):
    rows = [p + c for p, c, _ in pairs] + [p + r for p, _, r in pairs]
    mask = [[0] * len(p) + [1] * len(c) for p, c, _ in pairs] + [[0] * len(p) + [1] * len(r) for p, _, r in pairs]
    t = trainer()
    t.loss_types = [kind]
    return DPOTrainer._compute_loss(t, LogProbs(m), dict(
        input_ids=padded(rows, 0), attention_mask=padded([[1] * len(r) for r in rows], 0),
        completion_mask=padded(mask, 0), ref_chosen_logps=ref[:, 0], ref_rejected_logps=ref[:, 1]), False)


def orpo(m, _, __, pairs):
    def side(rows, k):
        return {f"{k}_input_ids": padded([p + a for p, a in rows], 0),
                f"{k}_attention_mask": padded([[1] * len(p + a) for p, a in rows], 0),
                f"{k}_labels": padded([[-100] * len(p) + a for p, a in rows], -100)}
    t = trainer()
    for f in ("odds_ratio_loss", "concatenated_forward"):
        setattr(t, f, types.MethodType(getattr(ORPOTrainer, f), t))
    t.concatenated_inputs, t.get_batch_logps = ORPOTrainer.concatenated_inputs, ORPOTrainer.get_batch_logps
    batch = side([(p, c) for p, c, _ in pairs], "chosen") | side([(p, r) for p, _, r in pairs], "rejected")
    return ORPOTrainer.get_batch_loss_metrics(t, m, batch)[0]


def reference(m, pairs):
    with torch.no_grad():
        s = [[logps(m, p + a)[0][len(p) - 1:].sum() for a in (c, r)] for p, c, r in pairs]
    return torch.tensor(s)


def optimize(m, loss_of, steps=10, lr=0.02, schedule="cosine", warmup=2, wd=0.1, clip=0.5):
    """The curve of loss and gradient norm over the steps of the trainer."""
    decay = [p for n, p in m.named_parameters() if p.requires_grad and "norm" not in n and "bias" not in n]
    rest = [p for n, p in m.named_parameters() if p.requires_grad and ("norm" in n or "bias" in n)]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": wd}, {"params": rest, "weight_decay": 0.0}],
                            lr=lr, betas=(0.9, 0.99), eps=1e-8)
    sched = get_scheduler(schedule, opt, num_warmup_steps=warmup, num_training_steps=steps)
    curve = []
    for step in range(steps):
        opt.zero_grad()
        loss = loss_of(step)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([p for p in decay + rest], clip)
        curve.append([loss.item(), norm.item(), sched.get_last_lr()[0]])
        opt.step()
        sched.step()
    return torch.tensor(curve)


def ggml(kind, w):
    """The values that ggml's reference quantiser leaves of float32 rows: Q8_0 or Q4_0, blocks of 32."""
    x = w.numpy().reshape(-1, 32)
    top = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)
    d = np.abs(top) / np.float32(127) if kind == "q8_0" else top / np.float32(-8)
    s = x * np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)
    if kind == "q8_0":
        q = np.trunc(s.astype(np.float64) + np.copysign(0.5, s))
    else:
        q = np.minimum(15, np.trunc(s + np.float32(8.5))) - 8
    return torch.from_numpy((q.astype(np.float32) * d.astype(np.float16).astype(np.float32)).reshape(w.shape))


def blocks():
    """An adapter over layers in GGUF blocks, but for rows that are not whole blocks."""
    out = {}
    for kind in ("q8_0", "q4_0"):
        def base():
            m = build(NF4)
            for n, p in m.named_parameters():
                p.data.copy_(p.data.bfloat16())  # not the frequencies of the rotary embedding
                if "proj" in n and p.shape[1] % 32 == 0:
                    p.data.copy_(ggml(kind, p.data))
            return peft.PeftModel.from_pretrained(m, os.path.join(OUT, "nf4_dora"), is_trainable=True)
        m = base()
        loss = likelihood(m)[0]
        loss.backward()
        out[kind + ".loss"] = loss.detach().reshape(1)
        for k, v in grads(m).items():
            if "layers.0" in k:
                out[f"{kind}.{k.replace('base_model.model.', '', 1).replace('.default', '')}"] = v
        m = base()
        out[kind + ".curve"] = optimize(m, lambda _: likelihood(m)[0])
    save("blocks.safetensors", out)


def curves():
    out = {}
    m = build(PLAIN)
    out["full"] = optimize(m, lambda _: likelihood(m)[0])
    ref = reference(build(PLAIN), PAIRS)
    out["reference"] = ref
    for kind in ("sigmoid", "hinge", "ipo", "orpo"):
        f = orpo if kind == "orpo" else dpo
        m = peft.PeftModel.from_pretrained(build(PLAIN), os.path.join(OUT, "dora"), is_trainable=True)
        loss = f(m, kind, ref, PAIRS)
        loss.backward()
        out[kind + ".loss"] = loss.detach().reshape(1)
        for k, v in grads(m).items():
            if "layers.0" in k:
                out[kind + "." + k.replace("base_model.model.", "", 1).replace(".default", "")] = v
        # Two pairs a step, in turn: the order is part of the fixture.
        out[kind + ".curve"] = optimize(m, lambda s: f(m, kind, ref[s % 2 * 2:s % 2 * 2 + 2], PAIRS[s % 2 * 2:s % 2 * 2 + 2]),
                                        schedule="linear", wd=0.0, clip=1.0)
    for name in ("lora", "dora", "nf4_lora", "nf4_dora"):
        base = in4bits(True) if "nf4" in name else build(PLAIN)
        m = peft.PeftModel.from_pretrained(base, os.path.join(OUT, name), is_trainable=True)
        out[f"sft_{name}.curve"] = optimize(m, lambda _: likelihood(m)[0])
    save("curves.safetensors", out)


def nf4():
    """The plain checkpoint, in bfloat16, and what bitsandbytes makes of it."""
    build(NF4).bfloat16().save_pretrained(os.path.join(OUT, "nf4"))
    sums = {}
    for double in (True, False):
        name = "nf4_double" if double else "nf4_single"
        in4bits(double, torch.bfloat16 if double else torch.float32).save_pretrained(os.path.join(OUT, name))
        sums[name + ".sha256"] = hashlib.sha256(open(os.path.join(OUT, name, "model.safetensors"), "rb").read()).hexdigest()
        for n, p in in4bits(double).named_parameters():
            if "proj" in n:
                v = bitsandbytes.functional.dequantize_4bit(p.data, p.quant_state)
                sums[f"{name}.{n}.sha256"] = hashlib.sha256(v.numpy().tobytes()).hexdigest()
    for name in ("nf4", "nf4_double", "nf4_single"):
        os.remove(os.path.join(OUT, name, "generation_config.json"))
    loss, logits = likelihood(in4bits(True))
    save("nf4.safetensors", {"logits": logits.detach(), "loss": loss.detach().reshape(1)}, **sums)


decoder("plain", PLAIN)
decoder("bias", BIAS)
adapter("lora", LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"))
adapter("dora", LoraConfig(r=4, lora_alpha=6, use_dora=True, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM"))
nf4()
adapter("nf4_lora", LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM"), "nf4")
adapter("nf4_dora", LoraConfig(r=2, lora_alpha=5, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM"), "nf4")
blocks()
curves()
