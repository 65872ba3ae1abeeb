{{/* What cannot work fails the render with a sentence. Included once, by the ConfigMap. */}}
{{- define "fanfare.checks" -}}
{{- $settings := .Values.settings }}
{{- range $path, $instead := dict
  "shutdown.grace" "set the value `shutdown.graceSeconds`: the pod's termination grace period follows it"
  "targets.allow_networks" "set the value `allowNetworks`: the network policy follows it"
  "catalogs.path" "set the value `catalogs.files` or `catalogs.configMap`: the chart mounts them"
  "ingest.listen" "leave it out: the chart's ports are 8080, 8081 and 9101 to 9105"
  "api.listen" "leave it out: the chart's ports are 8080, 8081 and 9101 to 9105"
  "admin.listen" "leave it out: the chart's ports are 8080, 8081 and 9101 to 9105"
  "api.admin_token" "put it into the Secret that `secrets.name` names, under `admin-token`"
  "secrets.keys" "put them into the Secret that `secrets.name` names, under `secrets-keys`"
  "amqp.password" "name a Secret in the value `secrets.amqp-password`"
  "redis.password" "name a Secret in the value `secrets.redis-password`" }}
{{- $parts := splitList "." $path }}
{{- if hasKey (index $settings (index $parts 0) | default dict) (index $parts 1) }}
{{- fail (printf "`settings.%s` is not for the chart's settings; %s" $path $instead) }}
{{- end }}
{{- end }}
{{- range $section, $keys := $settings }}
{{- range $key, $value := $keys }}
{{- if or (kindIs "map" $value) (kindIs "invalid" $value) }}
{{- fail (printf "`settings.%s.%s` must be a text, a number, a boolean or a list: sections have no sections" $section $key) }}
{{- end }}
{{- if and (kindIs "string" $value) (regexMatch "://[^/@]*:[^/@]*@" $value) }}
{{- fail (printf "`settings.%s.%s` holds a password, which a ConfigMap shows to everybody; put the URL into the Secret that `secrets.name` names" $section $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- $timeout := (index $settings "dispatcher" | default dict).timeout | default "15s" }}
{{- if not (regexMatch "^[0-9]+(s|m|min)$" $timeout) }}
{{- fail (printf "`settings.dispatcher.timeout` is `%s`: write it as seconds or minutes (`15s`, `1m`), the chart compares it with `shutdown.graceSeconds`" $timeout) }}
{{- end }}
{{- $number := regexFind "^[0-9]+" $timeout | int }}
{{- $seconds := ternary $number (mul $number 60) (hasSuffix "s" $timeout) | int }}
{{- if le (int .Values.shutdown.graceSeconds) (add $seconds 5 | int) }}
{{- fail (printf "`shutdown.graceSeconds` is %d, which cuts attempts off: it must be more than the dispatcher's timeout (%ds) and 5 s" (int .Values.shutdown.graceSeconds) $seconds) }}
{{- end }}
{{- if and (not .Values.secrets.name) (or (not (index .Values.secrets "secrets-keys").name) (not (index .Values.secrets "admin-token").name)) }}
{{- fail "`secrets.name` is empty: name the Secret that holds `amqp-url`, `redis-url`, `secrets-keys` and `admin-token`, or say for each where it is" }}
{{- end }}
{{- range $name := keys .Values.services }}
{{- $values := include "fanfare.service" (list $ $name) | fromYaml }}
{{- $kind := include "fanfare.scaling" (list $name $values) }}
{{- if and (eq $kind "keda") $values.autoscaling.queries (not $.Values.keda.prometheusUrl) }}
{{- fail (printf "`keda.prometheusUrl` is empty, and the service `%s` is scaled by queries: name your Prometheus, as http://prometheus.monitoring:9090" $name) }}
{{- end }}
{{- if and (ne $kind "none") (gt (int $values.autoscaling.min) (int $values.autoscaling.max)) }}
{{- fail (printf "the service `%s` is to have at least %d pods and at most %d" $name (int $values.autoscaling.min) (int $values.autoscaling.max)) }}
{{- end }}
{{- if not ($values.resources.requests | default dict).cpu }}
{{- if ne $kind "none" }}
{{- fail (printf "the service `%s` is scaled by its CPU and requests none: set `services.%s.resources.requests.cpu`" $name $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $expose := .Values.expose }}
{{- if and (ne $expose.kind "none") (not $expose.host) }}
{{- fail (printf "`expose.%s.host` is empty: name the host under which it is reached" $name) }}
{{- end }}
{{- if and (eq $expose.kind "httpRoute") (not $expose.parent.name) }}
{{- fail (printf "`expose.%s.parent.name` is empty: name the Gateway that its HTTPRoute belongs to" $name) }}
{{- end }}
{{- end }}
{{- if .Values.networkPolicy.enabled }}
{{- if not (or .Values.networkPolicy.to.broker .Values.rabbitmqCluster.enabled) }}
{{- fail "`networkPolicy.to.broker` is empty: with the policy on, no service would reach its broker" }}
{{- end }}
{{- if not .Values.networkPolicy.to.redis }}
{{- fail "`networkPolicy.to.redis` is empty: with the policy on, no service would reach Redis" }}
{{- end }}
{{- end }}
{{- if and .Values.catalogs.files .Values.catalogs.configMap }}
{{- fail "`catalogs.files` and `catalogs.configMap` are both set: services read one folder; put all into one" }}
{{- end }}
{{- if and .Values.rabbitmqCluster.enabled (eq (mod (int .Values.rabbitmqCluster.replicas) 2) 0) }}
{{- fail (printf "`rabbitmqCluster.replicas` is %d: quorum queues want an odd number" (int .Values.rabbitmqCluster.replicas)) }}
{{- end }}
{{- range $kind := list "rules" "dashboards" }}
{{- if and (index $.Values.metrics $kind).enabled (not ($.Files.Glob (ternary "files/alerts/*.yaml" "files/dashboards/*.json" (eq $kind "rules")))) }}
{{- fail (printf "`metrics.%s.enabled` is set, and this chart carries no %s" $kind $kind) }}
{{- end }}
{{- end }}
{{- end }}
