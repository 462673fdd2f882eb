{{/* The name of everything in the release. */}}
{{- define "kvorum-operator.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Objects without a namespace are the same for all releases: the namespace keeps two apart. */}}
{{- define "kvorum-operator.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "kvorum-operator.name" .) -}}
{{- end -}}

{{- define "kvorum-operator.selector" -}}
app.kubernetes.io/name: kvorum-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kvorum-operator.labels" -}}
{{ include "kvorum-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "kvorum-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "kvorum-operator.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "kvorum-operator.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The namespaces that are watched, each once; without any: all. */}}
{{- define "kvorum-operator.namespaces" -}}
{{- .Values.watchNamespaces | sortAlpha | uniq | join "," -}}
{{- end -}}

{{/* The Lease that one of the release's operators holds. Another release in the same namespace has another one;
     and so has this one after its watch was changed, as nobody who watches something else may keep it waiting. */}}
{{- define "kvorum-operator.lease" -}}
{{- $name := include "kvorum-operator.name" . -}}
{{- $namespaces := include "kvorum-operator.namespaces" . -}}
{{- if $namespaces -}}
{{- printf "%s-%s" $name (sha256sum $namespaces | trunc 8) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{/* The namespace of the clusters that `helm test` makes and that NOTES.txt speaks of. */}}
{{- define "kvorum-operator.clusterNamespace" -}}
{{- .Values.watchNamespaces | sortAlpha | first | default .Release.Namespace -}}
{{- end -}}

{{/* What the operator does to the objects of clusters, and no more: it may not list Secrets, and has no right to
     change what it only looks at. */}}
{{- define "kvorum-operator.rules" -}}
- apiGroups: [kvorum.io]
  resources: [kvclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [kvorum.io]
  resources: [kvclusters/status]
  verbs: [update]
# Owner references that block deletion need it where the API server enforces that.
- apiGroups: [kvorum.io]
  resources: [kvclusters/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods, persistentvolumeclaims]
  verbs: [list, watch, patch, delete]
# Pods that are ready go by eviction, so that a disruption budget counts them.
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
# Whether the namespace is being deleted, and with it the right to remove a finalizer.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list]
- apiGroups: [""]
  resources: [services]
  verbs: [get, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, create, patch]
{{- if .Values.networkPolicy.enabled }}
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, patch, delete]
{{- end }}
{{- if .Values.rbac.secrets }}
# A cluster's CA and certificates. Their names are yet to come, so that no rule can name them; but without `list` and
# `watch` only those are read whose names are known. A user's certificate goes with its entry in spec.access.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, patch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch, delete]
# For names outside of Kubernetes: spec.tls.issuerRef.
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, create, patch, delete]
{{- end }}
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* Whether a machine is gone for good; and who signs the tokens of ServiceAccounts. */}}
{{- define "kvorum-operator.machineRules" -}}
# The issuer of ServiceAccounts' tokens and its public keys, which members verify tokens with. Kubernetes lets every
# ServiceAccount read them unless somebody has taken that away.
- nonResourceURLs: [/.well-known/openid-configuration, /openid/v1/jwks]
  verbs: [get]
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [persistentvolumes]
  verbs: [get]
# Whether volumes can grow.
- apiGroups: [storage.k8s.io]
  resources: [storageclasses]
  verbs: [get]
{{- end -}}
