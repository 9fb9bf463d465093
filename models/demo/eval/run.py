#!/usr/bin/env python3
"""Asks the questions of a held-out set through the service itself and prints the share of right answers per kind.

usage: run.py [--build DIR] [--model DIR] [--set DIR] [--policy NAME] [--cache-tokens N] [--settings OPTIONS]
              [--json] [--verbose]

Starts infchatd on a private endpoint with its own store, plays every clip of <set>/questions.json into a new session with
`infchat new --video`, and asks its rounds with `infchat ask`, as a user would. An answer is right when every phrase of
`accept` stands in it as whole words ("|" separates alternatives). Needs only Python's standard library.
"""
import argparse, json, os, re, signal, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))


def is_right(answer, accept):
    low = answer.lower()
    found = lambda phrase: re.search(r"(?<!\w)" + re.escape(phrase.lower()) + r"(?!\w)", low)
    return all(any(found(alternative) for alternative in phrase.split("|")) for phrase in accept)


class Service:
    """infchatd with a store and an endpoint of its own, for the life of a `with` block."""

    def __init__(self, build, model):
        self.build, self.model = build, model

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="infchat-eval-")
        self.endpoint = "ipc://%s/sock" % self.folder.name
        self.log = open(self.folder.name + "/log", "w+")
        self.daemon = subprocess.Popen([self.build + "/infchatd", "--model", self.model, "--listen", self.endpoint,
                                        "--store", self.folder.name + "/store.db"], stderr=self.log)
        deadline = time.time() + 60
        while subprocess.run([self.build + "/infchat", "--server", self.endpoint, "--json", "status"],
                             capture_output=True).returncode != 0:
            if self.daemon.poll() is not None or time.time() > deadline:
                self.log.seek(0)
                sys.exit("infchatd did not start:\n" + self.log.read())
            time.sleep(0.2)
        return self

    def __exit__(self, *_):
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(60)
        self.folder.cleanup()

    def infchat(self, *words):
        """Runs one command with --json; returns its last object."""
        done = subprocess.run([self.build + "/infchat", "--server", self.endpoint, "--json", *words],
                              capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit("infchat %s: %s%s" % (" ".join(words), done.stdout, done.stderr))
        return json.loads(done.stdout.strip().splitlines()[-1])


def ask_all(service, folder, verbose, memory=()):
    kinds = {}
    for clip in json.load(open(folder + "/questions.json")):
        new = service.infchat("new", "--video", "%s/%s" % (folder, clip["clip"]), "--fps", str(clip["fps"]),
                              *memory)
        for turn in clip["rounds"]:
            text = service.infchat("ask", new["session"], turn["q"])["text"]
            right = is_right(text, turn["accept"])
            kinds.setdefault(turn["kind"], []).append(right)
            if verbose and not right:
                print("%s | %s | %s | wanted %s" % (clip["clip"], turn["q"], text, turn["accept"]), file=sys.stderr)
        service.infchat("rm", new["session"])
    return kinds


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--build", default=ROOT + "/build")
    options.add_argument("--model", default=ROOT + "/models/demo")
    options.add_argument("--set", default=HERE)
    options.add_argument("--policy", help="what the sessions' memory keeps (docs/policies.md)")
    options.add_argument("--cache-tokens", help="and how much")
    options.add_argument("--settings", default="", help="and how: further options of infchat new, in one word")
    options.add_argument("--json", action="store_true")
    options.add_argument("--verbose", action="store_true", help="print the wrong answers")
    given = options.parse_args()
    memory = ["--policy", given.policy] if given.policy else []
    memory += ["--cache-tokens", given.cache_tokens] if given.cache_tokens else []
    memory += given.settings.split()
    with Service(given.build, given.model) as service:
        kinds = ask_all(service, given.set, given.verbose, memory)
    everything = [right for answers in kinds.values() for right in answers]
    rows = [(kind, sum(a), len(a)) for kind, a in sorted(kinds.items())] + [("all", sum(everything), len(everything))]
    if given.json:
        print(json.dumps({kind: {"right": right, "asked": asked} for kind, right, asked in rows}))
    else:
        for kind, right, asked in rows:
            print("%-16s %4d of %4d  %5.1f %%" % (kind, right, asked, 100.0 * right / asked))


if __name__ == "__main__":
    main()
