//! Goal: whoever may do nothing but open connections cannot take a member's memory: calls whose requests never come
//! are bounded by what they take, with their headers, and all is as before when they are gone.
//!
//! Method: forty connections that open a thousand calls each on a member with default flags, with 12 kB of headers a
//! call, and send no request; the kernel says what its process held at most.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use kvorum_faults::process::{MEMORY_LIMIT, memory};
use kvorum_faults::{Cluster, Context as _, Layout, Result, ensure, rpc};

const CONNECTIONS: usize = 40;
const CALLS: u32 = 1000;
const HEADERS: usize = 3;
const HEADER_BYTES: usize = 4000;
/// A member that is busy with them takes no more for so long.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn calls_that_bring_nothing_take_little_memory() -> Result<()> {
    let cluster = Cluster::found(1, Layout::default()).await?;
    let (client, node) = (cluster.client().await?, &cluster.nodes()[0]);
    client.set("before", "").await?;
    let process = node.process_id().context("the node does not run")?;

    let address = node.client_address().to_owned();
    let held = tokio::task::spawn_blocking(move || {
        (0..CONNECTIONS).map(|_| hold(&address)).collect::<Result<Vec<_>>>()
    });
    let held = held.await.context("open calls")??;
    let ready = rpc::health(node.http_address(), "/readyz").await?;
    ensure!(ready.is_ok(), "it is not ready: {ready:?}");
    let peak = memory(Some(process), "VmHWM")?;
    eprintln!("open_calls: at most {} MiB with {} calls", peak >> 20, CONNECTIONS * CALLS as usize);
    ensure!(peak < MEMORY_LIMIT, "it held {} MiB", peak >> 20);

    drop(held);
    client.set("after", "").timeout(TIMEOUT).await?;
    cluster.close()
}

/// A connection with many calls that have begun and bring no request. Some of them are refused.
fn hold(address: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).context("connect")?;
    stream.set_write_timeout(Some(SEND_TIMEOUT))?;
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/kv.v1.Kv/Set"),
        (":authority", address),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        literal(&mut block, name, value);
    }
    for number in 0..HEADERS {
        literal(&mut block, &format!("x-{number}"), &"y".repeat(HEADER_BYTES));
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, SETTINGS, 0, 0, &[]);
    for call in 0..CALLS {
        frame(&mut bytes, HEADERS_FRAME, END_HEADERS, 2 * call + 1, &block);
    }
    stream.write_all(&bytes).context("open calls")?;
    Ok(stream)
}

/// Types and flags of HTTP/2's frames, RFC 9113.
const HEADERS_FRAME: u8 = 1;
const SETTINGS: u8 = 4;
const END_HEADERS: u8 = 4;

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    bytes.extend_from_slice(&length[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

/// A header as it is, which no table takes up: RFC 7541, 6.2.2.
fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        length(block, text.len());
        block.extend_from_slice(text.as_bytes());
    }
}

/// A length in seven bits, and what does not fit in groups of seven: RFC 7541, 5.1.
fn length(block: &mut Vec<u8>, length: usize) {
    const PREFIX_MAX: usize = 127;
    if length < PREFIX_MAX {
        block.push(length as u8);
        return;
    }
    block.push(PREFIX_MAX as u8);
    let mut rest = length - PREFIX_MAX;
    while rest >= 128 {
        block.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    block.push(rest as u8);
}
