"""Makes cases/<case>/: what transformers computes on the models of models/, in float32 on the CPU.

usage: make_cases.py [--search] [CASE...]

Each case is a conversation with synthetic pictures. `salt` is a word inside the prompt: --search
prints, for each case, the first salt whose 64 greedy tokens all lead by more than 20 times the
tolerance (1e-4 of the largest logit); it is then written into CASES by hand.

The prompt is what a session appends, so a video's group is `<T seconds><|vision_start|>pads
<|vision_end|>`, as Qwen's own code and transformers 4.57 expand `<|vision_start|><|video_pad|>
<|vision_end|>`. transformers 5.23 replaces the pad alone and so leaves one more pair of markers
around the video; `expand` below does the right thing with the processor's own pieces.
"""

import argparse
import functools
import json
import shutil

import numpy as np
import torch
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration
from transformers.utils import logging

from common import CASES as CASES_DIR
from common import MODELS, dump, save

logging.set_verbosity_error()
logging.disable_progress_bar()

GREEDY = 64
TOLERANCE = 1e-4
GAP_FACTOR = 20.0
MAX_ROWS = 40  # logits are kept for at most this many positions, spread evenly, last one included


def T(text):
    return dict(type="text", text=text)


def I(index):
    return dict(type="image", image=index)


def V(index):
    return dict(type="video", video=index)


def U(*content):
    return dict(role="user", content=list(content))


def A(text):
    return dict(role="assistant", content=[T(text)])


def S(text):
    return dict(role="system", content=[T(text)])


# images: (height, width) of each source. videos: frames, height, width, the source's fps, and the
# indices in the source that the frames were taken from.
CASES = {
    "text_short": dict(model="gqa2_text_f32", salt="w2", messages=[U(T("Hello {salt}, who are you?"))]),
    "text_system": dict(model="gqa2_tied_f32", salt="w0", messages=[
        S("You are a careful helper."), U(T("## Heading\n\nExplain the ship's log, {salt}.")),
        A("The log says that we sailed at noon."), U(T("And then?  \n"))]),
    "text_bf16": dict(model="gqa4_untied_bf16", salt="w1", messages=[
        U(T("The captain {salt} said nothing for an hour; the sea was calm, the wind was low. " * 3))]),
    "text_f16": dict(model="gqa1_bias_f16", salt="w1", messages=[
        U(T("für Größe {salt} 人人生而自由 😀 the end"))]),
    "image_f32": dict(model="gqa2_tied_f32", salt="w3", images=[(50, 71)], messages=[
        U(I(0), T("What is in the picture, {salt}?"))]),
    "images_f32": dict(model="gqa2_tied_f32", salt="w224", images=[(33, 80), (64, 24), (48, 48)], messages=[
        U(T("First {salt}:"), I(0), T("second:"), I(1), I(2), T("Compare {salt}."))]),
    "image_bf16": dict(model="gqa4_untied_bf16", salt="w2", images=[(90, 130)], messages=[
        U(I(0), T("Describe it, {salt}."))]),
    "image_f16": dict(model="gqa1_bias_f16", salt="w1", images=[(140, 70)], messages=[
        U(T("{salt}"), I(0), T("Describe it."))]),
    "video_f32": dict(model="gqa2_tied_f32", salt="w110", videos=[
        dict(frames=5, height=40, width=62, fps=24.0, indices=[0, 12, 24, 36, 48])], messages=[
        U(V(0), T("What happened, {salt}?"))]),
    "video_bf16": dict(model="gqa4_untied_bf16", salt="w1", videos=[
        dict(frames=3, height=66, width=100, fps=29.97, indices=[30, 45, 61])], messages=[
        U(V(0), T("What happened, {salt}?"))]),
    "video_chat_f32": dict(model="gqa2_tied_f32", salt="w3",
        images=[(30, 50)], videos=[
        dict(frames=4, height=32, width=48, fps=2.0, indices=[0, 1, 2, 3]),
        dict(frames=3, height=48, width=32, fps=2.0, indices=[7200, 7201, 7202])], messages=[
        S("Answer shortly."), U(V(0), T("What is it {salt}?")), A("A red square."),
        U(T("And now? "), V(1)), A("Nothing."), U(I(0), T("So?"))]),
    "video_chat_f16": dict(model="gqa1_bias_f16", salt="w3", videos=[
        dict(frames=2, height=64, width=64, fps=2.0, indices=[0, 1]),
        dict(frames=3, height=64, width=96, fps=10.0, indices=[39990, 39995, 40000])], messages=[
        U(V(0), T("one {salt}"), V(1), T("two")), A("Yes."), U(T("Sure?"))]),
}


