"""What tools/sweep has measured, as CSV, as tables in Markdown, and as figures in SVG. Only Python's standard library.

Intervals are paired bootstrap 95 % intervals of the difference to saddle at the same budget: streams are drawn anew with
replacement, and within each stream its questions; all policies answer the same questions of the same streams."""
import csv
import glob
import json
import math
import os
import random

WHENS = ["now", "past", "never"]
DRAWS = 1000
COLOURS = {"full": "#000000", "window": "#9a9a9a", "streaming": "#4477aa", "recent-frames": "#228833", "h2o": "#ccbb44",
           "snapkv": "#aa3377", "corm": "#bb8855", "cascade": "#44aa99", "saddle-paper": "#66ccee", "saddle": "#ee6677"}
MORE_COLOURS = ["#a05000", "#5500aa", "#007070", "#b0a000", "#505050"]
SETTINGS = ["chunk", "slack", "sinks", "pinned_max", "window", "recent_pct", "bias_pct", "smooth_pct", "pool", "per_layer", "frames",
            "positions", "frame_unit"]


def load(out):
    """The points of the newest weights that are there: [(group, command, result)]."""
    points = [json.load(open(p)) for p in sorted(glob.glob(out + "/points/*.json"), key=os.path.getmtime)]
    return [(p["group"], p["command"], r) for p in points if p["weights"] == points[-1]["weights"] for r in p["results"]]


def distance_name(seconds):
    return "%d s" % seconds if seconds < 60 else "%d min" % (seconds // 60) if seconds < 3600 else "%d h" % (seconds // 3600)


def labelled(results):
    """{label: [results]}: by policy and the settings that were given."""
    out = {}
    for r in results:
        out.setdefault(r["label"], []).append(r)
    return out


# --- intervals -----------------------------------------------------------------------------------------------------------

def outcomes(r, part):
    """'0110...' of one part: now, past, never, or a distance in seconds."""
    if part in WHENS:
        return r[part]["outcome"]
    return next((d["outcome"] for d in r["distances"] if d["seconds"] == part), "")


def share(results, part):
    text = "".join(outcomes(r, part) for r in results)
    return 100 * text.count("1") / len(text) if text else None


def difference(mine, other, part):
    """Percentage points that mine is above other, with its interval, over the streams that both have seen."""
    theirs = {r["seed"]: outcomes(r, part) for r in other}
    streams = []
    for r in mine:
        a, b = outcomes(r, part), theirs.get(r["seed"], "")
        n = min(len(a), len(b))
        if n:
            streams.append([int(x) - int(y) for x, y in zip(a[:n], b[:n])])
    if not streams:
        return None
    rng, means = random.Random(1), []
    for _ in range(DRAWS):
        total = count = 0
        for stream in rng.choices(streams, k=len(streams)):
            total += sum(rng.choices(stream, k=len(stream)))
            count += len(stream)
        means.append(100 * total / count)
    means.sort()
    every = [d for stream in streams for d in stream]
    return 100 * sum(every) / len(every), means[int(0.025 * DRAWS)], means[int(0.975 * DRAWS) - 1]


def interval(d):
    return "" if d is None else "%+.1f (%+.1f to %+.1f)" % d


# --- tables --------------------------------------------------------------------------------------------------------------

def table(head, rows):
    text = lambda v: "" if v is None else "%.1f" % v if isinstance(v, float) else str(v)
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(text(v) for v in row) + " |" for row in rows]) + "\n"


def order(labels):
    known = list(COLOURS)
    return sorted(labels, key=lambda l: (known.index(l.split()[0]) if l.split()[0] in known else 99, l))


def parts_of(results):
    return WHENS + sorted({d["seconds"] for r in results for d in r["distances"]})


def part_name(part):
    return part if part in WHENS else distance_name(part)


