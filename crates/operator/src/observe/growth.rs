//! Whether volumes can grow, and what they wait for once they have.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, Client, ResourceExt as _};

use super::read;
use crate::observed::Growth;

/// A file system that can grow under a pod has grown by then.
pub const GROWS_WITHIN: Duration = Duration::from_secs(30);

/// What their class says, where some claim asks for less than the spec does. A class that cannot be read is no reason not
/// to ask: then the API server refuses.
pub async fn allowed<'a>(
    client: &Client,
    claims: impl Iterator<Item = &'a PersistentVolumeClaim>,
    wanted_bytes: u64,
) -> Growth {
    let mut small = claims.filter(|claim| read::claim(claim).requested_bytes < wanted_bytes);
    let class = small.find_map(|claim| claim.spec.as_ref()?.storage_class_name.clone());
    let Some(class) = class.filter(|class| !class.is_empty()) else { return Growth::Allowed };
    match Api::<StorageClass>::all(client.clone()).get_opt(&class).await {
        Ok(Some(class)) => judge(&class),
        Ok(None) | Err(_) => Growth::Allowed,
    }
}

fn judge(class: &StorageClass) -> Growth {
    match class.allow_volume_expansion {
        Some(true) => Growth::Allowed,
        Some(false) | None => Growth::Refused(format!(
            "StorageClass {} does not let volumes grow (allowVolumeExpansion).",
            class.name_any()
        )),
    }
}

/// The volume has grown while this very pod had it, and the file system waits for the next pod.
pub fn waits_for_next_pod(claim: &PersistentVolumeClaim, pod: Option<&Pod>) -> bool {
    let conditions = claim.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut pending = conditions.into_iter().flatten().filter(|c| c.type_ == "FileSystemResizePending");
    let Some(pending) = pending.find(|condition| condition.status == "True") else { return false };
    let made = pod.and_then(|pod| pod.metadata.creation_timestamp.as_ref());
    // Where nobody says since when, no pod is restarted again and again for it.
    pending.last_transition_time.as_ref().zip(made).is_some_and(|(since, made)| made.0 < since.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn a_class_that_says_nothing_refuses() {
        let judged = |allow: Option<bool>| {
            judge(&from_value(json!({"provisioner": "p", "allowVolumeExpansion": allow})).unwrap())
        };
        assert_eq!(judged(Some(true)), Growth::Allowed);
        assert!(
            matches!(judged(Some(false)), Growth::Refused(_)) && matches!(judged(None), Growth::Refused(_))
        );
    }

    /// Goal: a pod is restarted for a file system once, and not again where that did not help.
    #[test]
    fn only_a_pod_of_before_is_in_the_way() {
        let condition = json!({
            "type": "FileSystemResizePending", "status": "True", "lastTransitionTime": "2026-11-26T12:00:00Z",
        });
        let claim = from_value(json!({"status": {"conditions": [condition]}})).unwrap();
        let waits = |made: &str| {
            let pod = from_value(json!({"metadata": {"creationTimestamp": made}})).unwrap();
            waits_for_next_pod(&claim, Some(&pod))
        };
        assert!(waits("2026-11-26T11:59:59Z"));
        assert!(!waits("2026-11-26T12:00:01Z") && !waits_for_next_pod(&claim, None));
        assert!(!waits_for_next_pod(&PersistentVolumeClaim::default(), Some(&Pod::default())));
    }
}
