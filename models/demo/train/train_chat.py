"""Stage 3: the language model learns to talk about what the (frozen) vision tower saw: short clips first,
then long ones with many rounds; a part of every row budget is prose. Resumable: --out holds everything."""
import argparse
import collections
import json
import multiprocessing as mp
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from books import TRAIN_BOOKS, read_book
from aux import MIDDLE, Readouts, labels
from build import ROWS, SP, Films, film_row, positions, session
from encode import encoder
from model import Text
from optim import Optimiser

def tokens(t):
    """Tokens of a step whose rows are t long: small steps early."""
    return 3072 if t <= 384 else 4096 if t <= 1024 else 8192


PROSE = 0.1  # share of the tokens


class Bank:
    """Feature rows by (film, frame, step)."""

    def __init__(self, path, films):
        self.rows = torch.from_numpy(np.load(path + ".npy", mmap_mode="r"))
        self.off = json.load(open(path + ".json"))
        self.grid = [g[0] * g[1] for _, g, _ in films.items]

    def gather(self, idx):
        x = self.rows[idx].view(torch.bfloat16)
        return x[:, :256], [x[:, 256:]]

    def index(self, key):
        f, i, step = key
        n = self.grid[f]
        s = self.off[f] + film_row(i, step) * n
        return np.arange(s, s + n)


def pack(rows, t, bank):
    """Right-padded arrays of one batch."""
    b, ends, asks, lines, ask_lines = len(rows), [], [], [], []
    ids, lab = np.full((b, t), SP["<|endoftext|>"], np.int64), np.full((b, t), -100, np.int64)
    pos, where, feat = np.zeros((3, b, t), np.int64), [], []
    for j, r in enumerate(rows):
        n = len(r.ids)
        ids[j, :n] = r.ids
        m = np.array(r.loss, bool)
        lab[j, :n][m] = np.array(r.ids)[m]
        pos[:, j, :n] = positions(r.ids, r.visuals)
        told = labels(*zip(*r.states))
        lines.append(told)
        for s, _, _ in r.marks:
            asks.append(j * t + s - 3)  # the <|im_start|> of the answer
            last = sum(v < s for v, *_ in r.visuals) - 1
            ask_lines.append([x[last:last + 1] for x in told])
        for s, g, key in r.visuals:
            ends.append(j * t + s + g[0] * g[1])
            where.append(j * t + s + np.arange(g[0] * g[1]))
            feat.append(bank.index(key))
    return ids, lab, pos, np.concatenate(where), np.concatenate(feat), [r.marks for r in rows], \
        [np.array(ends), np.array(asks)] + [np.concatenate(x) for x in zip(*lines, *ask_lines)]


def produce(queue, phase, pool, last, feats, tokpath, seed):
    """Worker: batches of talk, of the lengths that the phase asks for."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    enc, _ = encoder(tokpath)
    films = Films(pool, 0, last)
    bank = Bank(feats, films)
    while True:
        lengths, weights = PHASES[phase.value]
        t = int(rng.choice(lengths, p=weights))
        rows = []
        while len(rows) < tokens(t) // t:
            r = session(rng, films, enc, t)
            if r is not None and r.marks:
                rows.append(r)
        queue.put((t, pack(rows, t, bank)))


PHASES = [([128, 192, 256], [0.4, 0.3, 0.3]), ([256, 384], [0.5, 0.5]), ([256, 384, 768], [0.3, 0.4, 0.3]),
          ([512, 1024, 2048], [0.5, 0.25, 0.25])]


def prose_rows(rng, stream, n, t):
    at = rng.integers(0, len(stream) - t - 1, n)
    return np.stack([stream[i:i + t] for i in at]).astype(np.int64)


def with_prose(batch, rng, stream):
    """A part of the batch's rows becomes prose: they are appended, all their tokens to be learnt."""
    ids, lab, pos, where, feat, marks, more_labels = batch
    b, t = ids.shape
    n = int(b * PROSE / (1 - PROSE) + rng.random())
    if n == 0:
        return batch, 0
    more = prose_rows(rng, stream, n, t)
    flat = np.broadcast_to(np.arange(t), (3, n, t))
    return (np.concatenate([ids, more]), np.concatenate([lab, more]), np.concatenate([pos, flat], 1), where, feat, marks,
            more_labels), n


