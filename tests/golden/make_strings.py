"""Makes strings/: a few thousand byte strings and their token ids as Hugging Face's tokenizers gives
them.

usage: make_strings.py                          tokenizer/tokenizer.json -> strings.bin, tiny.npy
       make_strings.py --qwen2 VOCAB MERGES     the same strings in Qwen2's vocabulary -> qwen2.npy
       make_strings.py --json NAME TOKENIZER    the same strings by a tokenizer.json -> NAME.npy

strings.bin: for each string a little-endian u32 length and its bytes (not always valid UTF-8: the ids
are those of the text with U+FFFD where Python's decoder puts it). NAME.npy: i32, the ids of one string
after the other, each list closed by -1. NAME_plain.npy: the same for the strings that hold "<|", with
the text of special tokens taken as plain text.
"""

import argparse
import json
import random
import struct

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from common import ADDED_TOKENS, HERE

OUT = HERE / "strings"

# Ranges whose characters kept their properties since Unicode 9: the libraries' tables differ in age.
RANGES = [
    (0x20, 0x7E), (0xA0, 0x17F), (0x250, 0x2AF), (0x300, 0x34E), (0x391, 0x3A1), (0x3A3, 0x3FF),
    (0x400, 0x4FF), (0x531, 0x556), (0x5D0, 0x5EA), (0x591, 0x5C7), (0x621, 0x652), (0x660, 0x669),
    (0x904, 0x939), (0x93C, 0x94D), (0x985, 0x98C), (0xA05, 0xA0A), (0xB85, 0xB8A), (0xBBE, 0xBC2),
    (0xC05, 0xC0C), (0xC85, 0xC8C), (0xD05, 0xD0C), (0xE01, 0xE3A), (0xE40, 0xE5B), (0xE81, 0xE82),
    (0xF40, 0xF47), (0x10A0, 0x10C5), (0x10D0, 0x10FA), (0x1100, 0x11FF), (0x1200, 0x1248),
    (0x13A0, 0x13F4), (0x1401, 0x1500), (0x1780, 0x17B3), (0x1820, 0x1877), (0x1E00, 0x1EFF),
    (0x1F00, 0x1F15), (0x2000, 0x206F), (0x2070, 0x2071), (0x2074, 0x208E), (0x20A0, 0x20BD),
    (0x2100, 0x214F), (0x2150, 0x218B), (0x2190, 0x23FA), (0x2460, 0x24FF), (0x2500, 0x27BF),
    (0x2E80, 0x2E99), (0x3000, 0x303F), (0x3041, 0x3096), (0x309B, 0x30FF), (0x3105, 0x312D),
    (0x4E00, 0x4FFF), (0x9000, 0x9FA5), (0xA000, 0xA48C), (0xAC00, 0xB000), (0xD700, 0xD7A3),
    (0xE000, 0xE010), (0xF900, 0xFA6D), (0xFB00, 0xFB06), (0xFB1D, 0xFB36), (0xFE00, 0xFE0F),
    (0xFE30, 0xFE52), (0xFF01, 0xFFBE), (0x10000, 0x1000B), (0x10330, 0x1034A), (0x1D400, 0x1D454),
    (0x1D7CE, 0x1D7FF), (0x1F1E6, 0x1F1FF), (0x1F300, 0x1F5FF), (0x1F600, 0x1F64F),
    (0x1F680, 0x1F6C5), (0x20000, 0x20050), (0x2F800, 0x2FA1D), (0xE0100, 0xE01EF),
]
SPACES = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u180e\u2000\u2003\u200a\u200b\u2028\u2029\u202f\u205f\u3000\ufeff"
WORDS = (
    "the of and to in is was he she it's I'LL don't WE'RE they'd You've \u017f'\u017f 's 'S 'T 'Re x'll y'D "
    "int main(void) return 0; // == != <= >= -> ... --- ### ## # * _ ` ``` [x](y) <b> </b> & % $ @ "
    "3.14 1,000 0xFF 10 2026-11-21 1e-5 \u0661\u0662\u0663 \u00bd \u2167 straße Größe été naïve œuvre "
    "привет мир Ελλάδα 你好 世界 こんにちは 한국어 שלום سلام नमस्ते สวัสดี "
    "😀 👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ 🏴‍☠️ e\u0301 A\u030a \u1e9b\u0323 \u0344 \u2126 \uac00 \u1100\u1161\u11a8"
).split(" ")
FIXED = [
    "", " ", "  ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", " \n", "\n ", " \n \n ", "a\r\nb\r\n\r\nc  \r\n",
    "## Heading", "# Heading\n\n## Heading\n### Heading ###", "Hello, world!", "  leading", "trailing  ", "a  b   c    d",
    "\x00", "a\x00b", "\x00\x00 \x00", "\x7f\x80\x9f", "\ufffd", "\ufffe\uffff", "\U0010ffff", "\u0378\u0379",
    "<|im_start|>user\nHi<|im_end|>\n", "<|im_start|>", "x<|im_end|>y", " <|im_end|> ", "<|im_end|", "<|im_start|im_end|>",
    "<|<|im_end|>|>", "<|im_end|><|im_end|><|endoftext|>", "<think>\nhm\n</think>\n\nyes", "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>",
    "<|video_pad|>\u0301e\u0301<|video_pad|>", "a<tool_call>b</tool_call>", "<|IM_END|>", "＜|im_end|＞", "<3.0 seconds>", "user\n<0.3 seconds>",
    "<0.3 seconds><1.3 seconds>", "'s 'S 't 'T 're 'RE 'rE 've 'm 'll 'LL 'd 'D", "'\u017f '\u212a can'\u017f", "I'm you'Re WE'LL'S",
]


