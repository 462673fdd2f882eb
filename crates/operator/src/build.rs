//! The objects that belong to a cluster, made of its spec: pure.

use k8s_openapi::api::core::v1::EnvVar;
use kvorum_crd::{AntiAffinity, Audit, AuthMode, KvCluster, LogFormat, Node, Pod, RESERVED_ENV, TlsMode};
use serde_json::{Map, Value, json};

use crate::access::mode;
use crate::certificates::{BUNDLE, CERTIFICATE, KEY};
use crate::names::{self, CLIENT_PORT, HTTP_PORT, PEER_PORT};

/// Where a node keeps its data: below the volume's root, where some file systems keep their own.
const DATA_DIR: &str = "/var/lib/kvorum/data";
const VOLUME: &str = "/var/lib/kvorum";
/// Where a member finds its certificate; and where `kvorum`, run in its pod, finds root's.
const TLS_DIR: &str = "/etc/kvorum/tls";
const ROOT_TLS_DIR: &str = "/var/run/secrets/kvorum.io";
/// Where it finds what others give: the CA of clients from outside, and the certificate for names of outside.
const CLIENT_CA_DIR: &str = "/etc/kvorum/client-ca";
const SERVER_TLS_DIR: &str = "/etc/kvorum/server-tls";
/// The volumes of all four.
const MEMBER_TLS: &str = "member-tls";
const ROOT_TLS: &str = "root-tls";
const CLIENT_CA: &str = "client-ca";
const SERVER_TLS: &str = "server-tls";
/// distroless' nonroot.
const USER: i64 = 65532;
/// For so long a node serves on after SIGTERM, until the Service sends its clients elsewhere.
const SHUTDOWN_DELAY_SECONDS: i64 = 5;
/// What says so to a node. An older release, which has no such flag, would not start with one; it passes over a
/// variable.
const SHUTDOWN_DELAY: &str = "KVORUM_SHUTDOWN_DELAY";
/// After that it hands over, drains and flushes within 10 s; and as much again for a busy machine.
const GRACE_SECONDS: i64 = 30;
const _: () = assert!(GRACE_SECONDS >= SHUTDOWN_DELAY_SECONDS + 2 * 10);
/// A start may replay a long log; an hour is longer than any.
const STARTUP_SECONDS: i64 = 3600;
/// The node's own default for --cache-bytes.
const CACHE_BYTES: i64 = 96 << 20;
/// What a node needs beside its caches: connections, snapshots, watches, the log's tail.
const BESIDE_CACHES_BYTES: i64 = 512 << 20;

/// What the objects are made of.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The KvCluster.
    pub cluster: &'a KvCluster,
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// The members' image.
    pub image: &'a str,
    /// The image that goes on record, for a spec that names none.
    pub pinned: &'a str,
    /// The image's pull policy where the spec has none.
    pub pull_policy: Option<&'a str>,
    /// The cluster's incarnation; 1 until it was recovered from the loss of its quorum.
    pub incarnation: u64,
    /// What the members' ports speak.
    pub tls: TlsMode,
    /// Whether rights are to count.
    pub auth: AuthMode,
    /// Whether there is to be a NetworkPolicy.
    pub policy: bool,
}

/// The pod template and what it was made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// The template, with its hash as an annotation.
    pub template: Value,
    /// The hash of the template.
    pub hash: String,
    /// The hash of what the spec says about pods.
    pub inputs: String,
}

