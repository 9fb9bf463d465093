"""What a pair of frames shows, from the truths of its two frames: the second frame decides, the step
from the first to the second tells who moves where."""
import numpy as np

STILL, LEFT, RIGHT, UP, DOWN, UNSURE = range(6)
DIRS = ["", "left", "right", "up", "down"]


def pair(a, b):
    """-> list of (shape, colour, cell, direction, settled), glyph or None. settled: stands well inside its cell."""
    out = []
    for s, c, x, y, moving in b["things"]:
        cell = min(2, int(y)) * 3 + min(2, int(x))
        d = STILL
        was = [(u, v) for s0, c0, u, v, _ in a["things"] if s0 == s and (c0 == c)]
        if was:
            u, v = min(was, key=lambda p: abs(p[0] - x) + abs(p[1] - y))
            dx, dy = x - u, y - v
            far = max(abs(dx), abs(dy))
            if far > 0.14:
                d = (RIGHT if dx > 0 else LEFT) if abs(dx) > abs(dy) else (DOWN if dy > 0 else UP)
            elif far > 0.02:
                d = UNSURE
        elif moving:
            d = UNSURE
        inside = abs(x % 1 - 0.5) < 0.2 and abs(y % 1 - 0.5) < 0.2
        out.append((s, c, cell, d, bool(inside and d == STILL and not moving)))
    return out, (tuple(b["glyph"]) if b["glyph"] else None)


def dense(state):
    """Per world cell: shape+1, colour+1, glyph+1 (0: none), direction; -1 where it is unclear."""
    lab = np.zeros((9, 4), np.int64)
    things, glyph = state
    for s, c, cell, d, _ in things:
        lab[cell, 0], lab[cell, 1] = s + 1, c + 1
        lab[cell, 3] = -1 if d == UNSURE else d
    if glyph:
        lab[glyph[1], 2] = glyph[0] + 1
    return lab
