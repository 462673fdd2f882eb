//! Certificates and keys in files: PEM, as every tool writes it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The largest file that is read. A bundle of all public CAs has a quarter of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Certificates in a file.
const CERTIFICATES_MAX: usize = 1024;

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The operating system does not give it.
    #[error("read {}: {problem}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What it said.
        problem: String,
    },
    /// It is something else.
    #[error("{} is larger than 1 MiB: it cannot be a file of certificates", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// There is no certificate in it.
    #[error("{} holds no certificate; it must hold PEM blocks that begin with -----BEGIN CERTIFICATE-----", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// There is no key in it.
    #[error("{} holds no private key; it must hold one PEM block such as -----BEGIN PRIVATE KEY-----", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// It was cut off, or was never what it should be.
    #[error("{} is no PEM: {problem}", path.display())]
    NoPem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// A file's bytes, where they came from.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pem {
    pub(crate) path: PathBuf,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // It may be a key.
        write!(f, "Pem({}, ***)", self.path.display())
    }
}

impl Pem {
    /// Reads a file. It may wait for the disk.
    pub(crate) fn read(path: &Path) -> Result<Pem, FileError> {
        let refuse = |error: io::Error| FileError::Read { path: path.to_owned(), problem: error.to_string() };
        let mut bytes = Vec::new();
        File::open(path).map_err(refuse)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(refuse)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(FileError::TooLarge { path: path.to_owned() });
        }
        Ok(Pem { path: path.to_owned(), bytes })
    }

    /// Bytes that are in no file.
    pub(crate) fn of(path: &str, bytes: &[u8]) -> Pem {
        Pem { path: path.into(), bytes: bytes.to_owned() }
    }

    /// Its certificates, one at least.
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, FileError> {
        let found: Result<Vec<_>, PemError> =
            CertificateDer::pem_slice_iter(&self.bytes).take(CERTIFICATES_MAX).collect();
        let found = found.map_err(|error| self.no_pem(&error))?;
        match found.is_empty() {
            true => Err(FileError::NoCertificate { path: self.path.clone() }),
            false => Ok(found),
        }
    }

    /// Its private key.
    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, FileError> {
        match PrivateKeyDer::from_pem_slice(&self.bytes) {
            Ok(key) => Ok(key),
            Err(PemError::NoItemsFound) => Err(FileError::NoKey { path: self.path.clone() }),
            Err(error) => Err(self.no_pem(&error)),
        }
    }

    fn no_pem(&self, error: &PemError) -> FileError {
        // The library's words hold bytes of the file, which may be a key's.
        let problem = match error {
            PemError::MissingSectionEnd { .. } => "a block has no end; the file may be cut off",
            PemError::IllegalSectionStart { .. } => "a block begins in an unknown way",
            PemError::Base64Decode(_) => "a block is no base64",
            _ => "it cannot be read",
        };
        FileError::NoPem { path: self.path.clone(), problem: problem.into() }
    }
}