impl Inputs<'_> {
    /// The Service for clients.
    pub fn client_service(&self) -> Value {
        let wanted = &self.cluster.spec.service;
        let mut port =
            json!({"name": "client", "port": CLIENT_PORT, "targetPort": "client", "protocol": "TCP"});
        if let Some(node_port) = wanted.node_port {
            port["nodePort"] = json!(node_port);
        }
        // The type is always said: whoever takes it out of the spec goes back to the first one.
        let mut spec = json!({"type": wanted.kind, "selector": self.selector(), "ports": [port]});
        set_unless_empty(&mut spec, "loadBalancerClass", json!(wanted.load_balancer_class));
        set_unless_empty(&mut spec, "loadBalancerSourceRanges", json!(wanted.load_balancer_source_ranges));
        let ports_of_machines = json!(wanted.allocate_load_balancer_node_ports);
        set_unless_empty(&mut spec, "allocateLoadBalancerNodePorts", ports_of_machines);
        set_unless_empty(&mut spec, "externalTrafficPolicy", json!(wanted.external_traffic_policy));
        set_unless_empty(&mut spec, "ipFamilyPolicy", json!(wanted.ip_family_policy));
        let mut service = self.object("v1", "Service", self.name, spec);
        set_unless_empty(&mut service["metadata"], "annotations", json!(wanted.annotations));
        let own = self.labels();
        let given = wanted.labels.iter().filter(|(key, _)| !own.contains_key(*key));
        for (key, value) in given {
            service["metadata"]["labels"][key] = json!(value);
        }
        service
    }

    /// The Service that gives pods their names, ready or not.
    pub fn peers_service(&self) -> Value {
        let port = |name: &str, port: i32| json!({"name": name, "port": port, "targetPort": name, "protocol": "TCP"});
        let spec = json!({
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": names::selector(self.name),
            "ports": [port("client", CLIENT_PORT), port("peer", PEER_PORT), port("http", HTTP_PORT)],
        });
        self.object("v1", "Service", &names::peers_service(self.name), spec)
    }

    /// At most one member at a time may be evicted.
    pub fn disruption_budget(&self) -> Value {
        let spec = json!({
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "IfHealthyBudget",
            "selector": {"matchLabels": names::selector(self.name)},
        });
        self.object("policy/v1", "PodDisruptionBudget", self.name, spec)
    }

    /// Who reaches the members, on networks that keep to it: their own port is for them and the operator alone.
    pub fn network_policy(&self, operator_namespace: &str) -> Value {
        let port = |port: i32| json!({"port": port, "protocol": "TCP"});
        let operator = json!({
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": operator_namespace}},
            "podSelector": {"matchLabels": {names::LABEL_NAME: names::FIELD_MANAGER}},
        });
        let members = json!({"podSelector": {"matchLabels": names::selector(self.name)}});
        let mut open = json!({"ports": [port(CLIENT_PORT), port(HTTP_PORT)]});
        let from = &self.cluster.spec.network_policy.from;
        if !from.is_empty() {
            // Members and the operator are clients, too.
            let mut all = vec![members.clone(), operator.clone()];
            all.extend(from.iter().map(|peer| json!(peer)));
            open["from"] = json!(all);
        }
        let spec = json!({
            "podSelector": {"matchLabels": names::selector(self.name)},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [members, operator], "ports": [port(PEER_PORT)]}, open],
        });
        self.object("networking.k8s.io/v1", "NetworkPolicy", self.name, spec)
    }

    /// What the Prometheus operator scrapes, labelled as the alerts expect it.
    pub fn pod_monitor(&self) -> Value {
        let spec = json!({
            "selector": {"matchLabels": names::selector(self.name)},
            "podMetricsEndpoints": [{
                "port": "http",
                "path": "/metrics",
                "relabelings": [{
                    "sourceLabels": ["__meta_kubernetes_pod_label_app_kubernetes_io_instance"],
                    "targetLabel": "name",
                }],
            }],
        });
        self.object("monitoring.coreos.com/v1", "PodMonitor", self.name, spec)
    }

    /// What cert-manager is to make: a certificate for names of outside.
    pub fn outside_certificate(&self) -> Option<Value> {
        let tls = &self.cluster.spec.tls;
        let issuer =
            tls.issuer_ref.as_ref().filter(|_| self.tls != TlsMode::Disabled && self.has_outside_names())?;
        let spec = json!({
            "secretName": names::server_tls(self.name),
            "dnsNames": tls.extra_names,
            "issuerRef": {
                "name": issuer.name,
                "kind": issuer.kind.as_deref().unwrap_or("Issuer"),
                "group": issuer.group.as_deref().unwrap_or("cert-manager.io"),
            },
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            "usages": ["digital signature", "server auth"],
        });
        Some(self.object("cert-manager.io/v1", "Certificate", &names::server(self.name), spec))
    }

    /// The StatefulSet. Its claims' size stays what it was when it was made.
    pub fn stateful_set(&self, replicas: u32, template: &Template, size: &str) -> Value {
        let mut claim = json!({
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}},
        });
        if let Some(class) = &self.cluster.spec.storage.storage_class_name {
            claim["storageClassName"] = json!(class);
        }
        let spec = json!({
            "serviceName": names::peers_service(self.name),
            "replicas": replicas,
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            "selector": {"matchLabels": names::selector(self.name)},
            "template": template.template,
            "volumeClaimTemplates": [{
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": "data", "labels": names::selector(self.name)},
                "spec": claim,
            }],
        });
        let mut set = self.object("apps/v1", "StatefulSet", self.name, spec);
        set["metadata"]["annotations"] = json!({
            names::INPUTS: template.inputs,
            names::IMAGE: self.pinned,
        });
        if let Some(word) = mode::word(self.auth) {
            set["metadata"]["annotations"][names::AUTH] = json!(word);
        }
        if self.policy {
            set["metadata"]["annotations"][names::POLICY] = json!(names::POLICY_ENABLED);
        }
        set
    }

    /// The pod template for what the spec says.
    pub fn template(&self) -> Template {
        let spec = &self.cluster.spec;
        let pod = serde_json::to_value(&spec.pod).expect("a spec is plain data");
        let node = serde_json::to_value(&spec.node).expect("a spec is plain data");
        let mut inputs = json!([pod, node, self.image, self.incarnation]);
        // Without TLS all is as before there was any: nobody is restarted for nothing.
        if let Some(tls) = tls_word(self.tls) {
            let inputs = inputs.as_array_mut().expect("it is a list");
            inputs.push(json!(tls));
            inputs.extend(self.client_ca().map(|name| json!({"clientCA": name})));
            inputs.extend(self.has_outside_names().then(|| json!("extraNames")));
        }
        let inputs = hash(&inputs);
        let mut labels: Map<String, Value> =
            spec.pod.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        labels.extend(self.labels());
        if self.incarnation > 1 {
            labels.insert(names::LABEL_INCARNATION.into(), json!(self.incarnation.to_string()));
        }
        let mut annotations: Map<String, Value> =
            spec.pod.annotations.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        annotations.remove(names::TLS);
        annotations.extend(tls_word(self.tls).map(|word| (names::TLS.into(), json!(word))));
        let mut template = json!({
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": self.pod_spec(),
        });
        let hash = hash(&template);
        template["metadata"]["annotations"][names::TEMPLATE] = json!(hash);
        Template { template, hash, inputs }
    }

    fn pod_spec(&self) -> Value {
        let pod = &self.cluster.spec.pod;
        let mut spec = json!({
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "securityContext": security_context(pod),
            "affinity": affinity(pod, self.anti_affinity()),
            "topologySpreadConstraints": self.spread(),
            "containers": [self.container()],
        });
        if self.tls != TlsMode::Disabled {
            let volume = |name: &str, secret: String| json!({"name": name, "secret": {"secretName": secret}});
            let mut volumes = vec![
                volume(MEMBER_TLS, names::member_tls(self.name)),
                volume(ROOT_TLS, names::root_tls(self.name)),
            ];
            // What others give keeps no pod from starting: it may come later.
            if let Some(name) = self.client_ca() {
                volumes.push(json!({"name": CLIENT_CA, "configMap": {
                    "name": name, "optional": true, "items": [{"key": BUNDLE, "path": BUNDLE}],
                }}));
            }
            if self.has_outside_names() {
                let items = [CERTIFICATE, KEY].map(|key| json!({"key": key, "path": key}));
                volumes.push(json!({"name": SERVER_TLS, "secret": {
                    "secretName": names::server_tls(self.name), "optional": true, "items": items,
                }}));
            }
            spec["volumes"] = json!(volumes);
        }
        set_unless_empty(&mut spec, "nodeSelector", json!(pod.node_selector));
        set_unless_empty(&mut spec, "tolerations", json!(pod.tolerations));
        set_unless_empty(&mut spec, "priorityClassName", json!(pod.priority_class_name));
        set_unless_empty(&mut spec, "imagePullSecrets", json!(pod.image_pull_secrets));
        set_unless_empty(&mut spec, "serviceAccountName", json!(pod.service_account_name));
        spec
    }

    fn container(&self) -> Value {
        let pod = &self.cluster.spec.pod;
        let probe = |path: &str, period: i64, timeout: i64, failures: i64| {
            json!({
                "httpGet": {"path": path, "port": "http"},
                "periodSeconds": period, "timeoutSeconds": timeout, "failureThreshold": failures,
            })
        };
        let mut env =
            vec![json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})];
        // A KvCluster that is older than the rule against it may have them.
        let free = |variable: &&EnvVar| !RESERVED_ENV.contains(&variable.name.as_str());
        let given: Vec<&EnvVar> = pod.env.iter().filter(free).collect();
        // A name stands there once: Kubernetes would take the last, and refuses two where they are applied.
        if !given.iter().any(|variable| variable.name == SHUTDOWN_DELAY) {
            env.push(json!({"name": SHUTDOWN_DELAY, "value": format!("{SHUTDOWN_DELAY_SECONDS}s")}));
        }
        env.extend(given.into_iter().map(|variable| json!(variable)));
        let mut container = json!({
            "name": names::CONTAINER,
            "image": self.image,
            "command": ["kvorum-node"],
            "args": self.args(),
            "env": env,
            // What a node says before it ends is what people are told of it.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "ports": [
                {"name": "client", "containerPort": CLIENT_PORT, "protocol": "TCP"},
                {"name": "peer", "containerPort": PEER_PORT, "protocol": "TCP"},
                {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            ],
            "resources": resources(pod, &self.cluster.spec.node),
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "startupProbe": probe("/livez", 1, 1, STARTUP_SECONDS),
            "readinessProbe": probe("/readyz", 2, 2, 2),
            "livenessProbe": probe("/livez", 10, 5, 3),
            "volumeMounts": self.mounts(),
        });
        if let Some(policy) = pod.image_pull_policy.as_deref().or(self.pull_policy) {
            container["imagePullPolicy"] = json!(policy);
        }
        container
    }

    fn mounts(&self) -> Value {
        let mut mounts = vec![json!({"name": "data", "mountPath": VOLUME})];
        if self.tls != TlsMode::Disabled {
            let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
            mounts.extend([mount(MEMBER_TLS, TLS_DIR), mount(ROOT_TLS, ROOT_TLS_DIR)]);
            mounts.extend(self.client_ca().map(|_| mount(CLIENT_CA, CLIENT_CA_DIR)));
            mounts.extend(self.has_outside_names().then(|| mount(SERVER_TLS, SERVER_TLS_DIR)));
        }
        json!(mounts)
    }

    fn args(&self) -> Vec<String> {
        let host = format!("$(POD_NAME).{}.{}.svc", names::peers_service(self.name), self.namespace);
        let mut args = vec![
            format!("--data-dir={DATA_DIR}"),
            format!("--listen-client=[::]:{CLIENT_PORT}"),
            format!("--listen-peer=[::]:{PEER_PORT}"),
            format!("--listen-http=[::]:{HTTP_PORT}"),
            format!("--advertise-client={host}:{CLIENT_PORT}"),
            format!("--advertise-peer={host}:{PEER_PORT}"),
        ];
        if self.incarnation > 1 {
            args.push(format!("--incarnation-min={}", self.incarnation));
        }
        if let Some(tls) = tls_word(self.tls) {
            args.extend([format!("--tls={tls}"), format!("--tls-dir={TLS_DIR}")]);
            args.extend(self.client_ca().map(|_| format!("--tls-client-ca={CLIENT_CA_DIR}/{BUNDLE}")));
            args.extend(self.has_outside_names().then(|| format!("--tls-outside-dir={SERVER_TLS_DIR}")));
        }
        args.extend(flags(&self.cluster.spec.node));
        args
    }

    /// The ConfigMap with the CAs of clients from outside.
    fn client_ca(&self) -> Option<&str> {
        self.cluster.spec.tls.client_ca.as_ref().map(|client_ca| client_ca.name.as_str())
    }

    fn has_outside_names(&self) -> bool {
        let tls = &self.cluster.spec.tls;
        tls.issuer_ref.is_some() && !tls.extra_names.is_empty()
    }

    fn anti_affinity(&self) -> Value {
        let term = json!({
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": names::selector(self.name)},
        });
        match self.cluster.spec.pod.anti_affinity {
            AntiAffinity::Required => {
                json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}})
            }
            AntiAffinity::Preferred => json!({"podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}],
            }}),
        }
    }

    fn spread(&self) -> Value {
        let given = &self.cluster.spec.pod.topology_spread_constraints;
        if !given.is_empty() {
            return json!(given);
        }
        json!([{
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": names::selector(self.name)},
        }])
    }

    /// Clients are sent to members of this incarnation only.
    fn selector(&self) -> Map<String, Value> {
        let mut selector: Map<String, Value> =
            names::selector(self.name).into_iter().map(|(key, value)| (key, json!(value))).collect();
        if self.incarnation > 1 {
            selector.insert(names::LABEL_INCARNATION.into(), json!(self.incarnation.to_string()));
        }
        selector
    }

    fn labels(&self) -> Map<String, Value> {
        labels(self.name)
    }

    fn object(&self, version: &str, kind: &str, name: &str, spec: Value) -> Value {
        let mut object = belongs(self.cluster, self.name, self.namespace, name.to_owned());
        object["apiVersion"] = json!(version);
        object["kind"] = json!(kind);
        object["metadata"]["ownerReferences"][0]["uid"] = json!(self.uid);
        object["spec"] = spec;
        object
    }
}

