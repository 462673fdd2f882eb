//! Who asks, of which Kubernetes, and how its members are reached.

use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource, ResourceExt as _};
use kvorum_cli::failure::Failure;
use kvorum_client::{ConnectOptions, Error, Tls};
use kvorum_crd::{KvCluster, MemberStatus};
use kvorum_operator::certificates::{BUNDLE, CERTIFICATE, KEY};
use kvorum_operator::names::{self, CLIENT_PORT};

use crate::args::Access;
use crate::forward::Forward;

/// How long a port-forward may take to be made: it goes by the API server and a kubelet.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A way to one namespace of a Kubernetes.
pub(crate) struct Session {
    /// The API server's client.
    pub(crate) client: Client,
    /// The namespace.
    pub(crate) namespace: String,
    /// How long a call to members may take.
    pub(crate) timeout: Duration,
}

impl Session {
    /// As the kubeconfig says, or from inside of a pod.
    pub(crate) async fn open(access: Access) -> Result<Session, Failure> {
        let config = config(&access).await.map_err(|error| {
            Failure::Usage(format!("{error}; check --kubeconfig, --context and KUBECONFIG, as for kubectl"))
        })?;
        let namespace = access.namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client =
            Client::try_from(config).map_err(|error| refused("connect to the API server", &error))?;
        Ok(Session { client, namespace, timeout: access.timeout })
    }

    /// Objects of the namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A KvCluster.
    pub(crate) async fn cluster(&self, name: &str) -> Result<KvCluster, Failure> {
        if name.is_empty() {
            return Err(Failure::Usage(
                "the name of a KvCluster is not empty; `kubectl kvorum status` lists them".into(),
            ));
        }
        let found = self.api::<KvCluster>().get_opt(name).await;
        let found = found.map_err(|error| refused(&format!("read KvCluster {name}"), &error))?;
        found.ok_or_else(|| no_cluster(name, &self.namespace))
    }

    /// The way to members.
    pub(crate) fn forward(&self) -> Forward {
        Forward::new(self.api::<Pod>())
    }

    /// Connections to members: with TLS, as root, where all of them speak it. The certificate is read with the rights of
    /// whoever asks.
    pub(crate) async fn connect_options(&self, name: &str) -> Result<ConnectOptions, Failure> {
        let options = ConnectOptions::new().timeout(CONNECT_MAX).connector(self.forward());
        let selected = ListParams::default().labels(&names::selector_text(name));
        let pods = self.api::<Pod>().list(&selected).await.map_err(|error| refused("list pods", &error))?;
        let plain = pods.items.iter().any(|pod| !pod.annotations().contains_key(names::TLS));
        if plain || pods.items.is_empty() {
            return Ok(options.plain());
        }
        let secret = names::root_tls(name);
        let found = self.api::<Secret>().get(&secret).await;
        let found = found.map_err(|error| refused(&format!("read Secret {secret}"), &error))?;
        let data = found.data.unwrap_or_default();
        let part = |key: &str| data.get(key).map(|bytes| bytes.0.as_slice()).unwrap_or_default();
        Ok(options.tls(Tls::pem(part(BUNDLE), Some((part(CERTIFICATE), part(KEY))))?))
    }

    /// A client of a KvCluster's keys.
    pub(crate) async fn data(&self, name: &str) -> Result<kvorum_client::Client, Failure> {
        let cluster = self.cluster(name).await?;
        let members = cluster.status.map(|status| status.members).unwrap_or_default();
        let endpoints = endpoints(name, &self.namespace, &members);
        if endpoints.is_empty() {
            return Err(Failure::Other(format!(
                "KvCluster {name} has no members yet; `kubectl kvorum status {name}` says what it waits for"
            )));
        }
        let client = kvorum_client::Client::builder(endpoints)
            .timeout(self.timeout)
            .connect_options(self.connect_options(name).await?)
            .without_leader_search();
        Ok(client.connect_lazy()?)
    }
}

async fn config(access: &Access) -> Result<Config, String> {
    let options = KubeConfigOptions { context: access.context.clone(), ..KubeConfigOptions::default() };
    if let Some(file) = &access.kubeconfig {
        let file = Kubeconfig::read_from(file).map_err(|error| error.to_string())?;
        return Config::from_custom_kubeconfig(file, &options).await.map_err(|error| error.to_string());
    }
    match access.context {
        Some(_) => Config::from_kubeconfig(&options).await.map_err(|error| error.to_string()),
        None => Config::infer().await.map_err(|error| error.to_string()),
    }
}

/// The members' client ports, those that are ready first.
fn endpoints(cluster: &str, namespace: &str, members: &[MemberStatus]) -> Vec<String> {
    let mut members: Vec<&MemberStatus> = members.iter().collect();
    members.sort_by_key(|member| !member.ready);
    let ordinals = members.iter().filter_map(|member| names::ordinal(&member.pod, cluster));
    ordinals.map(|ordinal| names::address(cluster, namespace, ordinal, CLIENT_PORT)).collect()
}

fn no_cluster(name: &str, namespace: &str) -> Failure {
    Failure::Other(format!(
        "there is no KvCluster {name} in namespace {namespace}; `kubectl get kvclusters -A` lists all, -n takes another \
         namespace"
    ))
}

/// That the API server refused, in one sentence.
pub(crate) fn refused(what: &str, error: &kube::Error) -> Failure {
    let said = match error {
        kube::Error::Api(status) if status.is_forbidden() => {
            format!("{}; ask for that right, or use another --context", status.message)
        }
        kube::Error::Api(status) if status.is_not_found() && status.message.contains("could not find") => {
            "this Kubernetes has no KvClusters; install the operator with its chart first".to_owned()
        }
        kube::Error::Api(status) => status.message.clone(),
        other => format!("{other}; check that the API server of this --context can be reached"),
    };
    Failure::Other(format!("could not {what}: {said}"))
}

/// The failure of a call to members that came by port-forwards.
pub(crate) fn of_members(failure: Failure) -> Failure {
    match failure {
        Failure::Client(error @ Error::Unanswered { .. }) => Failure::Other(format!(
            "{error}; `kubectl kvorum status` says how the members are, and port-forwards to them need the right to \
             create pods/portforward"
        )),
        // What a node says to whoever founds clusters by hand is the operator's business here.
        Failure::Client(Error::NoCluster { .. }) => Failure::Other(
            "no member that answers belongs to the cluster yet; the operator founds it and brings its members back: \
             `kubectl kvorum status` says what it waits for"
                .into(),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a member that is ready is asked first, under the name by which the cluster knows it.
    #[test]
    fn ready_members_come_first() {
        let member = |pod: &str, ready| MemberStatus { pod: pod.into(), ready, ..MemberStatus::default() };
        let members = [member("demo-0", false), member("demo-1", true), member("other", true)];
        let expected = ["demo-1.demo-peers.shop.svc:2379", "demo-0.demo-peers.shop.svc:2379"];
        assert_eq!(endpoints("demo", "shop", &members), expected);
    }
}
