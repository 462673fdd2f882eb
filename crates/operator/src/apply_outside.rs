//! The effect of what is decided about the certificate for names of outside: one write of cert-manager's object.

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use crate::apply::{ApplyError, kubernetes};
use crate::build::hash;
use crate::fence::Version;
use crate::memory::Memory;
use crate::names::{self, FIELD_MANAGER};
use crate::observe::{CERTIFICATE, OutsideStep, Seen, certificate_kind, generation};

/// Does it, and says what was done as a sentence without its full stop; nothing where there was nothing to do.
///
/// # Errors
/// As of any step.
pub async fn apply_outside(
    client: &Client,
    seen: &Seen,
    memory: &mut Memory,
) -> Result<Option<String>, ApplyError> {
    let name = names::server(&seen.name);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &seen.namespace, &certificate_kind());
    match &seen.tls.outside.step {
        OutsideStep::None => Ok(None),
        OutsideStep::Apply(wanted, uid) => {
            let mut object = wanted.clone();
            let params = PatchParams::apply(FIELD_MANAGER);
            // The very one that was seen, and no other of its name.
            let params = if uid.is_some() { params.force() } else { params };
            if let Some(uid) = uid {
                object["metadata"]["uid"] = json!(uid);
            }
            let applied = api.patch(&name, &params, &Patch::Apply(&object)).await;
            let applied = applied.map_err(|error| kubernetes(&format!("apply Certificate {name}"), error))?;
            memory.applied(CERTIFICATE, hash(wanted), generation(&applied));
            Ok(Some(format!("Applied Certificate {name}, which cert-manager is to issue")))
        }
        OutsideStep::Delete(Version { uid, resource_version }) => {
            let exactly =
                Preconditions { uid: Some(uid.clone()), resource_version: Some(resource_version.clone()) };
            let deleted = api.delete(&name, &DeleteParams::default().preconditions(exactly)).await;
            deleted.map_err(|error| kubernetes(&format!("delete Certificate {name}"), error))?;
            Ok(Some(format!("Deleted Certificate {name}: the spec names no issuer any more")))
        }
    }
}
