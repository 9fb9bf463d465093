"""Shared by the make_*.py scripts: paths, the tokenizer's alphabet, array writing."""

import json
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
MODELS = HERE / "models"
CASES = HERE / "cases"
TEMPLATE = (HERE / "chat_template_qwen3_vl.jinja").read_text()

# The order in which Qwen2/Qwen3-VL append their added tokens; (content, special).
ADDED_TOKENS = [
    ("<|endoftext|>", True),
    ("<|im_start|>", True),
    ("<|im_end|>", True),
    ("<|object_ref_start|>", True),
    ("<|object_ref_end|>", True),
    ("<|box_start|>", True),
    ("<|box_end|>", True),
    ("<|quad_start|>", True),
    ("<|quad_end|>", True),
    ("<|vision_start|>", True),
    ("<|vision_end|>", True),
    ("<|vision_pad|>", True),
    ("<|image_pad|>", True),
    ("<|video_pad|>", True),
    ("<tool_call>", False),
    ("</tool_call>", False),
    ("<tool_response>", False),
    ("</tool_response>", False),
    ("<think>", False),
    ("</think>", False),
]


def save(path, array, dtype):
    """Writes a C-ordered .npy file of the given dtype."""
    np.save(path, np.ascontiguousarray(np.asarray(array), dtype=dtype))


def dump(path, obj):
    pathlib.Path(path).write_text(json.dumps(obj, indent=1, ensure_ascii=False) + "\n")