def make_strings():
    rng = random.Random(20261121)
    out = [s.encode() for s in FIXED]
    out += [bytes([b]) for b in range(256)]
    out += [chr(c).encode() for c in SPACES and range(0x20)]
    out += [f"a{c}b".encode() for c in SPACES] + [f"{c}{c}\n{c}1{c}!".encode() for c in SPACES]
    runs = ["a", " ", "\n", "=", "ab", "ha ", "1", "é", "e\u0301", "字", "😀", "\u0301", "\u0323\u0301", "\r\n", "\t", "the", "'s", "<|im_end|>", "<|"]
    out += [(r * n).encode() for r in runs for n in (2, 3, 7, 33, 257)] + [("a" * 5000).encode(), (" " * 3000 + "x").encode()]
    for _ in range(900):  # words of all kinds, with all kinds of space
        text = ""
        for _ in range(rng.randint(1, 12)):
            text += rng.choice(WORDS) + (rng.choice(SPACES) if rng.random() < 0.25 else rng.choice(["", " ", " ", " "]))
        out.append(text.encode())
    for _ in range(900):  # one script at a time
        low, high = rng.choice(RANGES)
        text = "".join(chr(rng.randint(low, high)) if rng.random() < 0.85 else rng.choice(" '\n1") for _ in range(rng.randint(1, 16)))
        out.append(text.encode())
    for _ in range(500):  # any characters together
        out.append("".join(chr(rng.randint(*rng.choice(RANGES))) for _ in range(rng.randint(1, 10))).encode())
    for _ in range(250):  # marks in any order: canonical ordering and composition
        marks = [chr(c) for c in (0x300, 0x301, 0x302, 0x308, 0x30A, 0x323, 0x327, 0x328, 0x338, 0x345, 0x5B0, 0x3099, 0x94D)]
        out.append("".join(rng.choice("aeouAEONc<=>かαΑ") + "".join(rng.choice(marks) for _ in range(rng.randint(0, 5))) for _ in range(4)).encode())
    for _ in range(200):  # special tokens inside text
        names = [c for c, _ in ADDED_TOKENS[:3]] + ["<think>", "<|im_", "|>", "<"]
        out.append("".join(rng.choice(WORDS + names * 8) + rng.choice(["", "", " ", "\n"]) for _ in range(8)).encode())
    for _ in range(200):  # bytes that are not UTF-8
        good = "".join(chr(rng.randint(*rng.choice(RANGES))) for _ in range(6)).encode()
        bad = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(bad))
            if rng.random() < 0.5:
                bad[at] = rng.randrange(256)
            else:
                del bad[at:at + 1]
            if not bad:
                bad = bytearray(b"\xed\xa0\x80")
        out.append(bytes(bad))
    out += [b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xed\xbf\xbf", b"a\xf0\x9f\x98", b"\xe2\x82", b"\xf0\x9f", b"\xff\xfe", b"\xc3"]
    return out


def read_strings():
    data, at, out = (OUT / "strings.bin").read_bytes(), 0, []
    while at < len(data):
        (n,) = struct.unpack_from("<I", data, at)
        out.append(data[at + 4:at + 4 + n])
        at += 4 + n
    return out


def qwen2(vocab, merges):
    with open(merges, encoding="utf-8") as f:
        pairs = [tuple(line.rstrip("\n").split(" ")) for line in f if line.strip() and not line.startswith("#version")]
    with open(vocab, encoding="utf-8") as f:
        tok = Tokenizer(models.BPE(vocab=json.load(f), merges=pairs))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    for content, special in ADDED_TOKENS[:3]:
        tok.add_special_tokens([AddedToken(content, special=special, normalized=False)])
    return tok


def write(name, tok):
    both = {"": [], "_plain": []}
    for s in read_strings():
        text = s.decode(errors="replace")
        for suffix in both:
            if suffix and "<|" not in text:
                continue
            tok.encode_special_tokens = bool(suffix)
            both[suffix] += tok.encode(text, add_special_tokens=False).ids + [-1]
    for suffix, ids in both.items():
        np.save(OUT / f"{name}{suffix}.npy", np.array(ids, dtype=np.int32))
        print(name + suffix, ids.count(-1), "strings,", len(ids) - ids.count(-1), "ids")


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--qwen2", nargs=2)
    args.add_argument("--json", nargs=2)
    args = args.parse_args()
    OUT.mkdir(exist_ok=True)
    if args.qwen2:
        write("qwen2", qwen2(*args.qwen2))
    elif args.json:
        write(args.json[0], Tokenizer.from_file(args.json[1]))
    else:
        (OUT / "strings.bin").write_bytes(b"".join(struct.pack("<I", len(s)) + s for s in make_strings()))
        write("tiny", Tokenizer.from_file(str(HERE / "tokenizer" / "tokenizer.json")))


main()
