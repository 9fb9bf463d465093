"""Makes the tiny random-weight Qwen3-VL models under models/, as real Hugging Face directories.

usage: make_models.py [NAME...]

Every weight is drawn from a seeded generator with a gain that keeps the residual stream lively, so
that a wrong detail anywhere moves the logits. Seeds were chosen by make_cases.py --search: at each
of 64 greedy steps the best logit leads by more than 20 times the tolerance of the tests.
"""

import json
import shutil
import sys

import torch
from safetensors.torch import save_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from common import ADDED_TOKENS, HERE, MODELS, TEMPLATE, dump

VOCAB = 512
FIRST_ADDED = VOCAB - len(ADDED_TOKENS)
ID = {content: FIRST_ADDED + i for i, (content, _) in enumerate(ADDED_TOKENS)}

# name: what differs. rope: which transformers' spelling config.json has.
SPECS = {
    "gqa2_tied_f32": dict(
        dtype="float32", rope="5", seed=1, tied=True, shards=1,
        text=dict(hidden_size=40, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, head_dim=16, rope_theta=10000.0, mrope_section=[4, 2, 2]),
        vision=dict(hidden_size=24, intermediate_size=44, depth=3, num_heads=3, patch_size=8,
                    num_position_embeddings=36, deepstack_visual_indexes=[1]),
        image_edges=(256, 4096), video_edges=(1024, 16384)),
    "gqa4_untied_bf16": dict(
        dtype="bfloat16", rope="4.57", seed=1, tied=False, shards=3,
        text=dict(hidden_size=72, intermediate_size=100, num_hidden_layers=3, num_attention_heads=4,
                  num_key_value_heads=1, head_dim=32, rope_theta=5000000.0, mrope_section=[6, 5, 5]),
        vision=dict(hidden_size=32, intermediate_size=64, depth=4, num_heads=2, patch_size=16,
                    num_position_embeddings=64, deepstack_visual_indexes=[0, 2]),
        image_edges=(1024, 16384), video_edges=(4096, 65536)),
    "gqa1_bias_f16": dict(
        dtype="float16", rope="4.57", seed=1, tied=False, shards=1,
        text=dict(hidden_size=40, intermediate_size=100, num_hidden_layers=4, num_attention_heads=2,
                  num_key_value_heads=2, head_dim=64, rope_theta=500000.0,
                  mrope_section=[12, 10, 10], attention_bias=True),
        vision=dict(hidden_size=32, intermediate_size=48, depth=3, num_heads=1, patch_size=16,
                    num_position_embeddings=49, deepstack_visual_indexes=[0, 1, 2]),
        image_edges=(1024, 16384), video_edges=(4096, 65536)),
    "gqa2_text_f32": dict(
        dtype="float32", rope="5", seed=1, tied=False, shards=1,
        text=dict(hidden_size=48, intermediate_size=60, num_hidden_layers=3, num_attention_heads=6,
                  num_key_value_heads=3, head_dim=16, rope_theta=1000000.0, mrope_section=[4, 2, 2]),
        vision=dict(hidden_size=16, intermediate_size=20, depth=1, num_heads=1, patch_size=4,
                    num_position_embeddings=9, deepstack_visual_indexes=[0]),
        image_edges=(64, 1024), video_edges=(256, 4096)),
}


def build_config(spec):
    text = dict(spec["text"])
    theta, section = text.pop("rope_theta"), text.pop("mrope_section")
    rope = dict(rope_type="default", rope_theta=theta, mrope_section=section, mrope_interleaved=True)
    return Qwen3VLConfig(
        text_config=dict(vocab_size=VOCAB, max_position_embeddings=4096, rms_norm_eps=1e-6,
                         rope_parameters=rope, tie_word_embeddings=spec["tied"], **text),
        vision_config=dict(in_channels=3, spatial_merge_size=2, temporal_patch_size=2,
                           out_hidden_size=text["hidden_size"], **spec["vision"]),
        image_token_id=ID["<|image_pad|>"], video_token_id=ID["<|video_pad|>"],
        vision_start_token_id=ID["<|vision_start|>"], vision_end_token_id=ID["<|vision_end|>"],
        tie_word_embeddings=spec["tied"])


