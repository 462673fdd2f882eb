//! A Prometheus that scrapes what the chart's PodMonitors name. The Prometheus operator would make its
//! configuration from them; here it is made by the same rules, with the targets in a file, since not
//! every build of Prometheus can ask Kubernetes itself. Alerts are the chart's.

use std::fs;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::core::{DynamicObject, TypeMeta};
use kube::{Api, ResourceExt as _};
use kvorum_operator::memory::host_port;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{Context as _, Result, Test, command, ensure, operator, settings, wait};

/// Prometheus reads its log of writes and opens its port within this.
const START_LIMIT: Duration = Duration::from_secs(30);
/// What stands for the rules' own patience: their expressions are what is tested here.
const PATIENCE: &str = "1s";

/// A Prometheus that runs here. Dropped, it is killed.
pub struct Prometheus {
    address: String,
    directory: TempDir,
    monitors: Vec<Monitor>,
    _process: Child,
}

/// What a PodMonitor says.
struct Monitor {
    name: String,
    selector: String,
    namespace: Option<String>,
    endpoint: Value,
}

/// An alert that fires.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alert {
    /// Its name.
    pub name: String,
    /// The namespace it is about.
    pub namespace: String,
}

impl Prometheus {
    /// Starts one with the chart's PodMonitors and alerts, the latter without their patience; `None`, and
    /// a line that says so, where there is no Prometheus.
    pub async fn start() -> Result<Option<Prometheus>> {
        if command::output("prometheus", ["--version"]).await.is_err() {
            eprintln!("skipped: there is no prometheus here");
            return Ok(None);
        }
        let shipped = command::helm([
            "template",
            operator::RELEASE,
            operator::CHART,
            "--namespace",
            operator::NAMESPACE,
            "--kube-version",
            "1.34.0",
            "--set",
            "metrics.podMonitor.enabled=true",
            "--set",
            "metrics.podMonitor.interval=1s",
            "--show-only",
            "templates/podmonitor.yaml",
        ])
        .await?;
        let monitors = monitors(&shipped)?;
        let directory = tempfile::tempdir()?;
        let rules = fs::read_to_string(settings::root().join(operator::CHART).join("files/rules.yaml"))?;
        let impatient = rules.lines().map(|line| match line.trim_start().starts_with("for: ") {
            true => format!("{}for: {PATIENCE}\n", &line[..line.len() - line.trim_start().len()]),
            false => format!("{line}\n"),
        });
        fs::write(directory.path().join("rules.yaml"), impatient.collect::<String>())?;
        let jobs: Vec<Value> = monitors.iter().map(job).collect();
        let configuration = json!({
            "global": {"evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": jobs,
        });
        fs::write(directory.path().join("prometheus.yml"), configuration.to_string())?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut command = Command::new("prometheus");
        command.current_dir(directory.path()).arg("--config.file=prometheus.yml");
        command.arg(format!("--web.listen-address={address}")).arg("--storage.tsdb.path=data");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().context("start prometheus")?;
        let prometheus = Prometheus { address, directory, monitors, _process: process };
        wait::until("the start of Prometheus", START_LIMIT, async || prometheus.get("/-/ready").await)
            .await?;
        Ok(Some(prometheus))
    }

    /// Looks which pods the PodMonitors select now; answers how many there are.
    pub async fn discover(&self, test: &Test) -> Result<usize> {
        let mut count = 0;
        for monitor in &self.monitors {
            let api: Api<Pod> = match &monitor.namespace {
                Some(namespace) => Api::namespaced(test.client.clone(), namespace),
                // All, of which one is this test's: in others pods come and go as other tests will.
                None => test.api(),
            };
            let pods = api.list(&ListParams::default().labels(&monitor.selector)).await?;
            let targets: Vec<Value> = pods.iter().filter_map(|pod| target(pod, &monitor.endpoint)).collect();
            count += targets.len();
            let file = self.directory.path().join(format!("{}.json", monitor.name));
            // Renamed into its place, so that Prometheus never reads half a file.
            let part = file.with_extension("part");
            fs::write(&part, json!(targets).to_string())?;
            fs::rename(&part, &file)?;
        }
        Ok(count)
    }

    /// The value of each series that an expression gives, with its labels.
    pub async fn query(&self, expression: &str) -> Result<Vec<(Value, f64)>> {
        let answer = self.get(&format!("/api/v1/query?query={}", escape(expression))).await?;
        let answer: Value = serde_json::from_str(&answer)?;
        let series =
            answer["data"]["result"].as_array().cloned().context(format!("{answer} is no result"))?;
        let value = |series: &Value| series["value"][1].as_str().and_then(|value| value.parse().ok());
        Ok(series
            .into_iter()
            .filter_map(|series| Some((series["metric"].clone(), value(&series)?)))
            .collect())
    }

    /// The alerts that fire.
    pub async fn alerts(&self) -> Result<Vec<Alert>> {
        let series = self.query("ALERTS{alertstate=\"firing\"}").await?;
        let text = |labels: &Value, label: &str| labels[label].as_str().unwrap_or_default().to_owned();
        let alert =
            |labels: Value| Alert { name: text(&labels, "alertname"), namespace: text(&labels, "namespace") };
        let mut alerts: Vec<Alert> = series.into_iter().map(|(labels, _)| alert(labels)).collect();
        alerts.sort();
        alerts.dedup();
        Ok(alerts)
    }

    /// Waits until an alert fires that is about this test's namespace, or about none.
    pub async fn fires(&self, test: &Test, name: &str, within: Duration) -> Result<()> {
        wait::until(&format!("the alert {name}"), within, async || {
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.discover(test).await?;
            let alerts = self.alerts().await?;
            let fires = alerts.iter().any(|alert| {
                alert.name == name && (alert.namespace.is_empty() || alert.namespace == test.namespace)
            });
            ensure!(fires, "these fire: {alerts:?}");
            Ok(())
        })
        .await?;
        test.say(format!("{name} fires"));
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<String> {
        command::output(
            "curl",
            ["--silent", "--show-error", "--fail", &format!("http://{}{path}", self.address)],
        )
        .await
    }
}

/// The PodMonitors among rendered objects.
fn monitors(rendered: &str) -> Result<Vec<Monitor>> {
    let mut found = Vec::new();
    for document in rendered.split("\n---") {
        let Ok(object) = serde_yaml_ng::from_str::<DynamicObject>(document) else { continue };
        if object.types.as_ref().is_none_or(|TypeMeta { kind, .. }| kind != "PodMonitor") {
            continue;
        }
        let spec = &object.data["spec"];
        let labels = spec["selector"]["matchLabels"].as_object().context("a PodMonitor selects by labels")?;
        let selector: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let everywhere = spec["namespaceSelector"]["any"] == json!(true);
        found.push(Monitor {
            name: object.name_any(),
            selector: selector.join(","),
            namespace: if everywhere { None } else { object.namespace() },
            endpoint: spec["podMetricsEndpoints"][0].clone(),
        });
    }
    ensure!(found.len() == 2, "the chart has {} PodMonitors", found.len());
    Ok(found)
}

/// The scrape configuration of a PodMonitor: the labels that the Prometheus operator always sets, then
/// what the PodMonitor says.
fn job(monitor: &Monitor) -> Value {
    let mut relabelings = vec![
        json!({"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"}),
        json!({"source_labels": ["__meta_kubernetes_pod_container_name"], "target_label": "container"}),
        json!({"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"}),
    ];
    for relabeling in monitor.endpoint["relabelings"].as_array().into_iter().flatten() {
        relabelings.push(json!({
            "source_labels": relabeling["sourceLabels"], "target_label": relabeling["targetLabel"],
        }));
    }
    json!({
        "job_name": monitor.name,
        "metrics_path": monitor.endpoint["path"],
        "scrape_interval": monitor.endpoint["interval"],
        "scrape_timeout": monitor.endpoint["interval"],
        "honor_labels": monitor.endpoint["honorLabels"] == json!(true),
        "file_sd_configs": [{"files": [format!("{}.json", monitor.name)], "refresh_interval": "1s"}],
        "relabel_configs": relabelings,
    })
}

/// A pod with the labels that Prometheus' own discovery would give it.
fn target(pod: &Pod, endpoint: &Value) -> Option<Value> {
    let address = pod.status.as_ref()?.pod_ip.as_ref()?;
    let containers = &pod.spec.as_ref()?.containers;
    let (container, port) = containers.iter().find_map(|container| {
        let mut ports = container.ports.iter().flatten();
        let port = ports.find(|port| port.name.as_deref() == endpoint["port"].as_str())?;
        Some((container.name.clone(), port.container_port))
    })?;
    let mut labels = json!({
        "__meta_kubernetes_namespace": pod.namespace(),
        "__meta_kubernetes_pod_name": pod.name_any(),
        "__meta_kubernetes_pod_container_name": container,
    });
    for (key, value) in pod.labels() {
        let key: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        labels[format!("__meta_kubernetes_pod_label_{key}")] = json!(value);
    }
    Some(json!({"targets": [host_port(address, port)], "labels": labels}))
}

/// Percent-encodes everything but letters and digits.
fn escape(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}
