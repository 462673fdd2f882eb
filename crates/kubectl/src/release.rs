//! `kubectl kvorum release`: lets a disk go that is kept for a person.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;
use kube::api::{ListParams, Patch, PatchParams};
use kvorum_cli::failure::Failure;
use kvorum_cli::output::Output;
use kvorum_cli::table;
use kvorum_operator::names;
use serde_json::{Value, json};

use crate::ask;
use crate::session::{Session, refused};

/// A cluster has at most so many claims: of members, and of some that left.
const CLAIMS_MAX: u32 = 100;

pub(crate) async fn release(
    session: &Session,
    name: &str,
    claim: Option<&str>,
    yes: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    session.cluster(name).await?;
    let labels = ListParams::default().labels(&names::selector_text(name)).limit(CLAIMS_MAX);
    let claims = session.api::<PersistentVolumeClaim>().list(&labels).await;
    let claims = claims.map_err(|error| refused(&format!("list the claims of {name}"), &error))?;
    let kept: Vec<_> = claims.items.into_iter().filter(|claim| how_it_left(claim).is_some()).collect();
    let Some(wanted) = claim else { return list(name, &kept, output) };
    let found = kept.iter().find(|claim| claim.name_any() == wanted).ok_or_else(|| {
        let names: Vec<String> = kept.iter().map(|claim| claim.name_any()).collect();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Failure::Usage(format!("{wanted} is no disk that {name} keeps for a person; it keeps {there}"))
    })?;
    if !yes {
        let left = how_it_left(found).unwrap_or_default();
        let question = format!("{wanted}: {left}. Its data is deleted for ever. Type {wanted} to let it go");
        ask::to_type(&question, wanted, "--yes")?;
    }
    let uid = found.uid().unwrap_or_default();
    // The annotation names the very claim that was shown, and is void for one made since under its name.
    let patch = json!({"metadata": {"uid": uid, "annotations": {names::RELEASE: uid}}});
    let api = session.api::<PersistentVolumeClaim>();
    let patched = api.patch(wanted, &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched.map_err(|error| refused(&format!("annotate claim {wanted}"), &error))?;
    output.line(
        format!("{wanted} is deleted once a majority of the members has caught up without it"),
        json!({"claim": wanted, "released": true}),
    )
}

fn list(name: &str, kept: &[PersistentVolumeClaim], output: &mut Output) -> Result<(), Failure> {
    if output.json() {
        let object = |claim: &PersistentVolumeClaim| {
            json!({
                "claim": claim.name_any(),
                "node_id": claim.annotations().get(names::NODE_ID),
                "retired": claim.annotations().get(names::RETIRED),
                "released": claim.annotations().contains_key(names::RELEASE),
            })
        };
        return kept.iter().try_for_each(|claim| output.object(&object(claim)));
    }
    if kept.is_empty() {
        return output.line(format!("{name} keeps no disk for a person"), Value::Null);
    }
    let mut table = table::new(output.terminal());
    table.set_header(["CLAIM", "NODE", "KEPT, SINCE"]);
    for claim in kept {
        let node = claim.annotations().get(names::NODE_ID).map_or("-", String::as_str);
        let mut why = how_it_left(claim).unwrap_or_default();
        if claim.annotations().contains_key(names::RELEASE) {
            why.push_str("; it is let go already");
        }
        table.add_row([claim.name_any(), node.to_owned(), why]);
    }
    table::print(table, output)
}

/// Why it is kept; nothing of one that is not.
fn how_it_left(claim: &PersistentVolumeClaim) -> Option<String> {
    let retired = claim.annotations().get(names::RETIRED)?;
    Some(match retired.strip_prefix(names::RETIRED_BEHIND) {
        Some(incarnation) => format!(
            "the recovery that began incarnation {incarnation} left it behind, and it may have writes that nobody else has"
        ),
        None => "its member left, and the others have all that it has".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    /// Goal: nobody lets go of what only that disk may have without having been told.
    #[test]
    fn what_may_be_lost_is_said() {
        let claim = |retired: Value| {
            from_value(json!({"metadata": {"annotations": {names::RETIRED: retired}}})).unwrap()
        };
        assert!(how_it_left(&claim(json!("incarnation-2"))).unwrap().contains("nobody else"));
        assert!(how_it_left(&claim(json!("true"))).unwrap().contains("the others have"));
        assert_eq!(how_it_left(&PersistentVolumeClaim::default()), None);
    }
}
