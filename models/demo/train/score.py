"""Held-out films by the thousand: answers that are right word for word, by kind and length, on the exported weights in
bf16. An answer counts when every token of it is the likeliest one, given the true conversation before: exactly what
greedy decoding would say. evaluate.py is the slow end-to-end check, from the files and through transformers."""
import argparse
import collections
import os

import numpy as np
import torch
from safetensors.torch import load_file

from build import Films, session
from encode import encoder
from export import hf_name
from model import Text
from talk import PRESENT
from train_chat import Bank, pack, score


def group(kind):
    return "image" if kind.startswith("image_") else "present" if kind in PRESENT else "unknown" if kind == "unknown" else "past"


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--held", required=True)
    p.add_argument("--features", required=True)
    p.add_argument("--tokens", type=int, default=60000, help="of each length")
    p.add_argument("--lengths", default="384,1024,2048")
    p.add_argument("--seed", type=int, default=4242)
    p.add_argument("--table", action="store_true", help="print a Markdown table")
    a = p.parse_args()
    torch.set_num_threads(1)
    sd = load_file(os.path.join(a.model, "model.safetensors"))
    net = Text()
    net.load_state_dict({k: sd[hf_name("language_model." + k)].float() for k in net.state_dict()})
    net.bfloat16()
    enc, _ = encoder(os.path.join(a.model, "tokenizer.json"))
    films = Films(a.held)
    bank, rng = Bank(a.features, films), np.random.default_rng(a.seed)
    tables = {}
    for t in (int(x) for x in a.lengths.split(",")):
        tab = collections.defaultdict(lambda: [0.0, 0])
        for _ in range(max(1, a.tokens // 8192)):
            rows = []
            while len(rows) < max(1, 8192 // t):
                r = session(rng, films, enc, t, evict=False)
                if r is not None and r.marks:
                    rows.append(r)
            for k, (acc, n) in score(net, bank, [pack(rows, t, bank)]).items():
                for key in (k, "= " + group(k)):
                    tab[key][0] += acc * n
                    tab[key][1] += n
        tables[t] = tab
        print(t, " ".join(f"{k}:{x / n:.3f}({n})" for k, (x, n) in sorted(tab.items())), flush=True)
    if a.table:
        print("| kind | " + " | ".join(f"rows of {t}" for t in tables) + " |\n|---|" + "---|" * len(tables))
        for k in sorted({k for tab in tables.values() for k in tab if not k.startswith("image_")}):
            cells = [f"{100 * tab[k][0] / tab[k][1]:.1f} % ({tab[k][1]})" if k in tab else "" for tab in tables.values()]
            print(f"| {k} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
