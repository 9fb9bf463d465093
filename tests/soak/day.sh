#!/usr/bin/env bash
# A day of session life: sessions are made, watch clips, answer, are suspended, resumed and deleted, thousands of turns and
# hundreds of suspensions, on a server that is restarted once. The store's file and the server's memory are as large at the end as
# they were in the middle. usage: day.sh SOURCE-DIR BUILD-DIR [TURNS [SUSPENDS]]; without figures 5000
# turns and at least 500 suspensions, about half an hour.
. "$(dirname "$0")/../e2e/lib.sh"
turns=${3:-5000} suspends=${4:-500}
life=24    # turns of a session; then it is deleted and another one comes
sessions=4 # at a time, two of them in memory
clips=("$source_dir"/models/demo/eval/*.mp4)
questions=("What do you see now?" "Where is the blue square?" "Was there a red circle?" "Describe it.")
settings=(--set session.max_resident=2 --set session.idle_s=2 --set session.cache_tokens=512
  --set session.event_log_bytes=1M --set store.request_keep_s=60)

file_bytes() { # the store and its log on disk
  stat -c %s "$folder"/store.db "$folder"/store.db-wal 2>/dev/null | awk '{n += $1} END {print n}'
}
rss() { awk '/^VmRSS/ {print $2}' "/proc/$server/status"; }
median() { sort -n | awk '{a[NR] = $1} END {print a[int((NR + 1) / 2)]}'; }
note() { echo "$done_turns $(rss) $(file_bytes)" >>"$folder/samples"; }

declare -a id age
done_turns=0 done_suspends=0 deleted=0 restarts=0 began=$SECONDS
renew() { # slot: its session has lived
  if [ -n "${id[$1]:-}" ]; then
    infchat rm "${id[$1]}" >"$folder/out" || fail "rm: $(cat "$folder/out")"
    deleted=$((deleted + 1))
  fi
  id[$1]=$(infchat new | value session)
  age[$1]=0
  [ -n "${id[$1]}" ] || fail "no session was made"
  infchat watch "${id[$1]}" "${clips[$((deleted % ${#clips[@]}))]}" --fps 1 >"$folder/out" || fail "watch: $(tail -n 1 "$folder/out")"
}
turn() { # slot
  infchat ask "${id[$1]}" "${questions[$((done_turns % 4))]}" --max-tokens 12 >"$folder/out" || fail "ask: $(tail -n 1 "$folder/out")"
  done_turns=$((done_turns + 1)) age[$1]=$((age[$1] + 1))
  if [ $((done_turns * suspends / turns)) -gt "$done_suspends" ]; then
    infchat suspend "${id[$1]}" >"$folder/out" || fail "suspend: $(cat "$folder/out")"
    done_suspends=$((done_suspends + 1))
  fi
}

start "${settings[@]}"
while [ "$done_turns" -lt "$turns" ]; do
  for slot in $(seq 0 $((sessions - 1))); do
    if [ -z "${id[$slot]:-}" ] || [ "${age[$slot]}" -ge $((life + slot)) ]; then renew "$slot"; fi
    for _ in 1 2 3; do turn "$slot"; done
  done
  note
  if [ "$restarts" -eq 0 ] && [ $((done_turns * 5)) -gt "$turns" ]; then
    stop
    start "${settings[@]}"
    restarts=1
  fi
done
stopped_at=$(rss)
stop
# The second server has filled its memory by the middle; from then on nothing may grow.
awk -v n="$turns" '$1 > n * 2 / 5 && $1 <= n * 3 / 5' "$folder/samples" >"$folder/early"
awk -v n="$turns" '$1 > n * 4 / 5' "$folder/samples" >"$folder/late"
rss_early=$(cut -d' ' -f2 "$folder/early" | median) rss_late=$(cut -d' ' -f2 "$folder/late" | median)
file_early=$(cut -d' ' -f3 "$folder/early" | median) file_late=$(cut -d' ' -f3 "$folder/late" | median)
echo "$done_turns turns, $done_suspends suspensions by request (others by idle time and room), $deleted sessions deleted," \
  "restarted once, in $((SECONDS - began)) s; errors in the log: $(grep -c ' error ' "$folder/log" || true)"
echo "RSS, medians: middle fifth $rss_early KiB, last fifth $rss_late KiB; at the end $stopped_at KiB"
echo "store and log, medians: middle fifth $((file_early >> 20)) MiB, last fifth $((file_late >> 20)) MiB; closed $(($(file_bytes) >> 20)) MiB"
[ $((rss_late * 100)) -le $((rss_early * 105)) ] || fail "memory grew by more than 5 %"
# Retention, a deletion's room and the log's state differ from sample to sample: a tenth, and 8 MiB of log.
[ "$file_late" -le $((file_early * 11 / 10 + (8 << 20))) ] || fail "the file grew"
echo "passed"
