#!/usr/bin/env bash
# A crash campaign that is itself killed goes on where it was, and leaves no daemon behind.
# usage: resume.sh SOURCE-DIR BUILD-DIR
set -u
campaign=$1/tests/crash/campaign build=$2
/usr/bin/python3 -c 'import zmq, msgpack' 2>/dev/null || { echo "skipped: python3-zmq and python3-msgpack are needed"; exit 77; }
work=$(mktemp -d "${TMPDIR:-/tmp}/infchat-resume-XXXXXX")
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; tail -n 20 "$work"/*.log; exit 1; }
arguments=(--build "$build" --kills 8 --round-kills 4 --seed 41 --state "$work/state")

export TMPDIR=$work # the campaign's stores: nothing else is there, so daemons are found by their folder
"$campaign" "${arguments[@]}" >"$work/first.log" 2>&1 &
pid=$!
for _ in $(seq 1200); do # into the second round
  grep -q '^round 1: 4 kills' "$work/first.log" && pgrep -f -- "--store $work/" >/dev/null && break
  kill -0 $pid 2>/dev/null || fail "the campaign ended by itself"
  sleep 0.1
done
kill -KILL $pid
wait $pid 2>/dev/null
for _ in $(seq 50); do
  pgrep -f -- "--store $work/" >/dev/null || break
  sleep 0.1
done
pgrep -f -- "--store $work/" && fail "a daemon was left behind"

"$campaign" "${arguments[@]}" --resume >"$work/second.log" 2>&1 || fail "the campaign that went on found something"
grep -q '^going on after 1 rounds, 4 kills' "$work/second.log" || fail "it did not go on"
grep -q '^round 1:' "$work/second.log" && fail "it began again"
tail -n 1 "$work/second.log" | grep -qx 'kills 8, lost 0, doubled 0, diverged 0, corrupt 0' || fail "its last line"
ls -d "$work"/infchat-crash-* 2>/dev/null && fail "the folder of the round that was broken off is still there"
"$campaign" "${arguments[@]}" --seed 42 --resume >"$work/third.log" 2>&1 && fail "another campaign's state was taken"
grep -q 'is of another campaign' "$work/third.log" || fail "it does not say why"
echo "passed"
