#!/usr/bin/env bash
# infchat-bench recall on a real file: a memory that holds everything answers as `full` does, alone as beside others; the
# counts are of the answers that were given; the map has what is held; what cannot be read is refused.
# usage: recall.sh SOURCE-DIR BUILD-DIR
set -euo pipefail
source_dir=$1 build_dir=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
fail() { echo "FAILED: $*"; exit 1; }
recall() { "$build_dir/infchat-bench" recall --model "$source_dir/models/demo" --films "$folder" --seed 7 --threads 1 "$@"; }
part() { grep -o "\"$1\":{[^}]*}"; }

cp "$source_dir/models/demo/eval/demo_a.mp4" "$folder/film.mp4"
{
  printf 'film\tfilm.mp4\t2\t24\n'
  printf '5\tnow\t0\t-1\twhere\tWhere is the blue square?\tat the top right\n'
  printf '14\tpast\t10\t4.5\tever\tWas there a red circle?\tyes\n'
  printf '16\tnever\t0\t-1\tever\tWas there a green cross?\tno|zebra\n'
  printf '20\tpast\t10\t8.5\tglyphs\tWhich letter or digit was shown first?\tK&letter\n'
  printf '24\tnow\t0\t-1\tdescribe\tWhat do you see now?\tblue square&yellow star\n'
  printf '24\tpast\t20\t4.5\twhen\tWhen did the blue square appear?\tzebra\n'
} >"$folder/stream_7.tsv"

recall --policy full:1500,saddle:1500,window:64 --verbose --map 4 --json >"$folder/three" 2>"$folder/answers"
[ "$(wc -l <"$folder/three")" = 3 ] || fail "three memories, but not three objects"
[ "$(sed -n 1p "$folder/three" | part 'now\|past\|never')" = "$(sed -n 2p "$folder/three" | part 'now\|past\|never')" ] ||
  fail "saddle with room for everything answers unlike full"
recall --policy saddle:1500/pool=1/bias=-1 --json >"$folder/one"
grep -q '"bias_pct":-1,.*"pool":1,' "$folder/one" || fail "a memory's own settings are not taken: $(cat "$folder/one")"
[ "$(sed -n 2p "$folder/three" | part 'now\|past\|never')" = "$(part 'now\|past\|never' <"$folder/one")" ] ||
  fail "saddle answers otherwise alone than beside others"
grep -q '"distances":\[{"seconds":10,"asked":2,.*{"seconds":20,"asked":1,"right":0,"outcome":"0","asked_held":1,"right_held":0,"rows_held":[1-9]' "$folder/one" ||
  fail "rounds are not counted by their distance: $(cat "$folder/one")"
grep -q '"rounds":6,"asked":6,' "$folder/one" || fail "not all rounds were asked"
sed -n 3p "$folder/three" | grep -q '{"seconds":20,"asked":1,"right":0,"outcome":"0","asked_held":0,"right_held":0,"rows_held":0' ||
  fail "a window of 64 tokens is said to hold what was seen 20 s ago"
recall --policy saddle:1500 --minutes 0.25 --json | grep -q '"rounds":2,"asked":2,' || fail "--minutes does not end the stream"

# Every verdict again, by other means: all phrases as whole words, one of each alternatives.
[ "$(wc -l <"$folder/answers")" = 18 ] || fail "six rounds of three memories are not 18 answers"
while IFS='|' read -r _ _ _ _ answer rest; do
  verdict=right accept=${rest% | *} said=${rest##* | }
  IFS='&' read -ra phrases <<<"${accept# }"
  for phrase in "${phrases[@]}"; do
    grep -qiwE "$phrase" <<<"$answer" || verdict=wrong
  done
  [ "$verdict" = "$said" ] || fail "$answer, wanted $accept, is said to be $said"
done <"$folder/answers"

# At the last look all tokens of the first memory are held: as many as have come in, in every layer and head.
python3 - "$folder/three" <<'PY' || fail "the map does not have what is held"
import json, sys
held, _, window = (json.loads(line) for line in open(sys.argv[1]))
total = lambda r, look: sum(r["map"]["frames"][look]) + sum(r["map"]["text"][look])
heads = total(held, 3) / held["tokens"]
assert held["map"]["looks"] == 4 and heads == int(heads) and heads > 1, heads
assert total(window, 3) <= (64 + window["chunk"] + window["slack"]) * heads
assert sum(window["map"]["frames"][3][:2]) == 0 and sum(held["map"]["frames"][3][:2]) > 0
PY

recall --policy nonsense 2>/dev/null && fail "an unknown policy is taken"
recall --policy saddle/nonsense=1 2>"$folder/error" && fail "an unknown setting is taken"
grep -q 'is no setting' "$folder/error" || fail "$(cat "$folder/error")"
printf 'film\tfilm.mp4\t2\t24\n5\tnow\t0\t-1\twhere\n' >"$folder/stream_7.tsv"
recall --policy saddle:1500 --json 2>"$folder/error" && fail "a damaged script is taken"
grep -q 'a round has 5 fields, not 7' "$folder/error" || fail "$(cat "$folder/error")"
echo passed
