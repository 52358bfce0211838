"""The peer of bench/sft: the same optimizer steps with PyTorch and PEFT.

Usage: python peer.py MODEL_DIR ROWS.jsonl ADAPTER LAYOUT DTYPE COMPILE THREADS LR

It reads packed rows (ids, starts, loss), attaches an adapter of rank 16 to all
linear layers, and then, for each line N on standard input, takes N optimizer
steps of one row each and prints a line of JSON: seconds, useful tokens, losses.

LAYOUT packed: the row as one sequence, its documents kept apart by position
ids, and logits at labelled positions only. LAYOUT padded: the row's documents
as a batch, padded to the longest.

COMPILE true: each decoder layer is compiled, for one shape: rows are filled to
the longest, documents are kept apart by a mask that is passed in, and what lies
outside the layers is eager. (A model that is compiled as a whole, with dynamic
shapes, took more than eight minutes for its first step.)
"""

import json
import resource
import sys
import time

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

path, rows_file, adapter, layout, dtype, compiled, threads, lr = sys.argv[1:]
torch.set_num_threads(int(threads))
torch.manual_seed(0)
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")
model.config.use_cache = False
model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", use_dora=adapter == "dora"))
params = [p for p in model.parameters() if p.requires_grad]
opt = torch.optim.AdamW(params, lr=float(lr), weight_decay=0.0)
compiled = compiled == "true"
if compiled and layout != "packed":
    sys.exit("COMPILE needs LAYOUT packed: padded batches have ever new shapes")
if compiled:
    for layer in model.base_model.model.model.layers:
        layer.compile(dynamic=False)
model.train()


def documents(row):
    ends = row["starts"][1:] + [len(row["ids"])]
    learned = set()
    for a, b in zip(row["loss"][::2], row["loss"][1::2]):
        learned.update(range(a, b))
    for s, e in zip(row["starts"], ends):
        yield row["ids"][s:e], [row["ids"][i] if i in learned and i > s else -100 for i in range(s, e)]


def fill(ids, pos, docs):
    """Fills a row up to the longest, with a document of its own, and returns
    the mask [1, 1, tokens, tokens] of who sees whom."""
    more = longest - ids.shape[1]
    doc = torch.cat([torch.full((len(d),), i) for i, (d, _) in enumerate(docs)] + [torch.full((more,), len(docs))])
    mask = (doc[:, None] == doc[None]).tril()[None, None]
    return F.pad(ids, (0, more)), F.pad(pos, (0, more)), mask


def loss_of(row):
    docs = list(documents(row))
    if layout == "packed":
        ids = torch.tensor([sum((d for d, _ in docs), [])])
        labels = torch.tensor(sum((l for _, l in docs), []))
        pos = torch.cat([torch.arange(len(d)) for d, _ in docs])[None]
        keep = (labels[1:] != -100).nonzero()[:, 0]
        mask = None
        if compiled:
            ids, pos, mask = fill(ids, pos, docs)
        logits = model(input_ids=ids, position_ids=pos, attention_mask=mask, logits_to_keep=keep).logits[0]
        return F.cross_entropy(logits.float(), labels[keep + 1])
    n = max(len(d) for d, _ in docs)
    ids = torch.zeros(len(docs), n, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, (d, l) in enumerate(docs):
        ids[i, : len(d)], mask[i, : len(d)], labels[i, : len(l)] = torch.tensor(d), 1, torch.tensor(l)
    logits = model(input_ids=ids, attention_mask=mask).logits
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


rows = [json.loads(line) for line in open(rows_file)]
longest = max(len(row["ids"]) for row in rows)
step = 0
print(json.dumps({"ready": f"torch {torch.__version__}, {sum(p.numel() for p in params)} trained"}), flush=True)
for line in sys.stdin:
    tokens, losses, start = 0, [], time.perf_counter()
    for _ in range(int(line)):
        row = rows[step % len(rows)]
        step += 1
        loss = loss_of(row)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        losses.append(loss.item())
        tokens += len(row["ids"])
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - start, "tokens": tokens, "losses": losses, "rss_mib": rss}), flush=True)
