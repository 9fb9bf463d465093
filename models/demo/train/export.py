"""Writes the Hugging Face directory from the checkpoints, and checks that transformers gives the same logits."""
import argparse
import json
import os
import shutil

import numpy as np
import torch
from safetensors.torch import save_file

from features import load_vision
from model import CONFIG, HERE, Text, Vision

PIXELS = 96 * 96
PROCESSOR = {"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5],
             "image_std": [0.5, 0.5, 0.5], "merge_size": 2, "patch_size": 16, "resample": 3, "rescale_factor": 1 / 255,
             "temporal_patch_size": 2, "size": {"longest_edge": PIXELS, "shortest_edge": 1024}}
VIDEO = dict(PROCESSOR, fps=2, min_frames=2, max_frames=4096, do_sample_frames=True, cap_pixels_per_frame=True, max_video_tokens=9,
             size={"longest_edge": PIXELS * 4096, "shortest_edge": 1024})
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
           "<|video_pad|>"]


def dump(path, obj):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(obj, f, indent=2, ensure_ascii=False)
        f.write("\n")


def load(vision, chat):
    net = torch.nn.ModuleDict({"visual": Vision(), "language_model": Text()})
    net["visual"].load_state_dict({k: v.float() for k, v in load_vision(vision).state_dict().items()})
    ck = torch.load(chat, weights_only=False)
    net["language_model"].load_state_dict({k: v["master"] for k, v in ck["opt"]["s"].items() if not k.startswith("aux.")})
    return net, ck


def small_files(out):
    dump(os.path.join(out, "config.json"), CONFIG)
    template = open(os.path.join(HERE, "chat_template.jinja"), encoding="utf-8").read()
    shutil.copy(os.path.join(HERE, "chat_template.jinja"), out)
    dump(os.path.join(out, "tokenizer_config.json"), {
        "add_bos_token": False, "add_prefix_space": False, "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "unk_token": None, "errors": "replace", "clean_up_tokenization_spaces": False, "split_special_tokens": False,
        "model_max_length": CONFIG["text_config"]["max_position_embeddings"], "tokenizer_class": "Qwen2Tokenizer",
        "additional_special_tokens": SPECIAL[1:],
        "added_tokens_decoder": {str(2040 + i): {"content": s, "lstrip": False, "normalized": False, "rstrip": False,
                                                 "single_word": False, "special": True} for i, s in enumerate(SPECIAL)},
        "chat_template": template})
    dump(os.path.join(out, "preprocessor_config.json"),
         dict(PROCESSOR, image_processor_type="Qwen2VLImageProcessor", processor_class="Qwen3VLProcessor"))
    dump(os.path.join(out, "video_preprocessor_config.json"),
         dict(VIDEO, video_processor_type="Qwen3VLVideoProcessor", processor_class="Qwen3VLProcessor"))
    dump(os.path.join(out, "generation_config.json"),
         {"bos_token_id": 2040, "do_sample": False, "eos_token_id": [2042, 2040], "pad_token_id": 2040})


def hf_name(k):
    return "lm_head.weight" if k == "language_model.lm_head.weight" else "model." + k


def bare(proc):
    """transformers 5 replaces the pad token alone, and so leaves the template's start and end marks around the whole
    video; 4.57 (and this project) replaces the three together. Taking the marks away first gives the latter."""
    return proc.vision_start_token + proc.video_token + proc.vision_end_token, proc.video_token


def same_logits(out, net):
    """Greatest difference to transformers, both in fp32, on a made-up clip of five pairs."""
    from transformers import AutoProcessor, Qwen3VLForConditionalGeneration
    hf = Qwen3VLForConditionalGeneration.from_pretrained(out, dtype=torch.float32).eval()
    proc = AutoProcessor.from_pretrained(out)
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (10, 96, 96, 3), dtype=np.uint8)
    text = proc.apply_chat_template([{"role": "system", "content": "You are a helpful assistant."},
                                     {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What do you see?"}]}],
                                    add_generation_prompt=True, tokenize=False).replace(*bare(proc))
    meta = {"fps": 2.0, "frames_indices": list(range(10)), "total_num_frames": 10, "duration": 5.0}
    x = proc(text=[text], videos=[torch.from_numpy(video).permute(0, 3, 1, 2)], video_metadata=[meta], do_sample_frames=False,
             return_tensors="pt")
    with torch.no_grad():
        want = hf(**x).logits[0]
        net = net.float().eval()
        emb, deep = net["visual"](torch.from_numpy(video).view(5, 2, 96, 96, 3))
        ids = x["input_ids"]
        where = (ids[0] == CONFIG["video_token_id"]).nonzero()[:, 0]
        pos, _ = hf.model.get_rope_index(ids, mm_token_type_ids=x["mm_token_type_ids"], video_grid_thw=x["video_grid_thw"])
        h = net["language_model"](ids, pos, where, emb.reshape(-1, emb.shape[-1]), [d.reshape(-1, d.shape[-1]) for d in deep])
        got = net["language_model"].logits(h)[0]
    print(repr(proc.tokenizer.decode(ids[0]).replace("<|video_pad|>", "#")))
    diff, top = float((got - want).abs().max()), float(want.abs().max())
    print(f"greatest difference to transformers {diff:.2e} of {top:.2f}")
    assert diff < 1e-3 * top


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--vision", required=True)
    p.add_argument("--chat", required=True)
    p.add_argument("--tokenizer", help="tokenizer.json to put there, unless it is there")
    p.add_argument("--out", required=True)
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    if a.tokenizer:
        shutil.copy(a.tokenizer, os.path.join(a.out, "tokenizer.json"))
    small_files(a.out)
    net, ck = load(a.vision, a.chat)
    sd = {hf_name(k): v.detach().to(torch.bfloat16).contiguous() for k, v in net.state_dict().items()}
    save_file(sd, os.path.join(a.out, "model.safetensors"), metadata={"format": "pt"})
    net.load_state_dict({k: sd[hf_name(k)].float() for k in net.state_dict()})
    same_logits(a.out, net)
    n = sum(v.numel() for v in sd.values())
    print(f"{n} parameters, {os.path.getsize(os.path.join(a.out, 'model.safetensors')) / 1e6:.2f} MB; step {ck['step']}, "
          f"{ck['tokens'] / 1e6:.1f}M tokens, {ck['used'] / 60:.0f} min")


if __name__ == "__main__":
    main()
