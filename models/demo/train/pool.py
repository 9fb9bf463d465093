"""Makes the pool of real clips: draws films, encodes them with FFmpeg, decodes them back and samples
them at 2 frames a second. One .npz a film: frames uint8 [n, h, w, 3] and the truth of each frame."""
import argparse
import json
import os
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor

import numpy as np

import world

CODECS = {
    "h264": (["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"], "mp4", (18, 34)),
    "vp9": (["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "0", "-pix_fmt", "yuv420p"],
            "webm", (20, 46)),
    "av1": (["-c:v", "libaom-av1", "-usage", "realtime", "-cpu-used", "8", "-b:v", "0", "-pix_fmt", "yuv420p"],
            "mkv", (20, 48)),
}


def encode(path, frames, fps, codec, crf):
    n, h, w, _ = frames.shape
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-threads", "1", "-f", "rawvideo", "-pix_fmt", "rgb24",
                    "-s", f"{w}x{h}", "-r", str(fps), "-i", "-", *CODECS[codec][0], "-crf", str(crf), "-threads", "1",
                    path], input=frames.tobytes(), check=True)


def decode(path, w, h):
    raw = subprocess.run(["ffmpeg", "-v", "error", "-threads", "1", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24",
                          "-vsync", "passthrough", "-"], check=True, stdout=subprocess.PIPE).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, h, w, 3)


def sample_index(k, rate, fps):
    """The native frame that stands at time k / rate: the last one with pts <= k / rate."""
    return int(np.floor(k / rate * fps + 1e-9))


def one(args):
    seed, out, seconds = args
    path = os.path.join(out, f"{seed}.npz")
    if os.path.exists(path):
        return 0
    rng = np.random.default_rng(seed + 77)
    size = world.SIZES[rng.integers(len(world.SIZES))]
    fps = int(rng.choice([4, 6, 8, 10]))
    codec = str(rng.choice(list(CODECS)))
    crf = int(rng.integers(*CODECS[codec][2]))
    pics, truths = zip(*world.make_film(seed, seconds, fps, size))
    with tempfile.TemporaryDirectory() as d:
        f = os.path.join(d, "a." + CODECS[codec][1])
        encode(f, np.stack(pics), fps, codec, crf)
        got = decode(f, *size)
    n = min(len(got), len(truths))
    idx = [sample_index(k, 2, fps) for k in range(int(seconds * 2))]
    idx = [i for i in idx if i < n]
    np.savez(path + ".tmp.npz", frames=got[idx], truth=json.dumps([truths[i] for i in idx]),
             about=json.dumps([size, fps, codec, crf]))
    os.replace(path + ".tmp.npz", path)
    return 1


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--out", required=True)
    p.add_argument("--first", type=int, default=1000)
    p.add_argument("--count", type=int, default=800)
    p.add_argument("--seconds", type=int, default=60)
    p.add_argument("--workers", type=int, default=1)
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    with ProcessPoolExecutor(a.workers) as ex:
        jobs = [(a.first + i, a.out, a.seconds) for i in range(a.count)]
        for i, _ in enumerate(ex.map(one, jobs, chunksize=4)):
            if i % 50 == 0:
                print(i, flush=True)
