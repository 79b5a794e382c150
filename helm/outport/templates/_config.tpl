{{- /* outport.toml. Helm's own toToml is no help: a number in values is a fraction to it, and outport takes no "8.0" for 8. */}}

{{- /* A value that stands behind a key. */}}
{{- define "outport.toml.value" -}}
{{- if kindIs "float64" . -}}
{{- if ne . (floor .) }}{{ fail (printf "config: %v is a fraction; outport has no such setting" .) }}{{ end -}}
{{- int64 . -}}
{{- else if kindIs "slice" . -}}
[{{ range $index, $each := . }}{{ if $index }}, {{ end }}{{ include "outport.toml.value" $each }}{{ end }}]
{{- else if kindIs "map" . -}}
{ {{- range $index, $key := keys . | sortAlpha -}}
{{ if $index }},{{ end }} {{ include "outport.toml.key" $key }} = {{ include "outport.toml.value" (get $ $key) }}
{{- end }} }
{{- else -}}
{{- toRawJson . -}}
{{- end -}}
{{- end }}

{{- define "outport.toml.key" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toRawJson . }}{{ end -}}
{{- end }}

{{- /* What a value needs: a table of its own, a list of tables, a line; or nothing, if it is null. */}}
{{- define "outport.toml.form" -}}
{{- if kindIs "map" . -}}
table
{{- else if kindIs "slice" . -}}
{{ if and . (kindIs "map" (first .)) }}tables{{ else }}line{{ end }}
{{- else if not (kindIs "invalid" .) -}}
line
{{- end -}}
{{- end }}

{{- /* A table's lines, then the tables in it: (dict "path" "a.b" "table" ...). */}}
{{- define "outport.toml.table" -}}
{{- $path := .path }}
{{- $table := .table }}
{{- range $key := keys $table | sortAlpha }}
{{- $value := get $table $key }}
{{- if eq (include "outport.toml.form" $value) "line" }}
{{ include "outport.toml.key" $key }} = {{ include "outport.toml.value" $value }}
{{- end }}
{{- end }}
{{- range $key := keys $table | sortAlpha }}
{{- $value := get $table $key }}
{{- $form := include "outport.toml.form" $value }}
{{- $name := include "outport.toml.key" $key }}
{{- if $path }}{{ $name = printf "%s.%s" $path $name }}{{ end }}
{{- if eq $form "table" }}

[{{ $name }}]
{{- include "outport.toml.table" (dict "path" $name "table" $value) }}
{{- else if eq $form "tables" }}
{{- range $value }}

[[{{ $name }}]]
{{- include "outport.toml.table" (dict "path" $name "table" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* What follows from the cluster and the other values, under what values.config says. As YAML. */}}
{{- define "outport.config" -}}
{{- $several := include "outport.several" . }}
{{- $values := .Values }}
{{- $any := ternary "[::]" "0.0.0.0" (eq $values.ipFamily "IPv6") }}
{{- $listen := dict "registry" (printf "%s:8443" $any) "ops" (printf "%s:5001" $any) }}
{{- if $values.hostname }}
{{- /* Without TLS here something before the edges speaks it. */}}
{{- $port := ternary (printf ":%d" (int $values.service.port)) "" (and $values.tls.enabled (ne (int $values.service.port) 443)) }}
{{- $_ := set $listen "public_url" (printf "https://%s%s" $values.hostname $port) }}
{{- end }}
{{- if $values.plain.enabled }}
{{- $_ := set $listen "also" (list (dict "address" (printf "%s:8080" $any))) }}
{{- end }}
{{- $config := dict "data_dir" "/var/lib/outport" "listen" $listen }}
{{- if $values.tls.enabled }}
{{- $tls := dict "cert_file" "/run/secrets/outport/tls/tls.crt" "key_file" "/run/secrets/outport/tls/tls.key" }}
{{- if $values.tls.clientAuthoritySecret }}
{{- $_ := set $tls "client_ca_file" "/run/secrets/outport/client-authority/ca.crt" }}
{{- end }}
{{- $_ := set $config "tls" $tls }}
{{- end }}
{{- if $several }}
{{- $siblings := dict "advertise_env" "OUTPORT_ADVERTISE" "token_file" "/run/secrets/outport/siblings/token" }}
{{- $_ := set $siblings "dns" (printf "%s-headless.%s.svc.%s" (include "outport.fullname" .) .Release.Namespace $values.clusterDomain) }}
{{- if $values.tls.enabled }}
{{- $_ := set $siblings "tls_name" ($values.siblings.tlsName | default $values.hostname) }}
{{- if $values.tls.privateAuthority }}
{{- $_ := set $siblings "ca_file" "/run/secrets/outport/tls/ca.crt" }}
{{- end }}
{{- end }}
{{- $_ := set $config "siblings" $siblings }}
{{- end }}
{{- with $values.bucket.credentials.options }}
{{- $files := dict }}
{{- range $option, $key := . }}
{{- $_ := set $files $option (printf "/run/secrets/outport/bucket/%s" $key) }}
{{- end }}
{{- $_ := set $config "bucket" (dict "options_from_files" $files) }}
{{- end }}
{{- $config = mustMergeOverwrite $config (deepCopy $values.config) }}
{{- if $values.owner.enabled }}
{{- $principal := dict "name" $values.owner.name "password_files" (list "/run/secrets/outport/owner/password") }}
{{- $_ := set $config "principal" (prepend ($config.principal | default list) $principal) }}
{{- $role := dict "role" "Owner" "principals" (list $values.owner.name) }}
{{- $_ := set $config "role" (prepend ($config.role | default list) $role) }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{- /* What takes a restart when it changes (those keys are marked so in config/reference.toml). All else outport takes over by itself, some
seconds after the kubelet has replaced the file: edges must not be restarted, and pulls not be cut, for an upstream more. */}}
{{- define "outport.restartChecksum" -}}
{{- $config := include "outport.config" . | fromYaml }}
{{- $listen := omit $config.listen "public_url" }}
{{- $limits := omit ($config.limits | default dict) "deadline" "grace" }}
{{- $log := omit ($config.log | default dict) "level" }}
{{- $bucket := omit ($config.bucket | default dict) "acknowledge" }}
{{- $fixed := pick $config "region" "data_dir" "cache" "siblings" "peer" "replication" "audit" "otlp" }}
{{- merge (dict "listen" $listen "limits" $limits "log" $log "bucket" $bucket "tls" (hasKey $config "tls")) $fixed | toJson | sha256sum }}
{{- end }}
