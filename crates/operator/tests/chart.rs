//! Goal: what is delivered fits the code. The definition and the manifests are those that the operator
//! and the chart make; every variant of the chart is what Kubernetes' types allow; every metric that a
//! rule, a panel or a page names is registered somewhere; every alert is explained and has fired.
//!
//! Method: the files are compared with each other, and with the names in the source of the metrics.
//! helm and promtool are asked where they are at hand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kvorum_crd::{AuthMode, KvCluster, KvClusterSpec, TlsMode};
use kvorum_operator::build::Inputs;
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

const CHART: &str = "charts/kvorum-operator";

#[test]
fn the_definition_is_the_operators() {
    let printed = serde_yaml_ng::to_string(&kvorum_crd::definition()).unwrap();
    for file in ["charts/kvorum-operator/files/crd.yaml", "manifests/crd.yaml"] {
        assert!(read(file) == printed, "{file} is not what the operator prints: run `make manifests`");
    }
}

#[test]
fn the_install_manifest_is_the_charts() {
    if !at_hand("helm", &["version"]) {
        return;
    }
    let printed = output(&mut Command::new(root().join("scripts/manifests")));
    let file = "manifests/install.yaml";
    assert!(read(file) == printed, "{file} is not what the chart makes: run `make manifests`");
}

#[test]
fn every_variant_of_the_chart_is_valid() {
    if !at_hand("helm", &["version"]) {
        return;
    }
    output(Command::new("helm").args(["lint", "--strict", CHART]));
    for values in files("charts/kvorum-operator/ci", "-values.yaml") {
        let mut helm = Command::new("helm");
        helm.args(["template", "kvorum", CHART, "--namespace", "kvorum-system", "--kube-version", "1.34.0"]);
        let rendered = output(helm.arg("--values").arg(&values));
        let objects = objects(&rendered);
        assert!(objects.len() >= 5, "{}: {} objects", values.display(), objects.len());
        for object in &objects {
            check(object, &values);
        }
    }
}

#[test]
fn the_chart_refuses_values_that_it_does_not_have() {
    if !at_hand("helm", &["version"]) {
        return;
    }
    for set in [
        "replica=2",
        "image.pullPolicy=Sometimes",
        "replicas=-1",
        "metrics.podMonitor.enable=true",
        "watchNamespaces={A}",
        "watchNamespace=a",
    ] {
        let mut helm = Command::new("helm");
        helm.args(["template", "kvorum", CHART, "--kube-version", "1.34.0", "--set", set]);
        let refused = helm.current_dir(root()).output().unwrap();
        assert!(!refused.status.success(), "--set {set} is taken");
    }
}