def recall_tables(results, base):
    """By budget: shares of right answers, and differences to `base` of the same budget (or of any, if it has one only)."""
    out, groups = "", labelled(results)
    parts = parts_of(results)
    everywhere = [r for r in groups.get(base, [])]
    budgets = sorted({r["cache_tokens"] for r in results})
    for budget in budgets:
        here = {l: [r for r in rs if r["cache_tokens"] == budget] for l, rs in groups.items()}
        here = {l: rs for l, rs in here.items() if rs}
        first = next(iter(here.values()))
        asked = {p: sum(len(outcomes(r, p)) for r in first) for p in parts}
        out += "%d tokens, %d streams; questions: %s\n\n" % (
            budget, len({r["seed"] for rs in here.values() for r in rs}),
            ", ".join("%s %d" % (part_name(p), asked[p]) for p in parts))
        out += table(["policy"] + [part_name(p) + ", %" for p in parts],
                     [["`%s`" % l] + [share(here[l], p) for p in parts] for l in order(here)]) + "\n"
        out += held_table(here)
        reference = here.get(base) or everywhere
        if reference and len(here) > 1:
            shown = [p for p in parts if p != "never"]
            out += table(["against `%s`, points" % base] + [part_name(p) for p in shown],
                         [["`%s`" % l] + [interval(difference(here[l], reference, p)) for p in shown]
                          for l in order(here) if l != base]) + "\n"
    return out


def percent(part, whole):
    return 100 * part / whole if whole else None


def held_table(here):
    """Was anything of the subject's frames still there when it was asked about, and did that help?"""
    distances = sorted({d["seconds"] for rs in here.values() for r in rs for d in r["distances"]})
    rows = []
    for label in order(here):
        every = [d for r in here[label] for d in r["distances"]]
        total = lambda name, seconds=None: sum(d[name] for d in every if seconds in (None, d["seconds"]))
        asked, right, asked_held, right_held = (total(n) for n in ("asked", "right", "asked_held", "right_held"))
        rows.append(["`%s`" % label] + [percent(total("asked_held", d), total("asked", d)) for d in distances]
                    + [percent(right_held, asked_held), percent(right - right_held, asked - asked_held)])
    return table(["subject still held, %"] + [distance_name(d) for d in distances] + ["right when held, %", "right when lost, %"],
                 rows) + "\n"


def kinds_table(results, budget):
    groups = {l: [r for r in rs if r["cache_tokens"] == budget] for l, rs in labelled(results).items()}
    groups = {l: groups[l] for l in order(groups) if groups[l]}
    kinds = sorted({(k["when"], k["kind"]) for r in results for k in r["kinds"]}, key=lambda k: (WHENS.index(k[0]), k[1]))
    rows = []
    for kind in kinds:
        cells = []
        for rs in groups.values():
            got = [k for r in rs for k in r["kinds"] if (k["when"], k["kind"]) == kind]
            asked = sum(k["asked"] for k in got)
            cells.append(100 * sum(k["right"] for k in got) / asked if asked else None)
        rows.append(["%s: %s (%d)" % (*kind, asked)] + cells)
    return table(["%d tokens, kind (questions)" % budget] + ["`%s`" % l for l in groups], rows) + "\n"


def stream_tables(results):
    rows = []
    for label, mine in labelled(results).items():
        for r in mine:
            d = r["deciles"]
            ends = [x for x in d if x["stretch_rows"]]
            quotient = ends[-1]["ratio"] / ends[0]["ratio"] if len(ends) > 1 else None
            mib, own = ([x[what] / 2**20 for x in d] for what in ("resident_bytes", "anonymous_bytes"))
            rows.append((r["cache_tokens"], label, [
                "%d" % r["cache_tokens"], "`%s`" % label, "{:,}".format(r["tokens"]), "%.0f %%" % (100 * r["repeated_share"]),
                "%.2f" % r["perplexity"], "%.4f" % r["ratio"] if ends else "", "%.4f" % ends[0]["ratio"] if ends else "",
                "%.4f" % ends[-1]["ratio"] if ends else "", "%.4f" % quotient if quotient else "",
                "%.0f, %.0f" % (d[0]["tokens_per_s"], d[-1]["tokens_per_s"]), "%.1f to %.1f" % (min(mib), max(mib)), "%.1f to %.1f" % (min(own), max(own)),
                "%.0f" % d[-1]["median_age"]]))
    labels = order({r[1] for r in rows})
    rows.sort(key=lambda r: (r[0], labels.index(r[1])))
    return table(["budget", "policy", "tokens", "repeated", "perplexity", "ratio to fresh windows", "first tenth", "last tenth",
                  "last / first", "tokens/s, first and last tenth", "resident MiB (all memories of the run)", "of it anonymous", "median age at the end"],
                 [r[2] for r in rows]) + "\n"


