"""Encodes text with Hugging Face tokenizers, for the tests of package tokenizer.

    python gen.py        writes fixture.json beside this file

Small tokenizers of every kind that the package reads are trained on made-up
text; each is stored as its tokenizer.json with the ids of the cases. Recorded:
the version of tokenizers and the sha256 of this file.
"""

import hashlib, json, random
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = O200K.replace(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = "the licence grants you permission to use copy modify and share this work don't it's we'll naïve Straße für 漢字 かな привет мир".split()

CASES = [
    "", " ", "  ", "\n", "\r\n", "\r\n\r\n  x", "a", "Hello, world!", "  leading and trailing  ", "tabs\t\tand\nnew\n\nlines\r\n",
    "don't DON'T we'LL it'\u017f 's 'S x'd''", "The licence grants you permission; 12345 67 8.9e-10 0x7FFF",
    "漢字かな交じり文 한국어 ไทย ภาษา", "مرحبا بالعالم ١٢٣٤ שָׁלוֹם", "Привет, мир! ÀÉÎõü ßẞ ǅ ʰʷ ªº İı",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 ☃️", "e\u0301 \u0301 \u0301ABC a\u0323\u0301b x\u0301'S", "½ ²³ Ⅻ ४५६७ １２３ 𝟙𝟚 一二三",
    "a\u00a0b\u3000c\u2003\u2003d\u2028e\u0085f\u200bg\ufeffh", " \n \n  \t x", "a" * 100, " " * 67 + "x", "ab" * 60 + "\n" * 9, "=" * 40 + "/\r\n//\n",
    "<|im_start|>user\nHi<|im_end|>\n", "<|im_start|", "<|im_start|><|im_start|>x<|im_end|>", "< |im_end|> <|IM_END|> <|endoftext|>",
    "<tool>a</tool> <tool> word <mask> xword<mask>y  <mask>  end", "wordy word words word", "\u2581already \u2581marked", "\x00\x01\x7f\u0080", "if x:\n    return  y  # 1,000\n",
]


def text(seed):
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) for _ in range(30)) + rng.choice([".", "\n", " 42!", "\r\n"]) for _ in range(300)]


def level(regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)


def train(tok, **kw):
    tok.train_from_iterator(text(1), trainers.BpeTrainer(vocab_size=420, show_progress=False, special_tokens=SPECIALS, **kw))
    return tok


def byte_level(pre, ignore_merges=False, prefix=False, bytes_=True):
    tok = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tok.pre_tokenizer = pre
    tok.decoder = decoders.ByteLevel()
    return train(tok, initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if bytes_ else [])


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior="isolated"), level(False)])


def smollm2():
    # some bytes are missing from the vocabulary, as in the real one
    return byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level(True)]), bytes_=False)


def llama3():
    tok = byte_level(split(LLAMA3), ignore_merges=True)
    tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|endoftext|> $A <|im_end|>", special_tokens=[("<|endoftext|>", 0), ("<|im_end|>", 2)])])
    tok.add_tokens([AddedToken("<mask>", lstrip=True, rstrip=True), AddedToken("<tool>", special=True), AddedToken("word", single_word=True, normalized=False)])
    return tok


def nfc():
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = split(QWEN2)
    tok.decoder = decoders.ByteLevel()
    train(tok, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.add_tokens([AddedToken("naïve", normalized=True)])
    return tok


def llama2():
    tok = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tok.train_from_iterator((w for t in text(1) for w in t.split()), trainers.BpeTrainer(
        vocab_size=560, show_progress=False, special_tokens=["<unk>", *SPECIALS, *[f"<0x{b:02X}>" for b in range(256)]]))
    data = json.loads(tok.to_str())  # byte tokens are no special tokens
    data["added_tokens"] = data["added_tokens"][:4]
    return Tokenizer.from_str(json.dumps(data))


def metaspace():
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tok.decoder = decoders.Metaspace(prepend_scheme="first")
    tok.train_from_iterator(text(1), trainers.BpeTrainer(vocab_size=300, show_progress=False, special_tokens=["<unk>", *SPECIALS]))
    return tok


def main():
    made = {"gpt2": byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)), "smollm2": smollm2(), "llama3": llama3(),
            "llama4": byte_level(split(O200K), ignore_merges=True), "tekken": byte_level(split(TEKKEN)), "nfc": nfc(), "llama2": llama2(), "metaspace": metaspace()}
    out = {"gen": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(), "tokenizers": tokenizers.__version__, "cases": CASES, "tokenizers_json": {}, "results": {}}
    for name, tok in made.items():
        data = json.loads(tok.to_str())
        if name == "gpt2":  # the old form of merges
            data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
        tok = Tokenizer.from_str(json.dumps(data))
        out["tokenizers_json"][name] = data
        out["results"][name] = []
        for c in CASES:
            plain = tok.encode(c, add_special_tokens=False)
            tok.encode_special_tokens = True
            unparsed = tok.encode(c, add_special_tokens=False).ids
            tok.encode_special_tokens = False
            out["results"][name].append({
                "ids": plain.ids, "wrapped": tok.encode(c).ids[: 1 if name == "llama3" else 0], "plain": unparsed if unparsed != plain.ids else None,
                "text": tok.decode(plain.ids, skip_special_tokens=False), "skipped": tok.decode(plain.ids, skip_special_tokens=True)})
    # The same text again for the trainer of package tokenizer.
    out["train"] = {"texts": text(1), "tokenizer": json.loads(byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level(True)])).to_str())["model"]["merges"]}
    path = HERE / "fixture.json"
    path.write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")))
    print(path.stat().st_size, "bytes")


main()