/// Goal: two releases beside each other, or one whose watch was changed, do not wait for each other; and an operator
/// has a right to its own Lease and no other, wherever it watches.
#[test]
fn each_release_and_watch_has_a_lease_of_its_own() {
    if !at_hand("helm", &["version"]) {
        return;
    }
    let mut leases = BTreeSet::new();
    for (release, namespaces) in [
        ("kvorum-operator", "[]"),
        ("a", "[]"),
        ("a", r#"["team-a"]"#),
        ("a", r#"["team-b","team-a"]"#),
        ("b", r#"["team-a"]"#),
    ] {
        let mut helm = Command::new("helm");
        helm.args(["template", release, CHART, "--kube-version", "1.34.0", "--namespace", "system"]);
        let rendered = objects(&output(helm.args(["--set-json", &format!("watchNamespaces={namespaces}")])));
        let of = |kind: &'static str| rendered.iter().filter(move |object| object["kind"] == kind);
        let deployment = of("Deployment").next().expect("there is an operator");
        let arguments: Vec<&str> = list(&deployment["spec"]["template"]["spec"]["containers"][0]["args"])
            .filter_map(Value::as_str)
            .collect();
        let flag = |name: &str| arguments.iter().find_map(|argument| argument.strip_prefix(name));
        let lease = flag("--lease-name=").expect("it is told its Lease");
        assert!(leases.insert(lease.to_owned()), "{release} that watches {namespaces} shares {lease}");
        let named =
            of("Role").flat_map(|role| list(&role["rules"])).filter(|rule| rule["resourceNames"].is_array());
        let named: Vec<&Value> = named.map(|rule| &rule["resourceNames"][0]).collect();
        assert_eq!(named, [lease]);
        let roles = of("Role").filter(|role| role["metadata"]["namespace"] != "system").count();
        let watched = flag("--watch-namespace=").map_or(0, |names| names.split(',').count());
        assert_eq!(roles, watched, "a Role for each namespace that is watched");
    }
    assert!(leases.contains("kvorum-operator"), "the Lease of releases before this one: {leases:?}");
}

/// The chart's objects with one value set.
fn rendered_with(set: &str) -> Vec<Value> {
    let mut helm = Command::new("helm");
    objects(&output(helm.args(["template", "kvorum", CHART, "--kube-version", "1.34.0", "--set", set])))
}

/// Goal: `helm test` passes where images are pulled with a secret.
#[test]
fn the_test_cluster_pulls_with_the_operators_secrets() {
    if !at_hand("helm", &["version"]) {
        return;
    }
    let rendered = rendered_with("image.pullSecrets[0].name=mine");
    let cluster = rendered.iter().find(|object| object["kind"] == "KvCluster").expect("the test makes one");
    assert_eq!(cluster["spec"]["pod"]["imagePullSecrets"][0]["name"], "mine");
}

/// Goal: `helm test` passes with certificates, and where the operator may make none. Method: what its cluster and its client
/// say of TLS and tokens fits together.
#[test]
fn the_test_cluster_is_secure_where_it_can_be() {
    if !at_hand("helm", &["version"]) {
        return;
    }
    for (set, secure) in [("replicas=1", true), ("rbac.secrets=false", false)] {
        let rendered = rendered_with(set);
        let of = |kind: &str| rendered.iter().find(|object| object["kind"] == kind).expect("the test has it");
        let (cluster, client) = (of("KvCluster"), of("Pod"));
        assert_eq!(cluster["spec"]["tls"]["mode"] == "Disabled", !secure, "{set}");
        let named = |field: &str| cluster["metadata"][field].as_str().expect("it is said").to_owned();
        let (name, namespace) = (named("name"), named("namespace"));
        let sources = &client["spec"]["volumes"][0]["projected"]["sources"];
        assert_eq!(sources.is_array(), secure, "{set}");
        if secure {
            assert_eq!(sources[0]["configMap"]["name"], format!("{name}-ca"));
            let token = &sources[1]["serviceAccountToken"];
            assert_eq!(token["audience"], format!("kvorum.io/{namespace}/{name}"));
            let account = client["spec"]["serviceAccountName"].as_str().unwrap_or("default");
            let entry = &cluster["spec"]["access"][0];
            assert_eq!(entry["serviceAccounts"][0], format!("{namespace}/{account}"));
        }
    }
}

/// Goal: whoever takes the operator over reads no Secret whose name he does not know; and the rights can be withheld.
#[test]
fn secrets_cannot_be_listed() {
    if !at_hand("helm", &["version"]) {
        return;
    }
    let verbs = |rendered: &[Value]| {
        let roles = rendered
            .iter()
            .filter(|object| ["Role", "ClusterRole"].contains(&object["kind"].as_str().unwrap()));
        let rules: Vec<Value> =
            roles.flat_map(|role| list(&role["rules"]).cloned().collect::<Vec<_>>()).collect();
        let of_secrets =
            rules.into_iter().filter(|rule| list(&rule["resources"]).any(|one| one == "secrets"));
        of_secrets.flat_map(|rule| list(&rule["verbs"]).cloned().collect::<Vec<_>>()).collect::<Vec<Value>>()
    };
    assert_eq!(verbs(&rendered_with("replicas=1")), ["get", "create", "patch", "delete"]);
    assert!(verbs(&rendered_with("rbac.secrets=false")).is_empty());
}

/// The alerts read one set of labels, whoever has the members scraped.
#[test]
fn the_charts_pod_monitor_labels_members_as_the_operators_does() {
    if !at_hand("helm", &["version"]) {
        return;
    }
    let members = |object: &&Value| {
        object["kind"] == "PodMonitor" && object["metadata"]["name"].as_str().unwrap().ends_with("-members")
    };
    let mut charts =
        rendered_with("metrics.podMonitor.enabled=true").iter().find(members).unwrap()["spec"]["podMetricsEndpoints"].clone();
    let cluster = KvCluster::new("demo", KvClusterSpec::default());
    let (name, namespace, uid, image) = ("demo", "default", "u", "kvorum:1");
    let inputs = Inputs {
        cluster: &cluster,
        name,
        namespace,
        uid,
        image,
        pinned: image,
        pull_policy: None,
        incarnation: 1,
        tls: TlsMode::Disabled,
        auth: AuthMode::Disabled,
        policy: false,
    };
    charts[0].as_object_mut().unwrap().remove("interval");
    assert_eq!(inputs.pod_monitor()["spec"]["podMetricsEndpoints"], charts);
}

#[test]
fn the_manifests_are_valid() {
    let samples = files("manifests/samples", ".yaml");
    assert!(samples.len() >= 4, "samples from the smallest to production, and a client");
    for file in samples.iter().cloned().chain([root().join("manifests/install.yaml")]) {
        for object in objects(&read(&file)) {
            check(&object, &file);
        }
    }
}

#[test]
fn every_metric_that_is_named_exists() {
    let registered = registered();
    assert!(registered.len() > 50, "{registered:?}");
    let mut named = BTreeMap::new();
    let pages = ["README.md", "ARCHITECTURE.md", "docs/operations.md"].map(|page| root().join(page));
    let charts = files("charts/kvorum-operator/files", "rules.yaml");
    let charts = charts.into_iter().chain(files("charts/kvorum-operator/files", "dashboard.json"));
    for file in charts.chain(pages.into_iter().filter(|page| page.exists())) {
        for name in names_in(&read(&file)) {
            named.insert(name, file.clone());
        }
    }
    assert!(named.len() > 20, "{named:?}");
    for (name, file) in named {
        assert!(registered.contains(&name), "{} names {name}, which nobody registers", file.display());
    }
}

#[test]
fn every_alert_has_a_section_and_has_fired() {
    let rules: Value = serde_yaml_ng::from_str(&read("charts/kvorum-operator/files/rules.yaml")).unwrap();
    let tests: Value = serde_yaml_ng::from_str(&read("charts/kvorum-operator/ci/rules_test.yaml")).unwrap();
    let tested: BTreeSet<&str> = list(&tests["tests"]).filter_map(|test| test["name"].as_str()).collect();
    let page = read("docs/operations.md");
    let groups = list(&rules["groups"]);
    let alerts: Vec<&Value> = groups.flat_map(|group| list(&group["rules"])).collect();
    assert!(alerts.len() > 10);
    for alert in alerts {
        let name = alert["alert"].as_str().expect("every rule is an alert");
        assert!(page.contains(&format!("\n### {name}\n")), "docs/operations.md has no section {name}");
        let link = alert["annotations"]["runbook_url"].as_str().expect("every alert has a runbook");
        assert!(link.ends_with(&format!("docs/operations.md#{}", name.to_lowercase())), "{link}");
        assert!(tested.contains(name), "ci/rules_test.yaml has no case for {name}");
    }
    if at_hand("promtool", &["--version"]) {
        let files = [("check", "charts/kvorum-operator/files/rules.yaml")];
        for (task, file) in files.into_iter().chain([("test", "charts/kvorum-operator/ci/rules_test.yaml")]) {
            output(Command::new("promtool").args([task, "rules", file]));
        }
    }
}

/// Goal: no promise without an exam: each test that the table of promises names is there.
#[test]
fn every_promise_has_its_test() {
    let page = read("docs/operations.md");
    let table = page.split("\n## What it promises").nth(1).and_then(|rest| rest.split("\n## ").next());
    let rows: Vec<&str> =
        table.expect("there is a table").lines().filter(|line| line.starts_with("| ")).collect();
    let folders = ["operator/src", "operator/tests", "crd/src", "e2e/tests", "faults/tests"];
    let sources: String =
        folders.iter().flat_map(|folder| sources(&root().join("crates").join(folder))).collect();
    assert!(rows.len() > 20, "{} promises", rows.len());
    for row in rows.iter().filter(|row| !row.starts_with("| promise ")) {
        let exams = row.rsplit(" | ").next().expect("a row has an end");
        let named: Vec<&str> =
            exams.split('`').skip(1).step_by(2).filter(|name| !name.contains('/')).collect();
        assert!(!named.is_empty(), "nothing shows this: {row}");
        for name in named {
            assert!(sources.contains(&format!("fn {name}(")), "there is no test {name}");
        }
    }
}

/// The text of all Rust files below a directory.
fn sources(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let paths = entries.map(|entry| entry.expect("the directory stays").path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => sources(&path),
            false if path.extension().is_some_and(|end| end == "rs") => vec![read(&path)],
            false => Vec::new(),
        })
        .collect()
}

/// The names in the source of the metrics, a histogram's with what Prometheus makes of it.
fn registered() -> BTreeSet<String> {
    let mut sources = files("crates/node/src/metrics", ".rs");
    sources.extend(
        ["crates/node/src/metrics.rs", "crates/operator/src/metrics.rs"].map(|file| root().join(file)),
    );
    let text: String = sources.iter().map(read).collect();
    let literals = text.split('"').skip(1).step_by(2);
    let is_name = |text: &&str| text.starts_with("kvorum_") && text.bytes().all(is_of_name);
    let names: BTreeSet<&str> = literals.filter(is_name).collect();
    let series = |name: &str| ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}"));
    let of_histograms = names.iter().filter(|name| name.ends_with("_seconds")).flat_map(|name| series(name));
    of_histograms.chain(names.iter().map(|name| (*name).to_owned())).collect()
}

fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii() || !is_of_name(c as u8));
    // `kvorum_client` and `kvorum_node` are crates.
    let names = words.filter(|word| word.starts_with("kvorum_") && word.matches('_').count() > 1);
    names.map(str::to_owned).collect()
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'
}

