"""Questions and answers about what has been seen. Everything is derived from a list of observations
(time, things, glyph), one a pair of frames, as truth.pair tells them; nothing else is known.

`proof` tells how the last question's answer is found: in which observation, and whether by an event (something
came), by its end (gone: the observation after), by the time asked for, or because it is now. For an answer that lists: one for each
item, (text, proof).
`Talk(rng, seen).ask()` gives (question, answer, accept, kind): accept is a list of phrases that must
all occur in a right answer, in any case and as whole words; "a|b" in one phrase are alternatives."""
from truth import DIRS, STILL, UNSURE
from world import CELLS, COLOURS, GLYPHS, SHAPES

NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight"]
DUNNO = "I don't know."
DUNNO_OK = ["don't know"]
FOREIGN = ["What is your name?", "Who is there?", "What sound was there?", "What is the weather like?", "How old is the dog?",
           "What will come next?", "What is the person doing?", "What song is playing?", "Where was this filmed?",
           "How heavy is it?", "What does the man say?", "Who made this film?", "What is behind the camera?",
           "How much does it cost?", "Why is it there?", "What is the name of the city?", "What day was it?"]

PRESENT = ["describe", "colour", "shape", "count", "where", "at_place", "glyph", "exist", "move"]
PAST = ["ever", "colour_at", "what_at", "count_at", "glyph_at", "when", "when_last", "first", "order", "glyphs", "change",
        "moved", "where_past", "count_past", "story", "ever_glyph"]
OTHER = ["unknown"]
WEIGHTS = {"ever": 3, "when": 2, "first": 1.5, "order": 2, "colour_at": 1.5, "what_at": 1.2, "glyphs": 1, "count_past": 0.7,
           "story": 0.7, "describe": 1.5, "when_last": 1.5, "where_past": 1.5, "change": 1.5, "moved": 1.3, "unknown": 1.2}

# What is learnt slowly is asked more often in training (never in the measurements).
DRILL = {**WEIGHTS, "when": 5, "when_last": 3.5, "what_at": 3, "count_at": 1.5, "glyph_at": 2, "glyphs": 2.5, "count_past": 1.5, "story": 1.5,
         "order": 3, "moved": 2, "unknown": 2, "first": 2, "describe": 2.5, "exist": 1.5, "move": 1.5, "ever_glyph": 1.5, "count": 1.5}


def name(key):
    return f"{COLOURS[key[1]]} {SHAPES[key[0]]}"


def article(text):
    return ("an " if text[0] in "aeiou" else "a ") + text


def join(parts):
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def sign(g):
    return ("digit " if GLYPHS[g].isdigit() else "letter ") + GLYPHS[g]


