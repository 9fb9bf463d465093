#!/usr/bin/env bash
# infchat-bench stream: a run that is cut off goes on to the same figures, those of a memory do not depend on who reads
# beside it, and a state of another run is refused. usage: stream.sh SOURCE-DIR BUILD-DIR
set -euo pipefail
source_dir=$1 build_dir=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
fail() { echo "FAILED: $*"; exit 1; }
stream() {
  "$build_dir/infchat-bench" stream --model "$source_dir/models/demo" --text "$source_dir/docs/protocol.md" --tokens 6000 \
    --samples 1 --threads 1 --json "$@"
}
# What does not depend on the clock, on the process, or on who reads beside it.
figures() { sed -E 's/"(tokens_per_s|resident_bytes|anonymous_bytes|resumed|side_by_side|stretches_left_out)":[0-9.]+,//g' "$@"; }

stream --policy saddle,streaming:256,full:1000 --cache-tokens 128 --map 5 >"$folder/whole"
[ "$(wc -l <"$folder/whole")" = 3 ] || fail "three memories, but not three objects"
sed -n 1p "$folder/whole" | grep -qE '"tokens":[0-9]{4,},.*"ended":"all read".*"ratio":0\.[0-9]+|"ratio":1\.[0-9]+' ||
  fail "no figures: $(cat "$folder/whole")"
[ "$(grep -c '"ended":"all read"' "$folder/whole")" = 2 ] && sed -n 3p "$folder/whole" | grep -q '"ended":".*cache' ||
  fail "full has not come to its end: $(sed -n 3p "$folder/whole")"

pauses=0
for i in 1 2 3 4; do
  status=0
  stream --policy saddle,streaming:256,full:1000 --cache-tokens 128 --map 5 --state "$folder/state" --for $((i == 4 ? 600 : 0)) \
    >"$folder/parts" 2>/dev/null || status=$?
  [ $status != 3 ] || pauses=$((pauses + 1))
done
[ $status = 0 ] && [ $pauses = 3 ] || fail "three pauses were asked for, $pauses came, and the end with $status"
cmp <(figures "$folder/whole") <(figures "$folder/parts") || fail "a run in parts has other figures"
[ ! -e "$folder/state" ] || fail "the state outlives its run"

stream --policy streaming:256 --map 5 >"$folder/alone"
cmp <(sed -n 2p "$folder/whole" | figures) <(figures "$folder/alone") || fail "alone and beside others differ"

stream --policy streaming:256 --state "$folder/state" --for 0 >/dev/null 2>&1 || true
stream --policy saddle:256 --state "$folder/state" >/dev/null 2>"$folder/error" && fail "the state of another run is taken"
grep -q 'of another run' "$folder/error" || fail "$(cat "$folder/error")"
truncate -s 5000 "$folder/state"
stream --policy streaming:256 --state "$folder/state" >/dev/null 2>&1 && fail "a damaged state is taken"
echo passed
