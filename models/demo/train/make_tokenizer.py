"""Trains the tokenizer: byte-level BPE with Qwen2's splitting rule, on the training books and on sample talk."""
import argparse
import json
import os

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from books import TRAIN_BOOKS, read_book
from build import sample_talk

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>"]
VOCAB = 2048


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--books", required=True)
    p.add_argument("--pool", required=True)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=VOCAB - len(SPECIAL), min_frequency=2, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    talk = sample_talk(a.pool, np.random.default_rng(5), 6000) * 4
    tok.train_from_iterator([read_book(a.books, b) for b in TRAIN_BOOKS] + talk, trainer)
    tok.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIAL])
    assert tok.get_vocab_size() == VOCAB and tok.token_to_id("<|video_pad|>") == VOCAB - 1
    os.makedirs(a.out, exist_ok=True)
    tok.save(os.path.join(a.out, "tokenizer.json"))
    print(tok.encode("<12.2 seconds>").tokens, tok.encode("Was there a purple triangle at the bottom left?").tokens)


if __name__ == "__main__":
    main()
