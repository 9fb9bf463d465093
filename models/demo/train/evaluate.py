"""Asks the exported model, through transformers, the questions of a folder made by make_eval.py, end to end from the
video files, and counts the right answers by kind."""
import argparse
import collections
import json
import os
import re
import subprocess

import numpy as np
import torch
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from export import bare

PRESENT = {"describe", "colour", "shape", "count", "where", "at_place", "glyph", "exist", "move"}


def right(answer, accept):
    """Every phrase occurs as whole words; a|b: either."""
    low = answer.lower()
    return all(any(re.search(r"(?<!\w)" + re.escape(alt.lower()) + r"(?!\w)", low) for alt in ph.split("|")) for ph in accept)


def frames_at(path, rate):
    """RGB frames k / rate: the last native frame with pts <= that time."""
    probe = subprocess.run(["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=width,height:frame=pts_time",
                            "-of", "json", path], check=True, stdout=subprocess.PIPE).stdout
    probe = json.loads(probe)
    w, h = probe["streams"][0]["width"], probe["streams"][0]["height"]
    pts = np.array([float(f["pts_time"]) for f in probe["frames"]])
    pts -= pts[0]
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-vsync", "passthrough", "-"],
                         check=True, stdout=subprocess.PIPE).stdout
    fr = np.frombuffer(raw, np.uint8).reshape(-1, h, w, 3)
    step = np.median(np.diff(pts)) if len(pts) > 1 else 1.0
    n = int(np.floor((pts[-1] + step) * rate + 1e-6))
    idx = [int(np.searchsorted(pts, k / rate + 1e-3, side="right")) - 1 for k in range(n)]
    return fr[np.clip(idx, 0, len(fr) - 1)]


class Asker:
    def __init__(self, model, dtype):
        self.proc = AutoProcessor.from_pretrained(model)
        self.net = Qwen3VLForConditionalGeneration.from_pretrained(model, dtype=dtype).eval()

    def rounds(self, frames, rate, questions, keep_history=True):
        video = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2)
        meta = [{"fps": float(rate), "frames_indices": list(range(len(frames))), "total_num_frames": len(frames),
                 "duration": len(frames) / rate}]
        talk, out = [], []
        for i, q in enumerate(questions):
            part = [{"type": "text", "text": q}]
            talk.append({"role": "user", "content": ([{"type": "video"}] if i == 0 or not keep_history else []) + part})
            text = self.proc.apply_chat_template(talk, add_generation_prompt=True, tokenize=False).replace(*bare(self.proc))
            x = self.proc(text=[text], videos=[video], video_metadata=[dict(meta[0], frames_indices=list(range(len(frames))))],
                          do_sample_frames=False, return_tensors="pt")
            with torch.no_grad():
                y = self.net.generate(**x, max_new_tokens=60)
            a = self.proc.tokenizer.decode(y[0, x["input_ids"].shape[1]:], skip_special_tokens=True)
            out.append(a)
            talk.append({"role": "assistant", "content": [{"type": "text", "text": a}]})
            if not keep_history:
                talk = []
        return out


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--eval", required=True)
    p.add_argument("--limit", type=int)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--dtype", default="bfloat16")
    p.add_argument("--show", action="store_true", help="print the wrong answers")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    ask, tally = Asker(a.model, getattr(torch, a.dtype)), collections.defaultdict(list)
    for c in json.load(open(os.path.join(a.eval, "questions.json")))[:a.limit]:
        frames = frames_at(os.path.join(a.eval, c["clip"]), c["fps"])
        for r, got in zip(c["rounds"], ask.rounds(frames, c["fps"], [r["q"] for r in c["rounds"]])):
            ok = right(got, r["accept"])
            tally[r["kind"]].append(ok)
            if a.show and not ok:
                print(c["clip"], "|", r["q"], "|", got, "| wanted", r["accept"], flush=True)
    groups = collections.defaultdict(list)
    for k, v in sorted(tally.items()):
        groups["present" if k in PRESENT else "unknown" if k == "unknown" else "past"] += v
        print(f"{k:12} {np.mean(v):6.3f}  n={len(v)}")
    for k, v in groups.items():
        print(f"{k + ' (all)':12} {np.mean(v):6.3f}  n={len(v)}")


if __name__ == "__main__":
    main()
