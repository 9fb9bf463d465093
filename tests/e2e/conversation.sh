#!/usr/bin/env bash
# From a shell script against a running daemon: a clip, questions, a restart in the middle that changes nothing, two
# clients at once of which one is interrupted, and a third that sees the first one's events.
. "$(dirname "$0")/lib.sh"
clip=$source_dir/models/demo/eval/demo_a.mp4
questions=("What do you see now?" "Where is the blue square?" "Was there a red circle?" "Describe it.")

new() { infchat new --video "$clip" --fps 2 | value session; }
start

# --- the same conversation, without and with a restart after each question ---------------------------------
straight=$(new)
[ -n "$straight" ] || fail "new gave no session"
for i in "${!questions[@]}"; do infchat ask "$straight" "${questions[i]}" | essence >"$folder/straight.$i"; done
grep -q '"text":"[A-Za-z]' "$folder/straight.0" || fail "no text: $(cat "$folder/straight.0")"
broken=$(new)
for i in "${!questions[@]}"; do
  infchat ask "$broken" "${questions[i]}" | essence >"$folder/broken.$i"
  cmp -s "$folder/straight.$i" "$folder/broken.$i" || fail "after a restart: $(cat "$folder/broken.$i")
instead of $(cat "$folder/straight.$i")"
  stop
  start
done
echo "a restart after each of ${#questions[@]} questions changed nothing"
[ "$(infchat sessions | grep -c "$broken")" -ge 1 ] || fail "the session is not listed"

# --- sampled answers go on after a restart as they would have ------------------------------------------------
for session in "$straight" "$broken"; do
  infchat ask "$session" "What happened?" --temperature 1.5 --seed 7 --max-tokens 60 | essence >"$folder/sampled.$session"
done
cmp -s "$folder/sampled.$straight" "$folder/sampled.$broken" || fail "sampled answers differ"
echo "a seeded answer is the same in both"

# --- two clients at once, one interrupted, a third attached ---------------------------------------------------
one=$(infchat new | value session) two=$(infchat new | value session)
long=(--temperature 50 --max-tokens 2000)
seed=0 reason=
until [ "$reason" = length ]; do # a seed whose answer is long: the weights decide which
  seed=$((seed + 1))
  [ $seed -le 40 ] || fail "no seed gives a long answer"
  probe=$(infchat new | value session)
  reason=$(infchat ask "$probe" "Tell me a story." "${long[@]}" --seed $seed | value finish_reason)
  infchat rm "$probe" >/dev/null
done
timeout 60 "$build_dir/infchat" --server "$endpoint" --json attach "$one" >"$folder/third" &
third=$!
sleep 0.5
"$build_dir/infchat" --server "$endpoint" --json ask "$one" "Tell me a story." "${long[@]}" --seed $seed >"$folder/one" &
first=$!
infchat ask "$two" "Tell me a story." "${long[@]}" --seed $seed >"$folder/two" &
second=$!
until [ "$(grep -c '"type":"text"' "$folder/one" 2>/dev/null)" -ge 5 ] 2>/dev/null; do sleep 0.05; done
kill -INT $first
wait $first || true
wait $second || fail "the second client was disturbed"
[ "$(value finish_reason <"$folder/two")" = length ] || fail "the second answer: $(tail -n 1 "$folder/two" | cut -c1-300)"
grep -q '"finish_reason":"cancel"' "$folder/one" || fail "the first answer was not cancelled: $(tail -n 1 "$folder/one")"
sleep 0.5
kill -INT $third
wait $third || true
grep '"n":' "$folder/one" >"$folder/one.events"
grep '"n":' "$folder/third" >"$folder/third.events"
cmp -s "$folder/one.events" "$folder/third.events" || fail "the third client saw other events than the first"
echo "two streamed at once; Ctrl-C on one left the other alone; a third saw $(wc -l <"$folder/third.events") events of the first"
infchat ask "$one" "What do you see now?" | value finish_reason | grep -qE "stop|length" || fail "the cancelled session does not go on"
stop
echo "passed"
