"""Muon for the matrices, AdamW for the rest; fp32 masters beside the working (bf16) weights."""
import torch


def orthogonalise(g, steps=5):
    """The nearest semi-orthogonal matrix, by five Newton-Schulz steps (K. Jordan, "Muon", 2024)."""
    x = g.bfloat16()
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / (x.float().norm() + 1e-7).to(x.dtype)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return (x.T if tall else x).float()


class Optimiser:
    def __init__(self, named, lr_muon, lr_adam, wd=0.02, b1=0.9, b2=0.98):
        self.lr_muon, self.lr_adam, self.wd, self.b1, self.b2, self.t = lr_muon, lr_adam, wd, b1, b2, 0
        self.state = {}
        for n, p in named:
            muon = p.ndim == 2 and not any(s in n for s in ("embed", "head", "query"))
            s = {"p": p, "master": p.detach().float().clone(), "muon": muon, "m": torch.zeros_like(p, dtype=torch.float32)}
            if not muon:
                s["v"] = torch.zeros_like(p, dtype=torch.float32)
            self.state[n] = s

    @torch.no_grad()
    def step(self, scale=1.0, clip=1.0):
        self.t += 1
        grads = {n: s["p"].grad for n, s in self.state.items() if s["p"].grad is not None}
        norm = float(torch.stack([g.float().square().sum() for g in grads.values()]).sum().sqrt())
        k = min(1.0, clip / (norm + 1e-6))
        for n, g in grads.items():
            s = self.state[n]
            p, w = s["p"], s["master"]
            g = g.float() * k
            if s["muon"]:
                s["m"].mul_(0.95).add_(g)
                u = orthogonalise(g + 0.95 * s["m"])
                lr = self.lr_muon * scale
                w.mul_(1 - lr * self.wd).add_(u, alpha=-lr * max(1, u.shape[0] / u.shape[1]) ** 0.5)
            else:
                s["m"].mul_(self.b1).add_(g, alpha=1 - self.b1)
                s["v"].mul_(self.b2).addcmul_(g, g, value=1 - self.b2)
                mh, vh = s["m"] / (1 - self.b1 ** self.t), s["v"] / (1 - self.b2 ** self.t)
                w.addcdiv_(mh, vh.sqrt() + 1e-8, value=-self.lr_adam * scale)
            p.copy_(w)
            p.grad = None
        return norm

    def dump(self):
        return {"t": self.t, "s": {n: {k: v for k, v in s.items() if k in ("master", "m", "v")} for n, s in self.state.items()}}

    @torch.no_grad()
    def load(self, d):
        self.t = d["t"]
        for n, s in self.state.items():
            if n not in d["s"] or d["s"][n]["master"].shape != s["master"].shape:
                continue
            for k in ("master", "m", "v"):
                if k in s:
                    s[k].copy_(d["s"][n][k])
            s["p"].copy_(s["master"])
