"""Helpers of the language stage, thrown away afterwards. Small readouts at the token that ends each frame group: early in the
network it must tell what the pair shows, cell by cell, and the digits of its time; a layer later what has come and gone since
the pair before, and the time of that. So each group's last token learns to sum the group up in the terms that questions look
for, and a lookup needs one step. Where an answer begins, the network must tell there what the newest pair shows and which
second was asked about. Where one group tells the answer, a head of the next layer is taught to look there (`pointing`), and
what it brings must tell the time that is to be answered. Where a question names something, the same heads must look at its first group
and behind its last (at the row's first token when it was never seen), and the layer must tell both times and how early the first was."""
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import truth
from model import rotate, text_rope
from world import COLOURS, GLYPHS, SHAPES

CELL = [len(SHAPES) + 1, len(COLOURS) + 1, len(GLYPHS) + 1, 5]
KEYS = len(SHAPES) * len(COLOURS)
WIDTHS = {"cells": 9 * sum(CELL), "keys": KEYS, "digits": 44}
MIDDLE = 2  # layers that have run where a group is told cell by cell; one more for the news and the questions
HEADS = {"event": 0, "gone": 1, "time": 2, "now": 3}  # which head of the layer after those points at what (Talk.proof)
NEWS = 2 * (KEYS + len(GLYPHS))
INDEX_STEPS = np.arange(1, 113, 4)  # thresholds of a group's number


def key(s, c):
    return s * len(COLOURS) + c


def labels(states, times):
    """For the groups of one row, in order: cells [n,9,4], keys [n,42], digits [n,4],
    news [n, shapes come, shapes gone, glyphs come, glyphs gone], digits of the group before [n,4]."""
    n = len(states)
    cells, digits = np.zeros((n, 9, 4), np.int64), np.full((n, 4), -1, np.int64)
    keys, glyphs = np.zeros((n, KEYS), np.float32), np.zeros((n, len(GLYPHS)), np.float32)
    for i, (st, t) in enumerate(zip(states, times)):
        cells[i] = truth.dense(st)
        for s, c, *_ in st[0]:
            keys[i, key(s, c)] = 1
        if st[1]:
            glyphs[i, st[1][0]] = 1
        if t is not None:
            v = str(int(f"{t:.1f}".split(".")[0]))
            digits[i] = [10] * (4 - len(v)) + [int(d) for d in v]
    news = []
    for now in (keys, glyphs):
        before = np.concatenate([np.zeros((1, now.shape[1]), np.float32), now[:-1]])
        news += [now * (1 - before), before * (1 - now)]
    return cells, keys, digits, np.concatenate(news, 1), np.concatenate([np.full((1, 4), -1, np.int64), digits[:-1]])


def index_bits(v):
    """A group's number in its row as a thermometer: comparing two is comparing bits."""
    return (np.asarray(v)[:, None] >= INDEX_STEPS).astype(np.float32)


def lessons(rows, t):
    """What the helpers are taught on a batch of rows of t tokens. Positions are flat (row * t + token); group lines come first,
    then, but for news and before, the newest group's line of each answer."""
    ends, asks, lines, ask_lines, proofs, times, found, named, order = [], [], [], [], [], [], [], [], []
    for j, r in enumerate(rows):
        told = labels(*zip(*r.states))
        lines.append(told)
        order += range(len(r.visuals))
        end = [s + g[0] * g[1] for s, g, _ in r.visuals]
        ends += [j * t + e for e in end]
        looks = [(s, e, HEADS[how], end[v]) for s, e, how, v, _ in r.proofs]
        looks += [(i, i + 1, HEADS["event"], end[f] if f >= 0 else 0) for i, f, _ in r.mentions]
        looks += [(i, i + 1, HEADS["gone"], end[g]) for i, _, g in r.mentions if g >= 0]
        proofs.append(looks)
        none = [-1] * 4
        named += [(j * t + i, f, *(told[2][f] if f >= 0 else none), *(told[4][g] if g >= 0 else none)) for i, f, g in r.mentions]
        times += [(j * t + s, *told[2][v]) for s, _, how, v, _ in r.proofs if how == "time"]
        found += [(j * t + i, *told[2 if how == "event" else 4][v]) for s, e, how, v, kind in r.proofs
                  if kind in ("when", "when_last") for i in range(s + 3, e)]
        for s, _, _ in r.marks:
            asks.append(j * t + s - 3)  # the <|im_start|> of the answer
            last = sum(v < s for v, *_ in r.visuals) - 1
            ask_lines.append([x[last:last + 1] for x in told[:3]])
    cells, keys, digits, news, before = (np.concatenate(sum(x, ())) for x in zip(zip(*lines), [*zip(*ask_lines), (), ()]))
    named = np.array(named, np.int64).reshape(-1, 10)
    arrays = {"ends": np.array(ends), "asks": np.array(asks), "cells": cells, "keys": keys, "digits": digits, "news": news,
              "before": before, "times": np.array(times, np.int64).reshape(-1, 5), "found": np.array(found, np.int64).reshape(-1, 5),
              "named": named, "order": index_bits(order), "named_order": index_bits(named[:, 1])}
    return SimpleNamespace(proofs=proofs, **arrays)


