#!/usr/bin/env bash
# Wrong input of every kind: a clear error that names the thing, the right exit status, and a server that goes on.
. "$(dirname "$0")/lib.sh"
media=$source_dir/tests/data/media
demo=$source_dir/models/demo

refused() { # what, expected exit status, words of the error (extended regex), command...
  local what=$1 status=$2 words=$3 got=0
  shift 3
  timeout 60 "$@" >"$folder/out" 2>&1 </dev/null || got=$?
  [ "$got" -eq "$status" ] || fail "$what: exit status $got instead of $status: $(head -c 600 "$folder/out")"
  grep -qiE "$words" "$folder/out" || fail "$what: no word of /$words/ in: $(head -c 600 "$folder/out")"
  echo "ok: $what: $(grep -iE "$words" "$folder/out" | head -n 1 | cut -c1-160)"
}
alive() { infchat status >/dev/null || fail "$1: the server is gone"; }

# --- the daemon does not start, and says why --------------------------------------------------------------
daemon=("$build_dir/infchatd" --listen "ipc://$folder/none" --store "$folder/none.db")
broken_model() { # a copy of the demo model to be damaged; prints its folder
  rm -rf "$folder/model"
  mkdir "$folder/model"
  cp "$demo"/*.json "$demo"/*.jinja "$demo"/*.safetensors "$folder/model/" 2>/dev/null || true
}
refused "no such model" 1 '/no/such/model' "${daemon[@]}" --model /no/such/model
refused "an empty folder as model" 1 'config.json' "${daemon[@]}" --model "$folder"
broken_model
sed -i 's/Qwen3VLForConditionalGeneration/LlamaForCausalLM/' "$folder/model/config.json"
refused "a foreign architecture" 1 'LlamaForCausalLM' "${daemon[@]}" --model "$folder/model"
broken_model
truncate -s 100000 "$folder/model/model.safetensors"
refused "truncated weights" 1 'truncated' "${daemon[@]}" --model "$folder/model"
broken_model
printf '\377\377\377\377\377\377\377\177' | dd of="$folder/model/model.safetensors" conv=notrunc status=none
refused "a garbled safetensors header" 1 'safetensors' "${daemon[@]}" --model "$folder/model"
broken_model
sed -i 's/"type": *"BPE"/"type":"Unigram"/' "$folder/model/tokenizer.json"
refused "an unknown tokenizer" 1 'Unigram' "${daemon[@]}" --model "$folder/model"
broken_model
echo '{{ messages }}' >"$folder/model/chat_template.jinja"
refused "an unknown chat template" 1 'template' "${daemon[@]}" --model "$folder/model"
refused "an unknown setting" 2 'no_such' "${daemon[@]}" --model "$demo" --set session.no_such=1
refused "a setting out of range" 2 'max_resident' "${daemon[@]}" --model "$demo" --set session.max_resident=-5
refused "an open address without keys" 1 'CURVE|loopback' "${daemon[@]}" --model "$demo" --listen tcp://0.0.0.0:5999
head -c 100000 /dev/urandom >"$folder/garbage.db"
refused "a store that is not one" 1 'garbage.db' "${daemon[@]}" --model "$demo" --store "$folder/garbage.db"

# --- a running one -------------------------------------------------------------------------------------------
start --set session.max_resident=2
refused "a second server on the store" 1 'store.db' "$build_dir/infchatd" --model "$demo" \
  --listen "ipc://$folder/other" --store "$folder/store.db"
refused "a second server on the endpoint" 1 'sock' "$build_dir/infchatd" --model "$demo" --listen "$endpoint" \
  --store "$folder/other.db"
alive "second servers"

client=("$build_dir/infchat" --server "$endpoint")
session=$(infchat new | value session)
refused "no server" 3 'nobody|no infchatd|unreach' "$build_dir/infchat" --server "ipc://$folder/nothing" --timeout 1 status
refused "an unknown command" 2 'frobnicate' "${client[@]}" frobnicate
refused "an unknown session" 4 'zzzz' "${client[@]}" ask zzzz "Hello?"
infchat new >/dev/null
for _ in $(seq 40); do infchat new >/dev/null; done
shared=$(infchat sessions | grep -oE '"session":"[a-z0-9]+"' | cut -d'"' -f4 | cut -c1 | sort | uniq -d | head -n 1)
[ -n "$shared" ] && refused "an ambiguous session" 4 'match|ambiguous|several' "${client[@]}" ask "$shared" "Hello?"
refused "an unknown policy" 1 'policy' "${client[@]}" new --policy magic

refused "media that does not exist" 4 'nothing.mp4' "${client[@]}" watch "$session" "$folder/nothing.mp4"
refused "a file that is not media" 1 "LICENSE|media|format" "${client[@]}" watch "$session" "$source_dir/LICENSE"
for name in sound.mp3 cover.mp3 bomb.png list.ffconcat playlist.m3u8 manifest.mpd session.sdp lost.mp4; do
  refused "$name" 1 "$name|video|picture|playlist|media|format" "${client[@]}" watch "$session" "$media/$name"
done
refused "a path of the server outside its roots" 1 'root|allow|forbid' "${client[@]}" watch "$session" server:/etc/passwd
refused "a URL where the network is not allowed" 1 'network|allow|forbid' "${client[@]}" watch "$session" http://127.0.0.1:9/x.mp4
alive "bad media"
text=$(infchat ask "$session" "What do you see now?" | value text)
[ -n "$text" ] || fail "the session does not answer after bad media"

# --- busy, and a client that vanishes ----------------------------------------------------------------------------
long=(--temperature 50 --max-tokens 2000)
for seed in $(seq 20); do
  "${client[@]}" --json ask "$session" "Tell me a story." "${long[@]}" --seed "$seed" >"$folder/long" 2>&1 &
  asker=$!
  until grep -q '"type":"text"' "$folder/long" 2>/dev/null || ! kill -0 $asker 2>/dev/null; do sleep 0.02; done
  got=0
  timeout 60 "${client[@]}" ask "$session" "And now?" >"$folder/out" 2>&1 </dev/null || got=$?
  kill -KILL $asker 2>/dev/null || true # vanishes in mid-answer, if it still runs
  wait $asker 2>/dev/null || true
  [ "$got" -ne 5 ] || break
done
[ "$got" -eq 5 ] || fail "a busy session: exit status $got: $(cat "$folder/out")"
echo "ok: a question to a busy session: $(head -n 1 "$folder/out")"
for _ in $(seq 100); do infchat show "$session" | grep -q '"state":"idle"' && break; sleep 0.2; done
infchat show "$session" | grep -q 'Tell me a story' || fail "the vanished client's answer was not kept"
[ -n "$(infchat ask "$session" "What do you see now?" | value finish_reason)" ] || fail "no answer after a client vanished"
stop
echo "passed"
