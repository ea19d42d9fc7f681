{{/* Name of every namespaced object: the release's, with the chart's where that says nothing. */}}
{{- define "model-csi.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that select the pods. They must never change: a DaemonSet's selector is immutable. */}}
{{- define "model-csi.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "model-csi.labels" -}}
{{ include "model-csi.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "model-csi.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "model-csi.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "model-csi.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* A registry's host as part of a ConfigMap key, which cannot have the colon of a port. */}}
{{- define "model-csi.registryKey" -}}
{{- regexReplaceAll "[^-.a-zA-Z0-9]" . "_" -}}
{{- end -}}

{{/* Whether the pods need a token for the API server; empty means no. */}}
{{- define "model-csi.needsToken" -}}
{{- if or .Values.podPullSecrets.namespaces .Values.credentialProviders.serviceAccountAnnotations -}}true{{- end -}}
{{- end -}}

{{/* A pod names its pull secrets and its service account, which names more of them. Nothing can be listed. */}}
{{- define "model-csi.pullSecretRules" -}}
- apiGroups: [""]
  resources: [pods, serviceaccounts, secrets]
  verbs: [get]
{{- end -}}

{{- define "model-csi.subjects" -}}
- kind: ServiceAccount
  name: {{ include "model-csi.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end -}}

{{/*
What the schema cannot say. A state directory below kubelet's directory would be mounted inside of a mount with
bidirectional propagation, and each start of the container would leave a mount on the host.
*/}}
{{- define "model-csi.check" -}}
{{- $root := printf "%s/" .Values.rootDir -}}
{{- $kubelet := printf "%s/" .Values.kubeletDir -}}
{{- if or (hasPrefix $kubelet $root) (hasPrefix $root $kubelet) -}}
{{- fail (printf "rootDir %s and kubeletDir %s must not lie inside each other" .Values.rootDir .Values.kubeletDir) -}}
{{- end -}}
{{- with .Values.nodeCredentials -}}
{{- if ne (empty .existingSecret) (empty .registries) -}}
{{- fail "nodeCredentials.existingSecret and nodeCredentials.registries are only of use together" -}}
{{- end -}}
{{- end -}}
{{- with .Values.credentialProviders -}}
{{- if ne (empty .binDir) (empty .config) -}}
{{- fail "credentialProviders.binDir and credentialProviders.config are only of use together" -}}
{{- end -}}
{{- if and (empty .config) (or .tokenAudiences .serviceAccountAnnotations) -}}
{{- fail "credentialProviders.tokenAudiences and credentialProviders.serviceAccountAnnotations need credentialProviders.config" -}}
{{- end -}}
{{- /* An older one would put the tokens into the attributes of the volume, where the plugin refuses them. */ -}}
{{- if and .tokenAudiences (semverCompare "<1.35.0-0" $.Capabilities.KubeVersion.Version) -}}
{{- fail (printf "credentialProviders.tokenAudiences needs Kubernetes 1.35, and this is %s" $.Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
{{- end -}}
