//! A CA of a test's own, what it has signed, and the files of members and clients, which can be replaced while
//! nodes run.

use std::fs;
use std::path::{Path, PathBuf};

use kvorum_client::Tls;
use kvorum_tls::make::{self, CA_LIFE, LEAF_LIFE, Made, Subject};
use kvorum_tls::{ClientTls, Paths};

use crate::{Context as _, Result};

/// The names of nodes on this machine.
const NAMES: [&str; 3] = ["127.0.0.1", "localhost", "::1"];

/// The files of a cluster with TLS, in a directory: one certificate for all members, as the operator makes it, and
/// one of root for the test itself.
#[derive(Debug)]
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Makes a CA, a member's certificate and one of root.
    pub fn make(directory: &Path) -> Result<Certificates> {
        let certificates = Certificates { directory: directory.to_owned() };
        let ca = ca("test")?;
        certificates.write(&[&ca], &ca)?;
        fs::write(directory.join("ca.crt"), &ca.certificate)?;
        fs::write(directory.join("ca.key"), &ca.key)?;
        Ok(certificates)
    }

    /// The CA that it began with.
    pub fn ca(&self) -> Result<Made> {
        let read = |name: &str| fs::read_to_string(self.directory.join(name)).context("read the CA");
        Ok(Made { certificate: read("ca.crt")?, key: read("ca.key")? })
    }

    /// Has these CAs believed by members and root, and the last one sign their certificates anew.
    pub fn write(&self, bundle: &[&Made], signer: &Made) -> Result<()> {
        let names = NAMES.map(str::to_owned).to_vec();
        self.write_as("member", bundle, &leaf(signer, &Subject::Member(names))?)?;
        self.write_as("root", bundle, &leaf(signer, &Subject::User("root".into()))?)
    }

    /// Has these CAs believed, and leaves the certificates as they are.
    pub fn write_bundle(&self, bundle: &[&Made]) -> Result<()> {
        let bundle: String = bundle.iter().map(|ca| ca.certificate.as_str()).collect();
        ["member", "root"].iter().try_for_each(|who| self.replace(who, "ca.crt", &bundle))
    }

    /// Writes the files of somebody.
    pub fn write_as(&self, who: &str, bundle: &[&Made], own: &Made) -> Result<()> {
        let directory = self.directory.join(who);
        fs::create_dir_all(&directory)?;
        let bundle: String = bundle.iter().map(|ca| ca.certificate.as_str()).collect();
        self.replace(who, "ca.crt", &bundle)?;
        self.replace(who, "tls.key", &own.key)?;
        self.replace(who, "tls.crt", &own.certificate)
    }

    /// Puts a file in the place of another, whole.
    fn replace(&self, who: &str, name: &str, text: &str) -> Result<()> {
        let new = self.directory.join(who).join("new");
        fs::write(&new, text)?;
        Ok(fs::rename(&new, self.directory.join(who).join(name))?)
    }

    /// The directory of somebody's files.
    pub fn directory(&self, who: &str) -> PathBuf {
        self.directory.join(who)
    }

    /// The flags of a node in this mode.
    pub fn flags(&self, mode: &str) -> Vec<String> {
        let directory = self.directory("member").display().to_string();
        ["--tls", mode, "--tls-dir", &directory].map(str::to_owned).to_vec()
    }

    /// Root, for the library of clients.
    pub fn root(&self) -> Result<Tls> {
        Ok(Tls::directory(self.directory("root"))?)
    }

    /// Root, for whoever speaks gRPC by himself.
    pub fn raw_root(&self) -> Result<ClientTls> {
        ClientTls::load(Paths::for_client(&self.directory("root"))).context("load root's certificate")
    }
}

/// A CA.
pub fn ca(name: &str) -> Result<Made> {
    make::ca(name, CA_LIFE).context("make a CA")
}

/// A certificate for whoever, of the usual life.
pub fn leaf(ca: &Made, subject: &Subject) -> Result<Made> {
    make::leaf(ca, subject, LEAF_LIFE).context("make a certificate")
}
