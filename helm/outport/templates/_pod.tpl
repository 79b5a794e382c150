{{- /* The template of an edge's pod, which both kinds share. */}}
{{- define "outport.pod" -}}
metadata:
  # Without the chart's version: a new chart with the same pods restarts none.
  labels:
    {{- include "outport.edgeLabels" . | nindent 4 }}
    {{- if eq .Values.bucket.workloadIdentity.provider "azure" }}
    azure.workload.identity/use: "true"
    {{- end }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    outport/restart-checksum: {{ include "outport.restartChecksum" . }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "outport.serviceAccountName" . }}
  automountServiceAccountToken: false
  # Of every Service in the namespace there would be variables.
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  terminationGracePeriodSeconds: {{ int .Values.terminationGracePeriodSeconds }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  containers:
    - name: outport
      image: {{ include "outport.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      env:
        - name: OUTPORT_CONFIG
          value: /etc/outport/outport.toml
        {{- if include "outport.several" . }}
        - name: POD_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        - name: OUTPORT_ADVERTISE
          value: {{ printf "%s://%s:8443" (ternary "https" "http" .Values.tls.enabled) (ternary "[$(POD_IP)]" "$(POD_IP)" (eq .Values.ipFamily "IPv6")) }}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: registry
          containerPort: 8443
          {{- with int .Values.hostPorts.registry }}
          hostPort: {{ . }}
          {{- end }}
        {{- if .Values.plain.enabled }}
        - name: plain
          containerPort: 8080
          {{- with int .Values.hostPorts.plain }}
          hostPort: {{ . }}
          {{- end }}
        {{- end }}
        - name: ops
          containerPort: 5001
      # The first start looks through the disk and tries the object store.
      startupProbe:
        httpGet: {path: /livez, port: ops}
        {{- toYaml .Values.probes.startup | nindent 8 }}
      livenessProbe:
        httpGet: {path: /livez, port: ops}
        {{- toYaml .Values.probes.liveness | nindent 8 }}
      readinessProbe:
        httpGet: {path: /readyz, port: ops}
        {{- toYaml .Values.probes.readiness | nindent 8 }}
      {{- with int .Values.preStopSeconds }}
      # outport takes no new connections once it is told to end: whoever still sends some must have heard that the pod goes.
      lifecycle:
        preStop: {sleep: {seconds: {{ . }}}}
      {{- end }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        # Folders, not single files by subPath: those would never be replaced, and outport has nothing to reload.
        - {name: config, mountPath: /etc/outport, readOnly: true}
        - {name: data, mountPath: /var/lib/outport}
        {{- range include "outport.mounts" . | fromYamlArray }}
        - {name: {{ .name }}, mountPath: /run/secrets/outport/{{ .folder }}, readOnly: true}
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "outport.fullname" . }}}
    {{- range include "outport.mounts" . | fromYamlArray }}
    - name: {{ .name }}
      {{- if .secret }}
      # For the group of the pod, and not for everybody.
      secret: {secretName: {{ .secret }}, defaultMode: 0440}
      {{- else }}
      configMap: {name: {{ .configMap }}}
      {{- end }}
    {{- end }}
    {{- with include "outport.disk" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.kind "StatefulSet" }}
  topologySpreadConstraints:
    {{- if .Values.topologySpreadConstraints }}
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
    {{- else }}
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "outport.edgeLabels" $ | nindent 10 }}
    {{- end }}
    {{- end }}
  {{- end }}
{{- end }}

{{- /* The folders below /run/secrets/outport. */}}
{{- define "outport.mounts" -}}
{{- if .Values.tls.enabled }}
- {name: tls, folder: tls, secret: {{ include "outport.tlsSecret" . }}}
{{- with .Values.tls.clientAuthoritySecret }}
- {name: client-authority, folder: client-authority, secret: {{ . }}}
{{- end }}
{{- end }}
{{- if .Values.owner.enabled }}
- {name: owner, folder: owner, secret: {{ include "outport.ownerSecret" . }}}
{{- end }}
{{- if include "outport.several" . }}
- {name: siblings, folder: siblings, secret: {{ include "outport.siblingsSecret" . }}}
{{- end }}
{{- with .Values.bucket.credentials.secretName }}
- {name: bucket, folder: bucket, secret: {{ . }}}
{{- end }}
{{- range $name, $secret := .Values.secretFiles }}
- {name: files-{{ $name }}, folder: {{ $name }}, secret: {{ $secret }}}
{{- end }}
{{- range $name, $map := .Values.configMapFiles }}
- {name: files-{{ $name }}, folder: {{ $name }}, configMap: {{ $map }}}
{{- end }}
{{- end }}

{{- /* The volume `data`, where it is not one of a StatefulSet's claims. */}}
{{- define "outport.disk" -}}
{{- with .Values.persistence }}
{{- if .hostPath }}
- name: data
  hostPath: {path: {{ .hostPath }}, type: DirectoryOrCreate}
{{- else if not .enabled }}
- name: data
  emptyDir: {sizeLimit: {{ .size }}}
{{- else if eq $.Values.kind "DaemonSet" }}
- name: data
  ephemeral:
    volumeClaimTemplate:
      {{- include "outport.claim" $ | nindent 6 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "outport.claim" -}}
{{- with .Values.persistence }}
metadata:
  labels:
    {{- include "outport.edgeLabels" $ | nindent 4 }}
  {{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  accessModes:
    {{- toYaml .accessModes | nindent 4 }}
  {{- with .storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources: {requests: {storage: {{ .size }}}}
{{- end }}
{{- end }}