def run(net, bank, batch, prose=0, grad=True, aux=None):
    """Loss (talk, prose: the last `prose` rows) and, per token that is learnt, whether its prediction is right."""
    ids, lab, pos, where, feat = batch[:5]
    ids, lab, pos = (torch.from_numpy(x) for x in (ids, lab, pos))
    with torch.set_grad_enabled(grad):
        if where is None:
            h = net(ids, pos)
        else:
            emb, deep = bank.gather(torch.from_numpy(feat))
            h, middle, later = net(ids, pos, torch.from_numpy(where), emb, deep, peek=MIDDLE)
        extra = 0.0
        if aux is not None:
            ends, asks, *lines = (torch.from_numpy(x) for x in batch[6])
            d = h.shape[-1]
            extra = aux(middle.view(-1, d)[ends], later.view(-1, d)[asks], later.view(-1, d)[torch.cat([ends, asks])], *lines)
        y = lab[:, 1:].reshape(-1)
        keep = (y >= 0).nonzero()[:, 0]
        h = h[:, :-1].reshape(-1, h.shape[-1])[keep]
        logits = net.logits(h).float()
        ce = F.cross_entropy(logits, y[keep], reduction="none")
        n = prose * (lab.shape[1] - 1)
        talk, book = ce[:len(ce) - n], ce[len(ce) - n:]
        talk = talk.mean() if len(talk) else torch.zeros(())
        book = book.mean() if n else torch.zeros(())
    ok = torch.zeros(y.shape, dtype=torch.bool)
    ok[keep] = logits.detach().argmax(-1) == y[keep]
    return talk, book, ok.view(lab.shape[0], -1).numpy(), extra


def score(net, bank, batches):
    """Share of answers right word for word (teacher-forced argmax: what greedy decoding would say), by kind."""
    tally = collections.defaultdict(list)
    for b in batches:
        _, _, ok, _ = run(net, bank, b, grad=False)
        for j, marks in enumerate(b[5]):
            for s, e, kind in marks:
                tally[kind].append(bool(ok[j, s - 1:e - 1].all()))
    return {k: (float(np.mean(v)), len(v)) for k, v in sorted(tally.items())}


def show(tab):
    n = sum(c for _, c in tab.values())
    return f"all {sum(a * c for a, c in tab.values()) / n:.3f} ({n}) " + " ".join(f"{k}:{a:.2f}" for k, (a, _) in tab.items())


