//! Names, labels and annotations: what objects are called, and how they are found again.

use std::collections::BTreeMap;

/// The port for clients.
pub const CLIENT_PORT: i32 = 2379;
/// The port for members and for administration.
pub const PEER_PORT: i32 = 2380;
/// The port for probes and metrics.
pub const HTTP_PORT: i32 = 2381;

/// The node's container, among those that others may put beside it.
pub const CONTAINER: &str = "node";

/// Who owns the fields that the operator applies.
pub const FIELD_MANAGER: &str = "kvorum-operator";

/// Labels of everything that belongs to a cluster.
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
/// The value of [`LABEL_NAME`].
pub const APPLICATION: &str = "kvorum";
/// See [`LABEL_NAME`]; the KvCluster's name.
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
/// See [`LABEL_NAME`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The incarnation that a pod was made for. Services select it once there was a recovery.
pub const LABEL_INCARNATION: &str = "kvorum.io/incarnation";

/// On a claim: the cluster that its disk belongs to, 16 hexadecimal digits.
pub const CLUSTER_ID: &str = "kvorum.io/cluster-id";
/// On a claim: its disk's node id, 16 hexadecimal digits.
pub const NODE_ID: &str = "kvorum.io/node-id";
/// On ordinal 0's claim: this disk, and no other, may found the cluster.
pub const FOUNDER: &str = "kvorum.io/founder";
/// On a claim: its disk takes part no more, and is kept for a person. `true`: its member was removed.
/// `incarnation-N`: the recovery that began this incarnation left it behind.
pub const RETIRED: &str = "kvorum.io/retired";
/// See [`RETIRED`].
pub const RETIRED_BEHIND: &str = "incarnation-";
/// On a claim: the incarnation of its cluster when that was last written on it. It outlives the status.
pub const INCARNATION: &str = "kvorum.io/incarnation";
/// On a claim that is kept for a person, by that person: the claim's uid; the operator may delete it.
pub const RELEASE: &str = "kvorum.io/release";
/// In `spec.pod.annotations`, by a person: when the members were last told to restart, one after another.
pub const RESTARTED_AT: &str = "kvorum.io/restarted-at";
/// On claims and on the StatefulSet: the image of a cluster whose spec names none.
pub const IMAGE: &str = "kvorum.io/image";
/// On a claim, by a person: the claim's uid; its disk is gone for good.
pub const DISK_LOST: &str = "kvorum.io/disk-lost";
/// On an object whose deletion was planned and then given up: it raises the resource version, so that
/// an operator that is late cannot delete it any more.
pub const STEP_ABANDONED: &str = "kvorum.io/step-abandoned";
/// On the pod template, on pods and on claims: how the ports speak TLS, if they do.
pub const TLS: &str = "kvorum.io/tls";
/// A value of [`TLS`]: with or without.
pub const TLS_OPTIONAL: &str = "optional";
/// A value of [`TLS`]: with TLS only.
pub const TLS_REQUIRED: &str = "required";
/// On the StatefulSet and on claims: whether rights count, if somebody has said so or the cluster was made with them.
pub const AUTH: &str = "kvorum.io/auth";
/// A value of [`AUTH`]: they do.
pub const AUTH_REQUIRED: &str = "required";
/// Another one: it is only observed whom they would refuse.
pub const AUTH_OBSERVE: &str = "observe";
/// On the StatefulSet and on claims: there is a NetworkPolicy, if somebody has said so or the cluster was made with one.
pub const POLICY: &str = "kvorum.io/network-policy";
/// The value of [`POLICY`].
pub const POLICY_ENABLED: &str = "enabled";
/// On a KvCluster, by a person: any text that was not there before has the whole CA replaced.
pub const ROTATE_CA: &str = "kvorum.io/rotate-ca";
/// On a KvCluster, by a person: the token of a recovery.
pub const RECOVER_FROM: &str = "kvorum.io/recover-from";
/// On the StatefulSet's pod template: a hash of it.
pub const TEMPLATE: &str = "kvorum.io/template";
/// On the StatefulSet: a hash of what the spec says about pods. As long as it is the same, a newer
/// operator leaves the template as it is.
pub const INPUTS: &str = "kvorum.io/inputs";
/// On applied objects: a hash of what was applied.
pub const APPLIED: &str = "kvorum.io/applied";
/// Holds a KvCluster back until its claims are deleted, where `whenDeleted: Delete` asks for that.
pub const FINALIZER: &str = "kvorum.io/delete-claims";

