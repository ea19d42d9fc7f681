{{/* The configuration file. Its checksum in the pods' annotations restarts them when it changes, and only then. */}}
{{- define "model-csi.config" -}}
driver-name: {{ .Values.driverName | quote }}
endpoint: {{ printf "unix://%s/plugins/%s/csi.sock" .Values.kubeletDir .Values.driverName | quote }}
registration-dir: {{ printf "%s/plugins_registry" .Values.kubeletDir | quote }}
root: {{ .Values.rootDir | quote }}
{{- if .Values.registries }}
registry-config-dir: /etc/model-csi/registries
{{- end }}
{{- if .Values.nodeCredentials.existingSecret }}
docker-config: /etc/model-csi/credentials/config.json
docker-config-registries: {{ join "," .Values.nodeCredentials.registries | quote }}
{{- end }}
{{- with .Values.podPullSecrets.namespaces }}
pull-secret-namespaces: {{ join "," . | quote }}
{{- end }}
{{- if .Values.credentialProviders.config }}
credential-provider-config: /etc/model-csi/credential-providers/config
credential-provider-bin-dir: /etc/model-csi/credential-providers/bin
{{- end }}
hub-endpoint: {{ .Values.hub.endpoint | quote }}
model-registry-url: {{ .Values.modelRegistry.url | quote }}
{{- if .Values.policy }}
policy-file: /etc/model-csi/policy/policy.yaml
{{- end }}
blocked-addresses: {{ .Values.network.blockedAddresses | quote }}
https-proxy: {{ .Values.network.proxy.https | quote }}
http-proxy: {{ .Values.network.proxy.http | quote }}
no-proxy: {{ .Values.network.proxy.noProxy | quote }}
log-level: {{ .Values.log.level | quote }}
log-format: {{ .Values.log.format | quote }}
http-address: {{ printf ":%d" (int .Values.metrics.port) | quote }}
cache-reserve: {{ .Values.cache.reserve | quote }}
cache-limit: {{ .Values.cache.limit | quote }}
max-model-size: {{ .Values.limits.modelSize | quote }}
max-files: {{ int .Values.limits.files }}
max-manifest-size: {{ .Values.limits.manifestSize | quote }}
max-archive-ratio: {{ int .Values.limits.archiveRatio }}
pull-linger: {{ .Values.pull.linger | quote }}
grant-ttl: {{ .Values.grants.ttl | quote }}
grant-grace: {{ .Values.grants.grace | quote }}
memory-budget: {{ .Values.pull.memoryBudget | quote }}
connections-per-host: {{ int .Values.pull.connectionsPerHost }}
write-mode: {{ .Values.pull.writeMode | quote }}
{{- end -}}

{{/* The data of the ConfigMap with one hosts.toml, and the certificates it names, for each registry. */}}
{{- define "model-csi.registries" -}}
{{- range $host, $r := .Values.registries }}
{{- $key := include "model-csi.registryKey" $host }}
{{- $dir := printf "/etc/model-csi/registries/%s" $host }}
{{ $key }}.hosts.toml: |
  {{- if ne $host "_default" }}
  server = {{ default (printf "%s://%s" (ternary "http" "https" (default false $r.plainHTTP)) $host) $r.server | quote }}
  {{- end }}
  {{- if $r.ca }}
  ca = {{ printf "%s/ca.crt" $dir | quote }}
  {{- end }}
  {{- range $i, $m := $r.mirrors }}

  [host.{{ $m.url | quote }}]
    capabilities = [{{ range $j, $c := (default (list "pull" "resolve") $m.capabilities) }}{{ if $j }}, {{ end }}{{ $c | quote }}{{ end }}]
    {{- if $m.ca }}
    ca = {{ printf "%s/mirror-%d.crt" $dir $i | quote }}
    {{- end }}
    {{- if $m.overridePath }}
    override_path = true
    {{- end }}
    {{- with $m.headers }}
    [host.{{ $m.url | quote }}.header]
      {{- range $name, $value := . }}
      {{ $name | quote }} = {{ $value | quote }}
      {{- end }}
    {{- end }}
  {{- end }}
{{- with $r.ca }}
{{ $key }}.ca.crt: |
  {{- . | trim | nindent 2 }}
{{- end }}
{{- range $i, $m := $r.mirrors }}
{{- with $m.ca }}
{{ $key }}.mirror-{{ $i }}.crt: |
  {{- . | trim | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
