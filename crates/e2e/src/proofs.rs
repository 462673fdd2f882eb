//! Clients that say who they are, in the ways that an application in Kubernetes does.

use std::fs;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kube::api::PostParams;
use kvorum_client::{Client, ConnectOptions, Tls};
use kvorum_operator::certificates::{BUNDLE, CERTIFICATE, KEY};
use kvorum_operator::names;
use tempfile::TempDir;

use crate::doors::Doors;
use crate::{Cluster, Context as _, Result};

/// How long a call may take, the client's own retries included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The life of a token, in seconds: an API server gives none for less than ten minutes.
const TOKEN_SECONDS: i64 = 3600;

/// A client, and the files that it reads: they are there as long as this is.
pub struct Proven {
    /// The client.
    pub client: Client,
    _mounted: TempDir,
}

/// A pod of this ServiceAccount that has mounted a token for the cluster, and its CA.
pub async fn service_account(cluster: &Cluster<'_>, doors: &Doors, account: &str) -> Result<Proven> {
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
    let mounted = tempfile::tempdir()?;
    fs::write(mounted.path().join("token"), token)?;
    let tls = Tls::pem(ca(cluster).await?.as_bytes(), None)?;
    let options = ConnectOptions::new().tls(tls).token_file(mounted.path().join("token"));
    proven(doors, options, mounted)
}

/// A pod that has mounted the Secret of a user with a certificate.
pub async fn certificate(cluster: &Cluster<'_>, doors: &Doors, user: &str) -> Result<Proven> {
    let secret = cluster.test().api::<Secret>().get(&names::user_tls(cluster.name(), user)).await?;
    let data = secret.data.unwrap_or_default();
    let text = |key: &str| data.get(key).map(|bytes| bytes.0.clone()).context(format!("{key} is missing"));
    let (certificate, key) = (text(CERTIFICATE)?, text(KEY)?);
    let tls = Tls::pem(&text(BUNDLE)?, Some((&certificate, &key)))?;
    proven(doors, ConnectOptions::new().tls(tls), tempfile::tempdir()?)
}

/// Somebody who believes the cluster, and proves nothing.
pub async fn nobody(cluster: &Cluster<'_>, doors: &Doors) -> Result<Proven> {
    let tls = Tls::pem(ca(cluster).await?.as_bytes(), None)?;
    proven(doors, ConnectOptions::new().tls(tls), tempfile::tempdir()?)
}

async fn ca(cluster: &Cluster<'_>) -> Result<String> {
    let map = cluster.test().api::<ConfigMap>().get(&names::ca(cluster.name())).await?;
    map.data.unwrap_or_default().remove(BUNDLE).context("the ConfigMap has no CA")
}

fn proven(doors: &Doors, options: ConnectOptions, mounted: TempDir) -> Result<Proven> {
    let client = Client::builder(doors.addresses()).connect_options(options).without_leader_search();
    Ok(Proven { client: client.timeout(TIMEOUT).connect_lazy()?, _mounted: mounted })
}