class Talk:
    """seen: observations that are still remembered, oldest first; topic: the shape last spoken of."""

    def __init__(self, rng, seen, topic=None):
        self.rng, self.seen, self.topic = rng, seen, topic
        self.now, self.proof = seen[-1], None
        self.first, self.last, self.gfirst, self.glast, self.moves, self.moved_at, self.spots = {}, {}, {}, {}, {}, {}, {}
        self.changes = []
        before = {}
        for i, (_, things, glyph) in enumerate(seen):
            here = {}
            for s, c, cell, d, settled in things:
                k = (s, c)
                here[k] = cell
                self.first.setdefault(k, i)
                self.last[k] = i
                if d not in (STILL, UNSURE):
                    m = self.moves.setdefault(k, [])
                    if not m or m[-1] != d:
                        m.append(d)
                        self.moved_at.setdefault(k, i)
                if settled:
                    self.spots[k] = cell
            for k, cell in here.items():
                if k not in before:
                    old = [b for b, at in before.items() if b[0] == k[0] and b not in here and at == cell]
                    if len(old) == 1:
                        self.changes.append((i, old[0], k))
            if glyph:
                self.gfirst.setdefault(glyph[0], i)
                self.glast[glyph[0]] = i
            before = here

    def life(self, what):
        """Of a key, or of a glyph's number: the observation in which it first came, and the one after its last; -1: none."""
        first, last = (self.first, self.last) if isinstance(what, tuple) else (self.gfirst, self.glast)
        gone = last.get(what, -1) + 1
        return first.get(what, -1), gone if 0 < gone < len(self.seen) else -1

    def pick(self, *texts):
        return texts[self.rng.integers(len(texts))]

    def any(self, seq):
        seq = list(seq)
        return seq[self.rng.integers(len(seq))]

    def randkey(self):
        return (int(self.rng.integers(len(SHAPES))), int(self.rng.integers(len(COLOURS))))

    def stranger(self, known):
        """A key not among known, preferably with a familiar shape or colour."""
        known = list(known)
        for _ in range(30):
            k = self.randkey()
            if known and self.rng.random() < 0.7:
                o = self.any(known)
                k = (o[0], k[1]) if self.rng.random() < 0.5 else (k[0], o[1])
            if k not in known:
                return k
        return None

    def the(self, key):
        """How a question names a shape: mostly in full, sometimes "it" when it was the last topic."""
        if self.topic == key and self.rng.random() < 0.6:
            return "it"
        return "the " + name(key)

    def time(self, i):
        return int(self.seen[i][0])

    def at_time(self):
        """A second that exactly one observation falls in, and that observation's index."""
        i = int(self.rng.integers(len(self.seen)))
        n = self.time(i)
        same = [j for j in range(max(0, i - 3), min(len(self.seen), i + 4)) if self.time(j) == n]
        return (n, i) if len(same) == 1 else (None, None)

    def when_ok(self, n):
        return "|".join(f"{v} seconds" for v in (n, n - 1, n + 1) if v >= 0)

    def keys_now(self):
        return [(s, c) for s, c, *_ in self.now[1]]

    def parts(self, obs, places):
        """The things of one observation in reading order; None where something is in doubt."""
        out, ok = [], []
        for s, c, cell, d, settled in sorted(obs[1], key=lambda t: t[2]):
            n = name((s, c))
            if places:
                if d == UNSURE or (d == STILL and not settled):
                    return None, None
                out.append(f"{article(n)} at the {CELLS[cell]}" if d == STILL else f"{article(n)} moving {DIRS[d]}")
                ok.append(n)
            else:
                out.append(article(n))
                ok.append(n)
        if obs[2]:
            g = sign(obs[2][0])
            out.append(f"the {g} at the {CELLS[obs[2][1]]}" if places else f"the {g}")
            ok.append(g)
        return out, ok

    # ---- now ----
    def q_describe(self):
        p, ok = self.parts(self.now, True)
        if p is None:
            return None
        q = self.pick("What do you see?", "What do you see now?", "What is there now?", "Describe the picture.", "What is in the picture?",
                      "Describe what you see.", "What can you see?", "What is on the screen now?", "Describe the scene.")
        if not p:
            return q, "There is nothing.", ["nothing"]
        return q, ("There is " + join(p) + "."), ok

    def q_colour(self):
        if self.rng.random() < 0.12:
            s = int(self.rng.integers(len(SHAPES)))
        elif not self.now[1]:
            return None
        else:
            s = self.any(self.now[1])[0]
        c = [b for a, b in self.keys_now() if a == s]
        n = SHAPES[s]
        q = self.pick(f"What colour is the {n}?", f"What colour is the {n} now?", f"Which colour is the {n}?", f"What is the colour of the {n}?",
                      f"What color is the {n}?", f"Tell me the colour of the {n}.")
        if not c:
            return q, f"There is no {n} now.", [f"no {n}"]
        if len(c) > 1:
            return None
        self.topic = (s, c[0])
        return q, f"The {n} is {COLOURS[c[0]]}.", [COLOURS[c[0]]]

    def q_shape(self):
        if not self.now[1]:
            return None
        c = self.any(self.now[1])[1]
        s = [a for a, b in self.keys_now() if b == c]
        if len(s) != 1:
            return None
        n = COLOURS[c]
        q = self.pick(f"What shape is {n}?", f"Which shape is {n}?", f"What is {n}?", f"What {n} shape is there?", f"What is the {n} thing?",
                      f"What shape is the {n} one?")
        self.topic = (s[0], c)
        return q, f"The {SHAPES[s[0]]} is {n}.", [SHAPES[s[0]]]

    def q_count(self):
        if self.rng.random() < 0.25:
            s = self.any(self.now[1])[0] if self.now[1] and self.rng.random() < 0.6 else int(self.rng.integers(len(SHAPES)))
            n, w = sum(a == s for a, _ in self.keys_now()), SHAPES[s]
        else:
            n, w = len(self.now[1]), "shape"
        plural = w + ("es" if w == "cross" else "s")
        q = self.pick(f"How many {plural} are there?", f"How many {plural} are there now?", f"How many {plural} do you see?", f"Count the {plural}.",
                      f"How many {plural} can you see now?")
        a = f"There is one {w}." if n == 1 else f"There are {NUMBERS[n]} {plural}."
        return q, a, [f"{NUMBERS[n]} {w if n == 1 else plural}"]

    def q_where(self):
        if self.rng.random() < 0.15 and self.first:
            k = self.any(self.first) if self.rng.random() < 0.7 else self.stranger(self.first)
            if k is None or k in self.keys_now():
                return None
            n = name(k)
            return self.pick(f"Where is the {n}?", f"Where is the {n} now?"), f"There is no {n} now.", [f"no {n}"]
        ok = [t for t in self.now[1] if t[4]]
        if not ok:
            return None
        s, c, cell, *_ = self.any(ok)
        x = self.the((s, c))
        self.topic = (s, c)
        q = self.pick(f"Where is {x}?", f"Where is {x} now?", f"In which place is {x}?", f"Where do you see {x}?", f"What is the position of {x}?")
        return q, f"The {name((s, c))} is at the {CELLS[cell]}.", [f"at the {CELLS[cell]}"]

    def q_at_place(self):
        used = {t[2]: t for t in self.now[1]}
        if any(not t[4] for t in self.now[1]):
            return None
        places = list(used) + ([self.now[2][1]] if self.now[2] else [])
        cell = self.any(places) if places and self.rng.random() < 0.75 else int(self.rng.integers(9))
        w = CELLS[cell]
        q = self.pick(f"What is at the {w}?", f"What do you see at the {w}?", f"What is there at the {w}?", f"What is at the {w} now?")
        if cell in used:
            k = used[cell][:2]
            self.topic = tuple(k)
            return q, f"{article(name(k)).capitalize()} is at the {w}.", [name(k)]
        if self.now[2] and self.now[2][1] == cell:
            return q, f"The {sign(self.now[2][0])} is at the {w}.", [sign(self.now[2][0])]
        return q, f"Nothing is at the {w}.", ["nothing"]

    def q_glyph(self):
        q = self.pick("Which letter or digit is shown?", "What letter or digit is there?", "What can you read?", "Is there a letter or a digit?",
                      "Which character is shown now?", "Read the letter or digit.", "What is written there?", "Which letter or digit is there now?")
        if not self.now[2]:
            if self.rng.random() < 0.5:
                return None
            return q, "No letter or digit is shown.", ["no letter"]
        g = sign(self.now[2][0])
        if self.rng.random() < 0.3:
            w = g.split()[0]
            q = self.pick(f"Which {w} is shown?", f"What {w} is there?", f"Which {w} do you see now?")
        return q, f"The {g} is shown.", [g]

    def q_exist(self):
        have = self.keys_now()
        yes = bool(have) and self.rng.random() < 0.5
        k = self.any(have) if yes else self.stranger(have)
        if not yes and self.first and self.rng.random() < 0.5:
            k = self.any(self.first)
        if k is None:
            return None
        n, hit = name(k), k in have
        if self.rng.random() < 0.3:
            n, hit = SHAPES[k[0]], any(a == k[0] for a, _ in have)
        q = self.pick(f"Is there {article(n)}?", f"Is there {article(n)} now?", f"Do you see {article(n)} now?", f"Can you see {article(n)} now?",
                      f"Is {article(n)} there now?")
        return q, (f"Yes, there is {article(n)}." if hit else f"No, there is no {n}."), ["yes" if hit else "no"]

    def q_move(self):
        if any(t[3] == UNSURE for t in self.now[1]):
            return None
        go = [t for t in self.now[1] if t[3] != STILL]
        if not go:
            if self.rng.random() < 0.75:
                return None
            return self.pick("Is anything moving?", "What is moving?", "Does anything move now?"), "Nothing is moving.", ["nothing"]
        if len(go) == 1 and self.rng.random() < 0.5:
            s, c, _, d, _ = go[0]
            q = self.pick("Is anything moving?", "What is moving?", "Does anything move now?", "What is moving now?")
        else:
            s, c, _, d, _ = self.any(go)
            x = self.the((s, c))
            q = self.pick(f"Which way is {x} moving?", f"Where is {x} going?", f"In which direction is {x} moving?", f"How is {x} moving?")
        self.topic = (s, c)
        return q, f"The {name((s, c))} is moving {DIRS[d]}.", [name((s, c)), DIRS[d]]

    # ---- before ----
    def q_ever(self):
        yes = bool(self.first) and self.rng.random() < 0.5
        k = self.any(self.first) if yes else self.stranger(self.first)
        if k is None:
            return None
        n, hit, m = name(k), k in self.first, None
        if self.rng.random() < 0.25:
            n, hit = SHAPES[k[0]], any(a == k[0] for a, _ in self.first)
            if not yes and hit and self.rng.random() < 0.6:
                return None
        if hit:
            self.proof = "event", min(i for b, i in self.first.items() if name(b).endswith(n))
        q = self.pick(f"Was there {article(n)}?", f"Did you see {article(n)}?", f"Have you seen {article(n)}?", f"Was {article(n)} ever there?",
                      f"Did {article(n)} appear?", f"Has there been {article(n)}?", f"Have you ever seen {article(n)}?")
        if hit and n != SHAPES[k[0]]:
            self.topic = k
        return q, (f"Yes, I saw {article(n)}." if hit else f"No, I did not see {article(n)}."), ["yes" if hit else "no"]

    def q_ever_glyph(self):
        yes = bool(self.gfirst) and self.rng.random() < 0.5
        g = self.any(self.gfirst) if yes else int(self.rng.integers(len(GLYPHS)))
        n, hit = sign(g), g in self.gfirst
        if hit:
            self.proof = "event", self.gfirst[g]
        q = self.pick(f"Was the {n} shown?", f"Did you see the {n}?", f"Have you seen the {n}?", f"Was there the {n}?", f"Was the {n} ever there?")
        return q, (f"Yes, I saw the {n}." if hit else f"No, I did not see the {n}."), ["yes" if hit else "no"]

    def out_of_time(self, q):
        """The same question for a second that nothing remembered tells of."""
        lo, hi = self.time(0), self.time(-1)
        n = int(lo - self.rng.integers(3, 40)) if self.rng.random() < 0.5 else int(hi + self.rng.integers(3, 40))
        return (q(n), DUNNO, DUNNO_OK, "unknown") if n >= 0 else None

    def q_colour_at(self):
        s = int(self.rng.integers(len(SHAPES)))
        n, i = self.at_time()
        if n is None:
            return None
        if self.seen[i][1]:
            s = self.any(self.seen[i][1])[0]
        w = SHAPES[s]
        tail = self.rng.integers(4)

        def q(t):
            return [f"What colour was the {w} at {t} seconds?", f"At {t} seconds, what colour was the {w}?",
                    f"Which colour did the {w} have at {t} seconds?", f"What was the colour of the {w} at {t} seconds?"][tail]
        if self.rng.random() < 0.12:
            return self.out_of_time(q)
        self.proof = "time", i
        c = [b for a, b, *_ in self.seen[i][1] if a == s]
        if not c:
            return q(n), f"There was no {w} then.", [f"no {w}"]
        if len(c) > 1:
            return None
        self.topic = (s, c[0])
        return q(n), f"The {w} was {COLOURS[c[0]]}.", [COLOURS[c[0]]]

    def q_what_at(self):
        n, i = self.at_time()
        if n is None:
            return None
        tail = self.rng.integers(5)

        def q(t):
            return [f"What was there at {t} seconds?", f"What did you see at {t} seconds?", f"What was on the screen at {t} seconds?",
                    f"At {t} seconds, what was there?", f"Describe what was there at {t} seconds."][tail]
        if self.rng.random() < 0.12:
            return self.out_of_time(q)
        self.proof = "time", i
        p, ok = self.parts(self.seen[i], False)
        if not p:
            return q(n), "There was nothing.", ["nothing"]
        return q(n), "There was " + join(p) + ".", ok

    def q_count_at(self):
        n, i = self.at_time()
        if n is None:
            return None
        tail = self.rng.integers(3)

        def q(t):
            return [f"How many shapes were there at {t} seconds?", f"At {t} seconds, how many shapes were there?",
                    f"How many shapes did you see at {t} seconds?"][tail]
        if self.rng.random() < 0.1:
            return self.out_of_time(q)
        self.proof = "time", i
        k = len(self.seen[i][1])
        return q(n), ("There was one shape." if k == 1 else f"There were {NUMBERS[k]} shapes."), [f"{NUMBERS[k]} shape" + ("" if k == 1 else "s")]

    def q_glyph_at(self):
        n, i = self.at_time()
        if n is None:
            return None
        tail = self.rng.integers(4)

        def q(t):
            return [f"Which letter or digit was shown at {t} seconds?", f"What could you read at {t} seconds?",
                    f"At {t} seconds, which letter or digit was there?", f"What letter or digit was there at {t} seconds?"][tail]
        if self.rng.random() < 0.1:
            return self.out_of_time(q)
        self.proof = "time", i
        g = self.seen[i][2]
        if not g:
            if self.rng.random() < 0.7:
                return None
            return q(n), "No letter or digit was shown.", ["no letter"]
        return q(n), f"The {sign(g[0])} was shown.", [sign(g[0])]

    def q_when(self):
        if self.gfirst and self.rng.random() < 0.3:
            g = self.any(self.gfirst)
            n, w = self.time(self.gfirst[g]), sign(g)
            self.proof = "event", self.gfirst[g]
            q = self.pick(f"When was the {w} shown?", f"When did the {w} appear?", f"When did you first see the {w}?", f"At what time did the {w} appear?")
            return q, f"The {w} appeared at {n} seconds.", [self.when_ok(n)]
        if not self.first:
            return None
        k = self.any(self.first)
        n, x = self.time(self.first[k]), self.the(k)
        self.topic, self.proof = k, ("event", self.first[k])
        q = self.pick(f"When did {x} appear?", f"When did you first see {x}?", f"At what time did {x} appear?", f"When was {x} first seen?",
                      f"When did {x} come?", f"At what second did {x} appear?")
        return q, f"The {name(k)} appeared at {n} seconds.", [self.when_ok(n)]

    def q_when_last(self):
        gone = [k for k in self.last if self.last[k] < len(self.seen) - 1]
        if not gone:
            return None
        k = self.any(gone)
        n, x = self.time(self.last[k]), self.the(k)
        self.topic, self.proof = k, ("gone", self.last[k] + 1)
        q = self.pick(f"When did you last see {x}?", f"When was {x} last seen?", f"When did {x} leave?", f"When did {x} disappear?",
                      f"Until when was {x} there?")
        return q, f"The {name(k)} was last seen at {n} seconds.", [self.when_ok(n)]

    def unique(self, table, best):
        if not table:
            return None
        v = best(table.values())
        ks = [k for k in table if table[k] == v]
        return ks[0] if len(ks) == 1 else None

    def q_first(self):
        latest = self.rng.random() < 0.5
        k = self.unique(self.first, max if latest else min)
        if k is None:
            return None
        self.topic, self.proof = k, ("event", self.first[k])
        if latest:
            q = self.pick("What was the last shape to appear?", "Which shape appeared last?", "Which new shape came last?", "What appeared last?",
                          "What is the newest shape?")
            return q, f"The {name(k)} appeared last.", [name(k)]
        q = self.pick("What was the first shape you saw?", "Which shape appeared first?", "Which shape was the first?", "What did you see first?",
                      "What came first?", "What was the very first shape?")
        return q, f"The {name(k)} came first.", [name(k)]

    def q_order(self):
        ks = list(self.first)
        if len(ks) < 2:
            return None
        a, b = (ks[i] for i in self.rng.choice(len(ks), 2, replace=False))
        if self.first[a] == self.first[b]:
            return None
        if self.rng.random() < 0.6:
            k = a if self.first[a] < self.first[b] else b
            q = self.pick(f"What came first, the {name(a)} or the {name(b)}?", f"Which came first, the {name(a)} or the {name(b)}?",
                          f"Which appeared earlier, the {name(a)} or the {name(b)}?", f"Did you see the {name(a)} or the {name(b)} first?")
            self.topic = k
            return q, f"The {name(k)} came first.", [name(k)]
        hit = self.first[a] < self.first[b]
        before = self.rng.random() < 0.5
        x, y = (a, b) if before else (b, a)
        w = "before" if before else "after"
        q = self.pick(f"Did the {name(x)} appear {w} the {name(y)}?", f"Was the {name(x)} there {w} the {name(y)} appeared?"
                      if before else f"Did the {name(x)} come after the {name(y)}?")
        return q, (f"Yes, the {name(x)} came {w} the {name(y)}." if hit else f"No, the {name(y)} came {w} the {name(x)}."), ["yes" if hit else "no"]

    def q_glyphs(self):
        order = sorted(self.gfirst, key=self.gfirst.get)
        if not order or len(order) > 6 or len({self.gfirst[g] for g in order}) < len(order):
            return None
        r = self.rng.random()
        if r < 0.4:
            q = self.pick("Which letters and digits have you seen?", "What letters and digits were shown?", "Which letters and digits were there?",
                          "List the letters and digits.")
            self.proof = [(" " + GLYPHS[g], ("event", self.gfirst[g])) for g in order]
            return q, f"I saw {join([GLYPHS[g] for g in order])}.", [join([GLYPHS[g] for g in order])]
        self.proof = "event", self.gfirst[order[0 if r < 0.6 else -1]]
        if r < 0.6:
            return (self.pick("Which letter or digit was shown first?", "What was the first letter or digit?"),
                    f"The {sign(order[0])} was shown first.", [sign(order[0])])
        if r < 0.8:
            return (self.pick("Which letter or digit was shown last?", "What was the last letter or digit?"),
                    f"The {sign(order[-1])} was shown last.", [sign(order[-1])])
        if len(order) < 2:
            return None
        self.proof = None
        i = int(self.rng.integers(len(order) - 1))
        a, b = order[i], order[i + 1]
        later = self.rng.random() < 0.5
        self.proof = "event", self.gfirst[b if later else a]
        if later:
            return (self.pick(f"Which letter or digit came after the {sign(a)}?", f"What was shown after the {sign(a)}?"),
                    f"The {sign(b)} came after the {sign(a)}.", [sign(b)])
        return (self.pick(f"Which letter or digit came before the {sign(b)}?", f"What was shown before the {sign(b)}?"),
                f"The {sign(a)} came before the {sign(b)}.", [sign(a)])

    def q_change(self):
        if self.changes and self.rng.random() < 0.8:
            i, old, new = self.changes[-1] if self.rng.random() < 0.5 else self.any(self.changes)
            s = SHAPES[new[0]]
            mine = [c for c in self.changes if c[2] == new]
            if len(mine) != 1:
                return None
            w = name(new)
            self.topic, self.proof = new, ("event", i)
            q = self.pick(f"What colour was the {w} before?", f"What colour was the {s} before it turned {COLOURS[new[1]]}?",
                          f"Which colour had the {w} before it changed?")
            return q, f"The {s} was {COLOURS[old[1]]} before.", [COLOURS[old[1]]]
        s = int(self.rng.integers(len(SHAPES))) if self.rng.random() < 0.3 or not self.first else self.any(self.first)[0]
        mine = [c for c in self.changes if c[2][0] == s]
        w = SHAPES[s]
        if not any(k[0] == s for k in self.first) or len(mine) > 1:
            return None
        q = self.pick(f"Did the {w} change its colour?", f"Did {article(w)} change colour?", f"Has {article(w)} changed its colour?")
        if mine:
            self.proof = "event", mine[0][0]
            a, b = COLOURS[mine[0][1][1]], COLOURS[mine[0][2][1]]
            return q, f"Yes, the {w} changed from {a} to {b}.", ["yes", a, b]
        return q, f"No, the {w} did not change.", ["no"]

    def q_moved(self):
        if not self.first:
            return None
        k = self.any(self.moves) if self.moves and self.rng.random() < 0.8 else self.any(self.first)
        m = self.moves.get(k, [])
        if len(m) > 1 or any(t[3] == UNSURE for o in self.seen for t in o[1] if t[:2] == k):
            if len(m) != 1:
                return None
        x = self.the(k)
        self.topic = k
        q = self.pick(f"Which way did {x} move?", f"In which direction did {x} move?", f"How did {x} move?", f"Did {x} move?")
        self.proof = ("event", self.moved_at[k]) if m else None
        if not m:
            return q, f"The {name(k)} did not move.", ["did not move"]
        return q, f"The {name(k)} moved {DIRS[m[0]]}.", [f"moved {DIRS[m[0]]}"]

    def q_where_past(self):
        now = self.keys_now()
        gone = [k for k in self.spots if k not in now]
        if not gone:
            return None
        k = self.any(gone)
        i = self.last[k]
        t = next(t for t in self.seen[i][1] if t[:2] == k)
        if not t[4]:
            return None
        x = self.the(k)
        self.topic = k
        q = self.pick(f"Where was {x}?", f"Where did you last see {x}?", f"Where was {x} before it left?", f"In which place was {x}?")
        return q, f"The {name(k)} was at the {CELLS[t[2]]}.", [f"at the {CELLS[t[2]]}"]

    def q_count_past(self):
        n = len(self.first)
        if not 0 < n <= 6:
            return None
        q = self.pick("How many different shapes have you seen?", "How many different shapes were there in all?",
                      "How many different shapes did you see so far?")
        return q, f"I saw {NUMBERS[n]} different shape{'s' if n > 1 else ''}.", [f"{NUMBERS[n]} different"]

    def q_story(self):
        order = sorted(self.first, key=lambda k: self.first[k])
        if not 0 < len(order) <= 5 or len({self.first[k] for k in order}) < len(order):
            return None
        q = self.pick("What happened?", "Tell me what you have seen.", "Which shapes have you seen, in order?", "What have you seen so far?",
                      "Describe the whole clip.", "Tell me everything that you saw.", "Which shapes came one after the other?")
        parts = [article(name(k)) for k in order]
        self.proof = [(" " + name(k), ("event", self.first[k])) for k in order]
        return q, "First " + ", then ".join(parts) + ".", [name(k) for k in order]

    def q_unknown(self):
        r = self.rng.random()
        if r < 0.35:
            return self.any(FOREIGN), DUNNO, DUNNO_OK
        k = self.stranger(self.first)
        if k is None:
            return None
        n = name(k)
        if r < 0.75:
            q = self.pick(f"When did the {n} appear?", f"Where was the {n}?", f"Which way did the {n} move?", f"When did you last see the {n}?",
                          f"When did the {n} leave?")
            return q, f"I don't know. I did not see {article(n)}.", DUNNO_OK
        g = int(self.rng.integers(len(GLYPHS)))
        if g in self.gfirst:
            return None
        return self.pick(f"When was the {sign(g)} shown?", f"When did the {sign(g)} appear?"), f"I don't know. I did not see the {sign(g)}.", DUNNO_OK

    def ask(self, kinds=None, weights=WEIGHTS):
        kinds = kinds or PRESENT + PAST + OTHER
        w = [weights.get(k, 1.0) for k in kinds]
        tot = sum(w)
        for _ in range(40):
            kind = str(self.rng.choice(kinds, p=[x / tot for x in w]))
            self.proof = ("now", len(self.seen) - 1) if kind in PRESENT else None
            got = getattr(self, "q_" + kind)()
            if not got:
                continue
            q, a, ok = got[:3]
            kind = got[3] if len(got) > 3 else kind
            r = self.rng.random()
            if r < 0.06 and kind != "describe":
                q = "And " + q[0].lower() + q[1:]
            elif r < 0.1:
                q = q[0].lower() + q[1:]
            elif r < 0.13:
                q = q.rstrip("?.")
            elif r < 0.16:
                q = "Please tell me: " + q[0].lower() + q[1:]
            return q, a, ok, kind
        return None
