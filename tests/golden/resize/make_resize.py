#!/usr/bin/env python3
"""Makes resize.bin: pictures resized by torchvision, for tests/unit/test_resize.c.

Needs torch and torchvision (written with torch 2.15.0, torchvision 0.29.2, on a CPU with AVX2).
A record: sw, sh, dw, dh, seed, kind as little-endian uint32, then dh * dw * 3 bytes of result. The
source is made again by the test: byte i of the picture is noise(seed, i), as it is (kind 0) or
spread to 0 and 255 (kind 1).
"""
import pathlib
import struct

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

CASES = [
    # sw, sh, dw, dh, kind: shrink, grow, one direction only, both ways at once, odd and tiny sides
    (97, 61, 32, 32, 0), (97, 61, 32, 32, 1), (31, 17, 64, 64, 1), (640, 36, 64, 36, 0),
    (36, 300, 36, 64, 1), (50, 20, 21, 47, 0), (5, 7, 2, 3, 1), (2, 2, 9, 5, 1), (1, 9, 4, 4, 0),
    (200, 150, 28, 28, 1), (33, 33, 32, 32, 0), (720, 5, 11, 4, 1), (16, 16, 16, 16, 0),
]


def noise(seed, count):
    i = np.arange(count, dtype=np.uint64)
    x = (i + np.uint64(seed) * np.uint64(1000003)) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(29)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    return ((x >> np.uint64(40)) & np.uint64(255)).astype(np.uint8)


out = bytearray()
for seed, (sw, sh, dw, dh, kind) in enumerate(CASES):
    a = noise(seed, sw * sh * 3)
    if kind:
        a = np.where(a >= 128, 255, 0).astype(np.uint8)
    t = torch.from_numpy(a.reshape(sh, sw, 3)).permute(2, 0, 1).contiguous()
    r = F.resize(t, [dh, dw], interpolation=InterpolationMode.BICUBIC, antialias=True)
    out += struct.pack("<6I", sw, sh, dw, dh, seed, kind)
    out += r.permute(1, 2, 0).contiguous().numpy().tobytes()
pathlib.Path(__file__).with_name("resize.bin").write_bytes(out)