class Neighbour:
    """Two threads while nobody else wants the second core, else one."""

    def __init__(self, most):
        self.most, self.mark = most, self.read()

    def read(self):
        v = [int(x) for x in open("/proc/stat").readline().split()[1:]]
        return sum(v), v[3] + v[4], time.process_time()

    def adapt(self):
        total, idle, own = self.read()
        t0, i0, o0 = self.mark
        self.mark = (total, idle, own)
        if total > t0 and self.most > 1:
            busy = (total - t0 - (idle - i0)) / os.sysconf("SC_CLK_TCK")
            others = max(0.0, busy - (own - o0)) / ((total - t0) / os.sysconf("SC_CLK_TCK") / os.cpu_count())
            torch.set_num_threads(self.most if others < 0.4 else 1)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--pool", required=True)
    p.add_argument("--features", required=True)
    p.add_argument("--held", required=True, help="pool of held-out films")
    p.add_argument("--held-features", required=True)
    p.add_argument("--books", required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--minutes", type=float, default=100)
    p.add_argument("--phases", default="0.15,0.3,0.55", help="shares of the time at which the lengths grow")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--last", type=int, help="films to use")
    p.add_argument("--init", help="begin with the weights of this exported model")
    p.add_argument("--aux", type=float, default=0.15, help="weight of the readouts at first")
    p.add_argument("--lr", type=float, default=0.02)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(2)
    cuts = [float(x) for x in a.phases.split(",")]
    phase, queue = mp.Value("i", 0), mp.Queue(6)
    seed0 = int(time.time())
    worker = mp.Process(target=produce, args=(queue, phase, a.pool, a.last, a.features, a.tokenizer, seed0), daemon=True)
    worker.start()
    enc, tok = encoder(a.tokenizer)
    stream = np.concatenate([np.array(tok.encode(read_book(a.books, b)).ids, np.int32) for b in TRAIN_BOOKS])
    bank = Bank(a.features, Films(a.pool, 0, a.last))
    hfilms = Films(a.held)
    hbank, hrng = Bank(a.held_features, hfilms), np.random.default_rng(99)
    held = {}
    for t, nb in ((384, 5), (1024, 2), (2048, 2)):
        rows = [r for r in (session(hrng, hfilms, enc, t) for _ in range(6 * nb * tokens(t) // t)) if r is not None and r.marks]
        held[t] = [pack(rows[i * (tokens(t) // t):(i + 1) * (tokens(t) // t)], t, hbank) for i in range(nb)]
    net = Text()
    if a.init:
        sd = load_file(os.path.join(a.init, "model.safetensors"))
        net.load_state_dict({k: sd[k if k.startswith("lm_head") else "model.language_model." + k].float() for k in net.state_dict()})
    net.bfloat16()
    aux = Readouts(net.norm.weight.shape[0]).bfloat16()
    opt = Optimiser(list(net.named_parameters()) + [("aux." + k, v) for k, v in aux.named_parameters()], a.lr, 4e-3)
    cores = Neighbour(a.threads)
    used, step, total = 0.0, 0, 0
    if os.path.exists(a.out):
        ck = torch.load(a.out, weights_only=False)
        opt.load(ck["opt"])
        used, step, total = ck["used"], ck["step"], ck["tokens"]
        print("resumed at step", step, f"{used:.0f}s", flush=True)
    rng = np.random.default_rng(seed0 + 1)
    last, saved, avg, wait = time.time(), used, collections.deque(maxlen=50), 0.0
    print("learning", flush=True)
    while used < a.minutes * 60:
        u = used / (a.minutes * 60)
        phase.value = sum(u >= c for c in cuts)
        w = time.time()
        _, batch = queue.get()
        wait += time.time() - w
        batch, extra = with_prose(batch, rng, stream)
        talk, book, _, told = run(net, bank, batch, extra, aux=aux)
        weight = a.aux * max(0.2, 1 - u)
        (talk + 0.15 * book + weight * told).backward()
        opt.step(min(1.0, (step + 1) / 100) * min(1.0, (1 - u) / 0.45 + 0.005))
        step += 1
        total += batch[0].size
        avg.append((float(talk.detach()), float(told.detach())))
        now = time.time()
        used, last = used + now - last, now
        if step % 10 == 0:
            cores.adapt()
        if step % 50 == 0:
            print(step, f"x{torch.get_num_threads()}", f"{used:.0f}s", f"{total / 1e6:.2f}M", f"wait {wait:.0f}s", f"loss/aux {np.mean(avg, 0).round(4)}", flush=True)
        if step % 250 == 0:
            for t, bs in held.items():
                if t <= (384, 384, 1024, 2048)[phase.value]:
                    print("  held", t, show(score(net, hbank, bs)), flush=True)
            book = prose_rows(np.random.default_rng(1), stream, 8, 512)
            flat = np.broadcast_to(np.arange(512), (3, 8, 512)).copy()
            print(f"  prose {float(run(net, bank, (book, book, flat, None, None), 8, False)[1]):.3f}", flush=True)
            last = time.time()
        if used - saved > 150 or used >= a.minutes * 60:
            saved = used
            torch.save({"opt": opt.dump(), "used": used, "step": step, "tokens": total}, a.out + ".tmp")
            os.replace(a.out + ".tmp", a.out)
    worker.terminate()


if __name__ == "__main__":
    main()
