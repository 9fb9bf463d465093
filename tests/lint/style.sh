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
  for file in "${files[@]}"; do
    case $file in *.cu | *.cuh) continue ;; esac
    "$formatter" "$file" | cmp -s - "$file" || say "$file: not as clang-format writes it"
  done
else
  echo "clang-format is not installed: form not checked"
fi

excused() { grep -qE "^$1([[:space:]]|$)" tests/lint/long.txt 2>/dev/null; }
for file in "${files[@]}"; do
  lines=$(wc -l <"$file")
  if [ "$lines" -gt 1200 ] && ! excused "$file"; then say "$file: $lines lines"; fi
  # A function's body begins with "{" in column 1 and ends with "}" in column 1.
  while read -r name length; do
    excused "$file:$name" || say "$file: function at line $name is $length lines long"
  done < <(awk '/^\{/ {start = NR} /^\}/ {if (start && NR - start > 100) print start, NR - start; start = 0}' "$file")
done

# Words that promise something for later.
leftovers=$(grep -nE '\b(TODO|FIXME|XXX|HACK)\b' "${files[@]}" | head -5)
[ -z "$leftovers" ] || say "leftovers: $leftovers"

if [ $failures -gt 0 ]; then
  echo "$failures complaints"
  exit 1
fi
echo "style: ${#files[@]} files as they should be"