def picture(rng, height, width, shift=0.0):
    """A picture with smooth colour, hard edges and noise: every part of a resize shows in it."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([
        127 + 120 * np.sin((x + 3 * shift) / 7.0), 127 + 120 * np.cos((y - shift) / 5.0),
        255.0 * (((x + y + shift).astype(int) // 9) % 2)], axis=-1)
    base += rng.normal(0, 12, base.shape)
    top, left = int(height * 0.2), int((width * 0.1 + shift) % max(1, width // 2))
    base[top:top + height // 3, left:left + width // 3] = rng.integers(0, 256, 3)
    return np.clip(base, 0, 255).astype(np.uint8)


def expand(processor, messages, inputs, metadata):
    """The prompt's text with each placeholder replaced, as transformers 4.57 does it."""
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    out, at, images, videos = [], 0, 0, 0
    image = processor.image_token
    video = processor.vision_start_token + processor.video_token + processor.vision_end_token
    while at < len(text):
        if text.startswith(video, at):
            out.append(processor.replace_video_token(dict(inputs, video_metadata=metadata), videos))
            at, videos = at + len(video), videos + 1
        elif text.startswith(image, at):
            out.append(processor.replace_image_token(inputs, images))
            at, images = at + len(image), images + 1
        else:
            out.append(text[at])
            at += 1
    return "".join(out)


class Case:
    """A conversation turned into the model's inputs."""

    def __init__(self, name, salt):
        spec = json.loads(json.dumps(CASES[name]).replace("{salt}", salt))
        self.name, self.spec = name, spec
        folder = MODELS / spec["model"]
        self.processor = p = AutoProcessor.from_pretrained(folder)
        rng = np.random.default_rng(sum(map(ord, name)))
        self.images = [picture(rng, h, w) for h, w in spec.get("images", [])]
        self.videos = [np.stack([picture(rng, v["height"], v["width"], 5.0 * i) for i in range(v["frames"])])
                       for v in spec.get("videos", [])]
        self.inputs, self.metadata = {}, []
        self.resized_images, self.resized_videos = [], []
        if self.images:
            chw = [torch.from_numpy(i).permute(2, 0, 1) for i in self.images]
            self.inputs.update(p.image_processor(chw, return_tensors="pt"))
            for c in chw:
                size = p.image_processor.size
                r = p.image_processor.resize(c[None], size, p.image_processor.resample,
                                             factor=p.image_processor.patch_size * 2)
                self.resized_images.append(r[0].permute(1, 2, 0).numpy())
        if self.videos:
            tchw = [torch.from_numpy(v).permute(0, 3, 1, 2) for v in self.videos]
            self.metadata = [
                dict(total_num_frames=v["indices"][-1] + 1, fps=v["fps"], frames_indices=list(v["indices"]))
                for v in spec["videos"]]
            got = p.video_processor(tchw, video_metadata=self.metadata, do_sample_frames=False,
                                    return_metadata=True, return_tensors="pt")
            self.metadata = got.pop("video_metadata")
            self.inputs.update(got)
            for v in tchw:
                r = p.video_processor.resize(v[None], p.video_processor.size, p.video_processor.resample,
                                             factor=p.video_processor.patch_size * 2, temporal_factor=2)
                self.resized_videos.append(r[0].permute(0, 2, 3, 1).numpy())
        self.text = expand(p, spec["messages"], self.inputs, self.metadata)
        self.ids = p.tokenizer(self.text, return_tensors="pt")["input_ids"]
        self.types = torch.tensor(p.create_mm_token_type_ids(self.ids.tolist()))

    def timestamps(self):
        return [self.processor._calculate_timestamps(list(v["indices"]), v["fps"], 2)
                for v in self.spec.get("videos", [])]

    def positions(self, model):
        kwargs = {k: v for k, v in self.inputs.items() if k.endswith("grid_thw")}
        return model.model.get_rope_index(self.ids, self.types, **kwargs)[0][:, 0]

    def logits(self, model, dtype=torch.float32):
        inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in self.inputs.items()}
        with torch.no_grad():
            return model(input_ids=self.ids, mm_token_type_ids=self.types, **inputs).logits[0]

    def greedy(self, model):
        """64 greedy ids and the smallest lead of the best logit, in tolerances."""
        with torch.no_grad():
            out = model.generate(
                input_ids=self.ids, attention_mask=torch.ones_like(self.ids), mm_token_type_ids=self.types,
                **self.inputs, max_new_tokens=GREEDY, min_new_tokens=GREEDY, do_sample=False,
                eos_token_id=None, top_k=None, top_p=None, temperature=None, use_cache=True,
                output_logits=True, return_dict_in_generate=True)
        logits = torch.stack(out.logits)[:, 0].float()
        top = logits.topk(2).values
        lead = (top[:, 0] - top[:, 1]) / (TOLERANCE * logits.abs().amax(1))
        return out.sequences[0, self.ids.shape[1]:], lead.min().item()


