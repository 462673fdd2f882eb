//! What is declared of users and rights, and what is known of that.

use std::collections::BTreeMap;
use std::time::Duration;

use kvorum_crd::{AuthMode, KvCluster};

use crate::access::{Declared, Issuer};
use crate::memory::Memory;
use crate::observed::{Access, Node};

/// A cluster is founded within this, and knows of users. Later nobody waits for it.
const SOON: Duration = Duration::from_secs(60);

/// What is declared, where it is known, beside what the plan sees of it; nothing where nobody has ever said whether rights
/// count, or somebody else looks after them.
pub async fn look(
    cluster: &KvCluster,
    namespace: &str,
    name: &str,
    nodes: &BTreeMap<u32, Node>,
    memory: &mut Memory,
) -> Option<(Option<Declared>, Access)> {
    let issuers = memory.issuers()?;
    let on_record = cluster.status.as_ref().and_then(|status| status.auth.as_ref()).map(|auth| auth.mode);
    let mode = cluster.spec.auth.mode.or(on_record)?;
    let on_record = on_record.unwrap_or_default();
    let begins = mode != AuthMode::Disabled && on_record == AuthMode::Disabled;
    let wanted_for = memory.lasts("rights that are to count", begins);
    let news = nodes.values().any(|node| node.unknown_token_key);
    let for_accounts = cluster.spec.access.iter().any(|entry| !entry.service_accounts.is_empty());
    let known = if for_accounts { Some(issuers.known(news).await) } else { None };
    let unread = known.as_ref().and_then(|known| known.failed.clone());
    let keys = known.and_then(|known| known.keys);
    // Without the keys whoever has a token would be locked out.
    let is_known = !for_accounts || keys.is_some();
    let issuer = keys.map(|keys| Issuer {
        issuer: keys.issuer,
        audience: Issuer::audience(namespace, name),
        jwks: keys.jwks,
    });
    let declared = is_known.then(|| Declared::of(&cluster.spec, mode, issuer));
    let fingerprint = declared.as_ref().map(Declared::fingerprint);
    let access = Access {
        fingerprint,
        is_empty: declared.as_ref().is_some_and(Declared::is_empty),
        mode,
        on_record,
        soon: begins && wanted_for < SOON,
        sent: memory.declared(),
        unread,
        refused: fingerprint.and_then(|fingerprint| memory.undeclared(fingerprint)),
    };
    Some((declared, access))
}
