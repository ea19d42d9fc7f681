#!/usr/bin/env bash
# Writes what is derived from something else: deploy/model-csi.yaml from the chart, the chart's table of values, the
# table of settings in docs/operations.md, and the pod and the formats in README.md. With --check it changes nothing and fails when
# something is out of date.
# usage: hack/generate.sh [--check] HELM HELM-DOCS
set -euo pipefail
cd "$(dirname "$0")/.."
check=false
if [ "$1" = --check ]; then
  check=true
  shift
fi
helm=$1
helm_docs=$2
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# put FILE: what comes in on stdin becomes FILE, or is compared with it.
put() {
  cat >"$out/new"
  if ! $check; then
    cp "$out/new" "$1"
    chmod 0644 "$1"
  elif ! diff -u "$1" "$out/new"; then
    echo "$1 is out of date: run make generate" >&2
    touch "$out/stale"
  fi
}

# between FILE NAME: prints FILE with the lines between its markers for NAME replaced by stdin.
between() {
  cat >"$out/part"
  awk -v begin="<!-- begin $2 -->" -v end="<!-- end $2 -->" -v part="$out/part" '
    $0 == end { inside = 0; closed++ }
    !inside { print }
    $0 == begin { inside = 1; opened++; while ((getline line < part) > 0) print line }
    END { if (opened != 1 || closed != 1) { print FILENAME ": no markers for " begin > "/dev/stderr"; exit 1 } }
  ' "$1"
}

manifests() {
  cat <<'YAML'
# Rendered from charts/model-csi by `make generate`; do not edit. The chart has many more settings.
#
#   kubectl apply -f deploy/model-csi.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: model-csi
  labels:
    # The plugin's pods are privileged: only such may bring mounts into other pods.
    pod-security.kubernetes.io/enforce: privileged
YAML
  # Helm has no part in what kubectl applies.
  "$helm" template model-csi charts/model-csi --namespace model-csi |
    grep -v -e 'app.kubernetes.io/managed-by: Helm' -e 'helm.sh/chart:' -e '^# Source:' |
    cat -s
}

manifests | put deploy/model-csi.yaml
"$helm_docs" --chart-search-root charts --sort-values-order file --dry-run --log-level warning | cat -s | put charts/model-csi/README.md
{
  echo '```yaml'
  cat deploy/examples/inline-volume.yaml
  echo '```'
} | between README.md deploy/examples/inline-volume.yaml >"$out/readme"
put README.md <"$out/readme"

# The settings in docs/operations.md, the formats in README.md, and docs/cli.md.
for package in ./pkg/config ./pkg/format ./cmd/model-csi; do
  if $check; then
    go test -count=1 "$package" -run '^TestDocumentation$' >"$out/test" || { cat "$out/test" >&2; touch "$out/stale"; }
  else
    go test -count=1 "$package" -run '^TestDocumentation$' -update
  fi
done
[ ! -e "$out/stale" ]
