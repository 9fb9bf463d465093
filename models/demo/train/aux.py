"""Helpers of the language stage, thrown away afterwards: small readouts at the token that ends each frame group.
From the middle of the network it must tell what the pair shows, cell by cell, and the digits of its time; a layer
later everything seen so far, the earliest and the newest. The same is asked there where an answer is about to begin. So each group's last token learns early to sum the group up, and a question's end to look for the present."""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import truth
from world import COLOURS, GLYPHS, SHAPES

CELL = [len(SHAPES) + 1, len(COLOURS) + 1, len(GLYPHS) + 1, 5]
KEYS = len(SHAPES) * len(COLOURS)
WIDTHS = {"cells": 9 * sum(CELL), "keys": KEYS, "digits": 44}
MIDDLE = 3  # layers that have run at a group's end; one more where an answer begins
SEEN = 3 * KEYS + len(GLYPHS)


def key(s, c):
    return s * len(COLOURS) + c


def labels(states, times):
    """For the groups of one row, in order: cells [n,9,4], keys [n,42], digits [n,4],
    seen [n, shapes seen, first of them, newest of them, glyphs seen]."""
    n = len(states)
    cells, keys = np.zeros((n, 9, 4), np.int64), np.zeros((n, KEYS), np.float32)
    digits, seen = np.full((n, 4), -1, np.int64), np.zeros((n, SEEN), np.float32)
    for i, (st, t) in enumerate(zip(states, times)):
        cells[i] = truth.dense(st)
        for s, c, *_ in st[0]:
            keys[i, key(s, c)] = 1
        if t is not None:
            v = str(int(f"{t:.1f}".split(".")[0]))
            digits[i] = [10] * (4 - len(v)) + [int(d) for d in v]
        if i:
            seen[i] = seen[i - 1]
        new = keys[i] * (1 - seen[i, :KEYS])
        if new.any():
            if not seen[i, :KEYS].any():
                seen[i, KEYS:2 * KEYS] = new
            seen[i, 2 * KEYS:3 * KEYS] = new
        seen[i, :KEYS] = np.maximum(seen[i, :KEYS], keys[i])
        if st[1]:
            seen[i, 3 * KEYS + st[1][0]] = 1
    return cells, keys, digits, seen


class Readouts(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.head_middle = nn.Linear(d, sum(WIDTHS.values()))
        self.head_ask = nn.Linear(d, sum(WIDTHS.values()))
        self.head_end = nn.Linear(d, SEEN)

    def forward(self, middle, later, end, cells, keys, digits, seen):
        """middle: rows of group ends; later: rows before answers, a layer on; end: rows of both at that layer; labels of both."""
        end = F.rms_norm(end, end.shape[-1:])
        out = torch.cat([head(F.rms_norm(x, x.shape[-1:])) for head, x in ((self.head_middle, middle), (self.head_ask, later))])
        a, b, c = out.float().split(list(WIDTHS.values()), -1)
        total = 0.0
        for i, part in enumerate(a.reshape(-1, 9, sum(CELL)).split(CELL, -1)):
            y = cells[..., i].reshape(-1)
            w = torch.where(y > 0, 1.0, 0.15) * (y >= 0)
            total = total + (F.cross_entropy(part.reshape(-1, CELL[i]), y.clamp(min=0), reduction="none") * w).sum() / w.sum()
        heavy = torch.tensor(6.0)
        total = total + 4 * F.binary_cross_entropy_with_logits(b, keys, pos_weight=heavy)
        if (digits >= 0).any():
            total = total + 2 * F.cross_entropy(c.reshape(-1, 11), digits.reshape(-1), ignore_index=-1)
        return total + 8 * F.binary_cross_entropy_with_logits(self.head_end(end).float(), seen, pos_weight=heavy)
