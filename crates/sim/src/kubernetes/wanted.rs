//! What the KvCluster is to be like in the end.

use super::Kubernetes;
use super::controllers::{CLAIMS, PODS};
use super::objects::goes;
use super::server::{CLUSTER, is_ready};

/// On pods and on the template: a hash of it.
const TEMPLATE: &str = "kvorum.io/template";
/// On a claim: whose disk it is.
const NODE_ID: &str = "kvorum.io/node-id";

impl Kubernetes {
    /// What is not as wanted yet, if anything.
    pub fn unwanted(&self) -> Option<String> {
        let to_come = self
            .sayings
            .first()
            .map(|(_, ordinal, _)| format!("a person is yet to speak of claim {ordinal}"));
        to_come.or_else(|| self.unwanted_objects()).or_else(|| self.disks.unwanted())
    }

    fn unwanted_objects(&self) -> Option<String> {
        self.server.with(|state| {
            let Some(cluster) = state.objects.get("kvclusters", CLUSTER) else {
                return Some("there is no KvCluster".into());
            };
            let (status, wanted) = (&cluster["status"], &cluster["spec"]["members"]);
            if status["observedGeneration"] != cluster["metadata"]["generation"] {
                return Some("its spec was not looked at".into());
            }
            if !status["step"].is_null() {
                return Some(format!("a step is under way: {}", status["step"]));
            }
            let conditions = status["conditions"].as_array();
            let ready = conditions.into_iter().flatten().find(|one| one["type"] == "Ready");
            if !ready.is_some_and(|ready| ready["status"] == "True") {
                return Some(format!(
                    "it is not Ready: {}",
                    ready.map(|ready| ready["message"].clone()).unwrap_or_default()
                ));
            }
            let Some(set) = state.objects.get("statefulsets", CLUSTER) else {
                return Some("there is no StatefulSet".into());
            };
            let template = &set["spec"]["template"]["metadata"]["annotations"][TEMPLATE];
            let pods = state.objects.list(PODS, &[]);
            let is_right = |pod: &&serde_json::Value| {
                is_ready(pod) && !goes(pod) && pod["metadata"]["annotations"][TEMPLATE] == *template
            };
            let right = pods.iter().filter(|pod| is_right(pod)).count();
            // One on which no member's disk is on record was never used, and waits for the next pod.
            let is_used = |claim: &&serde_json::Value| claim["metadata"]["annotations"][NODE_ID].is_string();
            let claims = state.objects.list(CLAIMS, &[]).into_iter().filter(is_used).count();
            if claims > pods.len() {
                return Some(format!("there are the claims of {claims} members, and {} pods", pods.len()));
            }
            (pods.len() != right || Some(right as u64) != wanted.as_u64()).then(|| {
                format!(
                    "of {} pods {right} are ready and of the template, and {wanted} are wanted",
                    pods.len()
                )
            })
        })
    }
}
