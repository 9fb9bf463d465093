#!/usr/bin/env bash
# tools/sweep: a point that is there is not run again, one that was cut off goes on, and what was measured is in the CSV, in
# the marked place of a document, and in figures that are XML. usage: sweep.sh SOURCE-DIR BUILD-DIR
set -euo pipefail
source_dir=$1 build_dir=$2
command -v python3 >/dev/null || { echo "skipped: there is no python3"; exit 77; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
fail() { echo "FAILED: $*"; exit 1; }
sweep() { "$source_dir/tools/sweep" --out "$folder/out" "$@"; }
stream() { sweep stream --build "$build_dir" --texts "$folder/texts" --tokens 8000 --policy saddle,streaming --cache-tokens 128,256 "$@"; }

mkdir "$folder/texts"
cp "$source_dir/docs/protocol.md" "$folder/texts/protocol.txt"
cp "$source_dir/docs/architecture.md" "$folder/texts/Stevenson_Treasure_1883.txt" # named as a book of the training: left out
stream --minutes 0.000001 || fail "a sweep that has no time fails"
[ -z "$(ls "$folder/out/points")" ] || fail "a sweep that has no time has begun a point"
stream || fail "the sweep failed"
[ "$(ls "$folder/out/points"/*.json | wc -l)" = 2 ] || fail "two budgets are not two points: $(ls "$folder/out/points")"
! grep -q Stevenson "$folder/out/points"/*.json || fail "a book of the training was read"
touch -d '2001-01-01' "$folder/out/points"/*.json
stream
[ -z "$(find "$folder/out/points" -newermt 2002-01-01 -name '*.json')" ] || fail "a finished point was run again"
stream -- --pool 1 --map 4
[ "$(ls "$folder/out/points"/*.json | wc -l)" = 4 ] || fail "other settings are not other points"

printf 'before\n<!-- stream -->\nold\n<!-- end -->\nafter\n' >"$folder/doc.md"
sweep draw --docs "$folder/doc.md" >/dev/null || fail "draw failed"
[ "$(sed -n '1p;$p' "$folder/doc.md" | paste -sd' ')" = "before after" ] && ! grep -q old "$folder/doc.md" || fail "$(cat "$folder/doc.md")"
grep -q '^| 256 | `saddle pool=1` | 8,' "$folder/doc.md" || fail "the table has no line for other settings: $(cat "$folder/doc.md")"
[ "$(wc -l <"$folder/out/stream.csv")" = $((1 + 8 * 10)) ] || fail "eight memories in tenths are not 80 lines of CSV"
python3 - "$folder/doc" <<'PY' || fail "the figures are not there, or not XML"
import sys, os, xml.dom.minidom
names = sorted(os.listdir(sys.argv[1]))
assert names == ["stream_budget.svg", "stream_kept.svg", "stream_ratio.svg"], names
for name in names:
    assert xml.dom.minidom.parse(os.path.join(sys.argv[1], name)).getElementsByTagName("text"), name
PY
echo passed
