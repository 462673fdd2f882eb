//! Goal: whoever should comes in and knows who the other is, and nobody else does, with a reason that says what to
//! mend. Method: both sides in one process, over a pipe, with certificates made here.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use kvorum_tls::make::{self, CA_LIFE, LEAF_LIFE, Made, Subject};
use kvorum_tls::{
    Accepted, ClientTls, Fault, Identity, MaterialError, MemberTls, Mode, Paths, Port, Reason, Reload,
    TlsPort,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const HOST: &str = "demo-0.demo-peers.ns.svc";

fn ca() -> Made {
    make::ca("demo", CA_LIFE).unwrap()
}

fn member(ca: &Made) -> Made {
    make::leaf(ca, &Subject::Member(vec!["*.demo-peers.ns.svc".into(), "127.0.0.1".into()]), LEAF_LIFE)
        .unwrap()
}

fn user(ca: &Made, name: &str) -> Made {
    make::leaf(ca, &Subject::User(name.into()), LEAF_LIFE).unwrap()
}

fn write(directory: &Path, bundle: &str, own: &Made) {
    fs::write(directory.join("ca.crt"), bundle).unwrap();
    fs::write(directory.join("tls.crt"), &own.certificate).unwrap();
    fs::write(directory.join("tls.key"), &own.key).unwrap();
}

/// A member's files, loaded.
fn load(ca: &Made, own: &Made) -> (TempDir, MemberTls) {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &ca.certificate, own);
    let tls = MemberTls::load(Paths::in_directory(directory.path())).unwrap();
    (directory, tls)
}

fn client(ca: &Made, own: Option<&Made>) -> ClientTls {
    let own = own.map(|made| (made.certificate.as_bytes(), made.key.as_bytes()));
    ClientTls::of_pem(ca.certificate.as_bytes(), own).unwrap()
}

/// What the side that was connected to came to know.
type Taken = Result<Option<Identity>, Fault>;

/// A connection to a port: what both sides make of it. A server that takes one says a word, as HTTP/2's do.
async fn meet(port: &TlsPort, client: &ClientTls, host: &str) -> (Taken, Result<(), Fault>) {
    let (near, far) = duplex(64 * 1024);
    let serve = async {
        match port.accept(far, LOCAL).await? {
            Accepted::Tls(mut stream, peer, _) => {
                stream.write_all(b"hello").await.unwrap();
                stream.flush().await.unwrap();
                Ok((peer.map(|peer| peer.identity), Some(stream)))
            }
            Accepted::Plain(_) => Ok((None, None)),
        }
    };
    let call = async {
        let mut stream = client.connect(near, host).await?;
        let mut word = [0; 5];
        stream.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"hello");
        Ok(())
    };
    let (served, called) = tokio::join!(serve, call);
    (served.map(|(identity, _)| identity), called)
}

fn port(tls: &MemberTls, port: Port) -> TlsPort {
    TlsPort::new(tls.clone(), port, Mode::Required)
}

