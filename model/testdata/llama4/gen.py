"""Makes the fixtures of a tiny Llama 4 without images.

    python gen.py

The fixture records the versions of the libraries, the seed and the sha256 of this
file; the tests refuse one that another gen.py made. Dimensions are odd and
unequal on purpose, documents are longer than a chunk of attention and than
the scale of its temperature, and of four layers two have experts and one has
no positions.
"""
import hashlib
import math
import os
import shutil

os.environ["TORCHDYNAMO_DISABLE"] = "1"

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import Llama4ForCausalLM, Llama4TextConfig

OUT = os.path.dirname(os.path.abspath(__file__))
SEED = 20261127
META = {"generator_sha256": hashlib.sha256(open(__file__, "rb").read()).hexdigest(), "torch": torch.__version__,
        "transformers": transformers.__version__, "peft": peft.__version__, "seed": str(SEED)}
torch.use_deterministic_algorithms(True)
torch.set_num_threads(1)

DOCS = [[1, 17, 5, 42, 9, 9, 30, 2, 44, 13, 8, 51, 6, 6, 27, 19, 3, 12, 40, 7, 7, 33, 25], [1, 3, 50, 28, 11],
        [1, 8, 8, 21, 2, 45, 7, 33, 19, 22, 31, 46]]
SPANS = [(2, 22), (1, 5), (9, 12)]  # scored positions

# Top 2 of 5 experts: no released model has more than one, the formula is the same.
MODELS = {
    "one": dict(num_local_experts=4, num_experts_per_tok=1, interleave_moe_layer_step=2, use_qk_norm=True,
                rope_parameters=dict(rope_type="default", rope_theta=500.0)),
    "two": dict(num_local_experts=5, num_experts_per_tok=2, moe_layers=[0, 2], use_qk_norm=False, no_rope_layers=[1, 0, 1, 1], tie_word_embeddings=True,
                rope_parameters=dict(rope_type="llama3", rope_theta=500.0, factor=4.0, low_freq_factor=1.0,
                                     high_freq_factor=3.0, original_max_position_embeddings=32)),
}


def build(kw):
    torch.manual_seed(SEED)
    c = Llama4TextConfig(vocab_size=53, hidden_size=20, intermediate_size=14, intermediate_size_mlp=28, num_hidden_layers=4,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=6, max_position_embeddings=64, attention_chunk_size=8,
                         floor_scale=4, attn_scale=0.3, pad_token_id=0, attn_implementation="eager", **kw)
    m = Llama4ForCausalLM(c).float().eval()
    with torch.no_grad():
        for n, p in m.named_parameters():
            if "norm" in n:
                p.copy_(1 + 0.3 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * 1.3 / math.sqrt(p.shape[1]))
    return m


def likelihood(m):
    """Mean cross-entropy over the scored tokens of separate documents, and the logits."""
    total, n, logits = 0.0, 0, []
    for ids, (a, b) in zip(DOCS, SPANS):
        z = m(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        lp = torch.log_softmax(z.float(), -1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        total, n = total - lp[a - 1:b - 1].sum(), n + b - a
        logits.append(z)
    return total / n, torch.cat(logits)


def stored(m):
    return {n: p.detach().clone().contiguous() for n, p in m.named_parameters()}


def grads(m):
    return {"grad." + n.replace("base_model.model.", "", 1).replace(".default", ""): p.grad.detach().clone().contiguous()
            for n, p in m.named_parameters() if p.grad is not None}


for name, kw in MODELS.items():
    out = os.path.join(OUT, name)
    shutil.rmtree(out, ignore_errors=True)
    m = build(kw)
    m.config.save_pretrained(out)
    save_file(stored(m), os.path.join(out, "model.safetensors"), META | {"format": "pt"})
    loss, logits = likelihood(m)
    loss.backward()
    t = {"loss": loss.detach().reshape(1), "logits": logits.detach(), **grads(m)}
    for i, ids in enumerate(DOCS):
        t[f"greedy.{i}"] = m.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)[0, len(ids):].int()

    a = get_peft_model(build(kw), LoraConfig(r=3, lora_alpha=5, use_dora=True, task_type="CAUSAL_LM",
                                             target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]))
    torch.manual_seed(SEED + 1)
    with torch.no_grad():
        for n, p in a.named_parameters():
            if "lora_magnitude" in n:
                p.mul_(1 + 0.2 * torch.randn_like(p))
            elif "lora_" in n:
                p.copy_(torch.randn_like(p) * 0.4)
    a.eval()
    a.peft_config["default"].base_model_name_or_path = name
    a.save_pretrained(os.path.join(out, "dora"))
    os.remove(os.path.join(out, "dora", "README.md"))
    loss, logits = likelihood(a)
    loss.backward()
    t |= {"dora.loss": loss.detach().reshape(1), "dora.logits": logits.detach()} | {"dora." + k: v for k, v in grads(a).items()}
    w = stored(a.merge_and_unload())
    t |= {"merged." + n: w[n] for n in w if "layers.2" in n and ("q_proj" in n or "down_proj" in n)}
    save_file({k: v.contiguous().clone() for k, v in t.items()}, os.path.join(OUT, name + ".safetensors"), META)
