#!/usr/bin/env bash
# Runs every fuzz target of the root module and of test/ in turn, beginning with the inputs that are kept in testdata/fuzz.
# usage: hack/fuzz.sh AMOUNT [NAME]
#   AMOUNT as go test takes it for -fuzztime: a number of inputs (10000x) or a time (1m), for each target
#   NAME   a regular expression; only the targets that match it are run
# New inputs that a target finds interesting are kept by the go command for the next run; one that fails is written into
# testdata/fuzz, to be committed with what mends it.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
amount=$1
wanted=${2:-.}
# Making an interesting input smaller takes up to a minute where the covered lines vary from run to run, as they do with
# files and goroutines. A few tries do.
minimize=20x
# Targets that write files are a hundred times faster in memory. What is compiled stays where it was.
if [ -w /dev/shm ]; then
  export GOTMPDIR=${GOTMPDIR:-${TMPDIR:-/tmp}} TMPDIR=/dev/shm
fi
targets=0
for module in . test; do
  while IFS=: read -r file name; do
    [[ $name =~ $wanted ]] || continue
    echo "== $module/${file#./} $name"
    (cd "$module" && go test -run '^$' -fuzz "^$name\$" -fuzztime "$amount" -fuzzminimizetime "$minimize" "$(dirname "$file")")
    targets=$((targets + 1))
  done < <(cd "$module" && grep -rEo --include='*_test.go' --exclude-dir=test --exclude-dir=hack --exclude-dir=e2e '^func Fuzz[A-Za-z0-9_]*' . | sed 's/func //' | sort)
done
if [ "$targets" = 0 ]; then
  echo "there is no fuzz target like $wanted" >&2
  exit 1
fi
echo "$targets fuzz targets ran, each for $amount"
