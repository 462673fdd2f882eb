//! What one needs after a failure: objects, events, and every pod's log.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::kubectl;
use crate::{Result, operator, settings};

/// Everything of a namespace and of the operator, in files below `target/e2e`. What cannot be had is
/// replaced by the reason.
pub async fn everything(namespace: &str, test: &str) -> PathBuf {
    let directory = settings::root().join("target/e2e").join(test);
    let _ = fs::remove_dir_all(&directory);
    if let Err(error) = fs::create_dir_all(&directory) {
        eprintln!("make {}: {error}", directory.display());
    }
    let all =
        "kvclusters,statefulsets,pods,persistentvolumeclaims,services,poddisruptionbudgets,endpointslices";
    keep(&directory, "objects.yaml", kubectl(["get", all, "-n", namespace, "-o", "yaml"]).await);
    keep(&directory, "overview.txt", kubectl(["get", all, "-n", namespace, "-o", "wide"]).await);
    keep(&directory, "events.txt", kubectl(["events", "-n", namespace]).await);
    let issuing = "certificates,certificaterequests,issuers";
    keep(&directory, "cert-manager.txt", kubectl(["describe", issuing, "-n", namespace]).await);
    keep(&directory, "machines.txt", kubectl(["describe", "nodes"]).await);
    logs(&directory, namespace).await;
    logs(&directory, operator::NAMESPACE).await;
    directory
}

async fn logs(directory: &Path, namespace: &str) {
    let Ok(pods) = kubectl(["get", "pods", "-n", namespace, "-o", "name"]).await else { return };
    for pod in pods.lines() {
        let file = pod.trim_start_matches("pod/");
        keep(
            directory,
            &format!("{file}.log"),
            kubectl(["logs", "-n", namespace, pod, "--timestamps"]).await,
        );
        if let Ok(before) = kubectl(["logs", "-n", namespace, pod, "--previous", "--timestamps"]).await {
            keep(directory, &format!("{file}.previous.log"), Ok(before));
        }
    }
}

fn keep(directory: &Path, file: &str, content: Result<String>) {
    let text = content.unwrap_or_else(|failure| failure.to_string());
    if let Err(error) = fs::write(directory.join(file), text) {
        eprintln!("write {file}: {error}");
    }
}
