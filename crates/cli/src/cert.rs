//! `kvorum cert`: a CA and certificates, where no operator makes them.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use kvorum_tls::make::{self, Made, Subject};
use serde_json::json;

use crate::args::{CertCommand, LeafArgs};
use crate::failure::Failure;
use crate::output::Output;

/// Nobody but the owner reads a key.
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;
const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn cert(command: CertCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        CertCommand::Ca { dir, name, days } => {
            if dir.join("ca.key").exists() {
                return Err(Failure::Other(format!(
                    "{} holds a CA already, whose certificates would be worth nothing; remove it, or name another \
                     directory",
                    dir.display()
                )));
            }
            let made = make::ca(&name, DAY * days).map_err(failure)?;
            write_pair(&dir, ("ca.crt", "ca.key"), &made)?;
            output.line(format!("made a CA in {}", dir.display()), json!({ "directory": dir }))
        }
        CertCommand::Member { names, leaf } => {
            let what = format!("made a member's certificate for {}", names.join(", "));
            make_leaf(what, &Subject::Member(names), &leaf, output)
        }
        CertCommand::User { name, leaf } => {
            let what = format!("made a certificate of user {name}");
            make_leaf(what, &Subject::User(name), &leaf, output)
        }
    }
}

fn make_leaf(what: String, subject: &Subject, args: &LeafArgs, output: &mut Output) -> Result<(), Failure> {
    let LeafArgs { ca, out, days } = args;
    let read = |name: &str| {
        let path = ca.join(name);
        fs::read_to_string(&path).map_err(|error| {
            Failure::Other(format!("read {}: {error}; `kvorum cert ca` makes a CA", path.display()))
        })
    };
    let ca = Made { certificate: read("ca.crt")?, key: read("ca.key")? };
    let made = make::leaf(&ca, subject, DAY * *days).map_err(failure)?;
    write_pair(out, ("tls.crt", "tls.key"), &made)?;
    write(&out.join("ca.crt"), &ca.certificate, CERTIFICATE_MODE)?;
    output.line(format!("{what} in {}", out.display()), json!({ "directory": out }))
}

fn write_pair(dir: &Path, (certificate, key): (&str, &str), made: &Made) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| Failure::Other(format!("make {}: {error}", dir.display())))?;
    write(&dir.join(key), &made.key, KEY_MODE)?;
    write(&dir.join(certificate), &made.certificate, CERTIFICATE_MODE)
}

/// Whole under its name, or not there: whoever has the file open reads it again at any time.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let failed = |error| Failure::Other(format!("write {}: {error}", path.display()));
    let new = path.with_extension("new");
    // A file that is left from before would keep its mode.
    let _ = fs::remove_file(&new);
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new);
    let mut file = file.map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    fs::rename(&new, path).map_err(failed)
}

fn failure(error: make::MakeError) -> Failure {
    match error {
        make::MakeError::Name { .. } | make::MakeError::User { .. } => Failure::Usage(error.to_string()),
        error => Failure::Other(error.to_string()),
    }
}
