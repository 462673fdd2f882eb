//! `kubectl kvorum report`: all that a maintainer asks for, in a tar file. No keys and no values are in it, nor values
//! of environment variables.

mod redact;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, LogParams};
use kube::{Api, Resource, ResourceExt as _};
use kvorum_cli::failure::Failure;
use kvorum_cli::output::Output;
use kvorum_client::admin::AdminClient;
use kvorum_operator::names::{self, HTTP_PORT};
use kvorum_operator::plan::plan;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use self::redact::redact;
use crate::observe::look;
use crate::session::Session;

/// So many objects of a kind are taken at most.
const OBJECTS_MAX: u32 = 500;
/// So much of a pod's log is taken at most, its end.
const LOG_BYTES_MAX: i64 = 8 << 20;
const LOG_LINES_MAX: i64 = 50_000;
/// So much of a member's metrics is taken at most.
const METRICS_BYTES_MAX: u64 = 8 << 20;
/// How long anything of one member may take.
const MEMBER_MAX: Duration = Duration::from_secs(10);
/// The operator's pods, wherever they are.
const OPERATOR: &str = "app.kubernetes.io/name=kvorum-operator";

pub(crate) async fn report(
    session: &Session,
    name: &str,
    file: Option<PathBuf>,
    output: &mut Output,
) -> Result<(), Failure> {
    let cluster = session.cluster(name).await?;
    let path = file.unwrap_or_else(|| PathBuf::from(format!("kvorum-report-{name}.tar")));
    let written = |error: io::Error| Failure::Other(format!("write {}: {error}", path.display()));
    let mut report = Report::begin(File::create(&path).map_err(written)?, name);
    report.object("kvcluster.yaml", Ok(cluster)).map_err(written)?;
    objects(session, name, &mut report).await.map_err(written)?;
    let pods = members(session, name, &mut report).await.map_err(written)?;
    foreseen(session, name, &mut report).await.map_err(written)?;
    operators(session, &mut report).await.map_err(written)?;
    let (files, missing) = report.end().map_err(written)?;
    let lacks = if missing == 0 {
        String::new()
    } else {
        format!(", and {missing} could not be read, see missing.txt")
    };
    output.line(
        format!("{}: {files} files of {pods} members{lacks}", path.display()),
        json!({"file": path.display().to_string(), "files": files, "missing": missing}),
    )
}

/// What Kubernetes has of the cluster.
async fn objects(session: &Session, name: &str, report: &mut Report) -> io::Result<()> {
    let ours = ListParams::default().labels(&names::selector_text(name)).limit(OBJECTS_MAX);
    let all = ListParams::default().limit(OBJECTS_MAX);
    report.object("statefulsets.yaml", session.api::<StatefulSet>().list(&ours).await)?;
    report.object("pods.yaml", session.api::<Pod>().list(&ours).await)?;
    report.object("claims.yaml", session.api::<PersistentVolumeClaim>().list(&ours).await)?;
    report.object("services.yaml", session.api::<Service>().list(&ours).await)?;
    report.object("disruption-budgets.yaml", session.api::<PodDisruptionBudget>().list(&ours).await)?;
    report.object("events.yaml", session.api::<Event>().list(&all).await)?;
    report.object("machines.yaml", cluster_wide::<Node>(session).list(&all).await)?;
    report.object("volumes.yaml", cluster_wide::<PersistentVolume>(session).list(&all).await)
}

fn cluster_wide<K: Resource<DynamicType = ()> + Clone + DeserializeOwned>(session: &Session) -> Api<K> {
    Api::all(session.client.clone())
}

/// What each member says: its log, its status, its metrics.
async fn members(session: &Session, name: &str, report: &mut Report) -> io::Result<usize> {
    let ours = ListParams::default().labels(&names::selector_text(name)).limit(OBJECTS_MAX);
    let pods = match session.api::<Pod>().list(&ours).await {
        Ok(pods) => pods.items,
        Err(error) => return report.missing("members", &error).map(|()| 0),
    };
    for pod in &pods {
        let pod = pod.name_any();
        logs(&session.api::<Pod>(), &format!("members/{pod}"), &pod, Some(names::CONTAINER), report).await?;
        let (status, metrics) = tokio::join!(status(session, name, &pod), metrics(session, &pod));
        report.text(&format!("members/{pod}/status.txt"), status)?;
        report.text(&format!("members/{pod}/metrics.txt"), metrics)?;
    }
    Ok(pods.len())
}

