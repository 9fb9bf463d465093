#!/usr/bin/env bash
# An hour of video goes into one session with flat memory: RSS after the first eviction and at the end differ by less
# than 5 %. usage: hour.sh SOURCE-DIR BUILD-DIR; needs the ffmpeg program to loop a clip to an hour.
set -euo pipefail
source_dir=$1 build_dir=$2
command -v ffmpeg >/dev/null || { echo "skipped: the ffmpeg program is not installed"; exit 77; }
folder=$(mktemp -d)
endpoint=ipc://$folder/sock
infchat=("$build_dir/infchat" --server "$endpoint" --json)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT

ffmpeg -v error -stream_loop -1 -i "$source_dir/models/demo/eval/demo_a.mp4" -t 3600 -c copy "$folder/hour.mp4"
"$build_dir/infchatd" --model "$source_dir/models/demo" --listen "$endpoint" --store "$folder/store.db" 2>"$folder/log" &
server=$!
for _ in $(seq 100); do "${infchat[@]}" status >/dev/null 2>&1 && break; sleep 0.2; done

number() { sed -nE "s/.*\"$1\": ?([0-9]+).*/\1/p" | tail -n 1; }
rss() { awk '/VmRSS/ {print $2}' "/proc/$server/status"; }
session=$("${infchat[@]}" new --cache-tokens 1024 | sed -nE 's/.*"session": ?"([^"]+)".*/\1/p' | tail -n 1)
"${infchat[@]}" watch "$session" "$folder/hour.mp4" --fps 2 >"$folder/watch" &
watcher=$!
first=
while kill -0 $watcher 2>/dev/null; do
  if [ -z "$first" ] && [ "$("${infchat[@]}" show "$session" | number evicted_tokens)" -gt 0 ] 2>/dev/null; then
    first=$(rss)
    echo "RSS after the first eviction: $first KiB"
  fi
  sleep 1
done
wait $watcher
last=$(rss)
"${infchat[@]}" ask "$session" "What do you see now?" | tail -n 1
echo "RSS at the end of the hour: $last KiB; frames: $("${infchat[@]}" show "$session" | number frames_seen)"
[ -n "$first" ] || { echo "nothing was evicted"; exit 1; }
[ $((last * 100)) -le $((first * 105)) ] && [ $((last * 100)) -ge $((first * 95)) ]
