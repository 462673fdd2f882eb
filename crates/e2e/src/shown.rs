//! What members show to whoever asks for a name: real handshakes, whose certificates are verified here.

use std::time::Duration;

use kvorum_tls::{ClientTls, Facts, fingerprint};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::{Context as _, Result};

/// How long a connection and its handshake may take.
const LIMIT: Duration = Duration::from_secs(2);

/// A certificate that was shown, and believed.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What it says.
    pub facts: Facts,
    /// Its SHA-256.
    pub fingerprint: [u8; 32],
}

/// What the port at this address shows to somebody who asks for `name` and believes these CAs alone; fails where he would
/// not go on.
pub async fn shown(address: &str, name: &str, ca: &str) -> Result<Shown> {
    let tls = ClientTls::of_pem(ca.as_bytes(), None).context("read the CAs")?;
    let stream = timeout(LIMIT, async {
        let stream = TcpStream::connect(address).await.context("connect")?;
        tls.connect_http1(stream, name).await.context(format!("ask for {name}"))
    });
    let stream = stream.await.context(format!("a handshake as with {name}"))??;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let leaf = chain.first().context("no certificate was shown")?;
    Ok(Shown { facts: Facts::read(leaf)?, fingerprint: fingerprint(leaf) })
}
