"""Makes sizes.npy: i32 rows {model, video, frames, height, width, resized height, resized width}: the
size that transformers' image processor (video 0, frames 1) or video processor chooses with the
settings of models/; resized is -1 where it refuses the aspect ratio. `model` indexes the sorted names
of models/."""

import json
import random

import numpy as np
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as image_size
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as video_size

from common import HERE, MODELS

SIDES = [1, 2, 7, 15, 16, 17, 24, 31, 32, 33, 40, 48, 56, 64, 80, 100, 127, 128, 144, 176, 240, 320, 360, 480, 640, 720, 1080, 1920, 3840]


def main():
    rng, rows = random.Random(6), []
    for index, folder in enumerate(sorted(MODELS.iterdir())):
        image = json.loads((folder / "preprocessor_config.json").read_text())
        video = json.loads((folder / "video_preprocessor_config.json").read_text())
        for i in range(600):
            h, w = rng.choice(SIDES + [rng.randint(1, 2000)]), rng.choice(SIDES + [rng.randint(1, 2000)])
            frames, p = (1, image) if i % 2 else (rng.randint(2, 33), video)
            limits = dict(factor=p["patch_size"] * 2, min_pixels=p["size"]["shortest_edge"], max_pixels=p["size"]["longest_edge"])
            try:
                out = image_size(h, w, **limits) if i % 2 else video_size(frames, h, w, **limits)
            except ValueError:
                out = (-1, -1)
            rows.append([index, int(i % 2 == 0), frames, h, w, *out])
    np.save(HERE / "sizes.npy", np.array(rows, dtype=np.int32))
    print(len(rows), "sizes,", sum(r[5] < 0 for r in rows), "refused")


main()