async fn logs(
    api: &Api<Pod>,
    folder: &str,
    pod: &str,
    container: Option<&str>,
    report: &mut Report,
) -> io::Result<()> {
    let params = |previous| LogParams {
        container: container.map(str::to_owned),
        limit_bytes: Some(LOG_BYTES_MAX),
        tail_lines: Some(LOG_LINES_MAX),
        timestamps: true,
        previous,
        ..LogParams::default()
    };
    report.text(&format!("{folder}/log.txt"), api.logs(pod, &params(false)).await)?;
    // A container that was never started again has no log before this one.
    match api.logs(pod, &params(true)).await {
        Ok(log) => report.text(&format!("{folder}/log-before.txt"), Ok::<_, kube::Error>(log)),
        Err(_) => Ok(()),
    }
}

async fn status(session: &Session, name: &str, pod: &str) -> Result<String, String> {
    // As its certificate has it.
    let ordinal = names::ordinal(pod, name).ok_or_else(|| format!("{pod} is no pod of {name}"))?;
    let address = names::address(name, &session.namespace, ordinal, names::PEER_PORT);
    let node = AdminClient::new(&address, MEMBER_MAX).map_err(|error| error.to_string())?;
    let connect = session.connect_options(name).await.map_err(|failure| format!("{failure:?}"))?;
    let status = node.connect_options(connect).status().await;
    status.map(|status| format!("{status:#?}\n")).map_err(|error| error.to_string())
}

async fn metrics(session: &Session, pod: &str) -> Result<String, String> {
    let port = HTTP_PORT as u16;
    let read = async {
        let mut stream = session.forward().open(pod, port).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = String::new();
        stream.take(METRICS_BYTES_MAX).read_to_string(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(MEMBER_MAX, read).await;
    let answer = answer.map_err(|_| format!("no answer within {} s", MEMBER_MAX.as_secs()))?;
    let answer = answer.map_err(|error| error.to_string())?;
    // The head of the answer says nothing of the member.
    answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .ok_or_else(|| "the answer was cut off".to_owned())
}

/// What the operator makes of it, seen from here.
async fn foreseen(session: &Session, name: &str, report: &mut Report) -> io::Result<()> {
    let seen = look(session, name).await.map(|seen| {
        let plan = plan(&seen.observed);
        format!("{plan:#?}\n\n{:#?}\n", seen.observed)
    });
    report.text("plan.txt", seen.map_err(|failure| format!("{failure:?}")))
}

async fn operators(session: &Session, report: &mut Report) -> io::Result<()> {
    let theirs = ListParams::default().labels(OPERATOR).limit(OBJECTS_MAX);
    let pods = match cluster_wide::<Pod>(session).list(&theirs).await {
        Ok(pods) => pods.items,
        Err(error) => return report.missing("operator", &error),
    };
    for pod in &pods {
        let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
        let api: Api<Pod> = Api::namespaced(session.client.clone(), &namespace);
        logs(&api, &format!("operator/{namespace}/{name}"), &name, None, report).await?;
    }
    report.object("operator/pods.yaml", Ok::<_, kube::Error>(pods))
}

/// The file as it is being written.
struct Report {
    tar: tar::Builder<File>,
    /// All is below one folder.
    folder: String,
    files: usize,
    missing: Vec<String>,
}

impl Report {
    fn begin(file: File, name: &str) -> Report {
        let folder = format!("kvorum-report-{name}");
        Report { tar: tar::Builder::new(file), folder, files: 0, missing: Vec::new() }
    }

    fn object<T: Serialize>(&mut self, path: &str, read: Result<T, kube::Error>) -> io::Result<()> {
        let object = match read {
            Ok(object) => object,
            Err(error) => return self.missing(path, &error),
        };
        let mut value = serde_json::to_value(object).unwrap_or(Value::Null);
        redact(&mut value);
        self.text(path, serde_yaml_ng::to_string(&value))
    }

    fn text(&mut self, path: &str, read: Result<String, impl std::fmt::Display>) -> io::Result<()> {
        match read {
            Ok(text) => self.add(path, text.as_bytes()),
            Err(error) => self.missing(path, &error),
        }
    }

    fn add(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|now| now.as_secs());
        header.set_mtime(now.unwrap_or_default());
        self.files += 1;
        self.tar.append_data(&mut header, format!("{}/{path}", self.folder), bytes)
    }

    /// What cannot be read is no reason to leave out the rest.
    fn missing(&mut self, path: &str, why: &impl std::fmt::Display) -> io::Result<()> {
        self.missing.push(format!("{path}: {why}"));
        Ok(())
    }

    fn end(mut self) -> io::Result<(usize, usize)> {
        let missing = self.missing.len();
        if missing > 0 {
            let said = self.missing.join("\n") + "\n";
            self.add("missing.txt", said.as_bytes())?;
        }
        self.tar.into_inner()?.sync_all()?;
        Ok((self.files, missing))
    }
}
