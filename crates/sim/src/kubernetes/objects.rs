//! What Kubernetes keeps: objects as JSON, each with its version, and what was changed, in order.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use serde_json::{Value, json};

use super::patch;

/// Where all that belongs to the cluster is.
pub const NAMESPACE: &str = "sim";
/// Changes that a watch can still be told of.
const CHANGES_MAX: usize = 4_000;
/// Kinds that are in no namespace.
const OF_NO_NAMESPACE: [&str; 2] = ["nodes", "persistentvolumes"];

/// Why the API server does not do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such object.
    NotFound,
    /// There is one already.
    Exists,
    /// It is in another version, or another one of that name.
    Conflict,
    /// A disruption budget is spent.
    Budget,
    /// What was changed since then is known no more.
    Gone,
}

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// The version that it made.
    pub version: u64,
    /// The kind, as paths have it.
    pub kind: String,
    /// As watches say it.
    pub what: &'static str,
    /// The object as it is since then, or was.
    pub object: Value,
}

/// All objects.
#[derive(Debug, Default)]
pub struct Objects {
    objects: BTreeMap<(String, String), Value>,
    /// What was applied last of each, by the one who applies anything.
    applied: BTreeMap<(String, String), Value>,
    version: u64,
    made: u64,
    changes: VecDeque<Change>,
    /// The version before the first of those.
    forgotten: u64,
    /// Who waits for the next change.
    pub waiting: Vec<Waker>,
}

