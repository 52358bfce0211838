"""Takes tiny models of every family through a recipe and compares what is exported.

    CGO_ENABLED=0 go build -o /tmp/pipe ./cmd/pipe && go build -o /tmp/greedy ./bench/fidelity/greedy
    python bench/fidelity/families.py --pipe /tmp/pipe --greedy /tmp/greedy [--out DIR] [FAMILY...]

For each family a model with random weights and a tokenizer trained on the
quickstart's documents are made by transformers; `pipe run` packs conversations,
tunes a DoRA adapter and exports; export.py compares transformers, PEFT and,
when it is installed, llama.cpp. Of a Llama 4 that takes images, the features
of an image before and after are compared too. Run it from the repository root.

Needs torch, transformers, tokenizers and peft. Exit status 1: a difference.
"""

import argparse
import glob
import os
import subprocess
import sys
import tempfile

import torch
import transformers as T
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' }}{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content }}<|im_end|>{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ROWS = """{"messages":[{"role":"user","content":"What is 2+2?"},{"role":"assistant","content":"Four."}]}
{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello."},{"role":"user","content":"And now?"},{"role":"assistant","content":"It is night."}]}
"""
RECIPE = """model "m" { source = "./model" }
data "chat" {
  source = "./chat.jsonl"
}
pack "train" {
  input   = data.chat
  model   = model.m
  seq_len = 256
  turns   = "each"
}
sft "tuned" {
  base      = model.m
  data      = pack.train.dataset
  lr        = 1e-2
  max_steps = 10
  adapter "dora" { rank = 4 }
}
export "out" {
  model   = sft.tuned.model
  formats = ["peft", "safetensors", "gguf:f32", "gguf:q8_0"]
  path    = "./out"
}
"""

here = os.path.dirname(os.path.abspath(__file__))
arg = argparse.ArgumentParser()
arg.add_argument("--pipe", required=True)
arg.add_argument("--greedy", required=True)
arg.add_argument("--out")
arg.add_argument("family", nargs="*")
a = arg.parse_args()
torch.set_num_threads(1)


def tokenizer():
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    texts = [open(p).read() for p in sorted(glob.glob("pipelines/quickstart/docs/*.txt"))]
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=1000, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    fast = T.PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHAT
    return fast


def llama4(common):
    text = T.Llama4TextConfig(**common, head_dim=16, intermediate_size_mlp=96, num_local_experts=4, num_experts_per_tok=1, interleave_moe_layer_step=2)
    vision = T.Llama4VisionConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=8, patch_size=2,
                                  vision_output_dim=48, projector_input_dim=48, projector_output_dim=48, pixel_shuffle_ratio=0.5)
    return T.Llama4Config(text_config=text.to_dict(), vision_config=vision.to_dict())


FAMILIES = {
    "llama": lambda c: T.LlamaConfig(**c, rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0)),
    "mistral": lambda c: T.MistralConfig(**c, sliding_window=None),
    "qwen2": lambda c: T.Qwen2Config(**c, tie_word_embeddings=True),
    "qwen3": lambda c: T.Qwen3Config(**c, head_dim=32, tie_word_embeddings=True),
    "smollm3": lambda c: T.SmolLM3Config(**c),
    "llama4": llama4,
}


def make(family, path):
    tok = tokenizer()
    eos, pad = tok.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    c = FAMILIES[family](dict(vocab_size=1024, hidden_size=64, intermediate_size=160, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2,
                              max_position_embeddings=1024, eos_token_id=eos, bos_token_id=pad, pad_token_id=pad))
    torch.manual_seed(3)
    m = T.Llama4ForConditionalGeneration(c) if family == "llama4" else T.AutoModelForCausalLM.from_config(c)
    with torch.no_grad():
        for n, p in m.float().named_parameters():
            p.copy_(torch.randn_like(p) * 0.1 + (1 if "norm" in n and n.endswith("weight") else 0))
    m.generation_config.eos_token_id = [eos, pad]
    m.save_pretrained(path)
    tok.save_pretrained(path)


def images(base, merged):
    """Features of an image are those of the base; logits of text changed."""
    x, y = (T.Llama4ForConditionalGeneration.from_pretrained(p).eval() for p in (base, merged))
    torch.manual_seed(0)
    px, ids = torch.randn(2, 3, 8, 8), torch.tensor([[5, 6, 9, 10, 11, 3]])

    def features(m):
        f = m.vision_model(px).last_hidden_state
        return m.multi_modal_projector(f.reshape(-1, f.size(-1)))

    with torch.no_grad():
        same, moved = torch.equal(features(x), features(y)), (x.language_model(ids).logits - y.language_model(ids).logits).abs().max().item()
    print("ok      " if same and moved > 0.1 else "DIFFERS ", f"features of an image equal: {same}; tuning changes logits by {moved:.2f}")
    return same and moved > 0.1


root = a.out or tempfile.mkdtemp()
bad = False
for family in a.family or FAMILIES:
    at = os.path.join(root, family)
    os.makedirs(at, exist_ok=True)
    make(family, os.path.join(at, "model"))
    for name, text in {"chat.jsonl": ROWS, "r.hcl": RECIPE}.items():
        with open(os.path.join(at, name), "w") as f:
            f.write(text)
    print(f"== {family}", flush=True)
    subprocess.run([a.pipe, "run", os.path.join(at, "r.hcl")], check=True, stdout=subprocess.DEVNULL)
    out, base = os.path.join(at, "out"), os.path.join(at, "model")
    if family == "llama4":
        bad |= not images(base, os.path.join(out, "safetensors"))
    bad |= subprocess.run([sys.executable, os.path.join(here, "export.py"), out, "You may copy this", "--base", base, "--pipe", a.greedy]).returncode != 0
sys.exit(bad)
