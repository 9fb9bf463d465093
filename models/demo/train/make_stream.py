"""Makes long streams of the demo world as real files, with questions on the way: stream_<seed>.<ext> and stream_<seed>.tsv
for `infchat-bench recall --films`.

Every shape (with its colour) and every letter has a season, a sixth of the stream; after it, it is never seen again. So at
any moment there are things that were last seen at every distance, and all that is seen in between distracts. Every
`--every` seconds there is a round: now and past by turns. A past question is about what was last seen, or was there at a
second, 0.8 to 1.0 times one of the DISTANCES ago; those that fit come equally often, and so does "was there ever" of what
never was. Questions, answers and what counts as right are those of talk.py; nothing else is known about the film.

The .tsv: a line `film NAME FPS SECONDS`, then one a round: second, now|past|never, distance in seconds (0: none), the
second at which the subject was last seen (-1: none), kind, question, accepted phrases ("&" between phrases that must all occur, "|" between alternatives). Fields are parted by tabs."""
import argparse
import os
import subprocess

import numpy as np

import pool
import truth
import world
from talk import PRESENT, Talk, name, sign

DISTANCES = [10, 60, 600, 1800, 3600]
KINDS = {"where_past": 3, "ever": 2, "ever_glyph": 2, "moved": 1, "change": 1, "when_last": 1, "colour_at": 3,
         "glyph_at": 1, "count_at": 1, "what_at": 1}


class Stage(world.Scene):
    """A scene that draws only on the shapes and letters that are in season."""

    def __init__(self, rng, w, h, keys, glyphs):
        self.keys, self.glyphs = keys, glyphs
        super().__init__(rng, w, h)

    def appear(self):
        cells, have, rng = self.free(), {(x.shape, x.colour) for x in self.things}, self.rng
        shapes = {s for s, _ in have} if rng.random() > 0.2 else set()
        keys = [k for k in self.keys if k not in have and k[0] not in shapes]
        if len(self.things) < self.most and cells and keys:
            self.things.append(world.Thing(*keys[rng.integers(len(keys))], int(rng.choice(cells)), rng))

    def show(self):
        super().show()
        if self.glyph:
            self.glyph = (str(self.rng.choice(self.glyphs)), *self.glyph[1:]) if self.glyphs else None

    def event(self, t):
        was = [(x, x.colour, x.tint) for x in self.things]
        super().event(t)
        have = {(x.shape, x.colour) for x, *_ in was}
        for x, colour, tint in was:
            if x.colour != colour:  # only into a colour that is in season
                new = [c for s, c in self.keys if s == x.shape and (s, c) not in have]
                x.colour, x.tint = colour, tint
                if new:
                    x.recolour(str(self.rng.choice(new)), self.rng)


def seasons(rng, things, seconds):
    """-> [(thing, first second, last second)]; about a sixth of the things are in season at any moment."""
    span = seconds / 5
    return [(things[i], b, b + span) for i, b in zip(rng.permutation(len(things)), np.linspace(-span, seconds, len(things)))]


def make_film(rng, seconds, fps, side):
    """As world.make_film: yields (picture, truth) for each native frame."""
    keys = seasons(rng, [(s, c) for s in world.SHAPES for c in world.COLOURS], seconds)
    glyphs = seasons(rng, list(world.GLYPHS), seconds)
    scene, cut, event = None, 0.0, 0.0
    for i in range(int(seconds * fps)):
        t = i / fps
        now = [[thing for thing, a, b in table if a <= t < b] for table in (keys, glyphs)]
        if t >= cut:
            scene, cut = Stage(rng, side, side, *now), t + rng.uniform(8, 30)
            event = t + rng.exponential(scene.pace)
        scene.keys, scene.glyphs = now
        scene.settle(t)
        while t >= event:
            scene.event(t)
            event += max(0.5, rng.exponential(scene.pace))
        im, tr = scene.draw(t)
        yield np.asarray(im), tr


def encode_film(path, frames, fps, side, codec, crf):
    """Writes the film as it is drawn; returns the truths of its frames."""
    with subprocess.Popen(["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{side}x{side}",
                           "-r", str(fps), "-i", "-", *pool.CODECS[codec][0], "-crf", str(crf), "-threads", "1", path],
                          stdin=subprocess.PIPE) as to:
        truths = []
        for picture, tr in frames:
            to.stdin.write(picture.tobytes())
            truths.append(tr)
        to.stdin.close()
    if to.returncode:
        raise SystemExit(f"ffmpeg cannot write {path}")
    return truths


