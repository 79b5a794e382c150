{{- define "outport.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- /* Shorter than the 63 characters of a name: suffixes follow. */}}
{{- define "outport.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 45 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "outport.selectorLabels" -}}
app.kubernetes.io/name: {{ include "outport.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "outport.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "outport.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- /* Of the edges' pods, which Services, budgets and policies select. */}}
{{- define "outport.edgeLabels" -}}
{{ include "outport.selectorLabels" . }}
app.kubernetes.io/component: edge
{{- end }}

{{- define "outport.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "outport.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "outport.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "outport.ownerSecret" -}}
{{- .Values.owner.existingSecret | default (printf "%s-owner" (include "outport.fullname" .)) }}
{{- end }}

{{- define "outport.siblingsSecret" -}}
{{- .Values.siblings.existingSecret | default (printf "%s-siblings" (include "outport.fullname" .)) }}
{{- end }}

{{- define "outport.tlsSecret" -}}
{{- .Values.tls.secretName | default (printf "%s-tls" (include "outport.fullname" .)) }}
{{- end }}

{{- /* Whether there can be more than one edge: "yes" or nothing. */}}
{{- define "outport.several" -}}
{{- if or (eq .Values.kind "DaemonSet") .Values.autoscaling.enabled (gt (int .Values.replicas) 1) }}yes{{ end }}
{{- end }}

{{- /* The release's random word in a Secret: what is there already, else a new one. */}}
{{- define "outport.randomSecret" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .name }}
{{- $data := (default dict $found).data | default dict }}
apiVersion: v1
kind: Secret
metadata:
  name: {{ .name }}
  labels:
    {{- include "outport.labels" .root | nindent 4 }}
  annotations:
    # Who has lost it has lost the way in: it outlives the release.
    helm.sh/resource-policy: keep
type: Opaque
data:
  {{ .key }}: {{ get $data .key | default (randAlphaNum 40 | b64enc) }}
{{- end }}

{{- /* Of "40GiB", as outport writes it, or "50Gi", as Kubernetes does; nothing for other ways to write a size. */}}
{{- define "outport.mebibytes" -}}
{{- $text := toString . | trimSuffix "B" }}
{{- if regexMatch "^[0-9]+(Mi|Gi|Ti)$" $text -}}
{{- mul (regexFind "^[0-9]+" $text | int64) (get (dict "Mi" 1 "Gi" 1024 "Ti" 1048576) (regexFind "[MGT]i$" $text) | int64) -}}
{{- end -}}
{{- end }}

{{- /* What contradicts itself, before anything of it runs. The schema judges single values. */}}
{{- define "outport.check" -}}
{{- $values := .Values }}
{{- if $values.enabled }}
{{- $url := ($values.config.bucket | default dict).url | default "" }}
{{- if and (include "outport.several" .) (not (regexMatch "^(s3|az|gs)://" $url)) }}
{{- fail "several edges share an object store: set config.bucket.url to s3://, az:// or gs://, or leave one edge (kind: StatefulSet, replicas: 1, no autoscaling)" }}
{{- end }}
{{- if and (include "outport.several" .) $values.tls.enabled (not (or $values.siblings.tlsName $values.hostname)) }}
{{- fail "siblings ask for each other's certificates: set hostname, or siblings.tlsName, to the name that they are for" }}
{{- end }}
{{- if and $values.autoscaling.enabled (eq $values.kind "DaemonSet") }}
{{- fail "autoscaling.enabled: a DaemonSet has an edge on each node, whatever the load" }}
{{- end }}
{{- if and $values.autoscaling.enabled (not (or $values.autoscaling.targetCPU $values.autoscaling.targetMemory)) }}
{{- fail "autoscaling: set targetCPU or targetMemory" }}
{{- end }}
{{- if and $values.tls.enabled $values.tls.certManager.enabled (not (and $values.hostname $values.tls.certManager.issuerRef.name)) }}
{{- fail "tls.certManager.enabled: set hostname, and tls.certManager.issuerRef.name" }}
{{- end }}
{{- if and $values.externalDns.enabled (not (or $values.externalDns.hostname $values.hostname)) }}
{{- fail "externalDns.enabled: set hostname, or externalDns.hostname" }}
{{- end }}
{{- if and $values.bucket.credentials.options (not $values.bucket.credentials.secretName) }}
{{- fail "bucket.credentials.options: set bucket.credentials.secretName, whose keys they are" }}
{{- end }}
{{- $provider := $values.bucket.workloadIdentity.provider }}
{{- if and (eq $provider "aws") (not $values.bucket.workloadIdentity.aws.roleArn) }}
{{- fail "bucket.workloadIdentity.provider is aws: set bucket.workloadIdentity.aws.roleArn" }}
{{- end }}
{{- if and (eq $provider "azure") (not $values.bucket.workloadIdentity.azure.clientId) }}
{{- fail "bucket.workloadIdentity.provider is azure: set bucket.workloadIdentity.azure.clientId" }}
{{- end }}
{{- if and (eq $provider "google") (not $values.bucket.workloadIdentity.google.serviceAccount) }}
{{- fail "bucket.workloadIdentity.provider is google: set bucket.workloadIdentity.google.serviceAccount" }}
{{- end }}
{{- $disk := include "outport.mebibytes" ($values.config.cache | default dict).disk }}
{{- $size := include "outport.mebibytes" $values.persistence.size }}
{{- if and $disk $size (not $values.persistence.hostPath) (ge (int64 $disk) (int64 $size)) }}
{{- fail (printf "config.cache.disk is %s and persistence.size %s: the disk has room for other things than the cache, too" $values.config.cache.disk $values.persistence.size) }}
{{- end }}
{{- range $name := keys $values.configMapFiles }}
{{- if hasKey $values.secretFiles $name }}
{{- fail (printf "configMapFiles.%s: secretFiles has this name too" $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- if $values.node.enabled }}
{{- range $at, $edge := prepend $values.node.furtherEdges $values.node.edge }}
{{- $key := ternary "node.edge" "node.furtherEdges" (eq $at 0) }}
{{- $host := regexReplaceAll "^https?://([^/]*?)(:[0-9]+)?/?$" $edge "${1}" }}
{{- if not (regexMatch "^https?://[^/]+/?$" $edge) }}
{{- fail (printf "node.enabled: set %s to the URL under which nodes reach an edge: scheme, host and port" $key) }}
{{- end }}
{{- if or (regexMatch "\\.(svc|local)$" $host) (regexMatch (printf "\\.svc\\.%s$" (regexQuoteMeta $values.clusterDomain)) $host) (not (regexMatch "[.:(]|^localhost$" $host)) }}
{{- fail (printf "%s: %s is a name of the cluster's DNS, which nodes do not ask: name a load balancer's address, or $(HOST_IP) and a port of hostPorts" $key $host) }}
{{- end }}
{{- end }}
{{- end }}
{{- if not (or $values.enabled $values.node.enabled) }}
{{- fail "enabled and node.enabled are both false: there is nothing to install" }}
{{- end }}
{{- end }}