def pointing(layer, x, pos, proofs):
    """Where one head of a layer looks while an answer is given that one group tells: -log of its weight on that group's end.
    x [b, t, d]: the layer's input; proofs: for each row a list of (first token, end, head, target token)."""
    h = layer.input_layernorm(x)
    cos, sin = text_rope(pos, x.dtype)
    k, _ = layer.keys_values(h, cos, sin)
    lost, columns, rep = [], torch.arange(x.shape[1]), layer.nh // layer.nkv
    for j, told in enumerate(proofs):
        if not told:
            continue
        at = torch.cat([torch.arange(s, e) for s, e, *_ in told])
        head, target = (torch.cat([torch.full((p[1] - p[0],), p[i]) for p in told]) for i in (2, 3))
        q = layer.self_attn.q_norm(layer.self_attn.q_proj(h[j, at]).view(len(at), layer.nh, layer.hd))
        q = rotate(q[torch.arange(len(at)), head], cos[j, 0, at], sin[j, 0, at]) * layer.hd ** -0.5
        w = torch.where((head < rep)[:, None], q @ k[j, 0].T, q @ k[j, 1].T).float()
        w = w.masked_fill(columns > at[:, None], float("-inf"))
        lost.append(F.cross_entropy(w, target, reduction="none"))
    return torch.cat(lost).mean() if lost else torch.zeros(())


class Readouts(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.head_middle = nn.Linear(d, sum(WIDTHS.values()))
        self.head_ask = nn.Linear(d, sum(WIDTHS.values()))
        self.head_end, self.head_before = nn.Linear(d, NEWS), nn.Linear(d, 44)
        self.head_time, self.head_found = nn.Linear(d, 44), nn.Linear(d, 44)
        self.head_named, self.head_left = nn.Linear(d, 44), nn.Linear(d, 44)
        self.head_order, self.head_named_order = nn.Linear(d, len(INDEX_STEPS)), nn.Linear(d, len(INDEX_STEPS) + 1)

    def forward(self, net, pos, streams, told):
        """streams: the residual streams [b, t, d] after MIDDLE layers and after each of the next two; told: `lessons`.
        -> what the readouts lose, what the pointing heads lose"""
        middle, later, last = (x.view(-1, x.shape[-1]) for x in streams)
        t = SimpleNamespace(**{k: torch.from_numpy(v) for k, v in vars(told).items() if k != "proofs"})
        total = self.groups(middle[t.ends], later[t.asks], t.cells, t.keys, t.digits)
        end = F.rms_norm(later[t.ends], later.shape[-1:])
        total = total + 8 * F.binary_cross_entropy_with_logits(self.head_end(end).float(), t.news, pos_weight=torch.tensor(6.0))
        total = total + digits_lost(self.head_before(end), t.before)
        for head, x, rows in ((self.head_time, later, t.times), (self.head_found, last, t.found)):
            total = total + digits_lost(head(F.rms_norm(x[rows[:, 0]], x.shape[-1:])), rows[:, 1:])
        total = total + F.binary_cross_entropy_with_logits(self.head_order(end).float(), t.order)
        if len(t.named):
            total = total + self.mentions(last[t.named[:, 0]], t.named, t.named_order)
        return total, pointing(net.layers[MIDDLE + 1], streams[1], pos, told.proofs)

    def mentions(self, x, named, order):
        """x [n, d]: what stands where a question named something; named: (token, number of its first group or -1, digits of its first
        time, of its last); order: that number as bits. Whether it was ever seen, and when."""
        x, seen = F.rms_norm(x, x.shape[-1:]), named[:, 1] >= 0
        out = self.head_named_order(x).float()
        lost = F.binary_cross_entropy_with_logits(out[:, 0], seen.float())
        bits = F.binary_cross_entropy_with_logits(out[:, 1:], order, reduction="none").mean(-1)
        lost = lost + (bits * seen).sum() / seen.sum().clamp(min=1)
        return lost + digits_lost(self.head_named(x), named[:, 2:6]) + digits_lost(self.head_left(x), named[:, 6:])

    def groups(self, middle, later, cells, keys, digits):
        """middle: rows of group ends; later: rows before answers; the labels of both."""
        out = torch.cat([head(F.rms_norm(x, x.shape[-1:])) for head, x in ((self.head_middle, middle), (self.head_ask, later))])
        a, b, c = out.split(list(WIDTHS.values()), -1)
        total = digits_lost(c, digits) + 4 * F.binary_cross_entropy_with_logits(b.float(), keys, pos_weight=torch.tensor(6.0))
        for i, part in enumerate(a.float().reshape(-1, 9, sum(CELL)).split(CELL, -1)):
            y = cells[..., i].reshape(-1)
            w = torch.where(y > 0, 1.0, 0.15) * (y >= 0)
            lost = F.cross_entropy(part.reshape(-1, CELL[i]), y.clamp(min=0), reduction="none")
            total = total + (lost * w).sum() / w.sum()
        return total


def digits_lost(out, digits):
    """out [n, 44]: four digits or blanks; digits [n, 4], -1 where there is no time."""
    if not (digits >= 0).any():
        return 0.0
    return 2 * F.cross_entropy(out.float().view(-1, 11), digits.reshape(-1), ignore_index=-1)
