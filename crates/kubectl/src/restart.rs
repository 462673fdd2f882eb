//! `kubectl kvorum restart`: all pods anew, one at a time.

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kvorum_cli::failure::Failure;
use kvorum_cli::output::Output;
use kvorum_crd::KvCluster;
use kvorum_operator::names;
use serde_json::json;

use crate::session::{Session, refused};

pub(crate) async fn restart(session: &Session, name: &str, output: &mut Output) -> Result<(), Failure> {
    let cluster = session.cluster(name).await?;
    if cluster.spec.paused {
        return Err(Failure::Other(format!(
            "KvCluster {name} is paused, so that nothing would happen; set spec.paused to false first"
        )));
    }
    let now = Timestamp::now().to_string();
    let patch = json!({"spec": {"pod": {"annotations": {names::RESTARTED_AT: now}}}});
    let patched =
        session.api::<KvCluster>().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched.map_err(|error| refused(&format!("change KvCluster {name}"), &error))?;
    output.line(
        format!("the pods of {name} are replaced one at a time, the leader's last; kubectl kvorum status {name} -w"),
        json!({"name": name, "restarted_at": now}),
    )
}
