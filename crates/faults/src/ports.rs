//! Ports that a node can have for as long as a test lasts.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::{Failure, Result};

/// The ports that tests use. They end below the kernel's ephemeral ports (32768 and up by default):
/// while a killed node is down, an outgoing connection could be given its port for its own, and the node
/// could not come back.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// The next port to try, counted from a start that differs between processes, so that tests that run at
/// the same time seldom meet.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port of 127.0.0.1 that nobody listens on, and that this process was not given before.
///
/// Another process may still take it first; whoever starts a node tries again with another port then.
pub fn free() -> Result<u16> {
    let start = (std::process::id().wrapping_mul(257) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = FIRST + offset;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Failure::new(format!("all ports from {FIRST} to {} are in use", FIRST + COUNT - 1)))
}