def commands(points, group):
    """The first command of a group, for people: the others differ in seed or budget."""
    return next(c for g, c, _ in points if g == group)


# --- CSV -----------------------------------------------------------------------------------------------------------------

def write_csv(path, head, rows):
    with open(path, "w", newline="") as f:
        csv.writer(f, lineterminator="\n").writerows([head, *rows])


def csv_files(out, points):
    settings = ["policy", "cache_tokens", *SETTINGS]
    write_csv(out + "/recall.csv", ["group", *settings, "seed", "minutes", "when", "distance_s", "asked", "right"], [
        [g, *(r.get(s) for s in settings), r["seed"], r["minutes"], p if p in WHENS else "past", "" if p in WHENS else p,
         len(outcomes(r, p)), outcomes(r, p).count("1")]
        for g, _, r in points if r["bench"] == "recall" for p in parts_of([r])])
    columns = ["tokens", "perplexity", "ratio", "stretch_rows", "tokens_per_s", "resident_bytes", "anonymous_bytes", "median_age"]
    write_csv(out + "/stream.csv", ["group", *settings, "decile", *columns], [
        [g, *(r.get(s) for s in settings), i + 1, *(d[c] for c in columns)]
        for g, _, r in points if r["bench"] == "stream" for i, d in enumerate(r["deciles"])])


# --- figures -------------------------------------------------------------------------------------------------------------

