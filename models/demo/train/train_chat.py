"""Stage 3: the language model learns to talk about what the (frozen) vision tower saw: short clips first,
then long ones with many rounds; a part of every row budget is prose. Resumable: --out holds everything."""
import argparse
import collections
import json
import multiprocessing as mp
import os
import time
from queue import Empty
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from books import TRAIN_BOOKS, read_book
from aux import MIDDLE, Readouts, lessons
from build import ROWS, SP, Films, film_row, positions, session
from encode import encoder
from model import CONFIG, Text
from optim import Optimiser
from talk import DRILL

TOKENS = 6144  # of a step; the lengths of rows divide it
PROSE = 0.1  # share of the tokens
FADED = 0.3  # share of the rows in which what is older is seen through the last token of each group only, as a small cache keeps it
DIGIT = 4.0  # weight of a digit in the loss: few tokens, and all that a time consists of


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
    """One batch, right-padded: ids, labels [b, t] (-100: not learnt), positions [3, b, t]; flat indices of the visual tokens and
    their rows in the bank; marks of the answers; lessons for the helpers; how many last rows are prose."""
    ids, lab = np.full((len(rows), t), SP["<|endoftext|>"], np.int64), np.full((len(rows), t), -100, np.int64)
    pos, where, feat = np.zeros((3, len(rows), t), np.int64), [], []
    for j, r in enumerate(rows):
        n = len(r.ids)
        ids[j, :n] = r.ids
        m = np.array(r.loss, bool)
        lab[j, :n][m] = np.array(r.ids)[m]
        pos[:, j, :n] = positions(r.ids, r.visuals)
        for s, g, key in r.visuals:
            where.append(j * t + s + np.arange(g[0] * g[1]))
            feat.append(bank.index(key))
    return SimpleNamespace(ids=ids, lab=lab, pos=pos, where=np.concatenate(where), feat=np.concatenate(feat),
                           marks=[r.marks for r in rows], lessons=lessons(rows, t), prose=0, faded=faded(rows, t))


def faded(rows, t):
    """For `hidden`: of each token, the number of the group that it belongs to without being its last (or one that never fades), and how
    many groups have begun; of each row, after how many a group fades."""
    of, begun = np.full((len(rows), t), 1 << 14, np.int16), np.zeros((len(rows), t), np.int16)
    for j, r in enumerate(rows):
        for n, (s, g, key) in enumerate(r.visuals):
            of[j, r.begins[n]:s + g[0] * g[1]] = n
            begun[j, r.begins[n]:] = n
    return of, begun, np.array([r.fade or 1 << 13 for r in rows], np.int16)


