"""Trains the two small byte-level BPE tokenizers that the other scripts use, in Qwen2's pipeline
(NFC, the Qwen2 regex, byte level, added tokens): models of 512 ids, and tokenizer/tokenizer.json of
2,048 ids. The corpus is a public-domain novel plus the lines below, in many scripts.

usage: make_tokenizer.py TEXT   (TEXT: any English prose of 300 kB or more, e.g. Treasure Island)
"""

import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from common import ADDED_TOKENS, HERE

LINES = [
    "All human beings are born free and equal in dignity and rights.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Straße, Größe, Äpfel.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. Où, çà, œuvre.",
    "Todos los seres humanos nacen libres e iguales en dignidad y derechos. ¿Qué? ¡Mañana!",
    "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "## Heading\n\n### Another\n\n- item one\n- item two\n\n```c\nint main(void) { return 0; }\n```\n",
    "<0.3 seconds><1.3 seconds><12.5 seconds><3600.0 seconds> system user assistant\n",
    "for (int i = 0; i < n; i++) {\n    sum += a[i] * b[i]; // dot product\n}\n",
    "def f(x):\n    return [y ** 2 for y in x if y != None]\n\n",
    "It's I'll we're you've I'd don't can't; THEY'RE HE'S I'LL",
    "😀😃👍🏽👩‍👩‍👧‍👦🇩🇪❤️ ©®™ €£¥ ½¼ ∑∏√∞ ≤≥≠",
    "1234567890 3.14159 2026-11-21 00:46:40 1,000,000 0x1F",
]


def train(corpus, size):
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(ADDED_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tok.train_from_iterator(corpus, trainer)
    for content, special in ADDED_TOKENS:
        token = AddedToken(content, special=special, normalized=False)
        (tok.add_special_tokens if special else tok.add_tokens)([token])
    assert tok.get_vocab_size() == size, tok.get_vocab_size()
    return tok


def main():
    with open(sys.argv[1], encoding="utf-8-sig", newline="") as f:
        prose = f.read().replace("\r\n", "\n")[:300_000]
    corpus = [prose] + LINES * 12
    (HERE / "tokenizer").mkdir(exist_ok=True)
    train(corpus, 512).save(str(HERE / "tokenizer" / "tokenizer_512.json"))
    train(corpus, 2048).save(str(HERE / "tokenizer" / "tokenizer.json"))


main()
