//! What an operator promises of its risky effects: each is on record before it is done, and one at a time, and a deletion
//! is of the very object on record, as it was then.

use serde_json::{Value, json};

use super::server::ordinal;

/// The record that an effect needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    /// One of these kinds.
    kinds: &'static [&'static str],
    /// Of this target; any, where there is none.
    target: Option<String>,
    /// For people.
    what: String,
}

/// What is needed to delete something.
pub fn of_deletion(kind: &str, name: &str) -> Option<Needed> {
    let kinds: &[&str] = match kind {
        "pods" => &["DeletePod"],
        "persistentvolumeclaims" => &["DeleteClaim"],
        "statefulsets" => &["RecreateStatefulSet"],
        _ => return None,
    };
    let target = if kind == "statefulsets" { None } else { ordinal(name).map(|ordinal| ordinal.to_string()) };
    Some(Needed { kinds, target, what: format!("deletes {kind} {name}") })
}

/// What is needed to change something.
pub fn of_change(kind: &str, before: Option<&Value>, after: &Value) -> Option<Needed> {
    let replicas = |set: &Value| set["spec"]["replicas"].as_u64();
    let (had, has) = (replicas(before?)?, replicas(after)?);
    let is_less = kind == "statefulsets" && has < had;
    is_less.then(|| Needed {
        kinds: &["Shrink"],
        target: Some(has.to_string()),
        what: format!("leaves {has} of {had} pods"),
    })
}

/// Whether a deletion can only be of the object on record: so late as it may come, it names its uid and its version.
pub fn judge_fence(needed: &Needed, options: &Value, record: &Value) -> Result<(), String> {
    let is_named =
        |field: &str| record[field].is_string() && options["preconditions"][field] == record[field];
    if is_named("uid") && is_named("resourceVersion") {
        return Ok(());
    }
    let named = &options["preconditions"];
    Err(format!(
        "an operator {} without the fence of the step: it names {named}, and on record is {record}",
        needed.what
    ))
}

/// Whether that is what stands on record.
pub fn judge(needed: &Needed, record: &Value) -> Result<(), String> {
    let is_kind = needed.kinds.iter().any(|kind| record["kind"] == *kind);
    let is_target = needed.target.as_ref().is_none_or(|target| record["target"] == json!(target));
    if is_kind && is_target {
        return Ok(());
    }
    let record = if record.is_null() { "nothing".to_owned() } else { record.to_string() };
    Err(format!("an operator {}, and on record is {record}", needed.what))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an effect that is not on record is found, and no other one is. Method: a table.
    #[test]
    fn what_is_not_on_record_is_found() {
        let set = |replicas: u64| json!({"spec": {"replicas": replicas}});
        let record = |kind: &str, target: &str| json!({"kind": kind, "target": target});
        let cases = [
            (of_deletion("pods", "demo-2"), record("DeletePod", "2"), true),
            (of_deletion("pods", "demo-2"), record("DeletePod", "1"), false),
            (of_deletion("pods", "demo-2"), json!(null), false),
            (of_deletion("persistentvolumeclaims", "data-demo-0"), record("DeletePod", "0"), false),
            (of_deletion("statefulsets", "demo"), record("RecreateStatefulSet", ""), true),
            (of_change("statefulsets", Some(&set(3)), &set(2)), record("Shrink", "2"), true),
            (of_change("statefulsets", Some(&set(3)), &set(2)), json!(null), false),
        ];
        for (needed, record, is_right) in cases {
            assert_eq!(judge(&needed.unwrap(), &record).is_ok(), is_right, "{record}");
        }
        let needed = of_deletion("pods", "demo-2").unwrap();
        let version = |uid: &str, version: &str| json!({"uid": uid, "resourceVersion": version});
        for (named, is_right) in [
            (version("u", "7"), true),
            (version("u", "8"), false),
            (version("v", "7"), false),
            (json!(null), false),
        ] {
            let options = json!({"preconditions": named});
            assert_eq!(judge_fence(&needed, &options, &version("u", "7")).is_ok(), is_right, "{named}");
        }
        assert_eq!(of_change("statefulsets", Some(&set(2)), &set(3)), None);
        assert_eq!(of_change("statefulsets", None, &set(3)), None);
        assert_eq!(of_deletion("services", "demo"), None);
    }
}