class Svg:
    def __init__(self, width, height):
        self.parts, self.width, self.height = [], width, height

    def add(self, text, *values):
        self.parts.append(text % values)

    def text(self, x, y, s, anchor="start", size=11, colour="#222", turn=0):
        turned = ' transform="rotate(%d %.1f %.1f)"' % (turn, x, y) if turn else ""
        self.add('<text x="%.1f" y="%.1f" font-size="%d" text-anchor="%s" fill="%s"%s>%s</text>', x, y, size, anchor, colour,
                 turned, s)

    def line(self, points, colour, width=1.0, dash=""):
        self.add('<polyline points="%s" fill="none" stroke="%s" stroke-width="%.1f"%s/>',
                 " ".join("%.1f,%.1f" % p for p in points), colour, width, ' stroke-dasharray="%s"' % dash if dash else "")

    def write(self, path):
        with open(path, "w") as f:
            f.write('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif">\n' % (self.width, self.height))
            f.write('<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(self.parts) + "\n</svg>\n")


def colour_of(label):
    return COLOURS.get(label) or MORE_COLOURS[sum(map(ord, label)) % len(MORE_COLOURS)]


def nice_step(span):
    raw = max(span, 1e-9) / 4
    base = 10 ** math.floor(math.log10(raw))
    return next(m * base for m in (1, 2, 5, 10) if m * base >= raw)


def plot(svg, box, title, xs, lines, y_name):
    """One panel. xs: names of the places on the x axis; lines: {label: [value or None]}. Percent stand on 0 to 100."""
    x0, y0, w, h = box
    values = [v for line in lines.values() for v in line if v is not None]
    if not values:
        return
    if y_name.endswith("%"):
        values = [0, 100]
    step = nice_step(max(values) - min(values))
    low, high = math.floor(min(values) / step) * step, math.ceil(max(values) / step) * step
    high = high if high > low else low + step
    px = lambda i: x0 + w * (i + 0.5) / len(xs)
    py = lambda v: y0 + h - h * (v - low) / (high - low)
    svg.text(x0 + w / 2, y0 - 8, title, "middle", 12)
    svg.text(x0 - 38, y0 + h / 2, y_name, "middle", 11, turn=-90)
    for k in range(int(round((high - low) / step)) + 1):
        v = low + k * step
        svg.line([(x0, py(v)), (x0 + w, py(v))], "#ddd")
        svg.text(x0 - 4, py(v) + 4, "%.6g" % v, "end", 10)
    for i, name in enumerate(xs):
        svg.text(px(i), y0 + h + 15, name, "middle", 10)
    for label in sorted(lines, key=lambda l: l == "saddle"):  # which lies on top
        line = lines[label]
        there = [(px(i), py(v)) for i, v in enumerate(line) if v is not None]
        svg.line(there, colour_of(label), 2.4 if label == "saddle" else 1.5)
        for x, y in there:
            svg.add('<circle cx="%.1f" cy="%.1f" r="%.1f" fill="%s"/>', x, y, 2.6, colour_of(label))


def panels(path, titles, xs, lines_of, y_name):
    """Panels side by side with one legend; lines_of[i]: {label: values} of panel i."""
    labels = order({l for lines in lines_of for l in lines})
    width = 330
    svg = Svg(width * len(titles) + 130, 300)
    for i, title in enumerate(titles):
        plot(svg, (60 + width * i, 30, width - 80, 230), title, xs, lines_of[i], y_name)
    for i, label in enumerate(labels):
        y, x = 40 + 18 * i, width * len(titles) + 5
        svg.line([(x, y - 4), (x + 16, y - 4)], colour_of(label), 3)
        svg.text(x + 21, y, label, size=10)
    svg.write(path)


def recall_figures(folder, group, results):
    groups, budgets = labelled(results), sorted({r["cache_tokens"] for r in results})
    bounded = {l: rs for l, rs in groups.items() if l != "full"}
    parts = parts_of(results)
    at = lambda l, b, p: share([r for r in groups[l] if r["cache_tokens"] == b], p)
    budgets = sorted({r["cache_tokens"] for rs in bounded.values() for r in rs})
    if len(budgets) > 1:
        panels("%s/%s_budget.svg" % (folder, group), ["about now", "about the past"], ["%d" % b for b in budgets],
               [{l: [at(l, b, p) for b in budgets] for l in bounded} for p in ("now", "past")], "right answers, %")
    far = ["now"] + [p for p in parts if p not in WHENS]
    panels("%s/%s_distance.svg" % (folder, group), ["%d tokens" % b for b in budgets], [part_name(p) for p in far],
           [{l: [at(l, b, p) for p in far] for l in bounded} for b in budgets], "right answers, %")


def stream_figures(folder, group, results):
    groups, budgets = labelled(results), sorted({r["cache_tokens"] for r in results if r["policy"] != "full"})
    one = lambda l, b: next((r for r in groups[l] if r["cache_tokens"] == b), None)
    labels = [l for l in groups if l != "full"]
    tenths = ["%d" % (i + 1) for i in range(10)]
    panels("%s/%s_ratio.svg" % (folder, group), ["%d tokens" % b for b in budgets], tenths,
           [{l: [d["ratio"] or None for d in one(l, b)["deciles"]] for l in labels if one(l, b)} for b in budgets],
           "perplexity to that of fresh windows")
    if len(budgets) > 1:
        lines = [{l: [one(l, b)[what] if one(l, b) and one(l, b)["stretch_rows"] else None for b in budgets] for l in labels}
                 for what in ("perplexity", "ratio")]
        panels("%s/%s_budget.svg" % (folder, group), ["perplexity", "ratio to fresh windows"], ["%d" % b for b in budgets], lines, "")


def kept_map(svg, box, r, unit):
    """x: when it was looked; y: when the row came. Blue: frames, orange: text; the darker, the more of it is held."""
    x0, y0, side = box
    m = r["map"]
    n, cell = m["looks"], side / max(1, m["looks"])
    came = max([m["frames"][i][i] + m["text"][i][i] for i in range(n)] + [1])
    def shade(i, b):  # in steps, so that equal neighbours are one rectangle
        f, t = m["frames"][i][b], m["text"][i][b]
        return (round(4 * t / (f + t)), max(1, round(10 * min(1.0, math.sqrt((f + t) / came))))) if f + t else None
    for b in range(n):
        i = b
        while i < n:
            last, kind = i, shade(i, b)
            while last + 1 < n and shade(last + 1, b) == kind:
                last += 1
            if kind:
                rgb = tuple(int(x + (y - x) * kind[0] / 4) for x, y in zip((32, 90, 200), (235, 120, 0)))
                svg.add('<rect x="%.2f" y="%.2f" width="%.2f" height="%.2f" fill="rgb(%d,%d,%d)" opacity="%.1f"/>', x0 + i * cell,
                        y0 + side - (b + 1) * cell, (last - i + 1) * cell, cell, *rgb, kind[1] / 10)
            i = last + 1
    svg.add('<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="none" stroke="#888"/>', x0, y0, side, side)
    svg.text(x0 + side / 2, y0 - 6, "%s, %d tokens" % (r["label"], r["cache_tokens"]), "middle", 12 if len(r["label"]) < 22 else 9)
    span = m.get("seconds", m.get("tokens", 0))
    for k in range(5):
        name = "%.3g" % (span * k / 4 / (60 if "seconds" in m else 1000))
        svg.text(x0 + side * k / 4, y0 + side + 13, name, "middle", 9)
        svg.text(x0 - 4, y0 + side - side * k / 4 + 3, name, "end", 9)
    svg.text(x0 + side / 2, y0 + side + 26, "looked at, " + unit, "middle", 10)


def map_figure(folder, group, results):
    mapped = [r for r in results if "map" in r and r["policy"] != "full"]
    seen, unique = set(), []
    for r in mapped:
        if (r["label"], r["cache_tokens"]) not in seen:
            seen.add((r["label"], r["cache_tokens"]))
            unique.append(r)
    if not unique:
        return
    labels = order(labelled(unique))
    unique.sort(key=lambda r: labels.index(r["label"]))
    across, side = min(4, len(unique)), 200
    svg = Svg(across * 245 + 20, math.ceil(len(unique) / across) * 260 + 20)
    unit = "minutes" if "seconds" in unique[0]["map"] else "thousand tokens"
    for i, r in enumerate(unique):
        x, y = 40 + (i % across) * 245, 30 + (i // across) * 260
        kept_map(svg, (x, y, side), r, unit)
        svg.text(x - 27, y + side / 2, "came in, " + unit, "middle", 10, turn=-90)
    svg.text(40, svg.height - 6, "blue: frames; orange: text; the darker, the more of that time is held", size=10)
    svg.write("%s/%s_kept.svg" % (folder, group))


FIGURES = {"budget": "over budget", "distance": "right answers by distance", "ratio": "ratio to fresh windows by tenths",
           "kept": "what is held: when it was looked at, and when that came in"}


# --- all of it -----------------------------------------------------------------------------------------------------------

def fill(path, name, text):
    """Puts text between the marks <!-- name --> and <!-- end --> of a file; a file without them stays as it is."""
    with open(path) as f:
        doc = f.read()
    mark, end = "<!-- %s -->\n" % name, "<!-- end -->"
    if mark in doc:
        head, rest = doc.split(mark, 1)
        doc = head + mark + text.rstrip() + "\n" + end + rest.split(end, 1)[1]
        with open(path, "w") as f:
            f.write(doc)


def draw(out, docs=None):
    points = load(out)
    csv_files(out, points)
    folder = os.path.splitext(docs)[0] if docs else out
    os.makedirs(folder, exist_ok=True)
    everything = ""
    for group in sorted({g for g, _, _ in points}):
        results = [r for g, _, r in points if g == group]
        if results[0]["bench"] == "recall":
            base = "full" if any(r["policy"] == "full" for r in results) else "saddle"
            text = recall_tables(results, base)
            budgets = [r["cache_tokens"] for r in results if r["policy"] != "full"]
            text += kinds_table(results, max(set(budgets), key=budgets.count))
            recall_figures(folder, group, results)
        else:
            text = stream_tables(results)
            stream_figures(folder, group, results)
        map_figure(folder, group, results)
        text = "    %s\n\n%s" % (commands(points, group), text)
        text += "".join("![%s](%s/%s_%s.svg)\n" % (title, os.path.basename(folder), group, name) for name, title in FIGURES.items()
                        if os.path.exists("%s/%s_%s.svg" % (folder, group, name)))
        everything += "## %s\n\n%s\n" % (group, text)
        if docs:
            fill(docs, group, text)
    with open(out + "/tables.md", "w") as f:
        f.write(everything)
    print("%d results; tables in %s/tables.md, figures in %s" % (len(points), out, folder))
