#!/usr/bin/env bash
# Runs every fuzz target of the root module and of test/, beginning with the inputs that are kept in testdata/fuzz.
# usage: hack/fuzz.sh AMOUNT [NAME [JOBS]]
#   AMOUNT as go test takes it for -fuzztime: a number of inputs (10000x) or a time (1m), for each target
#   NAME   a regular expression; only the targets that match it are run
#   JOBS   how many targets run side by side, each on one processor (default 1, which has them all)
# New inputs that a target finds interesting are kept by the go command for the next run; one that fails is written into
# testdata/fuzz, to be committed with what mends it.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -lt 1 ] || [ $# -gt 3 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
export amount=$1
wanted=${2:-.}
export jobs=${3:-1}
# Targets that write files are a hundred times faster in memory. What is compiled stays where it was.
if [ -w /dev/shm ]; then
  export GOTMPDIR=${GOTMPDIR:-${TMPDIR:-/tmp}} TMPDIR=/dev/shm
fi

# fuzz MODULE PACKAGE NAME: one target.
fuzz() {
  local out parallel=() status=0
  out=$(mktemp)
  [ "$jobs" = 1 ] || parallel=(-parallel 1)
  # Making an interesting input smaller takes up to a minute where the covered lines vary from run to run, as they do
  # with files and goroutines. A few tries do.
  (cd "$1" && go test -run '^$' -fuzz "^$3\$" -fuzztime "$amount" -fuzzminimizetime 20x "${parallel[@]}" "$2") >"$out" 2>&1 || status=$?
  echo "== $1/$2 $3"
  # The go command sometimes takes the end of the time for a failure of the target, which then is all that it says. A
  # real one has an input, or is found before the fuzzing begins.
  if [ "$status" != 0 ] && [[ $amount != *x ]] && grep -qx ' *context deadline exceeded' "$out" && ! grep -qE 'Failing input|seed corpus|FAIL:.*/' "$out"; then
    status=0
    grep -vxE -e '--- FAIL: .*| *context deadline exceeded|FAIL(\s.*)?|exit status 1' "$out" || true
    echo "no input failed; the time was up while the go command waited for its workers, which it calls \"context deadline exceeded\""
  else
    cat "$out"
  fi
  rm -f "$out"
  return "$status"
}
export -f fuzz

targets=()
for module in . test; do
  while IFS=: read -r file name; do
    [[ $name =~ $wanted ]] && targets+=("$module" "$(dirname "$file")" "$name")
  done < <(cd "$module" && grep -rEo --include='*_test.go' --exclude-dir=test --exclude-dir=hack --exclude-dir=e2e '^func Fuzz[A-Za-z0-9_]*' . | sed 's/func //' | sort)
done
if [ "${#targets[@]}" = 0 ]; then
  echo "there is no fuzz target like $wanted" >&2
  exit 1
fi
printf '%s\0' "${targets[@]}" | xargs -0 -n 3 -P "$jobs" bash -c 'fuzz "$@"' fuzz
echo "$((${#targets[@]} / 3)) fuzz targets ran, each for $amount"
