//! What the KvCluster is to be like in the end.

use super::Kubernetes;
use super::controllers::{CLAIMS, PODS};
use super::objects::goes;
use super::server::{CLUSTER, is_ready};

/// On pods and on the template: a hash of it.
const TEMPLATE: &str = "kvorum.io/template";

impl Kubernetes {
    /// What is not as wanted yet, if anything.
    pub fn unwanted(&self) -> Option<String> {
        self.unwanted_objects().or_else(|| self.disks.unwanted())
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
            let claims = state.objects.list(CLAIMS, &[]).len();
            if claims != pods.len() {
                return Some(format!("there are {claims} claims, and {} pods", pods.len()));
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
