#!/usr/bin/env bash
# Lints the chart, renders it with every values file of its ci directory, and makes sure that the plugin can read its
# configuration and that mistakes are refused.
# usage: hack/chart.sh HELM
set -euo pipefail
cd "$(dirname "$0")/.."
helm=$1
chart=charts/model-csi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

"$helm" lint --strict "$chart"
for values in "$chart"/ci/*-values.yaml; do
  "$helm" lint --strict "$chart" --values "$values" >/dev/null
  "$helm" template model-csi "$chart" --namespace models --values "$values" >"$out/$(basename "$values")"
  # The plugin must be able to read what the chart writes for it.
  go test ./pkg/config -run '^TestRendered$' -rendered "$out/$(basename "$values")" >"$out/loaded" || { cat "$out/loaded" >&2; exit 1; }
  go test ./pkg/policy -run '^TestRendered$' -rendered "$out/$(basename "$values")" >"$out/loaded" || { cat "$out/loaded" >&2; exit 1; }
  echo "rendered with $values"
done

# The pod that the notes show is the one of the README, which the end-to-end tests run.
"$helm" install model-csi "$chart" --dry-run=client --namespace models |
  sed -n '/^NOTES:/,$ { /^  apiVersion:/,/reference:/ s/^  //p }' |
  diff -u deploy/examples/inline-volume.yaml - || { echo "the pod in NOTES.txt is not that of deploy/examples/inline-volume.yaml" >&2; exit 1; }

# refuse TEXT HELM-ARGUMENT...: rendering must fail, and the error must contain TEXT.
refuse() {
  local text=$1
  shift
  if "$helm" template model-csi "$chart" "$@" >"$out/refused" 2>&1; then
    echo "the chart accepts $*" >&2
    exit 1
  fi
  if ! grep -qF -- "$text" "$out/refused"; then
    echo "the error for $* does not say $text:" >&2
    cat "$out/refused" >&2
    exit 1
  fi
}
refuse cacheLimit --set cacheLimit=1Gi
refuse Limit --set cache.Limit=1Gi
refuse cache/limit --set cache.limit=1GB
refuse cache/reserve --set cache.reserve=100%
refuse driverName --set driverName=Upper.example.com
refuse rootDir --set rootDir=relative
refuse 'must not lie inside' --set rootDir=/var/lib/kubelet/models
refuse 'must not lie inside' --set rootDir=/var/lib
refuse log/level --set log.level=loud
refuse maxSurge --set updateStrategy.rollingUpdate.maxSurge=1
refuse insecure --set 'registries.registry\.example\.com.insecure=true'
refuse headers --set-json 'registries={"registry.example.com":{"mirrors":[{"url":"https://mirror.example.com","headers":{"X-Name":"a\nb"}}]}}'
refuse propertyName --set 'registries.https://registry\.example\.com.ca='
refuse image/repository --set image.repository=registry.example.com/model-csi:v1
refuse tolerations --set 'tolerations[0].efect=NoSchedule'
refuse policy --set policy.default.allow={}
refuse maxModelSize --set policy.defaults.maxModelSize=10GB
refuse "propertyName 'team-*'" --set 'policy.namespaces.team-*.cacheShare=10%'
refuse proxy/https --set network.proxy.https=http://user:password@proxy.example.com
refuse blockedAddresses --set network.blockedAddresses=registry_example
refuse 'only of use together' --set nodeCredentials.existingSecret=models
refuse 'only of use together' --set 'nodeCredentials.registries={registry.example.com}'
refuse nodeCredentials/registries --set nodeCredentials.existingSecret=models --set 'nodeCredentials.registries={*}'
refuse podPullSecrets/namespaces --set 'podPullSecrets.namespaces={*,team-a}'
refuse podPullSecrets/namespaces --set 'podPullSecrets.namespaces={Team}'
refuse 'only of use together' --set credentialProviders.binDir=/opt/providers
refuse 'need credentialProviders.config' --set 'credentialProviders.tokenAudiences={a}'
refuse 'needs Kubernetes 1.35' --kube-version 1.34.2 --values "$chart/ci/everything-values.yaml"
refuse podMonitor --set metrics.podMonitor.enable=true
echo "mistakes are refused"
