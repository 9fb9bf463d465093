"""Text to ids: special tokens split, the rest through the tokenizer, with a cache for the many repeated pieces."""
import functools

from tokenizers import Tokenizer


def encoder(path):
    tok = Tokenizer.from_file(path)

    @functools.lru_cache(maxsize=200000)
    def enc(s):
        return tok.encode(s, add_special_tokens=False).ids

    return enc, tok
