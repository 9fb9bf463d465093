"""The demo world: a renderer of short scenes, and the truth about every frame of them.

A scene is a plain background with up to three coloured shapes and at most one letter or digit.
Each stands in a cell of a 3x3 grid; shapes appear, leave, move to another cell and change colour.
`make_film` draws a film of one or more scenes (hard cuts) and returns, for every native frame, the
picture and what is to be seen in it. Questions are made from these truths alone (see talk.py).
"""
import colorsys
import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHAPES = ["circle", "square", "triangle", "star", "cross", "ring"]
COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "pink"]
RGB = {
    "red": (225, 30, 35), "orange": (250, 140, 20), "yellow": (245, 230, 40), "green": (40, 175, 60),
    "blue": (40, 80, 230), "purple": (140, 50, 190), "pink": (250, 150, 200),
}
GLYPHS = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # no I and O: they look like 1 and 0
CELLS = ["top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right"]
SIZES = [(96, 96), (96, 96), (96, 96), (128, 128), (128, 96)]
SS = 4  # supersampling of sprites


def _points(kind, n=5):
    if kind == "triangle":
        return [(0, -1), (0.95, 0.8), (-0.95, 0.8)]
    if kind == "star":
        return [((1.08 if i % 2 == 0 else 0.45) * math.sin(math.pi * i / n),
                 -(1.08 if i % 2 == 0 else 0.45) * math.cos(math.pi * i / n)) for i in range(2 * n)]
    a = 0.36
    return [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]


@functools.lru_cache(maxsize=4096)
def _sprite(shape, rgb, radius):
    """One shape as an RGBA picture, antialiased; its centre is the middle of the picture."""
    half = radius + 3
    size = 2 * half * SS
    im = Image.new("RGBA", (size, size), rgb + (0,))
    d = ImageDraw.Draw(im)
    c, r = half * SS, radius * SS
    if shape == "circle":
        d.ellipse([c - r, c - r, c + r, c + r], fill=rgb + (255,))
    elif shape == "ring":
        d.ellipse([c - r, c - r, c + r, c + r], fill=rgb + (255,))
        q = r * 0.55
        d.ellipse([c - q, c - q, c + q, c + q], fill=rgb + (0,))
    elif shape == "square":
        q = r * 0.88
        d.rectangle([c - q, c - q, c + q, c + q], fill=rgb + (255,))
    else:
        d.polygon([(c + x * r, c + y * r) for x, y in _points(shape)], fill=rgb + (255,))
    return im.resize((2 * half, 2 * half), Image.BOX)