def about_past(rng, talk, low, high):
    """A question about what was last seen, or was there, between these seconds, and the second of that; or None."""
    seen, within = talk.seen, {i for i, o in enumerate(talk.seen) if low <= o[0] <= high}
    kinds, weights = list(KINDS), np.array(list(KINDS.values()), float)
    for kind in rng.choice(kinds, len(kinds), replace=False, p=weights / weights.sum()):
        talk.rng = rng
        if kind.endswith("_at"):
            subjects = [(i, i) for i in range(len(seen)) if (kind != "glyph_at" or seen[i][2]) and (kind != "colour_at" or seen[i][1])]
        elif kind == "ever_glyph":
            subjects = list(talk.glast.items())
        elif kind == "change":
            new = [c[2] for c in talk.changes]
            subjects = [(c, c[0]) for c in talk.changes if new.count(c[2]) == 1]
        elif kind == "moved":
            subjects = [(k, moved_at(talk, k)) for k, m in talk.moves.items() if len(m) == 1]
        else:
            subjects = list(talk.last.items())
        subjects = [x for x in subjects if x[1] in within]
        for _ in range(6 if subjects else 0):
            subject, i = subjects[rng.integers(len(subjects))]
            got = ask_about(talk, str(kind), subject)
            if got:
                return got, seen[i][0]
    return None


def moved_at(talk, key):
    return max(i for i, o in enumerate(talk.seen) for t in o[1] if t[:2] == key and t[3] in (1, 2, 3, 4))


def ask_about(talk, kind, subject):
    """Has talk.py ask one kind of question about one subject alone: everything else is hidden from its choice."""
    kept = dict(talk.__dict__)
    word = None
    if kind.endswith("_at"):
        n = talk.time(subject)
        if [talk.time(j) for j in range(max(0, subject - 3), min(len(talk.seen), subject + 4))].count(n) > 1:
            return None
        talk.at_time = lambda: (n, subject)
    elif kind == "ever_glyph":
        talk.gfirst, word = {subject: talk.gfirst[subject]}, sign(subject)
    elif kind == "change":
        talk.changes = [subject]
    else:
        word = name(subject)
        for table in ("first", "last", "spots", "moves"):
            whole = getattr(talk, table)
            setattr(talk, table, {subject: whole[subject]} if subject in whole else {})
    got = talk.ask([kind])
    talk.__dict__.clear()
    talk.__dict__.update(kept)
    if not got or got[3] != kind or word and word.lower() not in got[0].lower():
        return None
    if kind.startswith("ever") and got[2] != ["yes"] or kind == "change" and got[2][0] in ("yes", "no"):
        return None
    return got


def rounds_of(rng, observations, seconds, every):
    """-> [(second, now|past|never, distance, second of the subject, kind, question, accept)]"""
    out, asked = [], {d: 0 for d in DISTANCES + [0]}
    for n, at in enumerate(range(every, int(seconds) + 1, every)):
        talk = Talk(rng, [o for o in observations if o[0] < at])
        got, when, distance, seen = None, "now", 0, -1
        if n % 2:
            fits = [d for d in asked if 0.8 * d <= at - 1]
            for distance in sorted(fits, key=lambda d: (asked[d], rng.random())):
                if distance:
                    got, seen = about_past(rng, talk, at - distance, at - 0.8 * distance) or (None, -1)
                else:
                    got = next((g for g in (talk.ask(["ever", "ever_glyph"]) for _ in range(20)) if g and g[2] == ["no"]), None)
                if got:
                    break
            when = "past" if distance else "never"
        else:
            got = next((g for g in (talk.ask([str(rng.choice(PRESENT))]) for _ in range(20)) if g), None)
        if got:
            q, _, ok, kind = got
            asked[distance] += when != "now"
            out.append((at, when, distance, seen, kind, q, "&".join(ok)))
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", required=True)
    p.add_argument("--seed", type=int, required=True)
    p.add_argument("--minutes", type=float, default=60)
    p.add_argument("--every", type=int, default=10, help="seconds from round to round")
    p.add_argument("--fps", type=int, default=4, help="of the film; it is sampled at 2 a second")
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    rng = np.random.default_rng([a.seed, 5_000_000])
    seconds, side, codec = a.minutes * 60, 96, list(pool.CODECS)[a.seed % 3]
    film = f"stream_{a.seed}.{pool.CODECS[codec][1]}"
    truths = encode_film(os.path.join(a.out, film), make_film(rng, seconds, a.fps, side), a.fps, side, codec,
                         int(rng.integers(20, 34)))
    idx = [pool.sample_index(k, 2, a.fps) for k in range(int(seconds * 2))]
    idx = [i for i in idx if i < len(truths)]
    observations = [((k + 0.5) / 2, *truth.pair(truths[idx[k]], truths[idx[k + 1]])) for k in range(0, len(idx) - 1, 2)]
    lines = [("film", film, 2, int(seconds))] + rounds_of(rng, observations, seconds, a.every)
    part = os.path.join(a.out, f"stream_{a.seed}.tsv.part")
    with open(part, "w") as f:
        f.writelines("\t".join(str(x) for x in line) + "\n" for line in lines)
    os.replace(part, part[:-len(".part")])
    print(film, len(lines) - 1, "rounds")


if __name__ == "__main__":
    main()
