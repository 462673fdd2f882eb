//! Who calls what on the peer port, by the certificate that was shown.

use kvorum_tls::{Identity, ROOT};

/// What members ask of each other.
const PEER_SERVICE: &str = "/peer.v1.Peer/";
/// The one call of administration that members make: each is asked how it is.
const STATUS: &str = "/admin.v1.Admin/Status";

/// Whether somebody may call a path of the peer port: members what is between members, the operator and root what
/// administers. Nobody else gets past the handshake where there is one; over a plain connection everybody may what a
/// member may, and administer until rights count.
pub fn may_call(identity: Option<&Identity>, rights_count: bool, path: &str) -> bool {
    let is_between_members = path.starts_with(PEER_SERVICE);
    match identity {
        None => is_between_members || path == STATUS || !rights_count,
        Some(Identity::Member) => is_between_members || path == STATUS,
        Some(Identity::Operator) => !is_between_members,
        Some(Identity::User(name)) => name == ROOT && !is_between_members,
        Some(Identity::Outside(_) | Identity::Nobody) => false,
    }
}

#[cfg(test)]
mod tests {
    use kvorum_proto::DESCRIPTORS;
    use prost::Message as _;

    use super::*;

    /// Every call of both services, by everybody.
    #[test]
    fn members_do_not_administer_and_nobody_else_speaks_as_one() {
        let files = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
        let mut paths = Vec::new();
        for file in &files {
            for service in &file.service {
                let prefix = format!("/{}.{}/", file.package(), service.name());
                paths.extend(service.method.iter().map(|method| format!("{prefix}{}", method.name())));
            }
        }
        let paths: Vec<_> = paths
            .iter()
            .filter(|path| path.starts_with("/peer.v1") || path.starts_with("/admin.v1"))
            .collect();
        assert!(paths.len() > 15, "{paths:?}");
        let user = |name: &str| Identity::User(name.into());
        for path in paths {
            let between = path.starts_with("/peer.v1");
            let table = [
                (Identity::Member, between || path == "/admin.v1.Admin/Status"),
                (Identity::Operator, !between),
                (user("root"), !between),
                (user("alice"), false),
                (Identity::Outside("root".into()), false),
                (Identity::Nobody, false),
            ];
            for (identity, expected) in table {
                for rights_count in [false, true] {
                    assert_eq!(may_call(Some(&identity), rights_count, path), expected, "{identity} {path}");
                }
            }
            assert!(may_call(None, false, path), "plain {path}");
            let as_a_member = between || path == "/admin.v1.Admin/Status";
            assert_eq!(may_call(None, true, path), as_a_member, "plain {path}, rights count");
        }
    }
}