#[tokio::test]
async fn each_port_takes_those_who_have_business_there() {
    let (ca, other) = (ca(), make::ca("other", CA_LIFE).unwrap());
    let (_files, tls) = load(&ca, &member(&ca));
    let operator = make::leaf(&ca, &Subject::Operator, LEAF_LIFE).unwrap();
    let peer = [
        (Some(member(&ca)), Ok(Some(Identity::Member))),
        (Some(operator.clone()), Ok(Some(Identity::Operator))),
        (Some(user(&ca, "root")), Ok(Some(Identity::User("root".into())))),
        (Some(user(&ca, "alice")), Err((Reason::NotAllowed, "user \"alice\" is valid, and this port takes"))),
        (Some(user(&other, "root")), Err((Reason::UnknownCa, "is signed by \"other\""))),
        (None, Err((Reason::NoCertificate, "it shows no certificate"))),
    ];
    let clients = [
        (Some(member(&ca)), Ok(Some(Identity::Member))),
        (Some(operator), Ok(Some(Identity::Operator))),
        (Some(user(&ca, "alice")), Ok(Some(Identity::User("alice".into())))),
        (Some(user(&other, "alice")), Err((Reason::UnknownCa, "this port takes those of \"demo\""))),
        (None, Ok(None)),
    ];
    for (kind, table) in [(Port::Peer, &peer[..]), (Port::Client, &clients[..])] {
        for (own, expected) in table {
            let (taken, connected) = meet(&port(&tls, kind), &client(&ca, own.as_ref()), HOST).await;
            match expected {
                Ok(identity) => {
                    assert_eq!(&taken.unwrap(), identity);
                    connected.unwrap();
                }
                Err((reason, text)) => {
                    let fault = taken.unwrap_err();
                    assert_eq!(fault.reason, *reason, "{kind:?}: {fault}");
                    assert!(fault.text.contains(text), "{kind:?}: {fault}");
                    assert_eq!(connected.unwrap_err().reason, Reason::Refused, "{kind:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_certificate_for_clients_is_no_servers_and_the_other_way_around() {
    let ca = ca();
    let (_files, tls) = load(&ca, &member(&ca));
    // Who holds a user's certificate listens under a member's name.
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &ca.certificate, &user(&ca, "mallory"));
    let refused = MemberTls::load(Paths::in_directory(directory.path())).unwrap_err();
    assert!(matches!(refused, MaterialError::Unfit { .. }), "{refused}");
    // And a member's name is checked, whoever signed it.
    let (_, wrong_name) = meet(&port(&tls, Port::Client), &client(&ca, None), "demo.ns.svc").await;
    let fault = wrong_name.unwrap_err();
    assert!(fault.text.contains("not for demo.ns.svc"), "{fault}");
    let (_, address) = meet(&port(&tls, Port::Client), &client(&ca, None), "127.0.0.1").await;
    address.unwrap();
}

#[tokio::test]
async fn a_client_hears_which_ca_it_needs() {
    let (ours, theirs) = (ca(), make::ca("theirs", CA_LIFE).unwrap());
    let (_files, tls) = load(&ours, &member(&ours));
    let (taken, connected) = meet(&port(&tls, Port::Client), &client(&theirs, None), HOST).await;
    let text = connected.unwrap_err().text;
    assert!(text.contains("signed by \"demo\" (key ") && text.contains("holds \"theirs\" (key "), "{text}");
    assert!(text.contains("mount the CA of this cluster"), "{text}");
    let fault = taken.unwrap_err();
    assert_eq!(fault.reason, Reason::Refused);
    assert!(fault.text.contains("does not trust the CA"), "{fault}");
    // The same name with another key is another CA.
    let twin = ca();
    let (_, connected) = meet(&port(&tls, Port::Client), &client(&twin, None), HOST).await;
    assert_eq!(connected.unwrap_err().reason, Reason::UnknownCa);
}

#[tokio::test]
async fn members_find_members_only() {
    let ca = ca();
    let (_files, tls) = load(&ca, &member(&ca));
    let serve = |tls: MemberTls, far: DuplexStream| async move {
        let accepted = TlsPort::new(tls, Port::Peer, Mode::Required).accept(far, LOCAL).await;
        let Ok(Accepted::Tls(mut stream, peer, _)) = accepted else { panic!("not taken: {accepted:?}") };
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        peer.map(|peer| peer.identity)
    };
    let (near, far) = duplex(64 * 1024);
    let (identity, dialed) = tokio::join!(serve(tls.clone(), far), tls.dial(near, HOST));
    assert_eq!(identity, Some(Identity::Member));
    assert_eq!(dialed.unwrap().1.peer.identity, Identity::Member);
    // A server of the same CA that is no member: nobody makes one, but for whoever has the CA's key.
    let (near, far) = duplex(64 * 1024);
    let (_, dialed) = tokio::join!(plain_server(far), tls.dial(near, HOST));
    assert_eq!(dialed.unwrap_err().reason, Reason::Plain);
}

/// Speaks HTTP/2 without TLS, as a member from before does.
async fn plain_server(mut stream: DuplexStream) {
    let mut hello = [0; 1024];
    let _ = stream.read(&mut hello).await;
    stream.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
}

#[tokio::test]
async fn the_first_byte_decides() {
    let ca = ca();
    let (_files, tls) = load(&ca, &member(&ca));
    for (mode, plain_is_taken) in [(Mode::Optional, true), (Mode::Required, false)] {
        let port = TlsPort::new(tls.clone(), Port::Client, mode);
        let (near, far) = duplex(64 * 1024);
        let (mut near, preface) = (near, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        near.write_all(preface).await.unwrap();
        let heard = async {
            let mut heard = Vec::new();
            if !plain_is_taken {
                near.read_to_end(&mut heard).await.unwrap();
            }
            heard
        };
        let (accepted, heard) = tokio::join!(port.accept(far, LOCAL), heard);
        match accepted {
            Ok(Accepted::Plain(mut stream)) => {
                assert!(plain_is_taken);
                let mut all = vec![0; preface.len()];
                stream.read_exact(&mut all).await.unwrap();
                assert_eq!(all, preface, "bytes are missing");
            }
            Err(fault) => {
                assert!(!plain_is_taken);
                assert_eq!(fault.reason, Reason::Plain);
                let text = String::from_utf8_lossy(&heard);
                assert!(text.ends_with("this port speaks TLS"), "{text:?}");
                // Settings, and GOAWAY of 28 bytes with INADEQUATE_SECURITY.
                assert_eq!(heard[..9], *b"\0\0\0\x04\0\0\0\0\0");
                assert_eq!(heard[9..18], *b"\0\0\x1c\x07\0\0\0\0\0");
                assert_eq!(heard[18..26], *b"\0\0\0\0\0\0\0\x0c");
                assert_eq!(heard.len(), 9 + 9 + 28);
            }
            accepted => panic!("{accepted:?}"),
        }
        let (taken, connected) = meet(&port, &client(&ca, None), HOST).await;
        assert_eq!(taken.unwrap(), None);
        connected.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_too_little_is_cut_off() {
    let ca = ca();
    let (_files, tls) = load(&ca, &member(&ca));
    let port = port(&tls, Port::Peer);
    for said in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let (mut near, far) = duplex(64 * 1024);
        near.write_all(said).await.unwrap();
        let begun = tokio::time::Instant::now();
        assert_eq!(port.accept(far, LOCAL).await.unwrap_err().reason, Reason::Slow, "{said:?}");
        assert_eq!(begun.elapsed().as_secs(), 5);
    }
    let (near, far) = duplex(64 * 1024);
    drop(near);
    assert_eq!(port.accept(far, LOCAL).await.unwrap_err().reason, Reason::Left);
}

/// Goal: who gives up before his handshake has a turn takes none from those who have not. Method: an address that has all
/// its places taken by handshakes that stand still, and others of it that wait, one of which goes.
#[tokio::test(start_paused = true)]
async fn who_goes_while_he_waits_is_not_worked_for() {
    let ca = ca();
    let (_files, tls) = load(&ca, &member(&ca));
    let port = port(&tls, Port::Client);
    // What a client says first.
    let (near, mut far) = duplex(64 * 1024);
    let nobody = client(&ca, None);
    let saying = tokio::spawn(async move { nobody.connect(near, HOST).await.map(drop) });
    let mut hello = vec![0; 8 * 1024];
    let said = far.read(&mut hello).await.unwrap();
    hello.truncate(said);
    saying.abort();
    let begin = async || {
        let (mut near, far) = duplex(64 * 1024);
        near.write_all(&hello).await.unwrap();
        let port = port.clone();
        (near, tokio::spawn(async move { port.accept(far, LOCAL).await.map(drop) }))
    };
    let mut standing = Vec::new();
    for _ in 0..32 {
        standing.push(begin().await);
    }
    for (near, _) in &mut standing {
        // Each has its place once it was answered.
        near.read_exact(&mut [0; 64]).await.unwrap();
    }
    let begun = tokio::time::Instant::now();
    let ((gone, went), (_waits, served)) = (begin().await, begin().await);
    drop(gone);
    assert_eq!(went.await.unwrap().unwrap_err().reason, Reason::Left);
    assert_eq!(begun.elapsed(), Duration::ZERO, "it had a turn, or was waited for");
    assert!(!served.is_finished(), "the other waits on");
    drop(standing);
    assert_eq!(served.await.unwrap().unwrap_err().reason, Reason::Slow, "and has its turn then");
}

/// Those that say nothing have no place among the handshakes, and so keep nobody waiting.
#[tokio::test]
async fn a_thousand_silent_connections_hold_up_nobody() {
    let ca = ca();
    let (_files, tls) = load(&ca, &member(&ca));
    let port = port(&tls, Port::Client);
    let mut silent = Vec::new();
    for number in 0..1000 {
        let (mut near, far) = duplex(1024);
        // Some have begun to speak.
        near.write_all(&[0x16, 0x03, 0x01][..number % 4]).await.unwrap();
        let port = port.clone();
        silent.push((near, tokio::spawn(async move { port.accept(far, LOCAL).await.map(drop) })));
    }
    tokio::task::yield_now().await;
    let met = tokio::time::timeout(Duration::from_secs(4), meet(&port, &client(&ca, None), HOST)).await;
    met.expect("a new client waits for the silent ones").1.unwrap();
    silent.iter().for_each(|(_, task)| task.abort());
}

#[tokio::test]
async fn files_that_fit_are_taken_and_others_are_not() {
    let ca = ca();
    let (files, tls) = load(&ca, &member(&ca));
    let directory = files.path();
    assert_eq!(tls.reload(), Reload::Same);
    let first = tls.current();
    let new = member(&ca);
    // A key without its certificate.
    fs::write(directory.join("tls.key"), &new.key).unwrap();
    let Reload::Refused(error) = tls.reload() else { panic!("a key without its certificate was taken") };
    assert!(matches!(error, MaterialError::OtherKey { .. }), "{error}");
    assert_eq!(tls.reload(), Reload::Same, "the same files are refused twice");
    fs::write(directory.join("tls.crt"), &new.certificate).unwrap();
    assert_eq!(tls.reload(), Reload::Taken);
    assert_ne!(tls.current().leaf_fingerprint(), first.leaf_fingerprint());
    assert_eq!(tls.current().bundle_fingerprint(), first.bundle_fingerprint());
    // Another cluster's bundle.
    let other = make::ca("other", CA_LIFE).unwrap();
    fs::write(directory.join("ca.crt"), &other.certificate).unwrap();
    let Reload::Refused(error) = tls.reload() else { panic!("another CA was taken") };
    let text = error.to_string();
    assert!(text.contains("is signed by \"demo\"") && text.contains("holds \"other\""), "{text}");
    assert!(!text.contains('\n'));
    // Both: what a rotation begins with.
    fs::write(directory.join("ca.crt"), format!("{}{}", other.certificate, ca.certificate)).unwrap();
    assert_eq!(tls.reload(), Reload::Taken);
    let both = tls.current().bundle_fingerprint();
    fs::write(directory.join("ca.crt"), format!("{}\n\n{}", ca.certificate, other.certificate)).unwrap();
    assert_eq!(tls.reload(), Reload::Taken);
    assert_eq!(tls.current().bundle_fingerprint(), both, "the order of a bundle counts");
    for garbage in ["", "nothing", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"] {
        fs::write(directory.join("tls.crt"), garbage).unwrap();
        assert!(matches!(tls.reload(), Reload::Refused(_)), "{garbage:?} was taken");
    }
    fs::remove_file(directory.join("tls.crt")).unwrap();
    assert!(matches!(tls.reload(), Reload::Refused(MaterialError::File(_))));
    meet(&port(&tls, Port::Peer), &client(&ca, Some(&member(&ca))), HOST).await.1.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_is_not_loaded() {
    let ca = ca();
    let directory = tempfile::tempdir().unwrap();
    let names = Subject::Member(vec!["127.0.0.1".into()]);
    // They begin an hour ago, so that this one ends in the second in which it is made.
    let short = make::leaf(&ca, &names, Duration::ZERO).unwrap();
    write(directory.path(), &ca.certificate, &short);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let error = MemberTls::load(Paths::in_directory(directory.path())).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("and this machine's clock says") && text.contains("UTC"), "{text}");
}

/// A CA that is dropped ends what it has vouched for, and one that is kept does not.
#[tokio::test]
async fn whoever_lost_his_ca_is_known() {
    let (old, new) = (ca(), make::ca("demo 2", CA_LIFE).unwrap());
    let (files, tls) = load(&old, &member(&old));
    let port = port(&tls, Port::Peer);
    let (near, far) = duplex(64 * 1024);
    let operator = make::leaf(&old, &Subject::Operator, LEAF_LIFE).unwrap();
    let by_old = client(&old, Some(&operator));
    let call = async move { by_old.connect(near, HOST).await };
    let serve = async {
        let Ok(Accepted::Tls(mut stream, Some(peer), _)) = port.accept(far, LOCAL).await else { panic!() };
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        (peer, stream)
    };
    let ((peer, _stream), _connected) = tokio::join!(serve, call);
    assert!(tls.current().by_current_ca(&peer) && tls.current().still_takes(Port::Peer, &peer));
    write(files.path(), &format!("{}{}", old.certificate, new.certificate), &member(&new));
    assert_eq!(tls.reload(), Reload::Taken);
    assert!(tls.current().still_takes(Port::Peer, &peer), "its CA is still in the bundle");
    assert!(!tls.current().by_current_ca(&peer), "the own certificate is of another CA now");
    write(files.path(), &new.certificate, &member(&new));
    assert_eq!(tls.reload(), Reload::Taken);
    assert!(!tls.current().still_takes(Port::Peer, &peer), "its CA was dropped");
}

#[tokio::test]
async fn the_ca_for_clients_makes_no_root_and_no_member() {
    let (ca, outside) = (ca(), make::ca("company", CA_LIFE).unwrap());
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &ca.certificate, &member(&ca));
    let client_ca = directory.path().join("clients.crt");
    fs::write(&client_ca, &outside.certificate).unwrap();
    let paths = Paths { client_ca: Some(client_ca), ..Paths::in_directory(directory.path()) };
    let tls = MemberTls::load(paths).unwrap();
    let table = [
        (user(&outside, "bob"), Identity::Outside("bob".into())),
        (user(&outside, "root"), Identity::Nobody),
        (user(&outside, "system:serviceaccount:ns:app"), Identity::Nobody),
        // Who claims to be a member, or the operator, and is of no CA that may say so, is nobody.
        (member(&outside), Identity::Nobody),
        (make::leaf(&outside, &Subject::Operator, LEAF_LIFE).unwrap(), Identity::Nobody),
        (user(&ca, "root"), Identity::User("root".into())),
    ];
    for (own, identity) in table {
        let (taken, _) = meet(&port(&tls, Port::Client), &client(&ca, Some(&own)), HOST).await;
        assert_eq!(taken.unwrap(), Some(identity));
    }
    for own in [user(&outside, "root"), member(&outside)] {
        let (taken, _) = meet(&port(&tls, Port::Peer), &client(&ca, Some(&own)), HOST).await;
        assert_eq!(taken.unwrap_err().reason, Reason::UnknownCa, "the CA for clients opens the peer port");
    }
}

/// Goal: what others give is taken when it is there and fits, each content is told of once, and it stands in the way of
/// neither the start nor a renewal of the own certificate.
#[tokio::test]
async fn what_others_give_is_taken_when_it_fits() {
    let (ca, outside) = (ca(), make::ca("company", CA_LIFE).unwrap());
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &ca.certificate, &member(&ca));
    let client_ca = directory.path().join("clients.crt");
    let named = directory.path().join("outside");
    let paths = Paths { client_ca: Some(client_ca.clone()), ..Paths::in_directory(directory.path()) };
    let tls = MemberTls::load(paths.with_outside(&named)).unwrap();
    let refused = |told: Vec<Result<(), MaterialError>>| -> Vec<String> {
        told.into_iter().map(|it| it.unwrap_err().to_string()).collect()
    };
    let told = refused(tls.reload_beside());
    assert!(told.len() == 2 && told.iter().all(|line| line.starts_with("read ")), "{told:?}");
    assert_eq!(tls.reload_beside(), [], "the same is told twice");
    let bob = client(&ca, Some(&user(&outside, "bob")));
    let comes_in = async || meet(&port(&tls, Port::Client), &bob, HOST).await.0.is_ok();
    assert!(!comes_in().await);

    fs::write(&client_ca, &outside.certificate).unwrap();
    assert_eq!(tls.reload_beside(), [Ok(())]);
    assert!(comes_in().await && tls.current().client_ca_not_after().is_some());
    fs::write(&client_ca, "nothing").unwrap();
    assert_eq!(refused(tls.reload_beside()).len(), 1);
    assert_eq!(tls.reload_beside(), []);
    assert!(comes_in().await, "what was taken before goes on");

    // A certificate without its key, one for no name, one that fits.
    fs::create_dir(&named).unwrap();
    let for_names = |names: &[&str]| {
        let names = names.iter().map(ToString::to_string).collect();
        make::leaf(&outside, &Subject::Member(names), LEAF_LIFE).unwrap()
    };
    let (other, fits) =
        (for_names(&["kv.example.com"]), for_names(&["kv.example.com", "*.kv.example.com", "10.0.0.1"]));
    for (certificate, key, said) in [
        (&other.certificate, &fits.key, Some("is not the key of")),
        (&user(&outside, "x").certificate, &fits.key, Some("is not the key of")),
        (&fits.certificate, &fits.key, None),
    ] {
        fs::write(named.join("tls.crt"), certificate).unwrap();
        fs::write(named.join("tls.key"), key).unwrap();
        match said {
            Some(said) => assert!(refused(tls.reload_beside())[0].contains(said)),
            None => assert_eq!(tls.reload_beside(), [Ok(())]),
        }
    }
    let nobody = user(&outside, "x");
    fs::write(named.join("tls.crt"), &nobody.certificate).unwrap();
    fs::write(named.join("tls.key"), &nobody.key).unwrap();
    assert!(refused(tls.reload_beside())[0].contains("for no name"));
    let names = tls.current().outside_facts().unwrap().names.clone();
    assert_eq!(names, ["*.kv.example.com", "10.0.0.1", "kv.example.com"]);

    fs::remove_file(&client_ca).unwrap();
    write(directory.path(), &ca.certificate, &member(&ca));
    assert_eq!(tls.reload(), Reload::Taken, "the own certificate is renewed whatever others give");
    assert!(comes_in().await, "and what was taken of theirs goes on");
}

/// Goal: whoever asks for a name of outside is shown that certificate, and nobody else is. Method: clients that know one CA
/// or the other, and the names by which they come.
#[tokio::test]
async fn names_of_outside_are_shown_their_own_certificate() {
    let (ca, outside) = (ca(), make::ca("company", CA_LIFE).unwrap());
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &ca.certificate, &member(&ca));
    let named = directory.path().join("outside");
    fs::create_dir(&named).unwrap();
    // Its issuer may give it the members' names, too.
    let names = ["kv.example.com", "*.kv.example.com", HOST].map(str::to_owned).to_vec();
    let made = make::leaf(&outside, &Subject::Member(names), LEAF_LIFE).unwrap();
    fs::write(named.join("tls.crt"), &made.certificate).unwrap();
    fs::write(named.join("tls.key"), &made.key).unwrap();
    let tls = MemberTls::load(Paths::in_directory(directory.path()).with_outside(&named)).unwrap();
    assert_eq!(tls.reload_beside(), [Ok(())]);
    for (name, by_outside) in [
        ("kv.example.com", Some(true)),
        ("KV.example.com", Some(true)),
        ("a.kv.example.com", Some(true)),
        (HOST, Some(false)),
        ("127.0.0.1", Some(false)),
        // Neither has it: no client is content with either.
        ("a.b.kv.example.com", None),
        ("example.com", None),
    ] {
        for (trusts, is_outside) in [(&ca, false), (&outside, true)] {
            let (_, called) = meet(&port(&tls, Port::Client), &client(trusts, None), name).await;
            assert_eq!(
                called.is_ok(),
                by_outside == Some(is_outside),
                "{name} by outside {is_outside}: {called:?}"
            );
        }
    }
    let root = user(&ca, "root");
    let own = (root.certificate.as_bytes(), root.key.as_bytes());
    let by_name = ClientTls::of_pem(outside.certificate.as_bytes(), Some(own)).unwrap();
    let (taken, _) = meet(&port(&tls, Port::Client), &by_name, "kv.example.com").await;
    assert_eq!(taken.unwrap(), Some(Identity::User("root".into())), "who comes in is the same");
    let (_, called) = meet(&port(&tls, Port::Peer), &by_name, "kv.example.com").await;
    assert!(called.is_err(), "it is no certificate of the port for members");
}

/// Goal: while a CA is replaced, clients that know only the old one reach members with certificates of the new one,
/// and no longer once the cross certificate is gone.
#[tokio::test]
async fn a_cross_certificate_carries_clients_over() {
    let (old, new) = (ca(), make::ca("demo 2", CA_LIFE).unwrap());
    let leaf = member(&new);
    let crossed = Made {
        certificate: leaf.certificate.clone() + &make::cross(&old, &new).unwrap(),
        key: leaf.key.clone(),
    };
    for (own, reached) in [(&crossed, true), (&leaf, false)] {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &format!("{}{}", old.certificate, new.certificate), own);
        let tls = MemberTls::load(Paths::in_directory(directory.path())).unwrap();
        let (_, called) = meet(&port(&tls, Port::Client), &client(&old, None), HOST).await;
        assert_eq!(called.is_ok(), reached, "{called:?}");
        let (_, called) = meet(&port(&tls, Port::Client), &client(&new, None), HOST).await;
        assert!(called.is_ok(), "{called:?}");
    }
}
