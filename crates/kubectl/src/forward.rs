//! The way to a pod's port: a port-forward of the API server's, for each connection.

use std::fmt;
use std::io;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use kvorum_client::{ByteStream, Connecting, Connector};

/// Connects to pods, by their names in the cluster's DNS or their IP addresses, whose ports nobody reaches from here.
#[derive(Clone)]
pub(crate) struct Forward {
    pods: Api<Pod>,
}

impl Forward {
    /// To the pods of a namespace.
    pub(crate) fn new(pods: Api<Pod>) -> Forward {
        Forward { pods }
    }

    /// A connection to a port of a pod.
    pub(crate) async fn open(&self, pod: &str, port: u16) -> io::Result<Box<dyn ByteStream>> {
        let refused = |error: kube::Error| io::Error::other(format!("forward a port of pod {pod}: {error}"));
        let mut forwarder = self.pods.portforward(pod, &[port]).await.map_err(refused)?;
        let stream = forwarder.take_stream(port);
        let stream =
            stream.ok_or_else(|| io::Error::other(format!("no stream to port {port} of pod {pod}")))?;
        Ok(Box::new(stream))
    }

    async fn pod_at(&self, address: IpAddr) -> io::Result<String> {
        let at = ListParams::default().fields(&format!("status.podIP={address}")).limit(1);
        let pods = self.pods.list(&at).await.map_err(io::Error::other)?;
        let pod = pods.items.into_iter().next();
        pod.map(|pod| pod.name_any())
            .ok_or_else(|| io::Error::other(format!("no pod has the address {address}")))
    }
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Forward")
    }
}

impl Connector for Forward {
    fn connect(&self, address: &str) -> Connecting {
        let (forward, target) = (self.clone(), Target::of(address));
        Box::pin(async move {
            match target? {
                Target { host: Host::Pod(pod), port } => forward.open(&pod, port).await,
                Target { host: Host::Address(address), port } => {
                    forward.open(&forward.pod_at(address).await?, port).await
                }
            }
        })
    }
}

/// A port of a pod.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    host: Host,
    port: u16,
}

#[derive(Debug, PartialEq, Eq)]
enum Host {
    /// The pod of this name.
    Pod(String),
    /// The pod that has this address.
    Address(IpAddr),
}

impl Target {
    /// Of `host:port`, where the host is a pod's name, alone or with the domain that its headless Service gives it, or
    /// its IP address.
    fn of(address: &str) -> io::Result<Target> {
        let wrong =
            || io::Error::new(io::ErrorKind::InvalidInput, format!("{address} is no address of a pod"));
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let host = match bare.parse() {
            Ok(address) => Host::Address(address),
            Err(_) => {
                Host::Pod(bare.split('.').next().filter(|pod| !pod.is_empty()).ok_or_else(wrong)?.to_owned())
            }
        };
        Ok(Target { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: whatever names a member, its pod is found. Method: a table.
    #[test]
    fn addresses_name_pods() {
        let pod = |name: &str| Host::Pod(name.to_owned());
        for (address, expected) in [
            ("demo-0.demo-peers.shop.svc:2380", Some((pod("demo-0"), 2380))),
            ("demo-0:2379", Some((pod("demo-0"), 2379))),
            ("10.1.2.3:2380", Some((Host::Address([10, 1, 2, 3].into()), 2380))),
            ("[fd00::1]:2380", Some((Host::Address("fd00::1".parse().unwrap()), 2380))),
            ("demo-0", None),
            (":2379", None),
            ("demo-0:x", None),
        ] {
            let expected = expected.map(|(host, port)| Target { host, port });
            assert_eq!(Target::of(address).ok(), expected, "{address}");
        }
    }
}
