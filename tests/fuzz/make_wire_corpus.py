#!/usr/bin/env python3
"""Writes tests/fuzz/corpus/wire/: one file per message and per kind of damage.

Needs python3-msgpack. Run from anywhere after the protocol's table has changed; the files are
committed, the tests need no Python.
"""
import os
import re
import struct

import msgpack

HERE = os.path.dirname(os.path.abspath(__file__))
TABLE = os.path.join(HERE, "..", "..", "wire", "ic_wire_msgs.def")
OUT = os.path.join(HERE, "corpus", "wire")

text = open(TABLE).read()
verbs = [(m[1], m[2]) for m in re.finditer(r"^IC_WIRE_VERB\((\w+),\s*(\w+),", text, re.M)]
words = {m[1]: re.findall(r'"(\w+)"', m[2])
         for m in re.finditer(r"^IC_WIRE_WORDS\((\w+),([^)]*)\)", text, re.M)}
fields = {}
for m in re.finditer(r"^IC_WIRE_FIELD\((\w+),\s*(\w+),\s*(\w+),\s*(\w+),\s*(\w+),", text, re.M):
    fields.setdefault(m[1], []).append((m[2], m[3], m[4], m[5]))


def value(kind, arg, full):
    if kind in ("U64", "I64"):
        return 7
    if kind in ("ENUM", "OPEN"):
        return words[arg][-1]
    if kind == "REC":
        return record(arg, full)
    if kind == "LIST":
        return [record(arg, full), record(arg, False)]
    return {"F64": 0.5, "BOOL": True, "STR": "3fä", "ID": bytes(range(16)), "STRS": ["a", "b"]}[kind]


def record(name, full):
    return {f: value(kind, arg, full) for f, kind, arg, need in fields.get(name, [])
            if full or need == "REQ"}


def write(name, data):
    with open(os.path.join(OUT, name), "wb") as f:
        f.write(data)


def main():
    os.makedirs(OUT, exist_ok=True)
    for i, (verb, name) in enumerate(verbs):
        pick = bytes([i if i else len(verbs)])  # the target takes 1 + pick % count
        write(f"{verb.lower()}_full", pick + msgpack.packb(record(name, True)))
        if record(name, True) != record(name, False):
            write(f"{verb.lower()}_least", pick + msgpack.packb(record(name, False)))
    body = msgpack.packb(record("ask", True))
    for name, signature in (("good", b"ICW\x01ASK"), ("version", b"ICW\x02ASK"),
                            ("magic", b"HTTP/1.1"), ("verb", b"ICW\x01DANCE"), ("short", b"ICW")):
        write(f"signature_{name}", b"\0" + bytes([len(signature)]) + signature + body)
    ask = bytes([[v for v, _ in verbs].index("ASK")])
    write("bomb_array", ask + b"\xdd\xff\xff\xff\xff")
    write("bomb_map", ask + b"\xdf\xff\xff\xff\xff")
    write("bomb_depth", ask + b"\x81\xa1x" + b"\x91" * 40)
    write("bomb_str", ask + b"\x81\xa4text\xdb\xff\xff\xff\xff")
    write("bomb_ext", ask + b"\x81\xa4text\xc9\xff\xff\xff\xff\x01")
    write("never_used", ask + b"\x81\xa4text\xc1")
    write("cut", ask + body[:-5])
    write("behind", ask + body + b"\0")
    write("twice", ask + b"\x82\xa2re\x01\xa2re\x02")
    write("unknown", ask + msgpack.packb({**record("ask", True), "later": [1, {"a": b"b"}, None],
                                          "when": msgpack.ExtType(5, b"xy")}))
    write("nil", ask + msgpack.packb({**record("ask", False), "sampling": None, "if_busy": None}))
    write("float32", ask + b"\x81\xa8sampling\x81\xa5top_p\xca" + struct.pack(">f", 0.5))
    write("not_utf8", ask + b"\x81\xa4text\xa2\xc0\xaf")
    write("zero_byte", ask + b"\x81\xa4text\xa3a\0b")
    write("nan", ask + b"\x81\xa8sampling\x81\xa5top_p\xcb" + struct.pack(">d", float("nan")))
    event = bytes([[v for v, _ in verbs].index("EVENT")])
    write("later_word", event + msgpack.packb({**record("event", False), "type": "mark"}))


if __name__ == "__main__":
    main()
