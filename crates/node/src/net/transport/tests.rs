//! Goal: what a connection may cancel at once. Method: frames of HTTP/2 written by hand, all there before
//! the node looks at the first, as after a pause of the node.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;

use prometheus::IntGauge;

use super::*;
use crate::blocking::{Blocking, ThreadPool};
use crate::metrics::Metrics;
use crate::net::budget::Budget;
use crate::net::network::Network as _;
use crate::net::tcp::Tcp;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
/// Flags of HEADERS.
const END_STREAM_AND_HEADERS: u8 = 0x1 | 0x4;
const ACK: u8 = 0x1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&len[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// So many calls, each cancelled at once, and a ping behind them.
fn cancelled_calls(count: u32) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for stream in (0..count).map(|at| at * 2 + 1) {
        // POST, http, "/", and an authority, by the static table of HPACK.
        bytes.extend(frame(HEADERS, END_STREAM_AND_HEADERS, stream, &[0x83, 0x86, 0x84, 0x01, 0x01, b'a']));
        bytes.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    bytes.extend(frame(PING, 0, 0, &[7; 8]));
    bytes
}

/// The first PING acknowledgement or GOAWAY, whichever comes first.
fn verdict(stream: &mut TcpStream) -> (u8, String) {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).unwrap();
        if head[3] == GOAWAY || (head[3] == PING && head[4] == ACK) {
            return (head[3], String::from_utf8_lossy(&payload).into_owned());
        }
    }
}

async fn after(cancelled: u32) -> (u8, String) {
    let listener = Tcp.listen("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.address().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    client.write_all(&cancelled_calls(cancelled)).unwrap();
    let budget = Budget::new(1 << 20, Duration::from_secs(60), IntGauge::new("used", "used").unwrap());
    let stopping = Arc::new(AtomicBool::new(false));
    let router = Router::builder(Arc::new(Metrics::new()), stopping, 1 << 20, budget.clone(), budget).build();
    let door = Door::open("client", Metrics::new().tls);
    let server = tokio::spawn(serve(listener, Port::Client, door, router, std::future::pending()));
    let verdict = Blocking::new(ThreadPool).run(move || verdict(&mut client)).await.unwrap();
    server.abort();
    verdict
}

#[tokio::test]
async fn calls_that_were_cancelled_during_a_pause_close_no_connection() {
    assert_eq!(after(4000).await.0, PING, "the connection goes on");
}

#[tokio::test]
async fn a_flood_of_cancelled_calls_closes_its_connection() {
    let (kind, why) = after(12_000).await;
    assert_eq!(kind, GOAWAY);
    assert!(why.contains("too_many_resets"), "{why}");
}
