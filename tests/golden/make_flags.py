"""Makes flags/: a tokenizer.json that uses what Qwen's does not (added tokens with every flag,
ignore_merges, merges as "a b", GPT-2's own expression) and, as strings.bin and flags.npy, texts with
the ids that Hugging Face's tokenizers gives them. The format is make_strings.py's."""

import json
import random
import struct

import numpy as np
from tokenizers import Tokenizer

from common import HERE

FLAGS = ["single_word", "lstrip", "rstrip", "normalized", "special"]
ADDED = [
    ("<l>", "lstrip"), ("<r>", "rstrip"), ("<lr>", "lstrip rstrip"), ("word", "single_word"), ("é!", "normalized"),
    ("abc", ""), ("abcde", ""), ("<|s|>", "special lstrip"), ("<|s|>>", "special"), ("wörd", "single_word normalized lstrip"),
]
PARTS = [
    "<l>", "<r>", "<lr>", "word", "words", "word_", "wo", "é!", "e\u0301!", "abc", "abcd", "abcde", "<|s|>", "<|s|>>", "w\u00f6rd", "wo\u0308rd",
    " ", "  ", "\n", "\u00a0", "\u2003", "x", "é", "\u0301", "1", "_", "zq", " zq", "zqx", ".", "<", "it's", "!",
]


def main():
    out = HERE / "flags"
    out.mkdir(exist_ok=True)
    d = json.loads((HERE / "tokenizer" / "tokenizer_512.json").read_text())
    d["model"]["merges"] = [" ".join(m) for m in d["model"]["merges"]]
    d["model"]["ignore_merges"] = True
    d["pre_tokenizer"] = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    first = min(t["id"] for t in d["added_tokens"])
    for i, spelling in enumerate(["zq", "Ġzq"]):  # no merge leads to these
        d["model"]["vocab"][spelling] = first + i
    d["added_tokens"] = [
        dict(id=first + 2 + i, content=content, **{f: f in flags.split() for f in FLAGS})
        for i, (content, flags) in enumerate(ADDED)]
    (out / "tokenizer.json").write_text(json.dumps(d, ensure_ascii=False, separators=(",", ":")) + "\n")
    tok, rng, strings, ids = Tokenizer.from_file(str(out / "tokenizer.json")), random.Random(9), [], []
    for _ in range(1500):
        strings.append("".join(rng.choice(PARTS) for _ in range(rng.randint(1, 9))))
    for s in strings:
        ids += tok.encode(s, add_special_tokens=False).ids + [-1]
    data = [s.encode() for s in strings]
    (out / "strings.bin").write_bytes(b"".join(struct.pack("<I", len(s)) + s for s in data))
    np.save(out / "flags.npy", np.array(ids, dtype=np.int32))
    print(len(strings), "strings,", len(ids), "ids")


main()
