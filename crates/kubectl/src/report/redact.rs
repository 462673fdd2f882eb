//! What a report leaves out: whatever may be a secret.

use serde_json::Value;

/// In the place of what was there.
const REMOVED: &str = "(removed)";
/// Annotations that repeat an object as somebody applied it, and so what was removed from it.
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Takes environment variables' values out of an object, and what nobody reads.
pub(super) fn redact(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.remove("managedFields");
            if let Some(Value::Object(annotations)) = object.get_mut("annotations") {
                annotations.remove(APPLIED);
            }
            if let Some(Value::Array(variables)) = object.get_mut("env") {
                for variable in variables.iter_mut().filter(|variable| variable.get("value").is_some()) {
                    variable["value"] = REMOVED.into();
                }
            }
            object.values_mut().for_each(redact);
        }
        Value::Array(list) => list.iter_mut().for_each(redact),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Goal: no report has a password in it that stood in a spec. Method: one in each place where it would be.
    #[test]
    fn values_of_the_environment_stay_here() {
        let env = json!([{"name": "PASSWORD", "value": "secret"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]);
        let mut object = json!({"items": [{
            "metadata": {"annotations": {APPLIED: "secret", "a": "b"}, "managedFields": ["secret"]},
            "spec": {"pod": {"env": env}, "containers": [{"name": "node", "env": env}]},
        }]});
        redact(&mut object);
        let text = object.to_string();
        assert!(!text.contains("secret"), "{text}");
        assert!(
            text.contains("PASSWORD") && text.contains("fieldPath") && text.contains("\"a\":\"b\""),
            "{text}"
        );
    }
}