@functools.lru_cache(maxsize=2048)
def _glyph(ch, height, grey):
    font = ImageFont.load_default(size=int(height * SS * 1.35))
    box = font.getbbox(ch)
    w, h = box[2] - box[0] + 2 * SS, box[3] - box[1] + 2 * SS
    im = Image.new("RGBA", (w, h), (grey, grey, grey, 0))
    ImageDraw.Draw(im).text((SS - box[0], SS - box[1]), ch, font=font, fill=(grey, grey, grey, 255),
                            stroke_width=SS // 2, stroke_fill=(grey, grey, grey, 255))
    return im.resize((max(1, w // SS), max(1, h // SS)), Image.BOX)


def background(rng, w, h):
    """A dim, nearly grey field: flat, graded or coarsely grained."""
    base = np.array(colorsys.hsv_to_rgb(rng.random(), rng.random() * 0.25, rng.uniform(0.02, 0.38))) * 255
    a = np.broadcast_to(base, (h, w, 3)).astype(np.float32).copy()
    if rng.random() < 0.5:
        gy, gx = np.mgrid[0:h, 0:w]
        ang = rng.uniform(0, 2 * math.pi)
        a += (((gx / w - 0.5) * math.cos(ang) + (gy / h - 0.5) * math.sin(ang)) * rng.uniform(10, 50))[..., None]
    if rng.random() < 0.4:
        n = rng.integers(3, 9)
        grain = rng.normal(0, rng.uniform(2, 8), (n, n)).astype(np.float32)
        a += np.asarray(Image.fromarray(grain).resize((w, h), Image.BICUBIC))[..., None]
    return np.clip(a, 0, 255).astype(np.uint8)


class Thing:
    def __init__(self, shape, colour, cell, rng):
        self.shape, self.colour, self.cell = shape, colour, cell
        self.jx, self.jy = rng.uniform(-0.09, 0.09, 2)
        self.scale = rng.uniform(0.34, 0.43)
        self.tint = tuple(int(np.clip(v + rng.normal(0, 7), 0, 255)) for v in RGB[colour])
        self.move = None  # (cell from, cell to, start, end)

    def recolour(self, colour, rng):
        self.colour = colour
        self.tint = tuple(int(np.clip(v + rng.normal(0, 7), 0, 255)) for v in RGB[colour])

    def place(self, t):
        """Centre in units of cells."""
        if self.move is None:
            y, x = divmod(self.cell, 3)
        else:
            a, b, t0, t1 = self.move
            u = min(1.0, max(0.0, (t - t0) / (t1 - t0)))
            (ya, xa), (yb, xb) = divmod(a, 3), divmod(b, 3)
            y, x = ya + (yb - ya) * u, xa + (xb - xa) * u
        return x + 0.5 + self.jx, y + 0.5 + self.jy


class Scene:
    """What stands where, changed by one random event after another."""

    def __init__(self, rng, w, h):
        self.rng, self.w, self.h = rng, w, h
        self.bg = Image.fromarray(background(rng, w, h))
        self.things, self.glyph = [], None
        self.pace = rng.choice([1.2, 2.0, 3.0, 4.5])
        self.most = int(rng.choice([1, 2, 3, 3]))
        for _ in range(int(rng.choice([0, 1, 2, 2, 3]))):
            self.appear()
        if rng.random() < 0.3:
            self.show()

    def free(self):
        used = {t.cell for t in self.things} | {t.move[0] for t in self.things if t.move}
        if self.glyph:
            used.add(self.glyph[1])
        return [c for c in range(9) if c not in used]

    def appear(self):
        cells, rng = self.free(), self.rng
        if len(self.things) >= self.most or not cells:
            return
        have = {t.shape for t in self.things}
        shapes = SHAPES if rng.random() < 0.2 else [s for s in SHAPES if s not in have]
        for _ in range(8):
            s, c = str(rng.choice(shapes)), str(rng.choice(COLOURS))
            if all((t.shape, t.colour) != (s, c) for t in self.things):
                self.things.append(Thing(s, c, int(rng.choice(cells)), rng))
                return

    def show(self):
        cells, rng = self.free(), self.rng
        if cells:
            self.glyph = (str(rng.choice(list(GLYPHS))), int(rng.choice(cells)), int(rng.integers(225, 256)),
                          rng.uniform(0.62, 0.78), *rng.uniform(-0.07, 0.07, 2))

    def event(self, t):
        rng = self.rng
        still = [x for x in self.things if x.move is None]
        kind = rng.choice(["appear", "leave", "colour", "move", "glyph"], p=[0.3, 0.2, 0.12, 0.2, 0.18])
        if kind == "appear" or not self.things and kind != "glyph":
            self.appear()
        elif kind == "leave" and still:
            self.things.remove(still[rng.integers(len(still))])
        elif kind == "colour" and still:
            x = still[rng.integers(len(still))]
            new = [c for c in COLOURS if c != x.colour
                   and all((y.shape, y.colour) != (x.shape, c) for y in self.things)]
            x.recolour(str(rng.choice(new)), rng)
        elif kind == "move" and still:
            self.start_move(still[rng.integers(len(still))], t)
        elif kind == "glyph":
            if self.glyph and rng.random() < 0.6:
                self.glyph = None
            else:
                self.glyph = None
                self.show()

    def start_move(self, x, t):
        free, (r, c) = set(self.free()), divmod(x.cell, 3)
        ways = []
        for dr, dc in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            for n in (1, 2):
                rr, cc = r + dr * n, c + dc * n
                if not (0 <= rr < 3 and 0 <= cc < 3) or rr * 3 + cc not in free:
                    break
                ways.append((rr * 3 + cc, n))
        if ways:
            to, n = ways[self.rng.integers(len(ways))]
            speed = self.rng.uniform(0.4, 0.75)  # cells a second
            x.move = (x.cell, to, t, t + n / speed)
            x.cell = to

    def settle(self, t):
        for x in self.things:
            if x.move and t >= x.move[3]:
                x.move = None

    def draw(self, t):
        im = self.bg.copy()
        cw, ch = self.w / 3, self.h / 3
        truth = []
        for x in self.things:
            px, py = x.place(t)
            s = _sprite(x.shape, x.tint, int(round(x.scale * min(cw, ch))))
            im.paste(s, (int(round(px * cw - s.width / 2)), int(round(py * ch - s.height / 2))), s)
            truth.append([SHAPES.index(x.shape), COLOURS.index(x.colour), round(px, 3), round(py, 3), int(x.move is not None)])
        g = None
        if self.glyph:
            char, cell, grey, size, jx, jy = self.glyph
            s = _glyph(char, int(size * min(cw, ch)), grey)
            gy, gx = divmod(cell, 3)
            px, py = gx + 0.5 + jx, gy + 0.5 + jy
            im.paste(s, (int(round(px * cw - s.width / 2)), int(round(py * ch - s.height / 2))), s)
            g = [GLYPHS.index(char), cell]
        return im, {"things": truth, "glyph": g}


def make_film(seed, seconds, fps, size, scenes=True):
    """Yields (uint8 picture, truth) for each native frame."""
    rng = np.random.default_rng(seed)
    w, h = size
    scene, cut = Scene(rng, w, h), rng.uniform(8, 30)
    nxt = rng.exponential(scene.pace)
    for i in range(int(seconds * fps)):
        t = i / fps
        if scenes and t >= cut:
            scene, cut = Scene(rng, w, h), t + rng.uniform(8, 30)
            nxt = t + rng.exponential(scene.pace)
        scene.settle(t)
        while t >= nxt:
            scene.event(t)
            nxt += max(0.5, rng.exponential(scene.pace))
        im, truth = scene.draw(t)
        yield np.asarray(im), truth
