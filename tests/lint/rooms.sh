#!/usr/bin/env bash
# Who may include whom, and which foreign names each room utters (docs/architecture.md, "The rooms").
# usage: rooms.sh SOURCE-DIR BUILD-DIR; prints each trespass; exit 1 if there is one.
set -u
source_dir=$1 build_dir=$2
failures=0
say() { echo "$*"; failures=$((failures + 1)); }
cd "$source_dir" || exit 1

# --- quoted includes: room -> rooms it may name ------------------------------------------------------
declare -A may=(
  [base]="base"
  [wire]="wire base"
  [kernels]="kernels base"
  [engine]="engine kernels base"
  [session_store]="session_store base"
  [actors]="actors actors/media wire engine kernels session_store base"
  [actors/media]="actors/media base"
  [clients]="clients wire base"
  [config]="config base"
  [bench]="bench engine kernels base actors/media session_store clients wire"
)
room_of() { # path of a header or source, from the root
  case $1 in
    actors/media/*) echo actors/media ;;
    */*) echo "${1%%/*}" ;;
    *) echo . ;;
  esac
}
while IFS=: read -r file _ line; do
  header=$(sed -E 's/.*"([^"]+)".*/\1/' <<<"$line")
  from=$(room_of "$file") to=$(room_of "$header")
  [ -n "${may[$from]:-}" ] || continue
  [ -f "$header" ] || { say "$file: \"$header\" is not a path from the root"; continue; }
  if [ "$file" = actors/infchatd.c ] && [ "$to" = config ]; then continue; fi
  case " ${may[$from]} " in
    *" $to "*) ;;
    *) say "$file includes $header: $from may not include $to" ;;
  esac
  case $header in
    *_priv.h) [ "$from" = "$to" ] || say "$file includes $header: private to $to" ;;
  esac
  # The actors see the engine and, of kernels, only what the engine's own headers show them.
  if [ "$from" = actors ] && [ "$to" = kernels ]; then say "$file includes $header: actors do no arithmetic"; fi
done < <(grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]+"' -r --include='*.[ch]' \
           base wire kernels engine session_store actors clients config bench 2>/dev/null)
if grep -rn '"kernels/cuda' kernels/cpu 2>/dev/null || grep -rn '"kernels/cpu' kernels/cuda 2>/dev/null; then
  say "kernels/cpu and kernels/cuda include each other"
fi

# --- angle includes: foreign header -> the rooms that may speak it ---------------------------------------
foreign() { # pattern, allowed rooms...
  local pattern=$1; shift
  while IFS=: read -r file _ line; do
    local room; room=$(room_of "$file")
    case " $* " in *" $room "*) ;; *) say "$file: $line: $room may not speak it" ;; esac
  done < <(grep -nE "^[[:space:]]*#[[:space:]]*include[[:space:]]+<($pattern)" -r --include='*.[ch]' \
             base wire kernels engine session_store actors clients config 2>/dev/null)
}
foreign 'msgpack' wire
foreign 'sqlite3' session_store
foreign 'lib(av|sw)[a-z]+/' actors/media
foreign 'czmq|zmq' actors clients config
foreign 'cuda|cublas' kernels
foreign 'dnnl|omp' kernels
foreign 'jansson|pcre2|utf8proc' engine
foreign 'editline|histedit|readline' clients

# --- symbols: what each room's library asks from outside ---------------------------------------------------
forbid() { # library, pattern of symbols that it must not use
  local library=$build_dir/lib$1.a
  [ -f "$library" ] || return 0
  local found
  found=$(nm -u "$library" 2>/dev/null | awk '$1 == "U" {print $2}' | sort -u | grep -E "^($2)" | head -5 | tr '\n' ' ')
  [ -z "$found" ] || say "lib$1.a uses: $found"
}
everything='sqlite3_|zmq_|zsock_|zmsg_|zactor_|zpoller_|zsys_|zframe_|av_|avcodec_|avformat_|sws_|msgpack_|cuda|cublas|dnnl_|json_|pcre2_|utf8proc_'
without() { # all foreign prefixes but those given
  tr '|' '\n' <<<"$everything" | grep -vxF -e "$(tr ' ' '\n' <<<"$1")" | paste -sd'|'
}
stdio='printf|puts|putchar|getenv|exit|_exit'
forbid ic_base "$everything|getenv|exit"
forbid ic_wire "$(without 'msgpack_')|open$|socket$|clock_gettime|$stdio"
forbid ic_kernels "$(without 'cuda cublas dnnl_')|$stdio"
forbid ic_engine "$(without 'json_ pcre2_ utf8proc_')|$stdio"
forbid ic_session_store "$(without 'sqlite3_')|$stdio"
forbid ic_media "$(without 'av_ avcodec_ avformat_ sws_')|$stdio"
forbid ic_actors "$(without 'zmq_ zsock_ zmsg_ zactor_ zpoller_ zsys_ zframe_')|$stdio"
forbid ic_config "$(without 'zsys_')|exit"

# --- who the libraries are linked to is the table's other half: names of our own ---------------------------
own() { # library, pattern of our own symbols that it must not use
  local library=$build_dir/lib$1.a
  [ -f "$library" ] || return 0
  local found
  found=$(nm -u "$library" 2>/dev/null | awk '$1 == "U" {print $2}' | sort -u | grep -E "^($2)" | head -5 | tr '\n' ' ')
  [ -z "$found" ] || say "lib$1.a calls: $found"
}
own ic_base 'ic_(wire|engine|session|store|media|client|config|op|slab|device)_'
own ic_session_store 'ic_(engine|session|slab|device|op|wire|media|client|config)_'
own ic_engine 'ic_(store|media|client|config|wire)_'
own ic_media 'ic_(engine|session|store|wire|client|config|op|slab)_'
own ic_client 'ic_(engine|session|store|media|op|slab|device)_'

if [ $failures -gt 0 ]; then
  echo "$failures trespasses"
  exit 1
fi
echo "rooms: no trespass"
