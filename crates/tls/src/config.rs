//! rustls' configurations, made of files that fit together.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};

use crate::beside::Beside;
use crate::material::Own;
use crate::provider::{ALPN_HTTP1, ALPN_HTTP2, VERSIONS, provider};
use crate::trust::{Caller, Doorkeeper, Port};

/// For a port.
///
/// No session is resumed: its certificate would not be looked at again, and a CA that was dropped would live on.
/// Nor is there any data before the handshake's end, which could be sent twice by somebody else.
pub(crate) fn server(
    shows: Arc<dyn ResolvesServerCert>,
    doorkeeper: Arc<Doorkeeper>,
    port: Port,
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .expect("the provider has suites of TLS 1.3")
        .with_client_cert_verifier(doorkeeper)
        .with_cert_resolver(shows);
    let protocols: &[&[u8]] = match port {
        Port::Peer => &[ALPN_HTTP2],
        Port::Client => &[ALPN_HTTP2, ALPN_HTTP1],
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// The own certificate, whatever is asked for.
pub(crate) fn own(own: &Own) -> Arc<dyn ResolvesServerCert> {
    Arc::new(SingleCertAndKey::from(own.key.clone()))
}

/// The certificate for the name that is asked for.
pub(crate) fn by_name(own: &Own, beside: &Beside) -> Arc<dyn ResolvesServerCert> {
    Arc::new(ByName { own: own.clone(), beside: beside.clone() })
}

#[derive(Debug)]
struct ByName {
    own: Own,
    beside: Beside,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.beside.for_name(&self.own, hello.server_name()).clone())
    }
}

/// For connections that are made.
pub(crate) fn client(own: Option<&Own>, caller: Caller) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .expect("the provider has suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(caller));
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.key.clone()))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Arc::new(config)
}

/// The same for who speaks HTTP/1.1.
pub(crate) fn with_http1(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
    Arc::new(config)
}