@functools.cache
def load(name, dtype=torch.float32):
    model = Qwen3VLForConditionalGeneration.from_pretrained(MODELS / name, dtype=dtype, attn_implementation="eager")
    return model.eval()


def search(name):
    for i in range(400):
        case = Case(name, f"w{i}")
        ids, lead = case.greedy(load(case.spec["model"]))
        if lead > GAP_FACTOR and len(set(ids.tolist())) >= 12:
            print(f"{name}: salt=w{i} lead={lead:.0f} distinct={len(set(ids.tolist()))}", flush=True)
            return
    print(f"{name}: nothing found; change the model's seed", flush=True)


def write(name):
    case = Case(name, CASES[name]["salt"])
    model_name = case.spec["model"]
    model = load(model_name)
    folder = CASES_DIR / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    logits = case.logits(model)
    ids, lead = case.greedy(model)
    assert lead > GAP_FACTOR, (name, lead)
    n = case.ids.shape[1]
    rows = np.arange(n) if n <= MAX_ROWS else np.unique(np.linspace(0, n - 1, MAX_ROWS).round().astype(int))
    exact = case.logits(load(model_name, torch.float64), torch.float64)
    largest = exact.abs().max().item()
    info = dict(
        model=model_name, kind="text" if not case.inputs else "vision", text=case.text,
        messages=case.spec["messages"], tokens=n, images=len(case.images), videos=len(case.videos),
        video_sources=[dict(fps=v["fps"], indices=v["indices"]) for v in case.spec.get("videos", [])],
        video_timestamps=case.timestamps(), greedy_lead_tolerances=round(lead, 1),
        max_abs_logit=logits.abs().max().item(),
        fp32_error_of_transformers=(logits - exact).abs().max().item() / largest)
    save(folder / "input_ids.npy", case.ids[0], np.int32)
    save(folder / "position_ids.npy", case.positions(model), np.int32)
    save(folder / "mm_types.npy", case.types[0], np.uint8)
    save(folder / "logit_rows.npy", rows, np.int32)
    save(folder / "logits.npy", logits[rows], np.float32)
    save(folder / "greedy.npy", ids, np.int32)
    if model_name.endswith("bf16"):
        own = case.logits(load(model_name, torch.bfloat16), torch.bfloat16).float()
        info["bf16_error_of_transformers"] = (own - logits).abs().max().item()
        save(folder / "logits_bf16.npy", own[rows], np.float32)
    for kind, sources, resized in (("image", case.images, case.resized_images),
                                   ("video", case.videos, case.resized_videos)):
        if not sources:
            continue
        suffix = "" if kind == "image" else "_videos"
        grid, pixels = case.inputs[f"{kind}_grid_thw"], case.inputs[f"pixel_values{suffix}"]
        save(folder / f"{kind}_grid_thw.npy", grid, np.int32)
        if model_name.endswith("f32"):  # the others follow from the resized frames the same way
            save(folder / f"pixel_values{suffix}.npy", pixels, np.float32)
        with torch.no_grad():
            vision = model.model.visual(pixels, grid_thw=grid)
        save(folder / f"{kind}_embeds.npy", vision.pooler_output, np.float32)
        save(folder / f"{kind}_deepstack.npy", torch.stack(vision.deepstack_features), np.float32)
        for i, (a, b) in enumerate(zip(sources, resized)):
            save(folder / f"{kind}_{i}.npy", a, np.uint8)
            save(folder / f"{kind}_{i}_resized.npy", b, np.uint8)
    dump(folder / "case.json", info)
    size = sum(f.stat().st_size for f in folder.iterdir()) // 1024
    print(f"{name}: {n} tokens, lead {lead:.0f}, fp32 error {info['fp32_error_of_transformers']:.1e}, {size} KiB", flush=True)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--search", action="store_true")
    args.add_argument("cases", nargs="*")
    args = args.parse_args()
    for name in args.cases or CASES:
        (search if args.search else write)(name)


main()
