#!/usr/bin/env bash
# Every named instant of base/ic_failpoint.def is somewhere in the server: a campaign cannot reach what is not there.
# usage: failpoints.sh SOURCE-DIR BUILD-DIR
set -u
cd "$1" || exit 1
failures=0
for name in $(sed -nE 's/^IC_FAILPOINT\((\w+),.*/\1/p' base/ic_failpoint.def); do
  grep -rqE "ic_failpoint\(IC_FAIL_$name\)" session_store actors engine || { echo "IC_FAIL_$name: nobody comes there"; failures=1; }
done
exit $failures