/// Refuses fields that the object's type does not have, which the API server would drop.
fn check(object: &Value, file: &Path) {
    let kind = object["kind"].as_str().unwrap_or_default();
    let typed = match kind {
        "ClusterRole" => again::<ClusterRole>(object),
        "ClusterRoleBinding" => again::<ClusterRoleBinding>(object),
        "ConfigMap" => again::<ConfigMap>(object),
        "CustomResourceDefinition" => again::<CustomResourceDefinition>(object),
        "Deployment" => again::<Deployment>(object),
        "KvCluster" => again::<KvCluster>(object),
        "Namespace" => again::<Namespace>(object),
        "Pod" => again::<Pod>(object),
        "PodDisruptionBudget" => again::<PodDisruptionBudget>(object),
        "Role" => again::<Role>(object),
        "RoleBinding" => again::<RoleBinding>(object),
        "Service" => again::<Service>(object),
        "ServiceAccount" => again::<ServiceAccount>(object),
        // Of the Prometheus operator: its types are not ours.
        "PodMonitor" | "PrometheusRule" => return assert!(object["spec"].is_object(), "{}", file.display()),
        _ => panic!("{}: an object of kind {kind:?}", file.display()),
    };
    let typed = typed.unwrap_or_else(|error| panic!("{}: {kind}: {error}", file.display()));
    if let Some(path) = missing(object, &typed) {
        panic!("{}: {kind} has no field {path}", file.display());
    }
    if ["Deployment", "Pod"].contains(&kind) {
        let pod = if kind == "Pod" { &object["spec"] } else { &object["spec"]["template"]["spec"] };
        assert!(is_restricted(pod), "{}: {kind} is not restricted", file.display());
    }
}

