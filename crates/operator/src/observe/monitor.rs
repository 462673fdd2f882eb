//! The PodMonitor, which is the Prometheus operator's: it may be unknown here, or forbidden. That is
//! said, and nothing else waits for it.

use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::owner::Owner;
use super::read;
use crate::build::hash;
use crate::memory::Memory;
use crate::observed::Monitor;

/// The key under which it is remembered once it was applied.
pub(crate) const POD_MONITOR: &str = "PodMonitor";

/// What a PodMonitor says is its own operator's affair.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize)]
#[kube(
    group = "monitoring.coreos.com",
    version = "v1",
    kind = "PodMonitor",
    namespaced,
    schema = "disabled",
    doc = "What Prometheus scrapes, as far as it matters here."
)]
pub struct PodMonitorSpec {
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// What is to be done about it. `wanted` is the object, where the spec asks for one.
pub fn judge(
    wanted: Option<&Value>,
    found: &Result<PodMonitor, kube::Error>,
    owner: &Owner,
    memory: &Memory,
) -> Monitor {
    match (wanted, found) {
        (Some(_), Ok(found)) if owner.whose(found).is_some() => {
            let whose = owner.whose(found).unwrap_or_default();
            Monitor::Impossible(format!(
                "spec.metrics.podMonitor is true, but PodMonitor {} {whose}: it is left as it is. Delete it, or set it to \
                 false.",
                owner.name
            ))
        }
        (Some(wanted), Ok(found)) => {
            match memory.is_applied(POD_MONITOR, &hash(wanted), &read::generation(found)) {
                true => Monitor::AsWanted,
                false => Monitor::Differs,
            }
        }
        (Some(_), Err(error)) if lacks_the_object(error) => Monitor::Differs,
        (Some(_), Err(error)) => Monitor::Impossible(advice(error)),
        // One that somebody else made is his.
        (None, Ok(found)) if owner.whose(found).is_none() => Monitor::Unwanted(read::version(found)),
        (None, _) => Monitor::AsWanted,
    }
}

/// The API server names the object that it lacks; where it does not know the kind, it names none.
pub(super) fn lacks_the_object(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let named = status.details.as_ref().is_some_and(|details| !details.name.is_empty());
    status.is_not_found() && named
}

fn advice(error: &kube::Error) -> String {
    let why = match error {
        kube::Error::Api(status) if status.code == 404 => {
            "this Kubernetes does not know PodMonitors; install the Prometheus operator, or set it to false."
                .into()
        }
        kube::Error::Api(status) if status.is_forbidden() => {
            format!(
                "the operator's role lacks podmonitors, {}; upgrade the chart, or set it to false.",
                status.message
            )
        }
        error => format!("the PodMonitor cannot be read: {error}; it is tried again."),
    };
    format!("spec.metrics.podMonitor is true, but {why}")
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::{from_value, json};

    use super::*;

    fn monitor(owner: &str) -> PodMonitor {
        from_value(json!({
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PodMonitor",
            "metadata": {
                "name": "demo", "uid": "m", "resourceVersion": "7", "generation": 2,
                "ownerReferences": [{"apiVersion": "v1", "kind": "KvCluster", "name": "demo", "uid": owner,
                    "controller": true}],
            },
            "spec": {"selector": {}},
        }))
        .unwrap()
    }

    fn refused(status: Value) -> kube::Error {
        kube::Error::Api(from_value::<Status>(status).unwrap().boxed())
    }

    fn missing() -> kube::Error {
        refused(
            json!({"code": 404, "reason": "NotFound", "details": {"name": "demo", "kind": "podmonitors"}}),
        )
    }

    /// As kube makes it of the bare text that an unknown path is answered with.
    fn unknown() -> kube::Error {
        let status = Status::failure("404 page not found", "Failed to parse error data").with_code(404);
        kube::Error::Api(status.boxed())
    }

    /// Goal: a PodMonitor comes and goes with the spec, and what stands in its way is said where it
    /// is wanted, and only there. Method: a table of what is wanted and what was found.
    #[test]
    fn it_comes_and_goes_with_the_spec() {
        let spec = json!({"spec": 1});
        let mut memory = Memory::default();
        let judge = |wanted: Option<&Value>, found, memory: &Memory| {
            judge(wanted, &found, &Owner { name: "demo", uid: "u" }, memory)
        };
        assert_eq!(judge(Some(&spec), Err(missing()), &memory), Monitor::Differs);
        assert_eq!(
            judge(Some(&spec), Ok(monitor("u")), &memory),
            Monitor::Differs,
            "nobody knows it is current"
        );
        memory.applied(POD_MONITOR, hash(&spec), "2".into());
        assert_eq!(judge(Some(&spec), Ok(monitor("u")), &memory), Monitor::AsWanted);
        assert_eq!(judge(Some(&json!({"spec": 2})), Ok(monitor("u")), &memory), Monitor::Differs);
        assert!(
            matches!(judge(None, Ok(monitor("u")), &memory), Monitor::Unwanted(version) if version.uid == "m")
        );
        assert_eq!(judge(None, Ok(monitor("another")), &memory), Monitor::AsWanted);
        let taken = judge(Some(&spec), Ok(monitor("another")), &memory);
        assert!(matches!(taken, Monitor::Impossible(why) if why.contains("left as it is")));

        let forbidden = || refused(json!({"code": 403, "reason": "Forbidden", "message": "no rights"}));
        for (error, said) in [(unknown(), "install the Prometheus operator"), (forbidden(), "no rights")] {
            let Monitor::Impossible(why) = judge(Some(&spec), Err(error), &memory) else { panic!("{said}") };
            assert!(why.contains(said) && why.contains("set it to false"), "{why}");
        }
        for error in [missing(), unknown(), forbidden()] {
            assert_eq!(judge(None, Err(error), &memory), Monitor::AsWanted);
        }
    }
}
