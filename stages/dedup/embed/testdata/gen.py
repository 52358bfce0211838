"""Writes static.json: tokens and vectors of a Model2Vec model.

    python gen.py DIRECTORY_OF_THE_MODEL

The tokens are Hugging Face tokenizers', unknown ones left out; a vector is the
mean of the tokens' rows scaled to length 1, computed in float64 (Model2Vec's
encode, without its limit on the number of tokens).
"""
import hashlib
import json
import os
import sys

import numpy
import tokenizers
from safetensors.numpy import load_file

TEXTS = [
    "How do I reset my password?",
    "The licensee may not sub-license, assign or transfer; see \u00a7 4.2(b).",
    "na\u00efve caf\u00e9 \u00c5NGSTR\u00d6M \ufb01ne",
    "\u4e2d\u6587 mixed \u65e5\u672c\u8a9e text",
    "emoji \U0001f600 and\ttabs\r\nlines \u200bzero\u00adwidth",
    "antidisestablishmentarianism " + "x" * 120,
    "$5 + 3 = 8 ~ <tag> `code` ^|",
    "",
    "\u0130stanbul \u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2 \u1e9e",
]

here = os.path.dirname(os.path.abspath(__file__))
model = sys.argv[1]
table = load_file(os.path.join(model, "model.safetensors"))["embeddings"].astype(numpy.float64)
tok = tokenizers.Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
unk = tok.token_to_id("[UNK]")
ids, vectors = [], []
for t in TEXTS:
    i = [x for x in tok.encode(t, add_special_tokens=False).ids if x != unk]
    v = table[i].mean(axis=0) if i else numpy.zeros(table.shape[1])
    n = numpy.linalg.norm(v)
    ids.append(i)
    vectors.append([round(float(x), 7) for x in (v / n if n else v)])
with open(os.path.join(here, "static.json"), "w") as f:
    json.dump({
        "generator": hashlib.sha256(open(__file__, "rb").read()).hexdigest(),
        "tokenizers": tokenizers.__version__, "numpy": numpy.__version__, "seed": None,
        "texts": TEXTS, "ids": ids, "vectors": vectors,
    }, f)
    f.write("\n")