fn key(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

impl Objects {
    /// The version of the last change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// An object, if there is one.
    pub fn get(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects.get(&key(kind, name))
    }

    /// All of a kind that have these labels.
    pub fn list(&self, kind: &str, labels: &[(String, String)]) -> Vec<&Value> {
        let of_kind = self.objects.iter().filter(|((of, _), _)| of == kind);
        of_kind.map(|(_, object)| object).filter(|object| has_labels(object, labels)).collect()
    }

    /// Makes an object.
    pub fn create(&mut self, kind: &str, mut object: Value) -> Result<Value, Refusal> {
        let name = name_of(&object).to_owned();
        if self.objects.contains_key(&key(kind, &name)) {
            return Err(Refusal::Exists);
        }
        self.made += 1;
        let meta = &mut object["metadata"];
        meta["uid"] = json!(format!("uid-{}-{name}", self.made));
        meta["generation"] = json!(1);
        if !OF_NO_NAMESPACE.contains(&kind) {
            meta["namespace"] = json!(NAMESPACE);
        }
        Ok(self.put(kind, &name, object, "ADDED"))
    }

    /// Changes an object, if the change is one.
    pub fn change(
        &mut self,
        kind: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, Refusal> {
        let Some(before) = self.objects.get(&key(kind, name)) else { return Err(Refusal::NotFound) };
        let mut after = before.clone();
        change(&mut after);
        if after == *before {
            return Ok(after);
        }
        let goes = |object: &Value| object["metadata"].get("deletionTimestamp").is_some();
        if after.get("spec") != before.get("spec") || goes(&after) != goes(before) {
            after["metadata"]["generation"] =
                json!(before["metadata"]["generation"].as_u64().unwrap_or(0) + 1);
        }
        Ok(self.put(kind, name, after, "MODIFIED"))
    }

    /// Takes an object away.
    pub fn remove(&mut self, kind: &str, name: &str) -> Result<Value, Refusal> {
        let object = self.objects.remove(&key(kind, name)).ok_or(Refusal::NotFound)?;
        self.applied.remove(&key(kind, name));
        Ok(self.tell(kind, object, "DELETED"))
    }

    /// Refuses where the object is not the one that is meant.
    pub fn check(&self, kind: &str, name: &str, meant: &Value) -> Result<(), Refusal> {
        let object = self.get(kind, name).ok_or(Refusal::NotFound)?;
        for field in ["uid", "resourceVersion"] {
            let is_other = meant.get(field).is_some_and(|meant| *meant != object["metadata"][field]);
            if is_other && !meant[field].is_null() {
                return Err(Refusal::Conflict);
            }
        }
        Ok(())
    }

    /// Server-side apply, by the one who applies anything.
    pub fn apply(&mut self, kind: &str, name: &str, wanted: &Value) -> Result<Value, Refusal> {
        let mut wanted = wanted.clone();
        let meant = wanted["metadata"].clone();
        if let Some(meta) = wanted["metadata"].as_object_mut() {
            meta.retain(|field, _| field != "uid" && field != "resourceVersion");
        }
        let applied = match self.get(kind, name) {
            Some(_) => {
                self.check(kind, name, &meant)?;
                let before = self.applied.get(&key(kind, name)).cloned().unwrap_or_default();
                self.change(kind, name, |object| patch::apply(object, &before, &wanted))?
            }
            None if meant.get("uid").is_some() => return Err(Refusal::Conflict),
            None => self.create(kind, wanted.clone())?,
        };
        self.owns(kind, name, wanted);
        Ok(applied)
    }

    /// What was made counts as applied.
    pub fn owns(&mut self, kind: &str, name: &str, applied: Value) {
        self.applied.insert(key(kind, name), applied);
    }

    /// The next change of a kind after a version.
    pub fn next_change(&self, kind: &str, after: u64) -> Result<Option<&Change>, Refusal> {
        if after < self.forgotten {
            return Err(Refusal::Gone);
        }
        let from = self.changes.partition_point(|change| change.version <= after);
        Ok(self.changes.range(from..).find(|change| change.kind == kind))
    }

    fn put(&mut self, kind: &str, name: &str, object: Value, what: &'static str) -> Value {
        let object = self.tell(kind, object, what);
        self.objects.insert(key(kind, name), object.clone());
        object
    }

    fn tell(&mut self, kind: &str, mut object: Value, what: &'static str) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if self.changes.len() == CHANGES_MAX
            && let Some(forgotten) = self.changes.pop_front()
        {
            self.forgotten = forgotten.version;
        }
        let change = Change { version: self.version, kind: kind.to_owned(), what, object: object.clone() };
        self.changes.push_back(change);
        object
    }
}

/// An object's name.
pub fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Whether an object has all of these labels.
pub fn has_labels(object: &Value, labels: &[(String, String)]) -> bool {
    let has = |(label, value): &(String, String)| object["metadata"]["labels"][label] == json!(value);
    labels.iter().all(has)
}

/// Whether it is being deleted.
pub fn goes(object: &Value) -> bool {
    object["metadata"].get("deletionTimestamp").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: whoever means an object that has changed, or another one of that name, is refused; and what changes nothing
    /// is no change. Method: the life of one pod.
    #[test]
    fn an_object_is_meant_in_its_version() {
        let mut objects = Objects::default();
        let made = objects.create("pods", json!({"metadata": {"name": "a"}, "spec": {"x": 1}})).unwrap();
        assert_eq!(objects.create("pods", made.clone()), Err(Refusal::Exists));
        assert_eq!(objects.check("pods", "a", &made["metadata"]), Ok(()));
        assert_eq!(objects.check("pods", "b", &made["metadata"]), Err(Refusal::NotFound));
        objects.change("pods", "a", |_| {}).unwrap();
        assert_eq!(objects.check("pods", "a", &made["metadata"]), Ok(()));
        let changed = objects.change("pods", "a", |pod| pod["status"] = json!("x")).unwrap();
        assert_eq!(objects.check("pods", "a", &made["metadata"]), Err(Refusal::Conflict));
        assert_eq!(changed["metadata"]["generation"], json!(1));
        let changed = objects.change("pods", "a", |pod| pod["spec"] = json!("x")).unwrap();
        assert_eq!(changed["metadata"]["generation"], json!(2));
        let kinds: Vec<_> = objects.changes.iter().map(|change| change.what).collect();
        assert_eq!(kinds, ["ADDED", "MODIFIED", "MODIFIED"]);
        objects.remove("pods", "a").unwrap();
        let again = objects.create("pods", json!({"metadata": {"name": "a"}})).unwrap();
        let meant = json!({"uid": changed["metadata"]["uid"]});
        assert_eq!(objects.check("pods", "a", &meant), Err(Refusal::Conflict));
        assert_eq!(objects.check("pods", "a", &again["metadata"]), Ok(()));
        assert_eq!(objects.next_change("pods", 3).unwrap().map(|change| change.what), Some("DELETED"));
    }

    /// Goal: who has been away for too long is told so.
    #[test]
    fn what_is_forgotten_is_not_told() {
        let mut objects = Objects::default();
        objects.create("pods", json!({"metadata": {"name": "a"}})).unwrap();
        for number in 0..CHANGES_MAX {
            objects.change("pods", "a", |pod| pod["status"] = json!(number)).unwrap();
        }
        assert_eq!(objects.next_change("pods", 0).map(drop), Err(Refusal::Gone));
        assert_eq!(objects.next_change("pods", 1).map(|change| change.map(|c| c.version)), Ok(Some(2)));
    }
}
