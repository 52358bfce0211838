"""Compares this module's token ids with those of Hugging Face tokenizers.

    python bench/fidelity/tokenizer.py --gguf MODEL.gguf --out DIR TEXT_DIR...

It gathers at least --mb of text (source code and prose found below the given
directories, and generated text: random code points, whitespace runs, emoji
sequences, digits of many scripts), makes five tokenizers in DIR (SmolLM2 from
the GGUF file's vocabulary; BPEs trained on the same text with the patterns of
Llama 3 and 4, Qwen 2 and Tekken), encodes the text with all and writes the ids.
Then, from the repository root,

    go run ./bench/tokenize DIR

encodes the same text and prints how many documents differ, and the speed.
Needs tokenizers and gguf.
"""

import argparse, json, os, random, struct, sys, time
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = O200K.replace(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")
SUFFIXES = {".py", ".go", ".c", ".h", ".md", ".txt", ".rst", ".json", ".js", ".html", ".xml", ".po", ".csv", ".tex"}


def found_text(dirs, limit):
    """Yields documents of at most 8192 characters from the text files below dirs."""
    total = 0
    for d in dirs:
        for path in sorted(Path(d).rglob("*")):
            if path.suffix not in SUFFIXES or not path.is_file() or path.stat().st_size > 1 << 19:
                continue
            try:
                text = path.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                continue
            for i in range(0, len(text), 8192):
                doc = text[i : i + 8192]
                total += len(doc.encode())
                yield doc
            if total > limit:
                return


def made_text(count, seed):
    """Yields generated documents that real text has too little of."""
    rng = random.Random(seed)
    spaces = [" ", "  ", "\t", "\n", "\r\n", "\r", "\n\n\n", "\u00a0", "\u3000", "\u2003", "\u2028", "\u0085", "\u000b", "\u200b"]
    parts = ["'s", "'S", "'LL", "'\u017f", "don't", "IT'S", "we've", "l'été", "naïve", "Straße", "ÅNGSTRÖM", "ﬁn", "x'd", "''", "'",
             "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "e\u0301\u0323", "\u0301", "\u0301ABC", "क्षि", "สวัสดี", "漢字かな", "한국어", "مرحبا بالعالم",
             "שָׁלוֹם", "१२३४", "٣٤٥٦", "Ⅻ", "½", "²³", "一二三", "１２３", "𝟙𝟚", "1234567", "0x7fff", "3.14e-10", "a/b//c", "\r\n/", "!?\n/",
             "<|im_start|>", "<|im_end|", "<|endoftext|>", "<|im_start|>user", "<repo_name>", "ǅ", "ʰʷ", "ªº", "İı", "\ufeff", "\ufffd"]

    def character():
        k = rng.random()
        c = rng.randrange(0x20, 0x7F) if k < 0.3 else rng.randrange(0x3000) if k < 0.7 else rng.randrange(0x20000) if k < 0.95 else rng.randrange(0x110000)
        return chr(c) if not 0xD800 <= c < 0xE000 else "\ufffd"

    for _ in range(count):
        doc = []
        for _ in range(rng.randrange(1, 400)):
            k = rng.random()
            if k < 0.3:
                doc.append(rng.choice(parts))
            elif k < 0.6:
                doc.append(rng.choice(spaces) * rng.choice([1, 1, 1, 2, 3, 17]))
            elif k < 0.9:
                doc.append("".join(character() for _ in range(rng.randrange(1, 6))))
            else:
                doc.append(rng.choice("aA1 \n.") * rng.randrange(1, 100))
        yield "".join(doc)


def smollm2(path):
    import gguf

    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k == 3])
    return tok


def trained(docs, pattern, name):
    tok = Tokenizer(models.BPE(ignore_merges=name.startswith("llama")))
    if name == "qwen2":
        tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=20000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
                                  special_tokens=["<|begin_of_text|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"])
    tok.train_from_iterator(docs, trainer)
    return tok


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--gguf", required=True)
    args.add_argument("--out", required=True)
    args.add_argument("--mb", type=float, default=12)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("dirs", nargs="+")
    args = args.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    docs = list(made_text(2000, args.seed))
    made = sum(len(d.encode()) for d in docs)
    docs += found_text(args.dirs, max(0, args.mb * 1e6 - made))
    size = sum(len(d.encode()) for d in docs)
    if size < args.mb * 0.99e6:
        sys.exit(f"only {size/1e6:.1f} MB of text found; name more directories")
    with open(out / "docs.bin", "wb") as f:
        for d in docs:
            b = d.encode()
            f.write(struct.pack("<I", len(b)) + b)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    train = docs[:: max(1, len(docs) // 1500)]
    patterns = {"llama3": LLAMA3, "llama4": O200K, "qwen2": QWEN2, "tekken": TEKKEN}
    for name, tok in [("smollm2", smollm2(args.gguf)), *((name, trained(train, pattern, name)) for name, pattern in patterns.items())]:
        tok.save(str(out / f"{name}.json"))
        start = time.time()
        ids = [tok.encode(d, add_special_tokens=False).ids for d in docs]
        seconds = time.time() - start
        with open(out / f"{name}.ids", "wb") as f:
            for i in ids:
                f.write(struct.pack(f"<I{len(i)}I", len(i), *i))
        print(f"{name}: {len(docs)} documents, {size/1e6:.1f} MB, {sum(map(len, ids))} tokens, {size/1e6/seconds:.1f} MB/s in Python, one thread")


main()
