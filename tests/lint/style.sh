#!/usr/bin/env bash
# Form: clang-format leaves every file as it is; no function is longer than 100 lines and no file longer than 1,200
# unless tests/lint/long.txt names it with a reason; no leftovers. usage: style.sh SOURCE-DIR BUILD-DIR
set -u
cd "$1" || exit 1
failures=0
say() { echo "$*"; failures=$((failures + 1)); }

mapfile -t files < <(find base wire kernels engine session_store actors clients config bench tests \
                       \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) -not -path '*/corpus/*' | sort)
formatter=$(command -v clang-format-14 || command -v clang-format || true) # another version writes otherwise
if [ -n "$formatter" ]; then
  mapfile -t formatted < <(printf '%s\n' "${files[@]}" | grep -vE '\.cuh?$')
  if ! unlike=$("$formatter" --dry-run -Werror "${formatted[@]}" 2>&1); then
    unlike=$(grep -E '^[^ ].*: error: ' <<<"$unlike" | cut -d: -f1 | uniq)
    for file in ${unlike:-"$formatter"}; do say "$file: not as clang-format writes it"; done
  fi
else
  echo "clang-format is not installed: form not checked"
fi

# One "LENGTH FILE LINE" for each function of more than 100 lines, and one "LENGTH FILE" for each file of more than
# 1,200. A function's body begins with "{" in column 1 and ends with "}" in column 1.
too_long() {
  awk 'function end_file() {if (lines > 1200) print lines, file}
    FNR == 1 {end_file(); file = FILENAME; start = 0}
    {lines = FNR}
    /^\{/ {start = FNR}
    /^\}/ {if (start && FNR - start > 100) print FNR - start, file, start; start = 0}
    END {end_file()}' "${files[@]}"
}
excused() { grep -qE "^$1([[:space:]]|$)" tests/lint/long.txt 2>/dev/null; }
while read -r length file line; do
  excused "$file${line:+:$line}" || say "$file${line:+: function at line $line}: $length lines long"
done < <(too_long)

# Words that promise something for later.
leftovers=$(grep -nE '\b(TODO|FIXME|XXX|HACK)\b' "${files[@]}" | head -5)
[ -z "$leftovers" ] || say "leftovers: $leftovers"

if [ $failures -gt 0 ]; then
  echo "$failures complaints"
  exit 1
fi
echo "style: ${#files[@]} files as they should be"
