//! Clients that say who they are, in the ways that an application in Kubernetes does.

use std::fs;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::ResourceExt as _;
use kube::api::{ObjectMeta, PostParams};
use kvorum_client::{Client, ConnectOptions, Tls};
use kvorum_faults::rpc::{RawClient, secured_channel};
use kvorum_operator::certificates::{BUNDLE, CERTIFICATE, KEY};
use kvorum_operator::memory::host_port;
use kvorum_operator::names;
use kvorum_tls::ClientTls;
use tempfile::TempDir;

use crate::cluster::At;
use crate::doors::Doors;
use crate::{Cluster, Context as _, Result, Test};

/// How long a call may take, the client's own retries included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The life of a token, in seconds: an API server gives none for less than ten minutes.
const TOKEN_SECONDS: i64 = 3600;
/// The file of a token.
const TOKEN: &str = "token";

/// A client, and the files that it reads: they are there as long as this is.
pub struct Proven {
    /// The client.
    pub client: Client,
    _mounted: TempDir,
}

/// Who does everything in a cluster: root where it speaks TLS, and anybody where it is plain.
#[derive(Clone, Debug)]
pub struct Root {
    options: ConnectOptions,
    tls: Option<ClientTls>,
}

/// See [`Root`].
pub async fn root(cluster: &Cluster<'_>) -> Result<Root> {
    let pods = cluster.pods().await?;
    let is_plain = |pod: &Pod| !pod.annotations().contains_key(names::TLS);
    if pods.values().any(is_plain) {
        return Ok(Root { options: ConnectOptions::new().plain(), tls: None });
    }
    let [ca, certificate, key] = secret(cluster, &names::root_tls(cluster.name())).await?;
    let own = Some((&*certificate, &*key));
    let tls = ClientTls::of_pem(&ca, own).context("read root's certificate")?;
    Ok(Root { options: ConnectOptions::new().tls(Tls::pem(&ca, own)?), tls: Some(tls) })
}

impl Root {
    /// How he connects.
    pub fn options(&self) -> ConnectOptions {
        self.options.clone()
    }

    /// His client of these members.
    pub async fn client(&self, endpoints: Vec<String>) -> Result<Client> {
        Ok(Client::builder(endpoints).connect_options(self.options()).connect().await?)
    }

    /// His raw client of one member.
    pub fn raw(&self, endpoint: &str) -> Result<RawClient> {
        match &self.tls {
            Some(tls) => Ok(RawClient::on(secured_channel(endpoint, tls.clone())?)),
            None => RawClient::new(endpoint),
        }
    }
}

/// Makes a ServiceAccount in the test's namespace.
pub async fn make_account(test: &Test, name: &str) -> Result<()> {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let account = ServiceAccount { metadata, ..ServiceAccount::default() };
    test.api::<ServiceAccount>().create(&PostParams::default(), &account).await?;
    Ok(())
}

/// A pod of this ServiceAccount that has mounted a token for the cluster, and its CA.
pub async fn service_account(cluster: &Cluster<'_>, doors: &Doors, account: &str) -> Result<Proven> {
    let mounted = tempfile::tempdir()?;
    let options = mount_account(cluster, account, mounted.path()).await?;
    proven(doors, options, mounted)
}

/// Puts what such a pod mounts into a directory; answers how it connects with that.
pub async fn mount_account(cluster: &Cluster<'_>, account: &str, directory: &Path) -> Result<ConnectOptions> {
    let audience = format!("kvorum.io/{}/{}", cluster.test().namespace, cluster.name());
    let spec = TokenRequestSpec {
        audiences: vec![audience],
        expiration_seconds: Some(TOKEN_SECONDS),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let accounts = cluster.test().api::<ServiceAccount>();
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
    let token = answer.context("ask for a token")?.status.context("there is no token in the answer")?.token;
    fs::write(directory.join(TOKEN), token)?;
    fs::write(directory.join(BUNDLE), ca(cluster).await?)?;
    Ok(ConnectOptions::new().tls(Tls::directory(directory)?).token_file(directory.join(TOKEN)))
}

/// A pod that has mounted the Secret of a user with a certificate.
pub async fn certificate(cluster: &Cluster<'_>, doors: &Doors, user: &str) -> Result<Proven> {
    let [ca, certificate, key] = secret(cluster, &names::user_tls(cluster.name(), user)).await?;
    let tls = Tls::pem(&ca, Some((&certificate, &key)))?;
    proven(doors, ConnectOptions::new().tls(tls), tempfile::tempdir()?)
}

/// Somebody who believes the cluster, and proves nothing.
pub async fn nobody(cluster: &Cluster<'_>, doors: &Doors) -> Result<Proven> {
    let tls = Tls::pem(ca(cluster).await?.as_bytes(), None)?;
    proven(doors, ConnectOptions::new().tls(tls), tempfile::tempdir()?)
}

/// Root as somebody outside of Kubernetes, who knows one member (by its door) as `name`, and believes this CA alone.
pub async fn outside(cluster: &Cluster<'_>, door: &str, name: &str, ca: &str) -> Result<Client> {
    let [_, certificate, key] = secret(cluster, &names::root_tls(cluster.name())).await?;
    let tls = Tls::pem(ca.as_bytes(), Some((&certificate, &key)))?;
    let options = ConnectOptions::new().tls(tls).connector(At(door.to_owned()));
    let client = Client::builder([host_port(name, names::CLIENT_PORT)]).connect_options(options);
    Ok(client.without_leader_search().timeout(TIMEOUT).connect_lazy()?)
}

/// The CA, certificate and key in a Secret.
async fn secret(cluster: &Cluster<'_>, name: &str) -> Result<[Vec<u8>; 3]> {
    let mut data = cluster.test().api::<Secret>().get(name).await?.data.unwrap_or_default();
    let mut part = |key: &str| data.remove(key).map(|bytes| bytes.0).context(format!("{name} lacks {key}"));
    Ok([part(BUNDLE)?, part(CERTIFICATE)?, part(KEY)?])
}

/// The cluster's own CA.
pub async fn ca(cluster: &Cluster<'_>) -> Result<String> {
    let map = cluster.test().api::<ConfigMap>().get(&names::ca(cluster.name())).await?;
    map.data.unwrap_or_default().remove(BUNDLE).context("the ConfigMap has no CA")
}

fn proven(doors: &Doors, options: ConnectOptions, mounted: TempDir) -> Result<Proven> {
    let client = Client::builder(doors.addresses()).connect_options(options).without_leader_search();
    Ok(Proven { client: client.timeout(TIMEOUT).connect_lazy()?, _mounted: mounted })
}
