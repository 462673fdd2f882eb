//! What a handshake costs each side, with certificates on both. `cargo test --release -p kvorum-tls --test cost --
//! --ignored --nocapture`: the promise is 0.3 ms of CPU.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::time::Duration;

use kvorum_tls::make::{self, CA_LIFE, LEAF_LIFE, Subject};
use kvorum_tls::{ClientTls, MemberTls, Mode, Paths, Port, TlsPort};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncWriteExt as _, duplex};

const HANDSHAKES: u32 = 2_000;
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[tokio::test]
#[ignore = "it measures; see above"]
async fn a_handshake_costs_a_fraction_of_a_millisecond() {
    let files = tempfile::tempdir().unwrap();
    let ca = make::ca("demo", CA_LIFE).unwrap();
    let member = make::leaf(&ca, &Subject::Member(vec!["localhost".into()]), LEAF_LIFE).unwrap();
    let root = make::leaf(&ca, &Subject::User("root".into()), LEAF_LIFE).unwrap();
    for (name, text) in
        [("ca.crt", &ca.certificate), ("tls.crt", &member.certificate), ("tls.key", &member.key)]
    {
        fs::write(files.path().join(name), text).unwrap();
    }
    let tls = MemberTls::load(Paths::in_directory(files.path())).unwrap();
    let port = TlsPort::new(tls, Port::Peer, Mode::Required);
    let own = (root.certificate.as_bytes(), root.key.as_bytes());
    let client = ClientTls::of_pem(ca.certificate.as_bytes(), Some(own)).unwrap();
    let (mut served, mut called) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..HANDSHAKES {
        let (near, far) = duplex(64 * 1024);
        let serve = async {
            let Ok(kvorum_tls::Accepted::Tls(mut stream, ..)) = port.accept(far, LOCAL).await else {
                panic!()
            };
            stream.write_all(b"x").await.unwrap();
            stream.flush().await.unwrap();
            stream
        };
        let call = client.connect(near, "localhost");
        let (_server, connected) = tokio::join!(timed(serve, &mut served), timed(call, &mut called));
        connected.unwrap();
    }
    eprintln!(
        "a handshake: {:?} of CPU for the server, {:?} for the client",
        served / HANDSHAKES,
        called / HANDSHAKES
    );
    assert!(served / HANDSHAKES <= Duration::from_micros(300), "a server's part of a handshake is too dear");
}

/// Adds the time that this thread works for a future.
async fn timed<T>(future: impl Future<Output = T>, total: &mut Duration) -> T {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        let begun = cpu();
        let polled = future.as_mut().poll(cx);
        *total += cpu() - begun;
        polled
    })
    .await
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
}
