"""Makes the fixtures of tiny models of the families beside Llama, and of a Llama
with linear scaling.

    python gen.py

Every fixture records the versions of the libraries, the seed and the sha256 of
this file; the tests refuse one that another gen.py made. Dimensions are odd and
unequal on purpose: heads times their width is not the hidden size, and SmolLM3
rotates in layers that its default would not. Configurations are written as
transformers writes them.
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
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, SmolLM3Config

OUT = os.path.dirname(os.path.abspath(__file__))
SEED = 20261128
META = {"generator_sha256": hashlib.sha256(open(__file__, "rb").read()).hexdigest(), "torch": torch.__version__,
        "transformers": transformers.__version__, "peft": peft.__version__, "seed": str(SEED)}
torch.use_deterministic_algorithms(True)
torch.set_num_threads(1)

# Documents, and scored positions of each: those of the fixtures of Llama.
DOCS = [[1, 17, 5, 42, 9, 9, 30], [1, 3, 50, 28, 11], [1, 8, 8, 21, 2, 45, 7, 33, 19]]
SPANS = [(2, 6), (1, 5), (8, 9)]

COMMON = dict(vocab_size=53, hidden_size=24, intermediate_size=28, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None)
CONFIGS = {
    # Documents end within the window, so that transformers runs what it does with one.
    "mistral": MistralConfig(**COMMON, num_hidden_layers=2, head_dim=10, rms_norm_eps=1e-5, sliding_window=9),
    "qwen2": Qwen2Config(**COMMON, num_hidden_layers=2, tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=500.0)),
    "qwen3": Qwen3Config(**COMMON, num_hidden_layers=2, head_dim=10, tie_word_embeddings=False,
                         rope_parameters=dict(rope_type="default", rope_theta=500.0)),
    "qwen3_bias": Qwen3Config(**COMMON, num_hidden_layers=3, head_dim=8, tie_word_embeddings=True, attention_bias=True, use_sliding_window=True,
                              sliding_window=10, max_window_layers=1),
    "linear": LlamaConfig(**COMMON, num_hidden_layers=2, rope_parameters=dict(rope_type="linear", rope_theta=500.0, factor=2.5)),
    "smollm3": SmolLM3Config(**COMMON, num_hidden_layers=3, no_rope_layers=[1, 0, 1], mlp_bias=True),
}


def build(c):
    torch.manual_seed(SEED)
    m = AutoModelForCausalLM.from_config(c, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for n, p in m.named_parameters():
            if "norm" in n:
                p.copy_(1 + 0.3 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * (0.3 if p.ndim == 1 else 1.3 / math.sqrt(p.shape[1])))
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


def weights(m):
    return {n: p.detach().clone().contiguous() for n, p in m.named_parameters()}


def grads(m):
    return {"grad." + n.replace("base_model.model.", "", 1).replace(".default", ""): p.grad.detach().clone().contiguous()
            for n, p in m.named_parameters() if p.grad is not None}


for name, c in CONFIGS.items():
    at = os.path.join(OUT, name)
    shutil.rmtree(at, ignore_errors=True)
    m = build(c)
    m.config.save_pretrained(at)
    loss, logits = likelihood(m)
    loss.backward()
    # Beyond a window the models part: the generated text ends within it.
    greedy = m.generate(torch.tensor([DOCS[1]]), max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0)
    out = {"logits": logits.detach(), "loss": loss.detach().reshape(1), "greedy": greedy[0, len(DOCS[1]):].int(), **grads(m)}
    save_file(weights(m), os.path.join(at, "model.safetensors"), META | {"format": "pt"})

    # DoRA over the same weights, with an effect.
    a = get_peft_model(build(c), LoraConfig(r=3, lora_alpha=5, use_dora=True, target_modules="all-linear"))
    torch.manual_seed(SEED + 1)
    with torch.no_grad():
        for n, p in a.named_parameters():
            if "lora_magnitude" in n:
                p.mul_(1 + 0.2 * torch.randn_like(p))
            elif "lora_" in n:
                p.copy_(torch.randn_like(p) * 0.4)
    a.eval()
    a.peft_config["default"].base_model_name_or_path = name
    a.save_pretrained(os.path.join(at, "dora"))
    os.remove(os.path.join(at, "dora", "README.md"))
    loss, logits = likelihood(a)
    loss.backward()
    out |= {"dora.logits": logits.detach(), "dora.loss": loss.detach().reshape(1), **{"dora." + k: v for k, v in grads(a).items()}}
    save_file({k: v.contiguous().clone() for k, v in out.items()}, os.path.join(OUT, name + ".safetensors"), META)
