//! The identity file: whose disk it is, as lines of text.
//!
//! ```text
//! kvorum identity
//! format 1
//! node 00c0ffee00c0ffee
//! cluster 0000000000000000
//! incarnation 0
//! crc32c 01234567
//! ```
//!
//! The checksum covers the lines before it. A disk that has begun to found its cluster has a line `founds`
//! before the checksum, which older releases do not read; it goes when the disk joins a cluster. Where clients
//! are to be let in only once it is declared what they may do, the line is `founds closed` until then.

/// The format of the identity file that this build writes, and the only one it reads.
const FORMAT_VERSION: u32 = 1;

/// Whose disk it is. A node id names one disk for ever; it is never made twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The disk's node id.
    pub node_id: u64,
    /// The cluster it belongs to; 0: none yet.
    pub cluster_id: u64,
    /// The cluster's incarnation, raised by a recovery from a lost quorum.
    pub incarnation: u64,
}

/// What the identity file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) identity: Identity,
    pub(super) origin: Origin,
}

/// How a disk came to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Another disk founded it; or it has none yet.
    Joins,
    /// It founds it.
    Founds,
    /// The same, and clients are not let in before it is declared what they may do.
    FoundsClosed,
}

impl Origin {
    fn line(self) -> &'static str {
        match self {
            Origin::Joins => "",
            Origin::Founds => "founds\n",
            Origin::FoundsClosed => "founds closed\n",
        }
    }
}

pub(super) fn encode(held: Held) -> String {
    let Identity { node_id, cluster_id, incarnation } = held.identity;
    let origin = held.origin.line();
    let lines = format!(
        "kvorum identity\nformat {FORMAT_VERSION}\nnode {node_id:016x}\ncluster {cluster_id:016x}\n\
         incarnation {incarnation}\n{origin}"
    );
    let crc = crc32c::crc32c(lines.as_bytes());
    format!("{lines}crc32c {crc:08x}\n")
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum DecodeError {
    Damage(&'static str),
    Newer(u32),
}

pub(super) fn decode(bytes: &[u8]) -> Result<Held, DecodeError> {
    use DecodeError::Damage;
    let text = std::str::from_utf8(bytes).map_err(|_| Damage("it is not text"))?;
    let (lines, crc) = text.rsplit_once("crc32c ").ok_or(Damage("it has no checksum"))?;
    if crc != format!("{:08x}\n", crc32c::crc32c(lines.as_bytes())) {
        return Err(Damage("its checksum is wrong"));
    }
    let mut lines = lines.lines();
    if lines.next() != Some("kvorum identity") {
        return Err(Damage("it is no identity"));
    }
    let mut field = |name: &str| {
        let line = lines.next().and_then(|line| line.split_once(' '));
        line.filter(|(found, _)| *found == name).map(|(_, value)| value).ok_or(Damage("a field is missing"))
    };
    let number = |value: &str, radix| u64::from_str_radix(value, radix).map_err(|_| Damage("no number"));
    let format = number(field("format")?, 10)? as u32;
    if format != FORMAT_VERSION {
        return Err(DecodeError::Newer(format));
    }
    let identity = Identity {
        node_id: number(field("node")?, 16)?,
        cluster_id: number(field("cluster")?, 16)?,
        incarnation: number(field("incarnation")?, 10)?,
    };
    let origin = match lines.next() {
        Some("founds") => Origin::Founds,
        Some("founds closed") => Origin::FoundsClosed,
        _ => Origin::Joins,
    };
    Ok(Held { identity, origin })
}