def build_model(spec, seed):
    """The model with seeded weights, rounded to the dtype it is stored in; float32 compute."""
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(build_config(spec)).eval()
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            r = torch.randn(p.shape, generator=gen)
            if p.dim() == 1:
                value = r * 0.1 if name.endswith("bias") else 1.0 + r * 0.2
            elif "embed" in name and "patch_embed" not in name:
                # A tied head favours the last token itself unless the layers outweigh the embedding.
                value = r * (0.15 if spec["tied"] else 1.0)
            else:
                fan_in = p[0].numel()
                value = r * 1.3 / fan_in**0.5
            p.copy_(value.to(getattr(torch, spec["dtype"])).float())
        if spec["tied"]:
            model.tie_weights()
    return model


def config_as_457(config):
    """Re-spells a 5.x config.json the way transformers 4.57 wrote it."""
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"]["rope_theta"] = rope.pop("rope_theta")
    config["text_config"]["rope_scaling"] = rope
    config["vision_config"].pop("rope_parameters", None)
    for part in (config, config["text_config"], config["vision_config"]):
        if "dtype" in part:
            part["torch_dtype"] = part.pop("dtype")
    config["transformers_version"] = "4.57.0"
    return config


def write_weights(model, spec, folder):
    state = {k: v for k, v in model.state_dict().items() if not (spec["tied"] and k == "lm_head.weight")}
    state = {k: v.to(getattr(torch, spec["dtype"])).contiguous().clone() for k, v in state.items()}
    if spec["shards"] == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, n = list(state), spec["shards"]
    index = {"metadata": {"total_size": sum(v.nbytes for v in state.values())}, "weight_map": {}}
    for i in range(n):
        part = names[i * len(names) // n:(i + 1) * len(names) // n]
        file = f"model-{i + 1:05d}-of-{n:05d}.safetensors"
        save_file({k: state[k] for k in part}, folder / file, metadata={"format": "pt"})
        index["weight_map"].update({k: file for k in part})
    dump(folder / "model.safetensors.index.json", index)


def write_processor(spec, folder):
    shutil.copy(HERE / "tokenizer" / "tokenizer_512.json", folder / "tokenizer.json")
    decoder = {
        str(ID[content]): dict(content=content, lstrip=False, normalized=False, rstrip=False,
                               single_word=False, special=special)
        for content, special in ADDED_TOKENS}
    tokenizer = dict(
        add_prefix_space=False, added_tokens_decoder=decoder,
        additional_special_tokens=[c for c, s in ADDED_TOKENS if s][1:], bos_token=None,
        clean_up_tokenization_spaces=False, eos_token="<|im_end|>", errors="replace",
        model_max_length=4096, pad_token="<|endoftext|>", split_special_tokens=False,
        tokenizer_class="Qwen2Tokenizer", unk_token=None)
    # 4.57 keeps the template in chat_template.json and in tokenizer_config.json, 5.x in a file.
    if spec["rope"] == "5":
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    else:
        tokenizer["chat_template"] = TEMPLATE
        dump(folder / "chat_template.json", {"chat_template": TEMPLATE})
    dump(folder / "tokenizer_config.json", tokenizer)
    common = dict(patch_size=spec["vision"]["patch_size"], temporal_patch_size=2, merge_size=2,
                  image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5],
                  processor_class="Qwen3VLProcessor")
    low, high = spec["image_edges"]
    dump(folder / "preprocessor_config.json",
         dict(size=dict(longest_edge=high, shortest_edge=low),
              image_processor_type="Qwen2VLImageProcessorFast", **common))
    low, high = spec["video_edges"]
    dump(folder / "video_preprocessor_config.json",
         dict(size=dict(longest_edge=high, shortest_edge=low),
              video_processor_type="Qwen3VLVideoProcessor", **common))
    dump(folder / "generation_config.json",
         dict(bos_token_id=ID["<|endoftext|>"], pad_token_id=ID["<|endoftext|>"], do_sample=True,
              eos_token_id=[ID["<|im_end|>"], ID["<|endoftext|>"]], top_k=20, top_p=0.8,
              repetition_penalty=1.0, temperature=0.7))


def main():
    for name in sys.argv[1:] or SPECS:
        spec, folder = SPECS[name], MODELS / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = build_model(spec, spec["seed"])
        config = json.loads(model.config.to_json_string())
        config["architectures"] = ["Qwen3VLForConditionalGeneration"]
        config["dtype"] = spec["dtype"]
        dump(folder / "config.json", config if spec["rope"] == "5" else config_as_457(config))
        write_weights(model, spec, folder)
        write_processor(spec, folder)
        print(name, sum(f.stat().st_size for f in folder.iterdir()) // 1024, "KiB")


if __name__ == "__main__":
    main()