/// The metadata of an object that belongs to a cluster.
pub fn belongs(cluster: &KvCluster, name: &str, namespace: &str, object: String) -> Value {
    json!({"metadata": {
        "name": object,
        "namespace": namespace,
        "labels": labels(name),
        "ownerReferences": [{
            "apiVersion": "kvorum.io/v1alpha1", "kind": "KvCluster", "name": name, "uid": cluster.metadata.uid,
            "controller": true, "blockOwnerDeletion": true,
        }],
    }})
}

fn labels(name: &str) -> Map<String, Value> {
    let mut labels: Map<String, Value> =
        names::selector(name).into_iter().map(|(key, value)| (key, json!(value))).collect();
    labels.insert(names::LABEL_MANAGED_BY.into(), json!(names::FIELD_MANAGER));
    labels
}

/// How an annotation and a flag of the nodes say it.
pub fn tls_word(mode: TlsMode) -> Option<&'static str> {
    match mode {
        TlsMode::Disabled => None,
        TlsMode::Optional => Some(names::TLS_OPTIONAL),
        TlsMode::Required => Some(names::TLS_REQUIRED),
    }
}

/// Without a word in the spec: distroless' nonroot. What the spec says leaves ids to the platform, where it has none.
fn security_context(pod: &Pod) -> Value {
    let mut context = match &pod.security_context {
        Some(given) => json!(given),
        None => json!({"runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}),
    };
    for (field, value) in [
        ("runAsNonRoot", json!(true)),
        ("fsGroupChangePolicy", json!("OnRootMismatch")),
        ("seccompProfile", json!({"type": "RuntimeDefault"})),
    ] {
        if context[field].is_null() {
            context[field] = value;
        }
    }
    context
}

/// What the spec says, and our own rule against two members on one machine: that they must not share one holds whatever
/// else the spec says; that they should not, unless the spec has such rules itself.
fn affinity(pod: &Pod, own: Value) -> Value {
    let Some(given) = &pod.affinity else { return own };
    let mut affinity = json!(given);
    if affinity["podAntiAffinity"].is_null() {
        affinity["podAntiAffinity"] = own["podAntiAffinity"].clone();
    } else if pod.anti_affinity == AntiAffinity::Required {
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let mut terms = affinity["podAntiAffinity"][required].as_array().cloned().unwrap_or_default();
        terms.extend(own["podAntiAffinity"][required].as_array().into_iter().flatten().cloned());
        affinity["podAntiAffinity"][required] = json!(terms);
    }
    affinity
}

/// The flags of a node that a spec can change.
fn flags(node: &Node) -> Vec<String> {
    let number = |flag: &str, value: Option<i64>| value.map(|value| format!("--{flag}={value}"));
    let text = |flag: &str, value: Option<&str>| value.map(|value| format!("--{flag}={value}"));
    let format = node.log_format.map(|format| match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    });
    let audit = node.audit.map(|audit| match audit {
        Audit::Disabled => "off",
        Audit::Writes => "writes",
        Audit::All => "all",
    });
    [
        number("election-timeout-ms", node.election_timeout_ms),
        number("heartbeat-interval-ms", node.heartbeat_interval_ms),
        text("auto-compaction-retention", node.auto_compaction_retention.as_deref()),
        number("request-bytes-max", node.request_bytes_max),
        number("cache-bytes", node.cache_bytes),
        number("quota-bytes", node.quota_bytes),
        number("log-retain-bytes", node.log_retain_bytes),
        text("log-format", format),
        text("log-level", node.log_level.as_deref()),
        text("audit", audit),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Without a word in the spec: a memory limit that fits the caches.
fn resources(pod: &Pod, node: &Node) -> Value {
    if let Some(resources) = &pod.resources {
        return json!(resources);
    }
    let limit = 2 * node.cache_bytes.unwrap_or(CACHE_BYTES) + BESIDE_CACHES_BYTES;
    json!({
        "requests": {"cpu": "100m", "memory": "256Mi"},
        "limits": {"memory": format!("{}Mi", limit >> 20)},
    })
}

fn set_unless_empty(object: &mut Value, field: &str, value: Value) {
    if !is_empty(&value) {
        object[field] = value;
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// FNV-1a over the JSON text, whose keys are in order: the same in every release, since it decides
/// whether pods are replaced.
pub fn hash(value: &Value) -> String {
    let text = value.to_string();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    names::hex(hash)
}

/// Bytes of a quantity, such as 10Gi or 1.5G; `None` where it is none.
pub fn bytes(quantity: &str) -> Option<u64> {
    let digits = quantity.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: f64 = match &quantity[digits.len()..] {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        _ => return quantity.parse::<f64>().ok().filter(|n| *n >= 0.0).map(|n| n.ceil() as u64),
    };
    digits.parse::<f64>().ok().filter(|number| *number >= 0.0).map(|number| (number * factor).ceil() as u64)
}

/// A quantity of so many bytes, in the largest unit that it is a whole number of.
pub fn quantity(bytes: u64) -> String {
    let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let unit = (bytes.trailing_zeros() as usize / 10).min(units.len() - 1);
    let unit = if bytes == 0 { 0 } else { unit };
    format!("{}{}", bytes >> (10 * unit), units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_crd::KvClusterSpec;

    fn inputs(cluster: &KvCluster) -> Inputs<'_> {
        Inputs {
            cluster,
            name: "demo",
            namespace: "default",
            uid: "u",
            image: "kvorum:1",
            pinned: "kvorum:1",
            pull_policy: None,
            incarnation: 1,
            tls: TlsMode::Disabled,
            auth: AuthMode::Disabled,
            policy: false,
        }
    }

    /// Goal: that rights count is on record as soon as there is a StatefulSet, and restarts nobody; without them it is what
    /// it was before there were any.
    #[test]
    fn rights_are_on_record_from_the_first_moment() {
        let cluster = KvCluster::new("demo", KvClusterSpec::default());
        let (plain, made) = (inputs(&cluster), Inputs { auth: AuthMode::Required, ..inputs(&cluster) });
        assert_eq!(made.template(), plain.template());
        let set = |inputs: &Inputs<'_>| inputs.stateful_set(3, &inputs.template(), "1Gi");
        assert_eq!(set(&made)["metadata"]["annotations"][names::AUTH], names::AUTH_REQUIRED);
        assert!(set(&plain)["metadata"]["annotations"].get(names::AUTH).is_none());
    }

    /// Goal: what others give is mounted where it is asked for, keeps no pod from starting, and has no pod replaced that does
    /// not ask for it.
    #[test]
    fn what_others_give_is_mounted_and_may_be_missing() {
        let spec = json!({"tls": {
            "mode": "Required", "clientCA": {"name": "company"}, "issuerRef": {"name": "public"},
            "extraNames": ["kv.example.com"],
        }});
        let cluster = KvCluster::new("demo", serde_json::from_value::<KvClusterSpec>(spec).unwrap());
        let plain = KvCluster::new("demo", KvClusterSpec::default());
        let with = |cluster, tls| Inputs { tls, ..inputs(cluster) };
        assert_eq!(
            with(&cluster, TlsMode::Disabled).template().hash,
            with(&plain, TlsMode::Disabled).template().hash
        );
        let made = with(&cluster, TlsMode::Required).template();
        assert_ne!(made.inputs, with(&plain, TlsMode::Required).template().inputs);
        let pod = &made.template["spec"];
        assert_eq!(pod["volumes"][2]["configMap"]["name"], "company");
        assert_eq!(pod["volumes"][2]["configMap"]["optional"], true);
        assert_eq!(pod["volumes"][3]["secret"]["secretName"], "demo-server-tls");
        assert_eq!(pod["volumes"][3]["secret"]["optional"], true);
        let args = pod["containers"][0]["args"].as_array().unwrap();
        for arg in
            ["--tls-client-ca=/etc/kvorum/client-ca/ca.crt", "--tls-outside-dir=/etc/kvorum/server-tls"]
        {
            assert!(args.contains(&json!(arg)), "{args:?}");
        }
        let certificate = with(&cluster, TlsMode::Optional).outside_certificate().unwrap();
        assert_eq!(certificate["metadata"]["name"], "demo-server");
        let issuer = json!({"name": "public", "kind": "Issuer", "group": "cert-manager.io"});
        assert_eq!(certificate["spec"]["issuerRef"], issuer);
        assert!(with(&cluster, TlsMode::Disabled).outside_certificate().is_none());
        assert!(with(&plain, TlsMode::Required).outside_certificate().is_none());
    }

    /// Goal: members show what the operator makes, and `kubectl exec` finds root's certificate; without TLS a template
    /// is what it was before there was any.
    #[test]
    fn tls_is_mounted_where_nodes_and_tools_look() {
        let cluster = KvCluster::new("demo", KvClusterSpec::default());
        let plain = inputs(&cluster).template();
        assert!(plain.template["spec"]["volumes"].is_null() && !plain.template.to_string().contains("tls"));
        let mut seen = vec![plain];
        for (tls, word) in [(TlsMode::Optional, "optional"), (TlsMode::Required, "required")] {
            let made = Inputs { tls, ..inputs(&cluster) }.template();
            assert_eq!(made.template["metadata"]["annotations"][names::TLS], word);
            let pod = &made.template["spec"];
            let secrets: Vec<_> = pod["volumes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|v| v["secret"]["secretName"].clone())
                .collect();
            assert_eq!(secrets, ["demo-member-tls", "demo-root-tls"]);
            let args = pod["containers"][0]["args"].as_array().unwrap();
            assert!(
                args.contains(&json!(format!("--tls={word}")))
                    && args.contains(&json!("--tls-dir=/etc/kvorum/tls"))
            );
            let mounts = pod["containers"][0]["volumeMounts"].to_string();
            assert!(
                mounts.contains("/etc/kvorum/tls") && mounts.contains("/var/run/secrets/kvorum.io"),
                "{mounts}"
            );
            assert!(seen.iter().all(|other| other.hash != made.hash && other.inputs != made.inputs));
            seen.push(made);
        }
    }

    /// Goal: the port for members is closed to all but them and the operator, whatever the spec lets in elsewhere.
    #[test]
    fn the_port_for_members_is_for_them_and_the_operator() {
        let mut cluster = KvCluster::new("demo", KvClusterSpec::default());
        let peer = |policy: &Value| policy["spec"]["ingress"][0].clone();
        let open = inputs(&cluster).network_policy("system");
        assert_eq!(peer(&open)["ports"], json!([{"port": 2380, "protocol": "TCP"}]));
        assert_eq!(peer(&open)["from"].as_array().unwrap().len(), 2);
        assert!(open["spec"]["ingress"][1]["from"].is_null(), "clients come from anywhere");
        let shop = json!({"namespaceSelector": {"matchLabels": {"team": "shop"}}});
        cluster.spec.network_policy.from = vec![serde_json::from_value(shop.clone()).unwrap()];
        let closed = inputs(&cluster).network_policy("system");
        assert_eq!(peer(&closed), peer(&open));
        assert!(closed["spec"]["ingress"][1]["from"].as_array().unwrap().contains(&shop));
        let ports = closed["spec"]["ingress"][1]["ports"].to_string();
        assert!(ports.contains("2379") && ports.contains("2381") && !ports.contains("2380"), "{ports}");
    }

    /// Goal: pods are replaced when what they are made of changes, and only then.
    #[test]
    fn the_hash_follows_what_pods_are_made_of() {
        let cluster = KvCluster::new("demo", KvClusterSpec::default());
        let template = inputs(&cluster).template();
        let mut other = cluster.clone();
        other.spec.members = 5;
        other.spec.paused = true;
        other.spec.metrics.pod_monitor = true;
        assert_eq!(inputs(&other).template(), template);
        other.spec.node.election_timeout_ms = Some(2000);
        let changed = inputs(&other).template();
        assert!(changed.hash != template.hash && changed.inputs != template.inputs);
        let image = Inputs { image: "kvorum:2", ..inputs(&cluster) }.template();
        assert!(image.hash != template.hash && image.inputs != template.inputs);
        // It is on disk in every cluster: another value restarts them all.
        assert_eq!(hash(&json!({"a": 1})), "9c3e82dd6fcae8b1");
    }

    /// Goal: an affinity of one's own costs nobody the promise that no two members share a machine.
    #[test]
    fn a_required_anti_affinity_stays() {
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let hosts = |spec: Value, anti_affinity| {
            let mut cluster = KvCluster::new("demo", KvClusterSpec::default());
            cluster.spec.pod.affinity = Some(serde_json::from_value(spec).unwrap());
            cluster.spec.pod.anti_affinity = anti_affinity;
            let template = inputs(&cluster).template().template;
            template["spec"]["affinity"]["podAntiAffinity"][required].as_array().map_or(0, Vec::len)
        };
        let term = json!({"topologyKey": "rack", "labelSelector": {}});
        let own = json!({"podAntiAffinity": {required: [term]}});
        let nodes = json!({"nodeAffinity": {}});
        assert_eq!(hosts(nodes.clone(), AntiAffinity::Required), 1);
        assert_eq!(hosts(nodes, AntiAffinity::Preferred), 0, "it is preferred only");
        assert_eq!(hosts(own.clone(), AntiAffinity::Required), 2);
        assert_eq!(hosts(own, AntiAffinity::Preferred), 1);
    }

    /// Goal: where the platform assigns user ids, ours are not in its way.
    #[test]
    fn ids_can_be_left_to_the_platform() {
        let mut cluster = KvCluster::new("demo", KvClusterSpec::default());
        let context =
            |cluster: &KvCluster| inputs(cluster).template().template["spec"]["securityContext"].clone();
        assert_eq!(context(&cluster)["runAsUser"], json!(USER));
        cluster.spec.pod.security_context = Some(Default::default());
        let left = context(&cluster);
        assert!(left["runAsUser"].is_null() && left["fsGroup"].is_null(), "{left}");
        assert_eq!(left["runAsNonRoot"], json!(true));
    }

    /// Goal: the Service is as the spec says, a way from outside restarts nobody, and nobody's labels replace ours.
    #[test]
    fn a_service_for_clients_outside_is_made_as_wanted() {
        let mut cluster = KvCluster::new("demo", KvClusterSpec::default());
        let plain = inputs(&cluster).client_service();
        assert_eq!(plain["spec"]["type"], "ClusterIP");
        assert!(
            plain["metadata"]["annotations"].is_null() && plain["spec"]["ports"][0]["nodePort"].is_null()
        );
        let template = inputs(&cluster).template();
        cluster.spec.service = serde_json::from_value(json!({
            "type": "LoadBalancer", "loadBalancerClass": "a/b", "loadBalancerSourceRanges": ["10.0.0.0/8"],
            "nodePort": 30123, "allocateLoadBalancerNodePorts": true, "externalTrafficPolicy": "Local",
            "ipFamilyPolicy": "PreferDualStack", "annotations": {"external-dns": "kv.example.org"},
            "labels": {"team": "shop", names::LABEL_INSTANCE: "other"},
        }))
        .unwrap();
        let made = inputs(&cluster).client_service();
        for (field, expected) in [
            ("type", json!("LoadBalancer")),
            ("loadBalancerClass", json!("a/b")),
            ("loadBalancerSourceRanges", json!(["10.0.0.0/8"])),
            ("allocateLoadBalancerNodePorts", json!(true)),
            ("externalTrafficPolicy", json!("Local")),
            ("ipFamilyPolicy", json!("PreferDualStack")),
        ] {
            assert_eq!(made["spec"][field], expected, "{field}");
        }
        assert_eq!(made["spec"]["ports"][0]["nodePort"], 30123);
        assert_eq!(made["metadata"]["annotations"]["external-dns"], "kv.example.org");
        let labels = &made["metadata"]["labels"];
        assert_eq!((&labels["team"], &labels[names::LABEL_INSTANCE]), (&json!("shop"), &json!("demo")));
        assert_eq!(inputs(&cluster).template(), template);
    }

    #[test]
    fn reserved_variables_reach_no_pod() {
        let mut cluster = KvCluster::new("demo", KvClusterSpec::default());
        let variable = |name: &str| EnvVar { name: name.into(), ..EnvVar::default() };
        cluster.spec.pod.env = vec![variable("KVORUM_BOOTSTRAP"), variable("RUST_BACKTRACE")];
        let template = inputs(&cluster).template().template;
        let env = template["spec"]["containers"][0]["env"].as_array().unwrap();
        let names: Vec<_> = env.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["POD_NAME", SHUTDOWN_DELAY, "RUST_BACKTRACE"]);
    }

    #[test]
    fn the_memory_limit_fits_the_caches() {
        let node = Node { cache_bytes: Some(1 << 30), ..Node::default() };
        assert_eq!(resources(&Pod::default(), &node)["limits"]["memory"], json!("2560Mi"));
        assert_eq!(resources(&Pod::default(), &Node::default())["limits"]["memory"], json!("704Mi"));
    }

    #[test]
    fn quantities_are_bytes() {
        for (text, expected) in [
            ("10Gi", 10 << 30),
            ("1024Mi", 1 << 30),
            ("1G", 1_000_000_000),
            ("1.5Ki", 1536),
            ("7", 7),
            ("1e3", 1000),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for (number, text) in
            [(10 << 30, "10Gi"), (1536, "1536"), (1 << 20, "1Mi"), (0, "0"), (3 << 61, "6144Pi")]
        {
            assert_eq!((quantity(number).as_str(), bytes(text)), (text, Some(number)));
        }
        for text in ["", "Gi", "-1", "1X", "ten"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
