# What every end-to-end script needs: a folder, a daemon, a client, and an honest exit. Sourced, with $1 = source
# folder and $2 = build folder.
set -euo pipefail
source_dir=$1 build_dir=$2
folder=$(mktemp -d)
endpoint=ipc://$folder/sock
server=
cleanup() {
  [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
  rm -rf "$folder"
}
trap cleanup EXIT

fail() {
  echo "FAILED: $*"
  echo "--- the server's last words"
  tail -n 15 "$folder/log" 2>/dev/null || true
  exit 1
}
start() { # further arguments of infchatd
  "$build_dir/infchatd" --model "$source_dir/models/demo" --listen "$endpoint" --store "$folder/store.db" "$@" \
    2>>"$folder/log" &
  server=$!
  for _ in $(seq 150); do
    infchat status >/dev/null 2>&1 && return 0
    kill -0 "$server" 2>/dev/null || fail "infchatd did not start"
    sleep 0.1
  done
  fail "infchatd does not answer"
}
stop() { # SIGTERM: every session is stored, exit 0
  kill -TERM "$server"
  wait "$server" || fail "infchatd ended with status $?"
  server=
  if grep -qE 'BUG|Sanitizer|runtime error' "$folder/log"; then fail "the log tells of a defect"; fi
}
infchat() { timeout 120 "$build_dir/infchat" --server "$endpoint" --json "$@"; }
value() { tail -n 1 | sed -nE "s/.*\"$1\": ?\"?([^\",}]*).*/\1/p"; } # key of the last object on stdin
# What an answer said and how it ended, without what differs by itself (clock, ids, a drawn seed).
essence() { tail -n 1 | sed -E 's/"(session|turn|seed|ttft_us|duration_us|tokens_per_second|time_us)": ?"?[^",}]*"?,?//g'; }
