"""Makes held-out clips (real files) and questions.json: [{clip, fps, rounds: [{q, accept, kind, answer}]}].
Every round is asked after the whole clip. accept: phrases that must all occur in the answer, as whole words,
whatever the case; "a|b" are alternatives. The seeds are not those of the training pool."""
import argparse
import json
import os

import numpy as np

import pool
import truth
import world
from talk import OTHER, PAST, PRESENT, Talk


def scripted(rng, size, seconds, fps, script):
    """A film that follows a script of (second, action(scene, t))."""
    scene = world.Scene(rng, *size)
    scene.things, scene.glyph, todo = [], None, sorted(script, key=lambda e: e[0])
    for i in range(int(seconds * fps)):
        t = i / fps
        scene.settle(t)
        while todo and t >= todo[0][0]:
            todo.pop(0)[1](scene, t)
        im, tr = scene.draw(t)
        yield np.asarray(im), tr


def add(shape, colour, cell):
    def act(s, t):
        s.things.append(world.Thing(shape, colour, world.CELLS.index(cell), s.rng))
    return act


def drop(shape):
    def act(s, t):
        s.things = [x for x in s.things if x.shape != shape]
    return act


def turn(shape, colour):
    def act(s, t):
        next(x for x in s.things if x.shape == shape).recolour(colour, s.rng)
    return act


def move(shape, cell, seconds):
    def act(s, t):
        x = next(x for x in s.things if x.shape == shape)
        to = world.CELLS.index(cell)
        x.move, x.cell = (x.cell, to, t, t + seconds), to
    return act


def show(char, cell):
    def act(s, t):
        s.glyph = (char, world.CELLS.index(cell), 245, 0.7, 0.0, 0.0) if char else None
    return act


STORIES = {
    "demo_a": (24, [(0, add("circle", "red", "left")), (4, add("square", "blue", "top right")), (8, show("K", "centre")),
                    (11, show(None, "centre")), (13, drop("circle")), (16, add("star", "yellow", "bottom left")),
                    (19, move("star", "bottom right", 3.5))],
               [("What do you see now?", ["blue square", "yellow star"], "describe"),
                ("Where is the blue square?", ["at the top right"], "where"),
                ("When did it appear?", ["3 seconds|4 seconds|5 seconds"], "when"),
                ("What colour is the star?", ["yellow"], "colour"),
                ("Was there a red circle?", ["yes"], "ever"),
                ("Where was it?", ["at the left"], "where_past"),
                ("When did the red circle leave?", ["11 seconds|12 seconds|13 seconds|14 seconds"], "when_last"),
                ("Have you seen a green triangle?", ["no"], "ever"),
                ("What was the first shape you saw?", ["red circle"], "first"),
                ("Which letter or digit was shown first?", ["letter K"], "glyphs"),
                ("Which way did the yellow star move?", ["right"], "moved"),
                ("What is your name?", ["don't know"], "unknown")]),
    "demo_b": (30, [(0, add("triangle", "green", "top")), (3, show("7", "bottom")), (6, add("ring", "purple", "right")),
                    (9, show(None, "bottom")), (12, turn("triangle", "orange")), (16, drop("ring")), (18, show("B", "left")),
                    (22, add("cross", "pink", "bottom right")), (26, show(None, "left"))],
               [("What do you see?", ["orange triangle", "pink cross"], "describe"),
                ("How many shapes are there?", ["two shapes"], "count"),
                ("What colour is the triangle?", ["orange"], "colour"),
                ("What colour was the triangle at 5 seconds?", ["green"], "colour_at"),
                ("What was there at 8 seconds?", ["green triangle", "purple ring", "digit 7"], "what_at"),
                ("Did you see a purple ring?", ["yes"], "ever"),
                ("Where was it?", ["at the right"], "where_past"),
                ("When was it last seen?", ["14 seconds|15 seconds|16 seconds"], "when_last"),
                ("What came first, the pink cross or the purple ring?", ["purple ring"], "order"),
                ("Which letters and digits have you seen?", ["7 and B"], "glyphs"),
                ("What colour was the orange triangle before?", ["green"], "change"),
                ("Is there a blue circle?", ["no"], "exist")]),
}


def observations(truths, fps, seconds):
    """What the pairs of a 2 fps sampling show, with their timestamps."""
    idx = [pool.sample_index(k, 2, fps) for k in range(int(seconds * 2))]
    idx = [i for i in idx if i < len(truths)]
    return [((k + 0.5) / 2, *truth.pair(truths[idx[k]], truths[idx[k + 1]])) for k in range(0, len(idx) - 1, 2)]


def questions(rng, seen, per):
    """`per` rounds: present, past and unknowable by turns, no question twice."""
    rounds, topic, asked = [], None, set()
    groups = [PRESENT, PAST, PAST, PRESENT, PAST, PAST + OTHER]
    for tries in range(per * 4):
        talk = Talk(rng, seen, topic)
        group = groups[len(rounds) % len(groups)]
        got = talk.ask([str(rng.choice(group))])
        if len(rounds) == per:
            break
        if not got or got[0] in asked:
            continue
        q, a, ok, kind = got
        asked.add(q)
        rounds.append({"q": q, "accept": ok, "kind": kind, "answer": a})
        topic = talk.topic
    return rounds


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", required=True)
    p.add_argument("--first", type=int, default=910000)
    p.add_argument("--count", type=int, default=10)
    p.add_argument("--rounds", type=int, default=14)
    p.add_argument("--longest", type=int, default=30)
    p.add_argument("--shortest", type=int, default=10)
    p.add_argument("--no-stories", action="store_true")
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    out = []
    if not a.no_stories:
        for (nm, (sec, script, qs)), codec in zip(STORIES.items(), ("h264", "vp9")):
            pics, _ = zip(*scripted(np.random.default_rng(7), (96, 96), sec, 8, script))
            clip = f"{nm}.{pool.CODECS[codec][1]}"
            pool.encode(os.path.join(a.out, clip), np.stack(pics), 8, codec, 24)
            out.append({"clip": clip, "fps": 2, "rounds": [{"q": q, "accept": ok, "kind": k} for q, ok, k in qs]})
    for i in range(a.count):
        rng = np.random.default_rng(a.first + i)
        codec = ("h264", "vp9", "av1")[i % 3]
        side = (96, 96, 96, 96, 128)[i % 5]
        fps, sec = int(rng.choice([4, 6, 8, 10])), int(rng.integers(a.shortest, a.longest + 1))
        pics, truths = zip(*world.make_film(a.first + i, sec, fps, (side, side)))
        clip = f"clip_{i:02d}_{side}_{codec}.{pool.CODECS[codec][1]}"
        pool.encode(os.path.join(a.out, clip), np.stack(pics), fps, codec, int(rng.integers(20, 34)))
        out.append({"clip": clip, "fps": 2, "rounds": questions(rng, observations(truths, fps, sec), a.rounds)})
    with open(os.path.join(a.out, "questions.json"), "w") as f:
        f.write("[\n" + ",\n".join(" {" + f'"clip": "{c["clip"]}", "fps": {c["fps"]}, "rounds": [\n  '
                                   + ",\n  ".join(json.dumps(r) for r in c["rounds"]) + "]}" for c in out) + "\n]\n")
    print(len(out), "clips", sum(len(c["rounds"]) for c in out), "questions")


if __name__ == "__main__":
    main()
