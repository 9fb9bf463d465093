"""Builds training rows the way a session grows: turns of frame groups that end with a question, several
rounds, start times anywhere, sometimes with the older middle cut away as an evicting cache does."""
import functools
import glob
import json
import os

import numpy as np

import truth
from talk import PRESENT, Talk, WEIGHTS, sign
from world import COLOURS, GLYPHS, SHAPES

T_MAX = 2048
SYSTEM = ["You are a helpful assistant.", "You watch a video and answer questions about it.", "Answer in one short sentence.",
          "You are a friendly assistant that sees."]
SP = {s: i for i, s in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
                                  "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"], 2040)}
MODES = [(1, 1.0), (2, 2.0)]  # frames between the two of a pair, seconds from pair to pair


class Films:
    """The truths of a pool, and where the feature rows of its pairs lie (see features.py)."""

    def __init__(self, folder, first=0, last=None):
        self.items = []
        for f in sorted(glob.glob(os.path.join(folder, "*.npz")))[first:last]:
            if f.endswith(".tmp.npz"):
                continue
            z = np.load(f)
            size, *_ = json.loads(str(z["about"]))
            if size[0] == size[1]:  # square films are shown at 96x96, 3x3 tokens a pair, whatever their own size
                self.items.append((f, (3, 3), json.loads(str(z["truth"]))))
        self.by_grid = {}
        for i, (_, g, _) in enumerate(self.items):
            self.by_grid.setdefault(g, []).append(i)

    @functools.lru_cache(maxsize=400000)
    def state(self, film, i, step):
        tr = self.items[film][2]
        return truth.pair(tr[i], tr[i + step])


def film_row(i, step):
    """Row of pair (i, i+step) among the rows of one film of 120 frames: all steps of 1, even steps of 2, every 4th still."""
    if step == 1:
        return i
    if step == 2:
        return 119 + i // 2
    return 119 + 59 + i // 4


ROWS = 119 + 59 + 30