fn again<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<T>(object.clone())?)
}

/// The first field that is lost on the way through a type.
fn missing(given: &Value, typed: &Value) -> Option<String> {
    match (given, typed) {
        (Value::Object(given), Value::Object(typed)) => given.iter().find_map(|(key, value)| {
            let empty = value.is_null() || value.as_object().is_some_and(|fields| fields.is_empty());
            match typed.get(key) {
                None if empty => None,
                None => Some(key.clone()),
                Some(typed) => missing(value, typed).map(|path| format!("{key}.{path}")),
            }
        }),
        (Value::Array(given), Value::Array(typed)) => {
            given.iter().zip(typed).find_map(|(given, typed)| missing(given, typed))
        }
        _ => None,
    }
}

/// As Pod Security's restricted level asks for.
fn is_restricted(pod: &Value) -> bool {
    let security = &pod["securityContext"];
    let of_pod = security["runAsNonRoot"] == true && security["seccompProfile"]["type"] == "RuntimeDefault";
    let mut containers = list(&pod["containers"]).map(|container| &container["securityContext"]);
    of_pod
        && containers.all(|security| {
            security["allowPrivilegeEscalation"] == false
                && security["readOnlyRootFilesystem"] == true
                && security["capabilities"]["drop"] == serde_json::json!(["ALL"])
        })
}

fn objects(text: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(text);
    let objects = documents.map(|document| Value::deserialize(document).expect("it is YAML"));
    objects.filter(|object| !object.is_null()).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Says so where a program is not there.
fn at_hand(program: &str, arguments: &[&str]) -> bool {
    let there = Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("skipped: {program} is not installed");
    }
    there
}

fn output(command: &mut Command) -> String {
    let output = command.current_dir(root()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    out.into_owned()
}

fn files(directory: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(directory)).unwrap_or_else(|error| panic!("{directory}: {error}"));
    let paths = entries.map(|entry| entry.expect("the directory stays").path());
    let mut files: Vec<PathBuf> = paths.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    files.sort();
    files
}

fn read(file: impl AsRef<Path>) -> String {
    let file = root().join(file);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
