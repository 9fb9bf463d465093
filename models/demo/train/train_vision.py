"""Stage 1: the vision tower learns what stands in each cell, from dense labels (readout heads that are thrown away)."""
import argparse
import glob
import json
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import truth
from model import VIS, Vision
from optim import Optimiser
from world import COLOURS, GLYPHS, SHAPES

SIZES = [len(SHAPES) + 1, len(COLOURS) + 1, len(GLYPHS) + 1, 5]


class Readout(nn.Module):
    """Nine learned queries, one a cell, look at the visual tokens; and a direct reading where tokens are cells."""

    def __init__(self):
        super().__init__()
        d = VIS["out_hidden_size"]
        self.query = nn.Parameter(torch.randn(9, d) * 0.05)
        self.key, self.value = nn.Linear(d, d), nn.Linear(d, d)
        self.head = nn.Linear(d, sum(SIZES))
        self.head_direct = nn.Linear(d, sum(SIZES))
        self.norm = nn.LayerNorm(d)

    def forward(self, x):
        n, t, d = x.shape
        q = self.query.expand(n, 9, d).reshape(n, 9, 4, -1).transpose(1, 2)
        k, v = (f(x).view(n, t, 4, -1).transpose(1, 2) for f in (self.key, self.value))
        o = ((q @ k.transpose(-1, -2) * 0.125).softmax(-1) @ v).transpose(1, 2).reshape(n, 9, d)
        out = [self.head(self.norm(o))]
        if t == 9:
            out.append(self.head_direct(x))
        return out


class Pool:
    def __init__(self, folder, first, last):
        self.films = {}
        for f in sorted(glob.glob(os.path.join(folder, "*.npz")))[first:last]:
            if f.endswith(".tmp.npz"):
                continue
            z = np.load(f)
            fr = torch.from_numpy(z["frames"])
            self.films.setdefault(tuple(fr.shape[1:3]), []).append((fr, json.loads(str(z["truth"]))))
        self.weights = {k: len(v) for k, v in self.films.items()}

    def batch(self, rng, n):
        keys = list(self.films)
        p = np.array([self.weights[k] for k in keys], float)
        films = self.films[keys[rng.choice(len(keys), p=p / p.sum())]]
        px, lab = [], []
        for _ in range(n):
            fr, tr = films[rng.integers(len(films))]
            step = rng.choice([0, 1, 1, 1, 1, 1, 1, 2])
            i = rng.integers(len(fr) - step)
            px.append(torch.stack([fr[i], fr[i + step]]))
            lab.append(truth.dense(truth.pair(tr[i], tr[i + step])))
        return torch.stack(px), torch.from_numpy(np.stack(lab))


def augment(px, rng):
    n = px.shape[0]
    x = px.float()
    gain = torch.from_numpy(rng.uniform(0.9, 1.1, (n, 1, 1, 1, 3)).astype(np.float32))
    lift = torch.from_numpy(rng.uniform(-12, 12, (n, 1, 1, 1, 1)).astype(np.float32))
    x = x * gain + lift + torch.randn(px.shape[:4] + (1,)) * float(rng.uniform(0, 5))
    return x.clamp(0, 255)


def losses(outs, lab, acc=None):
    total = 0.0
    for o in outs:
        for i, part in enumerate(o.float().split(SIZES, -1)):
            y = lab[..., i].reshape(-1)
            w = torch.where(y > 0, 1.0, 0.25)
            ce = F.cross_entropy(part.reshape(-1, SIZES[i]), y, ignore_index=-1, reduction="none")
            total = total + (ce * w).sum() / w.sum()
            if acc is not None:
                ok = part.reshape(-1, SIZES[i]).argmax(-1) == y
                acc.append([float(ok[y > 0].float().mean()), float(ok[y == 0].float().mean())])
    return total


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--pool", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--minutes", type=float, default=12)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--batch", type=int, default=96)
    p.add_argument("--limit", type=int, default=400)
    p.add_argument("--init", help="go on from this checkpoint")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    rng = np.random.default_rng(int(time.time()))
    pool = Pool(a.pool, 12, a.limit)
    held = Pool(a.pool, 0, 12)
    net, main_r, deep_r = Vision(), Readout(), Readout()
    allm = nn.ModuleDict({"visual": net, "main": main_r, "deep": deep_r})
    if a.init:
        allm.load_state_dict(torch.load(a.init, weights_only=False)["model"])
    allm.bfloat16()
    opt = Optimiser(list(allm.named_parameters()), 0.02, 2e-3)
    start, step = time.time(), 0
    while True:
        u = (time.time() - start) / (a.minutes * 60)
        if u >= 1:
            break
        px, lab = pool.batch(rng, a.batch)
        emb, deep = net(augment(px, rng))
        loss = losses(main_r(emb), lab) + 0.5 * losses(deep_r(deep[0]), lab)
        loss.backward()
        opt.step(min(1.0, (step + 1) / 50) * min(1.0, (1 - u) / 0.5 + 0.01))
        step += 1
        if step % 100 == 0 or step == 20:
            with torch.no_grad():
                acc = []
                px, lab = held.batch(rng, 256)
                emb, deep = net(px)
                losses(main_r(emb), lab, acc)
                losses(deep_r(deep[0]), lab, acc)
            print(step, f"{time.time() - start:.0f}s", f"loss {float(loss):.3f}", tuple(px.shape[2:4]),
                  "shape/colour/glyph/dir", " ".join(f"{x:.3f}/{y:.3f}" for x, y in acc), flush=True)
        if step % 300 == 0 or u > 0.995:
            torch.save({"model": allm.float().state_dict(), "step": step}, a.out + ".tmp")
            os.replace(a.out + ".tmp", a.out)
            allm.bfloat16()
    torch.save({"model": {k: v.float() for k, v in allm.state_dict().items()}, "step": step}, a.out)


if __name__ == "__main__":
    main()
