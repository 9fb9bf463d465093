#!/usr/bin/env bash
# Every program and every command of it says what it takes with --help, on stdout, and ends well: infchat-bench the
# options that the command's source reads, infchat the command, infchatd every setting. Nothing is begun for that: no
# server, no model. usage: help.sh SOURCE-DIR BUILD-DIR
set -euo pipefail
source_dir=$1 build_dir=$2
fail() { echo "FAILED: $*"; exit 1; }
has() { grep -qE -- "(^|[^a-z-])$1([^a-z-]|$)" <<<"$2"; }

commands=$(sed -nE 's/^ +X\(([a-z]+)\).*/\1/p' "$source_dir/bench/ic_bench.h")
[ "$(wc -w <<<"$commands")" -ge 7 ] || fail "infchat-bench has fewer commands than it had"
for command in $commands; do
  help=$("$build_dir/infchat-bench" "$command" --help) || fail "infchat-bench $command --help: status $?"
  [[ $help == "usage: infchat-bench $command "* ]] || fail "infchat-bench $command --help: $help"
  sources=$source_dir/bench/ic_bench_$command.c
  if grep -q IC_BENCH_MEMORY_OPTIONS "$sources"; then sources+=" $source_dir/bench/ic_bench_memory.h"; fi
  # shellcheck disable=SC2086 # two files
  options=$(grep -ohE '"--[a-z-]+"' $sources | tr -d '"' | sort -u)
  [ -n "$options" ] || fail "infchat-bench $command reads no option"
  for option in $options; do
    has "$option" "$help" || fail "infchat-bench $command --help does not tell of $option"
  done
done
[ "$("$build_dir/infchat-bench" store --json --help)" = "$("$build_dir/infchat-bench" store -h)" ] ||
  fail "help is given for the first argument alone"
"$build_dir/infchat-bench" store --heilp >/dev/null 2>&1 && fail "an unknown option is taken"

help=$("$build_dir/infchat" --help) || fail "infchat --help: status $?"
commands=$(sed -nE 's/.*\[IC_CLI_[A-Z]+\] = \{"([a-z]+)".*/\1/p' "$source_dir/clients/ic_cli_args.c")
[ "$(wc -w <<<"$commands")" -ge 18 ] || fail "infchat has fewer commands than it had"
for command in $commands; do
  has "$command" "$help" || fail "infchat --help does not tell of $command"
  [ "$("$build_dir/infchat" "$command" --help)" = "$help" ] || fail "infchat $command --help tells something else"
done
# What the page on infchat tells of; of other programs' options it has none.
for option in $(grep -ohE -- '--[a-z]+(-[a-z]+)*' "$source_dir/docs/infchat.md" | sort -u); do
  has "$option" "$help" || fail "infchat --help does not tell of $option"
done

help=$("$build_dir/infchatd" --help) || fail "infchatd --help: status $?"
settings=$(sed -nE 's/^IC_CONFIG\([a-z]+, +([a-z_]+),.*/\1/p' "$source_dir/config/ic_config.def")
[ "$(wc -w <<<"$settings")" -ge 50 ] || fail "infchatd has fewer settings than it had"
for setting in $settings; do
  has "$setting" "$help" || fail "infchatd --help does not tell of $setting"
done
echo "help: every command tells what it takes"
