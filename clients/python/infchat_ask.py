#!/usr/bin/env python3
"""Uploads a clip to infchatd, asks about it and prints the answer as it comes.

    infchat_ask.py ipc:///path/of/infchatd.sock clip.mp4 "What is there?"

Needs pyzmq and msgpack alone; docs/protocol.md is all there is to know.
"""
import os
import secrets
import sys

import msgpack
import zmq


class Client:
    def __init__(self, endpoint):
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 1000
        self.socket.connect(endpoint)
        self.events = []  # those that came while something else was awaited
        self.re, self.until, self.heartbeat_ms = 0, 0, 1000  # until: credit of the upload
        self.send("HELLO", client=secrets.token_bytes(16), name="infchat_ask.py")
        welcome = self.read("WELCOME")
        self.heartbeat_ms = welcome["heartbeat_ms"]
        self.piece = welcome.get("limits", {}).get("piece_bytes", 262144)

    def send(self, verb, payload=None, **fields):
        frames = [b"ICW\x01" + verb.encode(), msgpack.packb(fields)]
        self.socket.send_multipart(frames + ([payload] if payload is not None else []))

    def read(self, wanted):
        """The next message of this verb. Events are granted back and put aside."""
        silences = 0
        while silences < 5:
            if not self.socket.poll(self.heartbeat_ms):
                self.send("PING")
                silences += 1
                continue
            silences = 0
            signature, body = self.socket.recv_multipart()[:2]
            verb, fields = signature[4:].decode(), msgpack.unpackb(body)
            if verb == "EVENT":
                self.send("CREDIT", session=fields["session"], bytes=len(body))
                self.events.append(fields)
            elif verb == "GRANT":
                self.until = max(self.until, fields["until"])
            elif verb == "ERROR":
                sys.exit(f"infchatd: {fields['code']}: {fields['message']}")
            if verb == wanted:
                return fields
        sys.exit("infchatd does not answer")

    def call(self, verb, **fields):
        self.re += 1
        self.send(verb, re=self.re, **fields)
        return self.read("OK")

    def next_event(self):
        if not self.events:
            self.read("EVENT")
        return self.events.pop(0)

    def upload(self, session, path):
        """Sends a file under the server's credit and waits until all of it was watched."""
        ok = self.call("MEDIA", key=secrets.token_bytes(16), session=session, kind="upload",
                       name=os.path.basename(path))
        sent, data, self.until = 0, b"?", ok["until"]
        with open(path, "rb") as clip:
            while data:
                while self.until <= sent:
                    self.read("GRANT")
                data = clip.read(min(self.piece, self.until - sent))
                self.send("DATA", data, session=session, media=ok["media"], offset=sent, last=not data)
                sent += len(data)
        while (event := self.next_event())["type"] != "media_end":
            pass
        if "code" in event:
            sys.exit(f"{path}: {event['message']}")
        return event["media"]

    def ask(self, session, text):
        """Yields the answer piece by piece."""
        turn = self.call("ASK", key=secrets.token_bytes(16), session=session, text=text)["turn"]
        while (event := self.next_event())["type"] != "answer_end" or event["turn"] != turn:
            if event["type"] == "text" and event["turn"] == turn:
                yield event["text"]


if len(sys.argv) != 4:
    sys.exit("usage: infchat_ask.py ENDPOINT CLIP QUESTION")
client = Client(sys.argv[1])
session_id = client.call("NEW", key=secrets.token_bytes(16))["session"]
seen = client.upload(session_id, sys.argv[2]).get("frames_seen", 0)
print(f"session {session_id}: {seen} frames seen", file=sys.stderr)
for piece in client.ask(session_id, sys.argv[3]):
    print(piece, end="", flush=True)
print()
client.send("BYE")
