#!/usr/bin/env python3
"""Writes tests/fuzz/corpus/record/: each kind of journal record, configurations and checkpoint heads, sound and damaged;
and corpus/session_rows/: changes of a checkpoint's page (fuzz_session_rows.c says how).

What stands here is the format, told once more and apart from the code (actors/ic_talk_record.c). Run from anywhere when it has changed; the
files are committed, the tests need no Python.
"""
import os
import struct

CORPUS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")
CONFIG, HEAD, SETTINGS = 200, 201, 8


def u8(n):
    return struct.pack("<B", n)


def u32(n):
    return struct.pack("<I", n & 0xffffffff)


def u64(n):
    return struct.pack("<Q", n)


def text(s):
    return u32(len(s.encode())) + s.encode()


SAMPLING = struct.pack("<fIffQI", 0.7, 20, 0.8, 1.1, 1234567, 100)
ENGINE = text("saddle") + b"".join(map(u32, (1024, 256, 128, 4, 256, 1))) + u64(64 << 20) + u32(64)
FRAME = u64(1500000) + u64(3) + u32(4) + u32(2) + u32(2) + u32(1)
ASK = u64(7) + bytes(range(16)) + SAMPLING + text("Where is the € sign?")

records = {
    "frame": (1, FRAME + bytes(range(24))), "image": (2, FRAME + bytes(24)), "frame_detached": (1, FRAME),
    "frame_huge": (1, u64(0) + u64(0) + u32(0x7fffffff) + u32(0x7fffffff) + u32(1) + u32(1) + bytes(9)),
    "frame_negative": (1, u64(0) + u64(0) + u32(-4) + u32(2) + u32(1) + u32(1) + bytes(24)),
    "frame_short": (1, FRAME + bytes(23)),
    "frames_end": (3, b""), "ask": (4, ASK), "ask_long_text": (4, ASK[:-3] + b"\xff"), "start": (5, u64(7)),
    "tokens": (6, u64(7) + u32(3) + u32(5) + u32(70000) + u32(-1)), "tokens_many": (6, u64(7) + u32(0x7fffffff) + u32(5)),
    "tokens_none": (6, u64(7) + u32(0)),
    "end_v1": (7, u64(7) + u32(2)), "media": (8, u64(2)), "media_end": (9, u64(2)), "pixels": (10, b"pixels"),
    "pixels_none": (10, b""), "fork": (11, b""), "end": (12, u64(7) + u32(1) + u64(900) + u64(3) + u64(4)),
    "unknown": (99, b"abc"),
}
config = ENGINE + u32(SETTINGS) + b"".join(map(u32, (4, 32, 50, 100, 0, 15, 0, 4)))
tail = SAMPLING + u8(1) + text("demo")
files = {name: u8(kind) + u8(1) + body for name, (kind, body) in records.items()}
files["later"] = u8(3) + u8(9)
files["empty_record"] = u8(3)
files["config_v1"] = u8(CONFIG) + u8(1) + ENGINE + tail + u8(0) + text("")
files["config"] = u8(CONFIG) + u8(2) + config + tail + u8(1) + text("Be brief.")
files["config_many_settings"] = u8(CONFIG) + u8(2) + ENGINE + u32(1 << 30) + tail
files["config_long_policy"] = u8(CONFIG) + u8(2) + text("x" * 100) + config[10:] + tail + u8(0) + text("")
numbers = b"".join(map(u64, range(10)))
asks = u8(1) + ASK
files["head_v1"] = u8(HEAD) + u8(1) + numbers + u8(0) + text("demo") + u32(0)
files["head"] = (u8(HEAD) + u8(2) + numbers + u8(1) + text("demo") + text("0123456789abcdef" * 2) + config
                 + u32(4 + len(asks)) + u32(len(asks)) + asks)
answer = u64(7) + bytes(range(16)) + SAMPLING + u32(40) + u32(2) + b"\xe2\x82" + text("so far")
for name, what in (("head_v4", u64(0)), ("head_answer", answer), ("head_answer_held", answer.replace(u32(2) + b"\xe2\x82", u32(9) + b"\xe2" * 9)),
                   ("head_answer_short", answer[:30])):
    files[name] = (u8(HEAD) + u8(4) + numbers + u8(0) + text("demo") + text("") + config + u8(0) + bytes(32) + what
                   + (b"" if name == "head_answer_short" else u32(0)))
files["head_short"] = files["head"][:-5]
files["head_asks_beyond"] = u8(HEAD) + u8(1) + numbers + u8(0) + text("demo") + u32(0xffffffff)



def change(at, add):
    return struct.pack("<HB", at, add)


RIGHT, CUT = 1, 2
rows = {
    "sound": b"", "magic": u8(RIGHT) + change(0, 1), "version": u8(RIGHT) + change(4, 1), "wrong_sum": u8(0) + change(200, 1),
    "shape": u8(RIGHT) + change(8, 1) + change(12, 1), "head": u8(RIGHT) + change(32, 200), "slot": u8(RIGHT) + change(37, 255),
    "count_more": u8(RIGHT) + change(40, 9), "count_huge": u8(RIGHT) + change(43, 127), "ordinal": u8(RIGHT) + change(44, 3),
    "value": u8(RIGHT) + change(401, 255), "value_nan": u8(RIGHT) + b"".join(change(400 + i, 0x7f) for i in range(64)),
    "cut_header": u8(CUT) + u8(20) + u8(0), "cut_run": u8(RIGHT | CUT) + u8(60) + u8(0),
    "cut_rows": u8(RIGHT | CUT) + u8(0) + u8(4), "empty": u8(CUT) + u8(0) + u8(0), "sum_itself": u8(0) + change(65535, 1),
}
for folder, content in (("record", files), ("session_rows", rows)):
    out = os.path.join(CORPUS, folder)
    os.makedirs(out, exist_ok=True)
    for name in os.listdir(out):
        os.remove(os.path.join(out, name))
    for name, data in content.items():
        with open(os.path.join(out, name), "wb") as file:
            file.write(data)
    print(folder, len(content), "files")
