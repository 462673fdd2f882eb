//! How objects are changed by a part of them: JSON merge patch, and server-side apply as far as one applier needs it.

use serde_json::{Map, Value};

/// Merges, as RFC 7386 has it: null takes a field away.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    for (field, value) in patch {
        let target = fields(target);
        if value.is_null() {
            target.remove(field);
        } else {
            merge(target.entry(field.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Applies what is wanted: what the applier had wanted before and no longer does goes, all others' fields stay. Lists are
/// taken as a whole.
pub fn apply(target: &mut Value, before: &Value, wanted: &Value) {
    let (Value::Object(before), Value::Object(wanted)) = (before, wanted) else {
        if let Value::Object(wanted) = wanted {
            return apply(target, &Value::Object(Map::new()), &Value::Object(wanted.clone()));
        }
        *target = wanted.clone();
        return;
    };
    let target = fields(target);
    for (field, value) in before.iter().filter(|(field, _)| !wanted.contains_key(*field)) {
        let is_empty = target.get_mut(field).is_some_and(|target| {
            take_away(target, value);
            target.as_object().is_none_or(Map::is_empty)
        });
        if is_empty {
            target.remove(field);
        }
    }
    for (field, value) in wanted {
        let before = before.get(field).unwrap_or(&Value::Null);
        apply(target.entry(field.clone()).or_insert(Value::Null), before, value);
    }
}

/// Takes what was applied out of an object; anything else is taken away by its holder.
fn take_away(target: &mut Value, applied: &Value) {
    if let (Value::Object(_), Value::Object(_)) = (&target, applied) {
        apply(target, applied, &Value::Object(Map::new()));
    } else {
        *target = Value::Null;
    }
}

fn fields(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it is an object now")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Goal: fields of others stay, and those that are not applied any more go. Method: a table.
    #[test]
    fn what_is_applied_no_more_goes() {
        let cases = [
            (json!({"a": 1}), json!(null), json!({"b": 2}), json!({"a": 1, "b": 2})),
            (json!({"a": 1, "b": 2}), json!({"b": 2}), json!({"c": [3]}), json!({"a": 1, "c": [3]})),
            (
                json!({"notes": {"theirs": 1, "ours": 2}}),
                json!({"notes": {"ours": 2}}),
                json!({"notes": {"new": 3}}),
                json!({"notes": {"theirs": 1, "new": 3}}),
            ),
            (
                json!({"notes": {"theirs": 1, "ours": 2}}),
                json!({"notes": {"ours": 2}}),
                json!({}),
                json!({"notes": {"theirs": 1}}),
            ),
            (json!({"notes": {"ours": 2}}), json!({"notes": {"ours": 2}}), json!({}), json!({})),
            (json!({"a": [1, 2]}), json!({"a": [1, 2]}), json!({"a": [2]}), json!({"a": [2]})),
        ];
        for (mut target, before, wanted, after) in cases {
            apply(&mut target, &before, &wanted);
            assert_eq!(target, after);
        }
    }

    #[test]
    fn null_takes_a_field_away() {
        let mut target = json!({"a": {"b": 1, "c": 2}});
        merge(&mut target, &json!({"a": {"b": null, "d": {"e": 3}}}));
        assert_eq!(target, json!({"a": {"c": 2, "d": {"e": 3}}}));
    }
}