/// The headless Service.
pub fn peers_service(cluster: &str) -> String {
    format!("{cluster}-peers")
}

/// The Secret with the CA's key; and the ConfigMap with the CAs that are believed.
pub fn ca(cluster: &str) -> String {
    format!("{cluster}-ca")
}

/// The Secret that members mount.
pub fn member_tls(cluster: &str) -> String {
    format!("{cluster}-member-tls")
}

/// The Secret with a user's certificate.
pub fn user_tls(cluster: &str, user: &str) -> String {
    format!("{cluster}-{user}-tls")
}

/// The Certificate of cert-manager's for names of outside.
pub fn server(cluster: &str) -> String {
    format!("{cluster}-server")
}

/// The Secret that cert-manager puts it into.
pub fn server_tls(cluster: &str) -> String {
    format!("{cluster}-server-tls")
}

/// The Secret with root's certificate.
pub fn root_tls(cluster: &str) -> String {
    format!("{cluster}-root-tls")
}

/// The pod of an ordinal.
pub fn pod(cluster: &str, ordinal: u32) -> String {
    format!("{cluster}-{ordinal}")
}

/// The claim of an ordinal.
pub fn claim(cluster: &str, ordinal: u32) -> String {
    format!("data-{cluster}-{ordinal}")
}

/// The ordinal at the end of a pod's or claim's name, if the rest of the name is `prefix`.
pub fn ordinal(name: &str, prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?.strip_prefix('-')?;
    let number: u32 = digits.parse().ok()?;
    (digits == number.to_string()).then_some(number)
}

/// host:port of an ordinal, as the membership has it. It names no cluster domain, which differs from
/// cluster to cluster and is in every pod's search list.
pub fn address(cluster: &str, namespace: &str, ordinal: u32, port: i32) -> String {
    format!("{}.{}.{namespace}.svc:{port}", pod(cluster, ordinal), peers_service(cluster))
}

/// The ordinal whose peer address this is.
pub fn ordinal_of_address(address: &str, cluster: &str, namespace: &str) -> Option<u32> {
    let host = address.strip_suffix(&format!(".{}.{namespace}.svc:{PEER_PORT}", peers_service(cluster)))?;
    ordinal(host, cluster)
}

/// A node or cluster id as text.
pub fn hex(id: u64) -> String {
    format!("{id:016x}")
}

/// A node or cluster id from text.
pub fn unhex(text: &str) -> Option<u64> {
    (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten().filter(|id| *id != 0)
}

/// The labels that select a cluster's pods.
pub fn selector(cluster: &str) -> BTreeMap<String, String> {
    [(LABEL_NAME, APPLICATION), (LABEL_INSTANCE, cluster)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// The same as text, as `kubectl scale` and list calls want it.
pub fn selector_text(cluster: &str) -> String {
    format!("{LABEL_INSTANCE}={cluster},{LABEL_NAME}=kvorum")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_read_back_and_nothing_else_is() {
        for i in [0, 7, 10] {
            let address = address("demo", "default", i, PEER_PORT);
            assert_eq!(ordinal_of_address(&address, "demo", "default"), Some(i));
            assert_eq!(ordinal(&claim("demo", i), "data-demo"), Some(i));
        }
        assert_eq!(ordinal_of_address(&address("demo", "other", 0, PEER_PORT), "demo", "default"), None);
        assert_eq!(ordinal_of_address(&address("demo", "default", 0, CLIENT_PORT), "demo", "default"), None);
        for name in ["demo-", "demo-01", "demo-x", "demo--1", "demo", "demo-extra-0"] {
            assert_eq!(ordinal(name, "demo"), None, "{name}");
        }
    }

    #[test]
    fn ids_are_sixteen_digits() {
        assert_eq!(unhex(&hex(0xc0ffee)), Some(0xc0ffee));
        for text in ["", "c0ffee", "0000000000000000", "zzzzzzzzzzzzzzzz"] {
            assert_eq!(unhex(text), None, "{text}");
        }
    }
}