def clip(rng, films, grid, step, n):
    """n pairs, one after another, of one or several films: list of (film, frame, step)."""
    out, stride = [], 2 * step
    pieces = int(rng.choice([1, 1, 2, 3])) if n <= 26 else int(rng.integers(2, 6))
    while len(out) < n:
        want = min(n - len(out), max(2, int(n / pieces * rng.uniform(0.6, 1.4))))
        f = int(rng.choice(films.by_grid[grid]))
        want = min(want, (119 - step) // stride)
        i = int(rng.integers(0, 120 - step - stride * (want - 1)))
        if step == 2:
            i -= i % 2
        out += [(f, i + stride * k, step) for k in range(want)]
    return out


class Row:
    """Tokens of one sequence. visuals: (token start, grid, key); begins: the first token of each one's group, with its time; states:
    what each shows, and when; marks: spans (start, end, kind) of answers; proofs: (start, end, how, visual, kind): where an answer is
    given, or a part of it, that one visual tells; mentions: (token, first, gone): where a question has named something, the visual in
    which it first came, and that after its last, -1 where there is none; fade: after so many groups only the last token of a group is
    seen (0: all are)."""

    def __init__(self, enc):
        self.enc, self.ids, self.loss, self.fade = enc, [], [], 0
        self.visuals, self.begins, self.states, self.seen_at = [], [], [], []
        self.marks, self.proofs, self.mentions = [], [], []

    def put(self, ids, learn=0):
        self.ids += ids
        self.loss += [learn] * len(ids)

    def text(self, s, learn=0):
        self.put(self.enc(s), learn)

    def group(self, t, grid, key, image=False, state=None):
        self.states.append((state, None if image else t))
        n = grid[0] * grid[1]
        self.begins.append(len(self.ids))
        if not image:
            self.text(f"<{t:.1f} seconds>")
        self.put([SP["<|vision_start|>"]])
        self.visuals.append((len(self.ids), grid, key))
        self.put([SP["<|image_pad|>" if image else "<|video_pad|>"]] * n + [SP["<|vision_end|>"]])

    def cut(self, a, b):
        """Forgets tokens a..b, as an evicting cache does; whole groups only."""
        del self.ids[a:b], self.loss[a:b]
        n, gone = b - a, sum(a <= s < b for s, *_ in self.visuals)
        self.proofs = [(s - n, e - n, how, v - gone, kind) for s, e, how, v, kind in self.proofs if s >= b and v >= gone]
        self.mentions = [(i - n, f - gone, g - gone) for i, f, g in self.mentions if i >= b and f >= gone]
        self.states = [x for x, (s, *_) in zip(self.states, self.visuals) if not a <= s < b]
        self.begins = [(s - n if s >= b else s) for s in self.begins if not a <= s < b]
        self.visuals = [(s - n if s >= b else s, g, k) for s, g, k in self.visuals if not a <= s < b]
        self.marks = [(s - n if s >= b else s, e - n if s >= b else e, k) for s, e, k in self.marks if not a <= s < b]
        self.seen_at = [(max(a, s - n) if s >= b else s, j) for s, j in self.seen_at if not a <= s < b]


class Names:
    """Which tokens name a shape by its colour, a letter or a digit."""

    def __init__(self, enc):
        colours, shapes = ({enc(" " + w)[0]: i for i, w in enumerate(words)} for words in (COLOURS, SHAPES))
        self.pairs = {(c, s): (shapes[s], colours[c]) for c in colours for s in shapes}
        self.glyphs = [(enc(" " + sign(g)), g) for g in range(len(GLYPHS))]

    def find(self, ids):
        """The names in ids: (index of the last token, the key or the number of the glyph)."""
        out = [(i + 1, self.pairs[pair]) for i, pair in enumerate(zip(ids, ids[1:])) if pair in self.pairs]
        for word, g in self.glyphs:
            out += [(i + len(word) - 1, g) for i in range(len(ids)) if ids[i:i + len(word)] == word]
        return out


@functools.lru_cache(maxsize=1)
def names(enc):
    return Names(enc)


def spans(enc, answer, proof):
    """Where a head is to look while an answer is given: (first token, end, proof), counted from the answer's first token; the three
    before it ("<|im_start|>assistant\n") belong to it. A list is told item by item: (text, proof)."""
    if not isinstance(proof, list):
        return [(-3, len(answer), proof)] if proof else []
    out, at = [], -3
    for text, one in proof:
        word = enc(text)
        i = next((i for i in range(max(0, at), len(answer)) if answer[i:i + len(word)] == word), None)
        if i is None:
            return out
        out.append((at, i + len(word) - 1, one))
        at = i + len(word) - 1
    return out


def session(rng, films, enc, room, evict=None, kinds=None, dialogue=None, weights=WEIGHTS, faded=0.0):
    """One row of at most `room` tokens. dialogue, a list, collects the rounds for an evaluation; faded: how often older groups fade."""
    row = Row(enc)
    grids = list(films.by_grid)
    p = np.array([len(films.by_grid[g]) for g in grids], float)
    grid = grids[rng.choice(len(grids), p=p / p.sum())]
    if rng.random() < 0.3:
        row.text("<|im_start|>system\n" + str(rng.choice(SYSTEM)) + "<|im_end|>\n")
    sink = len(row.ids) + 3
    if rng.random() < 0.04:
        return images(rng, films, row, grid, room, kinds)
    step, dt = MODES[0] if rng.random() < 0.85 else MODES[1]
    r = rng.random()
    t0 = 0.0 if r < 0.4 else float(rng.integers(0, 4000)) if r < 0.8 else round(float(rng.uniform(0, 4000)), 2)
    cost = grid[0] * grid[1] + 10
    row.fade = int(rng.integers(2, 13)) if faded and rng.random() < faded else 0
    share = rng.uniform(0.2, 0.5) if room <= 256 else rng.uniform(0.35, 0.7) if room <= 512 else rng.uniform(0.45, 0.8)
    if room <= 256 and kinds is None and rng.random() < 0.25:
        kinds = PRESENT
    n = max(2, int(room * share / cost))
    pairs = clip(rng, films, grid, step, n)
    times = [t0 + k * dt + step / 4 for k in range(n)]
    turns = 1 if rng.random() < 0.5 else int(rng.integers(2, 5))
    if evict is None:
        evict = room >= 700 and rng.random() < 0.2
    ends = sorted({n, *(int(x) for x in rng.integers(1, n + 1, turns - 1))})
    seen, done, topic = [], 0, None
    for turn, end in enumerate(ends):
        if evict and turn == len(ends) - 1 and len(row.seen_at) > 6:
            keep = int(rng.integers(3, max(4, len(row.seen_at) - 2)))
            if keep < len(row.seen_at):
                b = row.seen_at[-keep][0]
                if b > sink:
                    gone = len([1 for s, _ in row.seen_at if sink <= s < b])
                    row.cut(sink, b)
                    seen, topic = seen[gone:], None
        row.text("<|im_start|>user\n")
        for i in range(done, end):
            if len(row.ids) + cost + 60 > room:
                break
            row.seen_at.append((len(row.ids), i))
            row.group(times[i], grid, pairs[i], state=films.state(*pairs[i]))
            seen.append((times[i],) + films.state(*pairs[i]))
        done = end
        if not seen:
            return None
        late = turn == len(ends) - 1
        rounds = 100 if late else int(rng.choice([1, 1, 2, 3]))
        for k in range(rounds):
            talk = Talk(rng, seen, topic)
            got = talk.ask(kinds, weights)
            if not got:
                break
            q, a, ok, kind = got
            qi, ai = enc(q), enc(a)
            if len(row.ids) + len(qi) + len(ai) + 14 > room:
                if k == 0:
                    return row if row.marks else None
                break
            if k:
                row.text("<|im_start|>user\n")
            at = len(row.ids)
            row.mentions += [(at + i, *talk.life(what)) for i, what in names(enc).find(qi)]
            row.text(q + "<|im_end|>\n<|im_start|>assistant\n")
            at = len(row.ids)
            row.put(ai + [SP["<|im_end|>"]], 1)
            row.marks.append((at, len(row.ids), kind))
            row.proofs += [(at + s, at + e, *proof, kind) for s, e, proof in spans(enc, ai, talk.proof)]
            row.text("\n")
            if dialogue is not None:
                dialogue.append((end, q, a, ok, kind))
            topic = talk.topic
    return row


def images(rng, films, row, grid, room, kinds):
    """A still picture or two, and questions about the present."""
    now = ["describe", "colour", "shape", "count", "where", "at_place", "glyph", "exist"]
    row.text("<|im_start|>user\n")
    seen, topic, first = [], None, True
    while True:
        f, i = int(rng.choice(films.by_grid[grid])), int(rng.integers(30)) * 4
        if len(row.ids) + grid[0] * grid[1] + 60 > room:
            return row if row.marks else None
        if not first:
            row.text("<|im_start|>user\n")
        row.group(0, grid, (f, i, 0), image=True, state=films.state(f, i, 0))
        seen = [(0.0,) + films.state(f, i, 0)]
        seen = [(0.0, [(s, c, cell, 0, ok or mv in (0, 5)) for s, c, cell, mv, ok in seen[0][1]], seen[0][2])]
        for k in range(int(rng.integers(2, 7))):
            talk = Talk(rng, seen, topic)
            got = talk.ask(now)
            if not got:
                break
            q, a, _, kind = got
            if len(row.ids) + len(row.enc(q)) + len(row.enc(a)) + 14 > room:
                return row if row.marks else None
            if k:
                row.text("<|im_start|>user\n")
            row.text(q + "<|im_end|>\n<|im_start|>assistant\n")
            at = len(row.ids)
            row.put(row.enc(a) + [SP["<|im_end|>"]], 1)
            row.marks.append((at, len(row.ids), "image_" + kind))
            row.text("\n")
            topic = talk.topic
            first = False
        if first:
            return None


def positions(ids, visuals):
    """M-RoPE positions [3, t] of a row."""
    pos = np.zeros((3, len(ids)), np.int64)
    cur, at = 0, 0
    for s, (gh, gw), _ in visuals:
        pos[:, at:s] = np.arange(cur, cur + s - at)
        cur += s - at
        n = gh * gw
        pos[0, s:s + n] = cur
        pos[1, s:s + n] = cur + np.repeat(np.arange(gh), gw)
        pos[2, s:s + n] = cur + np.tile(np.arange(gw), gh)
        cur, at = cur + max(gh, gw), s + n
    pos[:, at:] = np.arange(cur, cur + len(ids) - at)
    return pos


def sample_talk(pool, rng, n):
    """Questions and answers as plain lines, for the tokenizer."""
    films = Films(pool, 0, 60)
    lines = [s for s in SYSTEM for _ in range(20)]
    while len(lines) < n:
        f, k = int(rng.integers(len(films.items))), int(rng.integers(4, 20))
        i = int(rng.integers(0, 118 - 2 * k))
        seen = [(float(rng.integers(0, 4000)) + j,) + films.state(f, i + 2 * j, 1) for j in range(k)]
        for _ in range(6):
            got = Talk(rng, seen).ask()
            if got:
                lines += [got[0], got[1], f"<{seen[-1][0]:.1f} seconds>", "user\n", "assistant\n", "system\n"]
    return lines