def hidden(batch):
    """[b, t, t]: what a token does not see of its past; None when it sees all."""
    if batch.faded is None or (batch.faded[2] == 1 << 13).all():
        return None
    of, begun, fade = (torch.from_numpy(x) for x in batch.faded)
    n = len(batch.ids) - len(of)
    gone = begun[:, :, None] - of[:, None, :] >= fade[:, None, None]
    return F.pad(gone, (0, 0, 0, 0, 0, n)) if n else gone


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
        rows, prose = [], min(TOKENS // t - 1, int(TOKENS // t * PROSE + rng.random()))
        while len(rows) < TOKENS // t - prose:
            r = session(rng, films, enc, t, weights=DRILL, faded=FADED if t >= 256 else 0.0)
            if r is not None and r.marks:
                rows.append(r)
        queue.put((prose, pack(rows, t, bank)))


def take(queue, worker):
    """The next batch; ends the program when the worker is gone."""
    while True:
        try:
            return queue.get(timeout=30)
        except Empty:
            if not worker.is_alive():
                raise SystemExit("the process that makes the batches has died: its error is above")


PHASES = [([128, 256], [0.6, 0.4]), ([256, 512], [0.5, 0.5]), ([256, 512, 1024, 2048], [0.3, 0.4, 0.2, 0.1]),
          ([256, 512, 1024, 2048], [0.1, 0.25, 0.35, 0.3])]


def prose_rows(rng, stream, n, t):
    at = rng.integers(0, len(stream) - t - 1, n)
    return np.stack([stream[i:i + t] for i in at]).astype(np.int64)


def prose_batch(rows):
    flat = np.broadcast_to(np.arange(rows.shape[1]), (3, *rows.shape)).copy()
    return SimpleNamespace(ids=rows, lab=rows, pos=flat, where=None, marks=[[]] * len(rows), prose=len(rows), faded=None)


def with_prose(batch, n, rng, stream):
    """n rows of prose are appended, all their tokens to be learnt."""
    if n:
        more = prose_batch(prose_rows(rng, stream, n, batch.ids.shape[1]))
        batch.ids, batch.lab = (np.concatenate(x) for x in ((batch.ids, more.ids), (batch.lab, more.lab)))
        batch.pos, batch.prose = np.concatenate([batch.pos, more.pos], 1), n
    return batch


def run(net, bank, batch, learn=None):
    """Losses of a batch (talk, prose, readouts, pointing) and, per token, whether its prediction is right. learn: the helpers and
    which tokens are digits, when gradients are wanted."""
    ids, lab, pos = (torch.from_numpy(x) for x in (batch.ids, batch.lab, batch.pos))
    helpers, digit = learn or (None, None)
    with torch.set_grad_enabled(bool(learn)):
        keep = lab[:, 1:] >= 0
        rows = [k.nonzero()[:, 0] for k in keep] if learn else None
        told = point = torch.zeros(())
        if batch.where is None:
            h = net(ids, pos)
        else:
            emb, deep = bank.gather(torch.from_numpy(batch.feat))
            h, *streams = net(ids, pos, torch.from_numpy(batch.where), emb, deep, MIDDLE, rows, hidden(batch))
            if learn:
                told, point = helpers(net, pos, streams, batch.lessons)
        y = lab[:, 1:][keep]
        logits = net.logits(h if learn else h[:, :-1][keep]).float()
        ce = F.cross_entropy(logits, y, reduction="none")
        talk, book = ce.split([len(ce) - batch.prose * (lab.shape[1] - 1), batch.prose * (lab.shape[1] - 1)])
        weight = torch.where(digit[y[:len(talk)]], DIGIT, 1.0) if learn else torch.ones_like(talk)
        talk = (talk * weight).sum() / weight.sum().clamp(min=1)
        book = book.mean() if batch.prose else torch.zeros(())
    ok = torch.zeros(keep.shape, dtype=torch.bool)
    ok[keep] = logits.detach().argmax(-1) == y
    return talk, book, told, point, ok.numpy()


def score(net, bank, batches):
    """Share of answers right word for word (teacher-forced argmax: what greedy decoding would say), by kind."""
    tally = collections.defaultdict(list)
    for b in batches:
        *_, ok = run(net, bank, b)
        for j, marks in enumerate(b.marks):
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
    p.add_argument("--phases", default="0.1,0.25,0.5", help="shares of the time at which the lengths grow")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--last", type=int, help="films to use")
    p.add_argument("--init", help="begin with the weights of this exported model")
    p.add_argument("--aux", type=float, default=0.15, help="weight of the readouts at first")
    p.add_argument("--point", type=float, default=0.2, help="weight of the pointing heads")
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
    for t, nb in ((384, 4), (1024, 2), (2048, 3)):
        n = TOKENS // t
        rows = [r for r in (session(hrng, hfilms, enc, t) for _ in range(6 * nb * n)) if r is not None and r.marks]
        held[t] = [pack(rows[i * n:(i + 1) * n], t, hbank) for i in range(nb)]
    digit = torch.tensor([(tok.id_to_token(i) or "").isdigit() for i in range(CONFIG["text_config"]["vocab_size"])])
    net = Text()
    if a.init:
        sd = load_file(os.path.join(a.init, "model.safetensors"))
        net.load_state_dict({k: sd[k if k.startswith("lm_head") else "model.language_model." + k].float() for k in net.state_dict()})
    net.bfloat16()
    helpers = Readouts(net.norm.weight.shape[0]).bfloat16()
    opt = Optimiser(list(net.named_parameters()) + [("aux." + k, v) for k, v in helpers.named_parameters()], a.lr, 4e-3)
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
        extra, batch = take(queue, worker)
        wait += time.time() - w
        batch = with_prose(batch, extra, rng, stream)
        talk, book, told, point, _ = run(net, bank, batch, (helpers, digit))
        weight = a.aux * max(0.2, 1 - u)
        (talk + 0.25 * book + weight * told + a.point * point).backward()
        opt.step(min(1.0, (step + 1) / 100) * min(1.0, (1 - u) / 0.8 + 0.005))
        step += 1
        total += batch.ids.size
        avg.append([float(x.detach()) for x in (talk, told, point)])
        now = time.time()
        used, last = used + now - last, now
        if step % 10 == 0:
            cores.adapt()
        if step % 50 == 0:
            print(step, f"x{torch.get_num_threads()}", f"{used:.0f}s", f"{total / 1e6:.2f}M", f"wait {wait:.0f}s",
                  f"loss/aux/pointing {np.mean(avg, 0).round(4)}", flush=True)
        if step % 500 == 0:
            for t, bs in held.items():
                if t <= (384, 384, 2048, 2048)[phase.value]:
                    print("  held", t, show(score(net, hbank, bs)), flush=True)
            book = prose_batch(prose_rows(np.random.default_rng(1), stream, 8, 512))
            print(f"  prose {float(run(net, bank, book)[1]):.3f}", flush=True)
            last = time.time()
        if used - saved > 150 or used >= a.minutes * 60:
            saved = used
            torch.save({"opt": opt.dump(), "used": used, "step": step, "tokens": total}, a.out + ".tmp")
            os.replace(a.out + ".tmp", a.out)
    worker.terminate()


if __name__ == "__main__":
    main()
