//! What connections are encrypted with, and what proves who this client is.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kvorum_tls::{ClientTls, MaterialError, Paths};

use crate::Error;

/// Where a pod finds what it needs to reach a cluster, unless it is told: `ca.crt`, and perhaps `token`, or `tls.crt` and
/// `tls.key`.
const DEFAULT_DIRECTORY: &str = "/var/run/secrets/kvorum.io";

/// TLS of a client: the CAs that it believes, and a certificate of its own, if it has one.
///
/// Files are read again when a connection is made and ten seconds have gone by, so that certificates and CAs can be
/// renewed under a client that runs; what does not fit together is not taken. Without any of this a client looks into
/// `/var/run/secrets/kvorum.io/` when it connects first, and speaks TLS where there is a `ca.crt`; where there is a
/// `token`, too, of a ServiceAccount, it is sent with every call.
///
/// With TLS, `host:port` means TLS; `http://host:port` says that an endpoint is plain, and `https://host:port` that
/// it is not.
///
/// ```no_run
/// # async fn example() -> Result<(), kvorum_client::Error> {
/// use kvorum_client::{Client, Tls};
///
/// let tls = Tls::files("ca.crt", Some(("alice.crt", "alice.key")))?;
/// let client = Client::builder(["demo.ns.svc:2379"]).tls(tls).connect().await?;
/// # let _ = client;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Tls(ClientTls);

impl Tls {
    /// The CAs in a file, and, if there is one, the own certificate and its key in two others. All are PEM.
    ///
    /// # Errors
    /// [`Error::Tls`]: a file cannot be read, or they do not fit together.
    pub fn files(
        ca: impl Into<PathBuf>,
        own: Option<(impl Into<PathBuf>, impl Into<PathBuf>)>,
    ) -> Result<Tls, Error> {
        let own = own.map(|(certificate, key)| (certificate.into(), key.into()));
        Tls::load(Paths { ca: ca.into(), own, client_ca: None, outside: None })
    }

    /// `ca.crt` in a directory, and `tls.crt` with `tls.key` where they are there.
    ///
    /// # Errors
    /// As [`Tls::files`].
    pub fn directory(directory: impl AsRef<Path>) -> Result<Tls, Error> {
        Tls::load(Paths::for_client(directory.as_ref()))
    }

    /// The same from memory, in PEM.
    ///
    /// # Errors
    /// As [`Tls::files`].
    pub fn pem(ca: &[u8], own: Option<(&[u8], &[u8])>) -> Result<Tls, Error> {
        Ok(Tls(ClientTls::of_pem(ca, own)?))
    }

    fn load(paths: Paths) -> Result<Tls, Error> {
        Ok(Tls(ClientTls::load(paths)?))
    }

    pub(crate) fn inner(&self) -> &ClientTls {
        &self.0
    }
}

impl From<MaterialError> for Error {
    fn from(error: MaterialError) -> Error {
        Error::Tls(error.to_string())
    }
}

/// How a client came to what it speaks. Clones share what was found.
#[derive(Debug, Clone)]
pub(crate) enum Security {
    /// It is looked for when it is first needed.
    Looked(Arc<Mutex<Option<Option<Tls>>>>),
    /// By these files.
    Told(Tls),
    /// Not at all, since every endpoint is plain.
    Plain,
}

impl Security {
    /// Nobody has said it: it is looked for when it is first needed, and then stays.
    pub(crate) fn looked_for() -> Security {
        Security::Looked(Arc::default())
    }

    /// The token that is mounted where the CA is looked for. What is told goes with no token but one that is told: a
    /// ServiceAccount's is meant for one cluster.
    pub(crate) fn mounted_token(&self) -> Option<PathBuf> {
        match self {
            Security::Looked(_) => token_in(Path::new(DEFAULT_DIRECTORY)),
            Security::Told(_) | Security::Plain => None,
        }
    }

    /// What connections are made with; nothing: they are plain.
    pub(crate) fn tls(&self) -> Result<Option<Tls>, Error> {
        match self {
            Security::Plain => Ok(None),
            Security::Told(tls) => Ok(Some(tls.clone())),
            Security::Looked(found) => {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                if found.is_none() {
                    let directory = Path::new(DEFAULT_DIRECTORY);
                    let is_there = directory.join("ca.crt").exists();
                    *found = Some(if is_there { Some(Tls::directory(directory)?) } else { None });
                }
                Ok(found.clone().flatten())
            }
        }
    }
}

fn token_in(directory: &Path) -> Option<PathBuf> {
    let token = directory.join("token");
    (directory.join("ca.crt").exists() && token.exists()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token is sent where a CA is mounted beside it, and to nobody else.
    #[test]
    fn a_token_is_found_beside_the_ca() {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        std::fs::write(&token, "x").unwrap();
        assert_eq!(token_in(directory.path()), None);
        std::fs::write(directory.path().join("ca.crt"), "x").unwrap();
        assert_eq!(token_in(directory.path()), Some(token.clone()));
        std::fs::remove_file(token).unwrap();
        assert_eq!(token_in(directory.path()), None);
    }
}
