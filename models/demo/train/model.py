"""The Qwen3-VL computation, lean, for training on a CPU: batches of pairs of one size and rows of one
length. Parameter names are those of transformers' Qwen3VLForConditionalGeneration, so that an
export is a rename-free copy; export.py checks that both give the same logits."""
import functools
import json
import os

import torch
import torch.nn.functional as F
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))
CONFIG = json.load(open(os.path.join(HERE, "config.json")))
TXT, VIS = CONFIG["text_config"], CONFIG["vision_config"]
PATCH, MERGE = VIS["patch_size"], VIS["spatial_merge_size"]


def patchify(frames):
    """uint8 [n, 2, h, w, 3] -> [n, patches, 3*2*16*16], patches in merge-block order, values in -1..1."""
    n, t, h, w, c = frames.shape
    gh, gw, m, p = h // PATCH, w // PATCH, MERGE, PATCH
    x = frames.reshape(n, t, gh // m, m, p, gw // m, m, p, c)
    x = x.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(n, gh * gw, c * t * p * p)
    return x.float() / 127.5 - 1.0


@functools.lru_cache(maxsize=64)
def vision_geometry(gh, gw):
    """Indices and weights of the interpolated position table, and rotary cos/sin, in merge-block order."""
    side, m = int(VIS["num_position_embeddings"] ** 0.5), MERGE
    y, x = torch.linspace(0, side - 1, gh), torch.linspace(0, side - 1, gw)
    y0, x0 = y.floor().long(), x.floor().long()
    y1, x1 = (y0 + 1).clamp(max=side - 1), (x0 + 1).clamp(max=side - 1)
    fy, fx = (y - y0)[:, None], (x - x0)[None, :]
    idx = torch.stack([a[:, None] * side + b[None, :] for a in (y0, y1) for b in (x0, x1)])
    wgt = torch.stack([a * b for a in (1 - fy, fy) for b in (1 - fx, fx)])

    def order(a):
        return a.reshape(-1, gh // m, m, gw // m, m).permute(0, 1, 3, 2, 4).reshape(-1, gh * gw)

    rows = torch.arange(gh)[:, None].expand(gh, gw)
    cols = torch.arange(gw)[None, :].expand(gh, gw)
    hd = VIS["hidden_size"] // VIS["num_heads"]
    inv = 1.0 / (10000.0 ** (torch.arange(0, hd // 2, 2).float() / (hd // 2)))
    f = torch.cat([order(rows)[0][:, None] * inv, order(cols)[0][:, None] * inv], -1)
    f = torch.cat([f, f], -1)
    return order(idx), order(wgt), f.cos(), f.sin()


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class VisionBlock(nn.Module):
    def __init__(self):
        super().__init__()
        d, f = VIS["hidden_size"], VIS["intermediate_size"]
        self.norm1, self.norm2 = nn.LayerNorm(d, eps=1e-6), nn.LayerNorm(d, eps=1e-6)
        self.attn = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp = nn.Module()
        self.mlp.linear_fc1, self.mlp.linear_fc2 = nn.Linear(d, f), nn.Linear(f, d)

    def forward(self, x, cos, sin):
        n, s, d = x.shape
        q, k, v = self.attn.qkv(self.norm1(x)).view(n, s, 3, VIS["num_heads"], -1).permute(2, 0, 3, 1, 4)
        w = rotate(q, cos, sin) @ (rotate(k, cos, sin) * q.shape[-1] ** -0.5).transpose(-1, -2)
        o = w.softmax(-1) @ v  # a few dozen patches: quicker than the fused kernel's backward
        x = x + self.attn.proj(o.transpose(1, 2).reshape(n, s, d))
        return x + self.mlp.linear_fc2(F.gelu(self.mlp.linear_fc1(self.norm2(x)), approximate="tanh"))


class Merger(nn.Module):
    def __init__(self, post):
        super().__init__()
        d, self.post = VIS["hidden_size"], post
        self.wide = d * MERGE * MERGE
        self.norm = nn.LayerNorm(self.wide if post else d, eps=1e-6)
        self.linear_fc1, self.linear_fc2 = nn.Linear(self.wide, self.wide), nn.Linear(self.wide, VIS["out_hidden_size"])

    def forward(self, x):
        n = x.shape[0]
        x = self.norm(x.reshape(n, -1, self.wide)) if self.post else self.norm(x).reshape(n, -1, self.wide)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        d = VIS["hidden_size"]
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv3d(3, d, (2, PATCH, PATCH), (2, PATCH, PATCH))
        self.pos_embed = nn.Embedding(VIS["num_position_embeddings"], d)
        nn.init.normal_(self.pos_embed.weight, std=0.3)
        self.blocks = nn.ModuleList([VisionBlock() for _ in range(VIS["depth"])])
        self.merger = Merger(False)
        self.deepstack_merger_list = nn.ModuleList([Merger(True) for _ in VIS["deepstack_visual_indexes"]])

    def forward(self, frames):
        """uint8 [n, 2, h, w, 3] -> [n, tokens, out] and one such for each deepstack level."""
        n, _, h, w, _ = frames.shape
        idx, wgt, cos, sin = vision_geometry(h // PATCH, w // PATCH)
        p = self.patch_embed.proj
        dt = p.weight.dtype
        cos, sin = cos.to(dt), sin.to(dt)
        x = F.linear(patchify(frames).to(dt), p.weight.view(p.weight.shape[0], -1), p.bias)
        x = x + (self.pos_embed(idx) * wgt[..., None].to(dt)).sum(0)
        deep = []
        for i, b in enumerate(self.blocks):
            x = b(x, cos, sin)
            if i in VIS["deepstack_visual_indexes"]:
                deep.append(self.deepstack_merger_list[VIS["deepstack_visual_indexes"].index(i)](x))
        return self.merger(x), deep


class RMSNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, TXT["rms_norm_eps"])


def text_rope(pos, dtype):
    """pos [3, b, t] -> cos, sin [b, 1, t, head_dim], the three axes interleaved."""
    hd, sec = TXT["head_dim"], TXT["rope_parameters"]["mrope_section"]
    inv = 1.0 / (TXT["rope_parameters"]["rope_theta"] ** (torch.arange(0, hd, 2).float() / hd))
    f = pos[..., None].float() * inv
    out = f[0].clone()
    for axis in (1, 2):
        out[..., axis:sec[axis] * 3:3] = f[axis][..., axis:sec[axis] * 3:3]
    f = torch.cat([out, out], -1)[:, None]
    return f.cos().to(dtype), f.sin().to(dtype)


@functools.lru_cache(maxsize=16)
def causal_mask(n, dtype):
    return torch.full((n, n), float("-inf"), dtype=dtype).triu(1)


@torch.compiler.disable  # compiled with torch 2.15 its gradients were not finite on a processor with AMX
def causal(q, k, v, mask, block=256):
    """Causal attention in row blocks of plain products: on a CPU twice as quick as the fused kernel. q, k, v [b * heads, t, head_dim];
    mask [b, t, t], added."""
    n, t, _ = q.shape
    b, out = len(mask), []
    for s in range(0, t, block):
        e = min(t, s + block)
        w = torch.bmm(q[:, s:e], k[:, :e].transpose(1, 2)).view(b, n // b, e - s, e) + mask[:, None, s:e, :e]
        out.append(w.softmax(-1).view(n, e - s, e) @ v[:, :e])
    return out[0] if len(out) == 1 else torch.cat(out, 1)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        d, f, hd = TXT["hidden_size"], TXT["intermediate_size"], TXT["head_dim"]
        self.nh, self.nkv, self.hd = TXT["num_attention_heads"], TXT["num_key_value_heads"], hd
        a = self.self_attn = nn.Module()
        a.q_proj = nn.Linear(d, self.nh * hd, bias=False)
        a.k_proj = nn.Linear(d, self.nkv * hd, bias=False)
        a.v_proj = nn.Linear(d, self.nkv * hd, bias=False)
        a.o_proj = nn.Linear(self.nh * hd, d, bias=False)
        a.q_norm, a.k_norm = RMSNorm(hd), RMSNorm(hd)
        m = self.mlp = nn.Module()
        m.gate_proj, m.up_proj = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False)
        m.down_proj = nn.Linear(f, d, bias=False)
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(d), RMSNorm(d)

    def forward(self, x, cos, sin, mask):
        """A residual block, [b, t, d] -> [b, t, d]; mask [b, t, t], added to the scores."""
        b, t, _ = x.shape
        a, h = self.self_attn, self.input_layernorm(x)
        q = rotate(a.q_norm(a.q_proj(h).view(b, t, self.nh, self.hd)).transpose(1, 2), cos, sin)
        k, v = self.keys_values(h, cos, sin)
        r = self.nh // self.nkv
        k, v = k.repeat_interleave(r, 1), v.repeat_interleave(r, 1)
        o = causal(q.reshape(-1, t, self.hd), k.reshape(-1, t, self.hd) * self.hd ** -0.5, v.reshape(-1, t, self.hd), mask)
        x = x + a.o_proj(o.view(b, self.nh, t, self.hd).transpose(1, 2).reshape(b, t, -1))
        return self.feed_forward(x)

    def keys_values(self, h, cos, sin):
        """Of the normalised rows h [b, t, d]: keys (rotated) and values, [b, kv heads, t, head_dim]."""
        b, t, _ = h.shape
        a = self.self_attn
        k = a.k_norm(a.k_proj(h).view(b, t, self.nkv, self.hd)).transpose(1, 2)
        return rotate(k, cos, sin), a.v_proj(h).view(b, t, self.nkv, self.hd).transpose(1, 2)

    def feed_forward(self, x):
        m, h = self.mlp, self.post_attention_layernorm(x)
        return x + m.down_proj(F.silu(m.gate_proj(h)) * m.up_proj(h))

    def at(self, x, cos, sin, mask, rows, keys_values):
        """The block's outputs for some tokens only: rows lists, for each row of x, their indices. -> [tokens, d]"""
        b, t, d = x.shape
        a, rep = self.self_attn, self.nh // self.nkv
        k, v = keys_values(self, x, cos, sin)
        flat = torch.cat([r + j * t for j, r in enumerate(rows)])
        mine = x.view(b * t, d)[flat]
        q = a.q_norm(a.q_proj(self.input_layernorm(mine)).view(-1, self.nh, self.hd))
        q = rotate(q, cos.view(b * t, 1, -1)[flat], sin.view(b * t, 1, -1)[flat]) * self.hd ** -0.5
        out = []
        for j, (r, qj) in enumerate(zip(rows, q.split([len(r) for r in rows]))):
            qj = qj.view(-1, self.nkv, rep, self.hd).permute(1, 2, 0, 3).reshape(self.nkv, -1, self.hd)
            w = qj @ k[j].transpose(1, 2) + mask[j, r].repeat(rep, 1)
            o = w.softmax(-1) @ v[j]
            out.append(o.view(self.nkv, rep, -1, self.hd).permute(2, 0, 1, 3).reshape(len(r), -1))
        return self.feed_forward(mine + a.o_proj(torch.cat(out)))


@functools.lru_cache(maxsize=1)
def fused():
    """The block, and its keys and values alone, compiled: once for every shape of a batch."""
    import torch._inductor.config as inductor
    inductor.cpp.dynamic_threads = True  # the number of threads may change on the way
    torch._dynamo.config.recompile_limit = 64
    return (torch.compile(lambda layer, x, cos, sin, mask: layer(x, cos, sin, mask), dynamic=False),
            torch.compile(lambda layer, x, cos, sin: layer.keys_values(layer.input_layernorm(x), cos, sin), dynamic=False))


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(TXT["vocab_size"], TXT["hidden_size"])
        self.layers = nn.ModuleList([Layer() for _ in range(TXT["num_hidden_layers"])])
        self.norm = RMSNorm(TXT["hidden_size"])
        self.lm_head = nn.Linear(TXT["hidden_size"], TXT["vocab_size"], bias=False)
        for n, p in self.named_parameters():
            if p.ndim == 2:
                small = n.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight"))
                nn.init.normal_(p, std=0.5 if "embed" in n else 0.01 if small else 0.04)

    def forward(self, ids, pos, where=None, emb=None, deep=None, peek=None, rows=None, hidden=None):
        """ids [b, t]; pos [3, b, t]; where: flat indices of visual rows; emb, deep: their values. -> hidden [b, t, d]
        (and the residual streams after `peek` layers and after each of the next two). rows: the indices, row by row, of the tokens whose
        outputs are wanted, for training: compiled blocks, the result is [tokens, d].
        hidden [b, t, t]: what a token does not see of its past."""
        b, t = ids.shape
        x = self.embed_tokens(ids)
        cos, sin = text_rope(pos, x.dtype)
        mask = causal_mask(t, x.dtype).expand(b, t, t)
        mask = mask.contiguous() if hidden is None else mask.masked_fill(hidden, float("-inf"))
        if where is not None:
            x = x.view(b * t, -1).index_copy(0, where, emb.to(x.dtype)).view(b, t, -1)
        middle = []
        for i, layer in enumerate(self.layers):
            if rows is None:
                x = layer(x, cos, sin, mask)
            elif i + 1 < len(self.layers):
                x = fused()[0](layer, x, cos, sin, mask)
            else:
                x = layer.at(x, cos, sin, mask, rows, fused()[1])
            if where is not None and i < len(deep):
                x = x.view(b * t, -1).index_add(0, where, deep[i].to(x.dtype)).view(b, t, -1)
            if peek and peek <= i + 1 <= peek + 2:
                middle.append(x)
        return (self.norm(x), *middle) if peek else self.norm(x)

    def logits(self, h):
        return self.lm_head(h)
