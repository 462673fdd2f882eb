//! Files that others give a member: the CA of clients from outside, and a certificate for names of outside.
//!
//! Whatever is wrong with them keeps a member neither from starting nor from taking its own files anew: they may not be
//! there yet, and who writes them does not answer for the cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use crate::certificate::covers;
use crate::material::{MaterialError, Own, Paths, own};
use crate::pem::{FileError, Pem};
use crate::trust::Trust;

/// Of each that is new, whether it was taken.
pub type Told = Vec<Result<(), MaterialError>>;

/// What was taken of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beside {
    /// The CAs of clients from outside.
    pub(crate) client_trust: Option<Arc<Trust>>,
    /// The certificate for names of outside.
    pub(crate) outside: Option<Arc<Own>>,
}

/// What the files held when they were looked at. What is as it was need not be looked at again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    client_ca: Option<Result<Pem, FileError>>,
    outside: Option<Result<(Pem, Pem), FileError>>,
}

impl Seen {
    /// Reads the files, those that are there. It may wait for the disk.
    pub(crate) fn read(paths: &Paths) -> Seen {
        let pair = |(certificate, key): &(PathBuf, PathBuf)| Ok((Pem::read(certificate)?, Pem::read(key)?));
        Seen {
            client_ca: paths.client_ca.as_deref().map(Pem::read),
            outside: paths.outside.as_ref().map(pair),
        }
    }
}

impl Beside {
    /// Takes what is new and fits; in the place of the rest, the old goes on. Tells of each that is new what became of it.
    pub(crate) fn take(&mut self, before: &Seen, now: &Seen) -> Told {
        let mut told = Told::new();
        if let Some(client_ca) = now.client_ca.as_ref().filter(|_| now.client_ca != before.client_ca) {
            let trust = client_ca.as_ref().map_err(|error| error.clone().into()).and_then(Trust::read);
            told.push(trust.map(|trust| self.client_trust = Some(Arc::new(trust))));
        }
        if let Some(pair) = now.outside.as_ref().filter(|_| now.outside != before.outside) {
            let pair = pair.as_ref().map_err(|error| error.clone().into());
            let outside =
                pair.and_then(|(certificate, key)| for_names(own(certificate, key)?, &certificate.path));
            told.push(outside.map(|outside| self.outside = Some(Arc::new(outside))));
        }
        told
    }

    /// What to show to whoever asks for a name. The own certificate goes before: nobody takes its names from it.
    pub(crate) fn for_name<'a>(&'a self, own: &'a Own, name: Option<&str>) -> &'a Arc<CertifiedKey> {
        let is_for = |own: &Own, name: &str| covers(&own.facts.names, name);
        let outside = name
            .filter(|name| !is_for(own, name))
            .and_then(|name| self.outside.as_ref().filter(|outside| is_for(outside, name)));
        outside.map_or(&own.key, |outside| &outside.key)
    }
}

fn for_names(own: Own, path: &Path) -> Result<Own, MaterialError> {
    if own.facts.names.is_empty() {
        return Err(MaterialError::NoNames { path: path.to_owned() });
    }
    Ok(own)
}
