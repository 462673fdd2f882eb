//! Goal: whatever comes over the wire or out of a file, nothing panics, nothing grows, and a certificate that was
//! changed proves nobody. Method: random bytes, and real ones that are cut off, repeated and changed in places. A
//! longer hunt: `PROPTEST_CASES=100000`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock, Mutex};

use kvorum_tls::make::{self, CA_LIFE, LEAF_LIFE, Made, Subject};
use kvorum_tls::{ClientTls, Facts, Identity, MemberTls, Mode, Paths, Port, TlsPort, pem_fingerprint};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// What a node may say to somebody who is not let in: an alert, or that the port speaks TLS, and the first flight of
/// a handshake, which holds its certificate.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

struct World {
    _files: TempDir,
    ca: Made,
    member: Made,
    tls: MemberTls,
    /// The first words of a client, as they really are.
    hello: Vec<u8>,
    runtime: tokio::runtime::Runtime,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let files = tempfile::tempdir().unwrap();
    let ca = make::ca("demo", CA_LIFE).unwrap();
    let member = make::leaf(&ca, &Subject::Member(vec!["localhost".into()]), LEAF_LIFE).unwrap();
    for (name, text) in
        [("ca.crt", &ca.certificate), ("tls.crt", &member.certificate), ("tls.key", &member.key)]
    {
        fs::write(files.path().join(name), text).unwrap();
    }
    let tls = MemberTls::load(Paths::in_directory(files.path())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = ClientTls::of_pem(ca.certificate.as_bytes(), None).unwrap();
    let hello = runtime.block_on(async {
        let (near, mut far) = duplex(64 * 1024);
        let hello = async {
            let mut bytes = vec![0; 64 * 1024];
            let read = far.read(&mut bytes).await.unwrap();
            bytes.truncate(read);
            drop(far);
            bytes
        };
        tokio::join!(client.connect(near, "localhost"), hello).1
    });
    assert!(hello.len() > 1000 && hello[0] == 0x16, "a hybrid key exchange is larger than {}", hello.len());
    World { _files: files, ca, member, tls, hello, runtime }
});

/// One at a time: they share a runtime.
static TURN: Mutex<()> = Mutex::new(());

/// What becomes of real bytes.
fn changed(bytes: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let bytes = Arc::new(bytes);
    let len = bytes.len();
    let changes = prop::collection::vec((0..len, any::<u8>()), 0..6);
    (changes, 0..=len, any::<bool>(), prop::collection::vec(any::<u8>(), 0..32)).prop_map(
        move |(changes, end, is_cut, more)| {
            let mut bytes = bytes.to_vec();
            changes.into_iter().for_each(|(at, byte)| bytes[at] = byte);
            if is_cut {
                bytes.truncate(end);
            }
            bytes.extend(more);
            bytes
        },
    )
}

fn der(pem: &str) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject as _;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

proptest! {
    #[test]
    fn any_first_words_come_to_an_end(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..2048),
            Just(0).prop_flat_map(|_| changed(WORLD.hello.clone())),
        ],
        is_optional in any::<bool>(),
    ) {
        let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mode = if is_optional { Mode::Optional } else { Mode::Required };
        let port = TlsPort::new(WORLD.tls.clone(), Port::Peer, mode);
        let answer = WORLD.runtime.block_on(async {
            let (mut near, far) = duplex(256 * 1024);
            near.write_all(&bytes).await.unwrap();
            near.shutdown().await.unwrap();
            let accepted = port.accept(far, LOCAL).await;
            prop_assert!(!matches!(accepted, Ok(kvorum_tls::Accepted::Tls(..))), "nobody finished a handshake");
            drop(accepted);
            let mut answer = Vec::new();
            let _ = near.read_to_end(&mut answer).await;
            Ok(answer)
        })?;
        prop_assert!(answer.len() <= ANSWER_BYTES_MAX, "it was answered with {} bytes", answer.len());
    }

    #[test]
    fn any_bytes_are_a_certificate_or_none(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..1024),
        Just(0).prop_flat_map(|_| changed(der(&WORLD.member.certificate))),
        Just(0).prop_flat_map(|_| changed(der(&WORLD.ca.certificate))),
    ]) {
        if let Ok(facts) = Facts::read(&bytes) {
            // What it says is only looked at where its signature is good; it must print all the same.
            let said = format!("{} {} {}", facts.subject, facts.issuer, facts.identity());
            prop_assert!(said.len() < 8 * 1024 && !said.contains('\n'), "{said:?}");
            if let Identity::User(name) | Identity::Outside(name) = facts.outside_identity() {
                prop_assert!(name != "root" && !name.contains(':'));
            }
        }
    }

    #[test]
    fn any_file_is_taken_or_refused(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..1024),
        "(-----BEGIN (CERTIFICATE|PRIVATE KEY|EC PRIVATE KEY)-----\n[A-Za-z0-9+/=\n]{0,80}\n-----END (CERTIFICATE|PRIVATE KEY)-----\n){0,3}"
            .prop_map(String::into_bytes),
        Just(0).prop_flat_map(|_| changed(WORLD.member.certificate.clone().into_bytes())),
        Just(0).prop_flat_map(|_| changed(WORLD.member.key.clone().into_bytes())),
    ]) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = pem_fingerprint(&text);
        let (ca, member) = (WORLD.ca.certificate.as_bytes(), &WORLD.member);
        let tries = [
            ClientTls::of_pem(&bytes, None),
            ClientTls::of_pem(ca, Some((&bytes, member.key.as_bytes()))),
            ClientTls::of_pem(ca, Some((member.certificate.as_bytes(), &bytes))),
        ];
        for refused in tries.into_iter().filter_map(Result::err) {
            let said = refused.to_string();
            prop_assert!(!said.contains('\n') && !said.contains("BEGIN EC"), "{said:?}");
            // A key's bytes are in no message.
            let secret = member.key.lines().nth(1).unwrap();
            prop_assert!(!said.contains(secret) && !said.contains(&secret[..16]), "{said:?}");
        }
    }

    #[test]
    fn any_name_is_refused_or_in_the_certificate(name in "[ -~\u{e4}\u{4e2d}]{0,70}") {
        if let Ok(made) = make::leaf(&WORLD.ca, &Subject::User(name.clone()), LEAF_LIFE) {
            let facts = Facts::read(&der(&made.certificate)).unwrap();
            prop_assert_eq!(facts.identity(), Identity::User(name.clone()));
        }
        if let Ok(made) = make::leaf(&WORLD.ca, &Subject::Member(vec![name]), LEAF_LIFE) {
            prop_assert_eq!(Facts::read(&der(&made.certificate)).unwrap().identity(), Identity::Member);
        }
    }
}
