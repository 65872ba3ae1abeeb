{{- define "fanfare.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* 40 characters leave room for the longest suffix. */}}
{{- define "fanfare.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := include "fanfare.name" . }}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What selectors are made of, for ever: deploy/check compares them with a committed list. */}}
{{- define "fanfare.selector" -}}
app.kubernetes.io/name: {{ include "fanfare.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "fanfare.labels" -}}
{{ include "fanfare.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: fanfare
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "fanfare.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "fanfare.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "fanfare.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* Ports of contract.md: the admin port of each service, and what ingest and api listen on. */}}
{{- define "fanfare.ports" -}}
ingest: {admin: 9101, http: 8080}
fanout: {admin: 9102}
dispatcher: {admin: 9103}
scheduler: {admin: 9104}
api: {admin: 9105, http: 8081}
{{- end }}

{{/* A service's values: its own over the defaults. Takes [root, name]. */}}
{{- define "fanfare.service" -}}
{{- $root := index . 0 }}
{{- $own := index $root.Values.services (index . 1) | default dict }}
{{- mustMergeOverwrite (deepCopy $root.Values.defaults) (deepCopy $own) | toYaml }}
{{- end }}

{{/* none, hpa or keda. Takes [name, the service's values]: the scheduler is never scaled. */}}
{{- define "fanfare.scaling" -}}
{{- if eq (index . 0) "scheduler" }}none{{ else }}{{ (index . 1).autoscaling.kind }}{{ end }}
{{- end }}

{{/* The settings as TOML. A JSON text, number, boolean or list of these is TOML, too; toToml would write 512 as 512.0. */}}
{{- define "fanfare.settings" -}}
{{- $settings := deepCopy .Values.settings }}
{{- $ours := dict "shutdown" (dict "grace" (printf "%ds" (int .Values.shutdown.graceSeconds))) }}
{{- with values .Values.allowNetworks | compact }}
{{- $_ := set $ours "targets" (dict "allow_networks" (sortAlpha .)) }}
{{- end }}
{{- if or .Values.catalogs.files .Values.catalogs.configMap }}
{{- $_ := set $ours "catalogs" (dict "path" "/etc/fanfare/catalogs") }}
{{- end }}
{{- if .Values.rabbitmqCluster.enabled }}
{{- $broker := printf "%s-rabbitmq" (include "fanfare.fullname" .) }}
{{- $_ := set $ours "amqp" (dict "url" (printf "amqp://%s:5672/%%2f" $broker) "management_url" (printf "http://%s:15672" $broker)) }}
{{- end }}
{{- range $section, $keys := mustMergeOverwrite $settings $ours }}
{{- if $keys }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{ $key }} = {{ toRawJson $value }}
{{- end }}
{{ end }}
{{- end }}
{{- end }}

{{/* The environment that comes from Secrets. Takes [root, service]. */}}
{{- define "fanfare.secrets" -}}
{{- $root := index . 0 }}
{{- $service := index . 1 }}
{{- $secrets := $root.Values.secrets }}
{{- $amqp := $root.Values.settings.amqp | default dict }}
{{- $redis := $root.Values.settings.redis | default dict }}
{{- $wires := list }}
{{- if not (or $root.Values.rabbitmqCluster.enabled $amqp.url) }}{{ $wires = append $wires (list "amqp-url" "FANFARE_AMQP__URL" false) }}{{ end }}
{{- if not $redis.url }}{{ $wires = append $wires (list "redis-url" "FANFARE_REDIS__URL" false) }}{{ end }}
{{- $wires = append $wires (list "log-redis-url" "FANFARE_LOG__REDIS_URL" true) }}
{{- if has $service (list "api" "dispatcher") }}{{ $wires = append $wires (list "secrets-keys" "FANFARE_SECRETS__KEYS" false) }}{{ end }}
{{- if eq $service "api" }}{{ $wires = append $wires (list "admin-token" "FANFARE_API__ADMIN_TOKEN" false) }}{{ end }}
{{- if eq $service "scheduler" }}
{{- $wires = append $wires (list "smtp-url" "FANFARE_SMTP__URL" true) }}
{{- if not (or $root.Values.rabbitmqCluster.enabled $amqp.management_url) }}{{ $wires = append $wires (list "amqp-management-url" "FANFARE_AMQP__MANAGEMENT_URL" true) }}{{ end }}
{{- end }}
{{- range $key, $name := dict "amqp-username" "FANFARE_AMQP__USERNAME" "amqp-password" "FANFARE_AMQP__PASSWORD" "redis-username" "FANFARE_REDIS__USERNAME" "redis-password" "FANFARE_REDIS__PASSWORD" }}
{{- if index $secrets $key }}{{ $wires = append $wires (list $key $name false) }}{{ end }}
{{- end }}
{{- range $wires }}
{{- $from := index $secrets (index . 0) | default dict }}
- name: {{ index . 1 }}
  valueFrom:
    secretKeyRef:
      name: {{ $from.name | default $secrets.name }}
      key: {{ $from.key | default (index . 0) }}
      {{- if index . 2 }}
      optional: true
      {{- end }}
{{- end }}
{{- if $root.Values.rabbitmqCluster.enabled }}
{{- range $key, $name := dict "username" "FANFARE_AMQP__USERNAME" "password" "FANFARE_AMQP__PASSWORD" }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ include "fanfare.fullname" $root }}-rabbitmq-default-user
      key: {{ $key }}
{{- end }}
{{- end }}
{{- end }}

{{/* A container's environment. Takes [root, service, the service's values]. */}}
{{- define "fanfare.env" -}}
{{- $root := index . 0 -}}
- name: FANFARE_CONFIG
  value: /etc/fanfare/config/fanfare.toml
{{- if $root.Values.trust.configMap }}
- name: SSL_CERT_FILE
  value: /etc/fanfare/trust/{{ $root.Values.trust.key }}
{{- end }}
{{- include "fanfare.secrets" (list $root (index . 1)) }}
{{- range $name, $value := (index . 2).env }}
- name: {{ $name }}
  value: {{ ternary $value (toRawJson $value) (kindIs "string" $value) | quote }}
{{- end }}
{{- end }}

{{- define "fanfare.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "fanfare.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "fanfare.mounts" -}}
- {name: config, mountPath: /etc/fanfare/config, readOnly: true}
{{- if or .Values.catalogs.files .Values.catalogs.configMap }}
- {name: catalogs, mountPath: /etc/fanfare/catalogs, readOnly: true}
{{- end }}
{{- if .Values.trust.configMap }}
- {name: trust, mountPath: /etc/fanfare/trust, readOnly: true}
{{- end }}
{{- end }}

{{- define "fanfare.volumes" -}}
- name: config
  configMap: {name: {{ include "fanfare.fullname" . }}}
{{- if or .Values.catalogs.files .Values.catalogs.configMap }}
- name: catalogs
  configMap: {name: {{ .Values.catalogs.configMap | default (printf "%s-catalogs" (include "fanfare.fullname" .)) }}}
{{- end }}
{{- if .Values.trust.configMap }}
- name: trust
  configMap: {name: {{ .Values.trust.configMap }}}
{{- end }}
{{- end }}

{{/* What every pod of ours has. Takes root. */}}
{{- define "fanfare.pod" -}}
serviceAccountName: {{ include "fanfare.serviceAccount" . }}
automountServiceAccountToken: false
# A Service `fanfare-api` would put FANFARE_API_PORT and its like into every pod.
enableServiceLinks: false
securityContext: {{- include "fanfare.podSecurity" . | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range $name, $on := . }}
{{- if $on }}
  - name: {{ $name }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
