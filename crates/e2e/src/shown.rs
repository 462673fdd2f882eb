//! What members show to whoever asks for a name: real handshakes, whose certificates are verified here.

use std::time::Duration;

use kvorum_tls::{ClientTls, Facts, fingerprint};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{Context as _, Failure, Result};

/// How long a connection may take, and a handshake.
const LIMIT: Duration = Duration::from_secs(2);

/// A certificate that was shown, and believed.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What it says.
    pub facts: Facts,
    /// Its SHA-256.
    pub fingerprint: [u8; 32],
}

/// What the client port at this address shows to somebody who asks for `name` and believes these CAs alone; fails where he
/// would not go on.
pub async fn shown(address: &str, name: &str, ca: &str) -> Result<Shown> {
    let tls = ClientTls::of_pem(ca.as_bytes(), None).context("read the CAs")?;
    let handshake = timeout(LIMIT, tls.connect_http1(connect(address).await?, name)).await;
    let stream = handshake.context("wait for a handshake")?.context(format!("ask for {name}"))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let leaf = chain.first().context("no certificate was shown")?;
    Ok(Shown { facts: Facts::read(leaf)?, fingerprint: fingerprint(leaf) })
}

/// Why somebody who asks for `name` and believes these CAs alone does not go on, on any port; fails where he would.
pub async fn refused(address: &str, name: &str, ca: &str) -> Result<String> {
    let tls = ClientTls::of_pem(ca.as_bytes(), None).context("read the CAs")?;
    let handshake = timeout(LIMIT, tls.connect(connect(address).await?, name)).await;
    match handshake.context("wait for a handshake")? {
        Ok(_) => Err(Failure::new(format!("{address} shows a certificate for {name}"))),
        Err(fault) => Ok(fault.to_string()),
    }
}

async fn connect(address: &str) -> Result<TcpStream> {
    let connected = timeout(LIMIT, TcpStream::connect(address)).await.context("wait for a connection")?;
    connected.context("connect")
}
