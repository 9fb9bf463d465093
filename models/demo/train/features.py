"""Stage 2: the finished vision tower looks once at every pair of the pool; the language stage reads its answers from disk."""
import argparse
import json
import os

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from build import ROWS, Films, film_row
from model import Vision


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--pool", required=True)
    p.add_argument("--vision", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--last", type=int)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--recentre", help="bring the outputs to mean 0 and rms 0.7 first, and save that tower here")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    net = load_vision(a.vision)
    films = Films(a.pool, a.first, a.last)
    if a.recentre:
        recentre(net, films)
        torch.save({"model": {"visual." + k: v.float() for k, v in net.state_dict().items()}}, a.recentre)
    sizes = [g[0] * g[1] * ROWS for _, g, _ in films.items]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    d = 512
    out = np.lib.format.open_memmap(a.out + ".npy", "w+", np.int16, (int(offsets[-1]), d))
    keys = [(i, i + 1, film_row(i, 1)) for i in range(119)]
    keys += [(i, i + 2, film_row(i, 2)) for i in range(0, 118, 2)]
    keys += [(i, i, film_row(i, 0)) for i in range(0, 120, 4)]
    ia, ib, ir = (torch.tensor(x) for x in zip(*keys))
    for k, (f, g, _) in enumerate(films.items):
        fr = shrink(torch.from_numpy(np.load(f)["frames"]))
        with torch.no_grad():
            emb, deep = net(torch.stack([fr[ia], fr[ib]], 1))
        x = torch.cat([emb, deep[0]], -1)[torch.argsort(ir)]
        n = g[0] * g[1]
        out[offsets[k]:offsets[k + 1]] = x.reshape(ROWS * n, d).view(torch.int16).numpy()
        if k % 50 == 0:
            print(k, flush=True)
    out.flush()
    json.dump(offsets.tolist(), open(a.out + ".json", "w"))


def shrink(frames, side=96):
    """uint8 [n, h, w, 3] -> [n, 96, 96, 3], as the processor resizes (bicubic, antialiased)."""
    if frames.shape[1] == side:
        return frames
    x = F.interpolate(frames.permute(0, 3, 1, 2).float(), (side, side), mode="bicubic", antialias=True, align_corners=False)
    return x.round().clamp(0, 255).byte().permute(0, 2, 3, 1)


def recentre(net, films, rms=0.7):
    """Folds into the mergers' last layers: outputs without their mean, on the scale of the token embeddings."""
    with torch.no_grad():
        fr = torch.cat([shrink(torch.from_numpy(np.load(f)["frames"]))[:118] for f, _, _ in films.items[:30]])
        emb, deep = net(fr.view(-1, 2, *fr.shape[1:]))
        for merger, x in ((net.merger, emb), (net.deepstack_merger_list[0], deep[0])):
            x = x.float().reshape(-1, x.shape[-1])
            k = rms / (x - x.mean(0)).square().mean().sqrt()
            last = merger.linear_fc2
            last.bias.copy_((last.bias.float() - x.mean(0)) * k)
            last.weight.copy_(last.weight.float() * k)


def load_vision(path):
    """The tower of a checkpoint, or of an exported model's directory."""
    if os.path.isdir(path):
        sd = {k[6:]: v.float() for k, v in load_file(os.path.join(path, "model.safetensors")).items()}
    else:
        sd = torch.load(path, weights_only=False)["model"]
    net = Vision()
    net.load_state_dict({k[7:]: v for k, v in sd.items() if k.startswith("visual.")})
    return net.bfloat16().eval()


if __name__ == "__main__":
    main()
