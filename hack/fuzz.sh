#!/usr/bin/env bash
# Runs every fuzz target of the root module and of test/ in turn.
# usage: hack/fuzz.sh DURATION, as go test takes it for -fuzztime: 10000x or 1m
set -euo pipefail
cd "$(dirname "$0")/.."
duration=$1
targets=0
for module in . test; do
  while IFS=: read -r file name; do
    echo "== $module/${file#./} $name"
    (cd "$module" && go test -run '^$' -fuzz "^$name\$" -fuzztime "$duration" "$(dirname "$file")")
    targets=$((targets + 1))
  done < <(cd "$module" && grep -rEo --include='*_test.go' --exclude-dir=test --exclude-dir=e2e '^func Fuzz[A-Za-z0-9_]*' . | sed 's/func //' | sort)
done
if [ "$targets" = 0 ]; then
  echo 'there is no fuzz target' >&2
  exit 1
fi
echo "$targets fuzz targets ran, each for $duration"
