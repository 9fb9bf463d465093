#!/usr/bin/env bash
# An hour of video goes into one session with flat memory, uploaded and as a file of the server: RSS after the first
# eviction and at the end differ by less than 5 %. usage: hour.sh SOURCE-DIR BUILD-DIR [RUNS]; each run takes about half
# a minute. Needs the ffmpeg program to loop a clip to an hour.
command -v ffmpeg >/dev/null || { echo "skipped: the ffmpeg program is not installed"; exit 77; }
. "$(dirname "$0")/../e2e/lib.sh"
runs=${3:-1}
hour=$folder/hour.mp4
ffmpeg -v error -stream_loop -1 -i "$source_dir/models/demo/eval/demo_a.mp4" -t 3600 -c copy "$hour"

memory() { # KiB: resident, of it anonymous
  awk '/^VmRSS/ {rss = $2} /^RssAnon/ {anon = $2} END {print rss, anon}' "/proc/$server/status"
}
percent() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%+.1f", (b - a) * 100 / a}'; }

hour_of() { # upload | path
  local source=$hour session watcher first='' last evicted
  [ "$1" = upload ] || source=server:$hour
  rm -rf "$folder"/store.db*
  start --set "media.roots=$folder"
  session=$(infchat new --cache-tokens 1024 | value session)
  "$build_dir/infchat" --server "$endpoint" --json watch "$session" "$source" --fps 2 >"$folder/watch" &
  watcher=$!
  while [ -z "$first" ] && kill -0 $watcher 2>/dev/null; do
    evicted=$(infchat show "$session" | value evicted_tokens)
    [ "${evicted:-0}" -eq 0 ] || first=$(memory)
  done
  wait $watcher || fail "the hour did not go in: $(tail -n 1 "$folder/watch")"
  last=$(memory)
  [ -n "$first" ] || fail "nothing was evicted"
  set -- "$1" $first $last
  echo "$1: RSS after the first eviction (of $evicted tokens) $2 KiB (anonymous $3), at the end $4 ($5): $(percent "$2" "$4") %"
  infchat show "$session" | value frames_seen | grep -qx 7202 || fail "not all frames were seen"
  infchat ask "$session" "What do you see now?" >"$folder/answer" || fail "no answer after the hour"
  [ $(($4 * 100)) -le $(($2 * 105)) ] && [ $(($4 * 100)) -ge $(($2 * 95)) ] || fail "$1: not within 5 %"
  stop
}

for _ in $(seq "$runs"); do
  hour_of upload
  hour_of path
done
echo "passed"
