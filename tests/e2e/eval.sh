#!/usr/bin/env bash
# The demo model's held-out questions, put to the engine over frames that were decoded before: as a machine without a decoder asks
# them (tools/gpu-check). At least three of four are right, and a damaged file is refused by name.
# usage: eval.sh SOURCE-DIR BUILD-DIR
set -euo pipefail
source_dir=$1 build_dir=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
fail() { echo "FAILED: $*"; exit 1; }
bench=$build_dir/infchat-bench
demo=$source_dir/models/demo

"$bench" eval --model "$demo" --set "$demo/eval" --write "$folder/frames.bin" || fail "no frames were written"
[ "$(stat -c %s "$folder/frames.bin")" -lt $((8 << 20)) ] || fail "the frames take more than 8 MiB"
"$bench" eval --model "$demo" --set "$demo/eval" --frames "$folder/frames.bin" --json >"$folder/said" || fail "the questions were not asked"
right=$(sed -n 's/.*"right":\([0-9]*\).*/\1/p' "$folder/said") asked=$(sed -n 's/.*"asked":\([0-9]*\).*/\1/p' "$folder/said")
echo "$right of $asked"
[ "$asked" -gt 100 ] && [ $((4 * right)) -ge $((3 * asked)) ] || fail "too few right answers: $right of $asked"

head -c 5000 "$folder/frames.bin" >"$folder/cut.bin"
if "$bench" eval --model "$demo" --set "$demo/eval" --frames "$folder/cut.bin" >"$folder/out" 2>&1; then fail "a file that was cut off was taken"; fi
grep -q damaged "$folder/out" || fail "the error does not say what is wrong: $(cat "$folder/out")"
