//! Requests as store commands, and the store's records as responses. What is checked here is
//! checked once: behind this module every key is non-empty and within bounds.

use bytes::Bytes;
use kvorum_proto::kv::v1 as pb;
use kvorum_store::command::{Condition, KeyRange, Kind, Op, OpKind, Put, Record, SetTtl, Write};

use crate::error::RequestError;
use crate::requests::Head;

/// The longest key, in bytes. Keys are held in memory by indexes and caches, and each is copied
/// into every record of its history; 64 KiB is far beyond any name.
pub const KEY_BYTES_MAX: usize = 64 * 1024;

/// The most operations, and the most conditions, in a batch. One batch is applied in one go, and
/// everybody else's writes wait for it: this many take some 50 ms.
pub const BATCH_OPS_MAX: usize = 10_000;

/// The command of a `Set`.
pub fn set(request: pb::SetRequest) -> Result<Kind, RequestError> {
    let pb::SetRequest { key, value, ttl_ms, condition, return_previous } = request;
    check_key(&key)?;
    let conditions = match condition {
        Some(it) => vec![condition_of(it, Some(&key))?],
        None => Vec::new(),
    };
    let put = Op { kind: Some(OpKind::Put(Put { key, value, ttl_ms })) };
    Ok(Kind::Write(Write { conditions, ops: vec![put], return_previous }))
}

/// The command of a `Delete`.
pub fn delete(request: pb::DeleteRequest) -> Result<Kind, RequestError> {
    let range = key_range(request.range)?;
    let conditions = match request.condition {
        Some(it) => vec![condition_of(it, range.is_key().then_some(&range.start))?],
        None => Vec::new(),
    };
    let ops = vec![Op { kind: Some(OpKind::Delete(range)) }];
    Ok(Kind::Write(Write { conditions, ops, return_previous: request.return_previous }))
}

/// The command of a `Batch`.
pub fn batch(request: pb::BatchRequest) -> Result<Kind, RequestError> {
    if request.ops.is_empty() {
        return Err(invalid("the batch holds no operation"));
    }
    if request.ops.len().max(request.conditions.len()) > BATCH_OPS_MAX {
        return Err(RequestError::Invalid(format!(
            "a batch takes at most {BATCH_OPS_MAX} operations and as many conditions; split it"
        )));
    }
    let conditions =
        request.conditions.into_iter().map(|it| condition_of(it, None)).collect::<Result<_, _>>()?;
    let ops = request.ops.into_iter().map(operation).collect::<Result<_, _>>()?;
    Ok(Kind::Write(Write { conditions, ops, return_previous: false }))
}

/// The command of an `Expire` (`ttl_ms` at least 1).
pub fn expire(request: pb::ExpireRequest) -> Result<Kind, RequestError> {
    check_key(&request.key)?;
    if request.ttl_ms == 0 {
        return Err(invalid("ttl_ms must be at least 1; Persist drops a TTL"));
    }
    Ok(Kind::SetTtl(SetTtl { key: request.key, ttl_ms: request.ttl_ms }))
}

/// The command of a `Persist`.
pub fn persist(request: pb::PersistRequest) -> Result<Kind, RequestError> {
    check_key(&request.key)?;
    Ok(Kind::SetTtl(SetTtl { key: request.key, ttl_ms: 0 }))
}

/// A range as the store takes it. One that ends before it starts is an empty one, as in etcd.
pub fn key_range(range: Option<pb::KeyRange>) -> Result<KeyRange, RequestError> {
    let pb::KeyRange { start, mut end, unbounded } = range.ok_or_else(|| invalid("the range is missing"))?;
    if unbounded && !end.is_empty() {
        return Err(invalid("a range has either an end or is unbounded, not both"));
    }
    if end.is_empty() && !unbounded {
        check_key(&start)?;
    }
    if start.len().max(end.len()) > KEY_BYTES_MAX {
        return Err(RequestError::Invalid(format!("a key has at most {KEY_BYTES_MAX} bytes")));
    }
    if !end.is_empty() && end < start {
        end = start.clone();
    }
    Ok(KeyRange { start, end, unbounded })
}

/// Refuses what cannot be a key.
pub fn check_key(key: &[u8]) -> Result<(), RequestError> {
    if key.is_empty() {
        return Err(invalid("the key is empty; a key has at least one byte"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(RequestError::Invalid(format!(
            "the key takes {} bytes; a key has at most {KEY_BYTES_MAX}",
            key.len()
        )));
    }
    Ok(())
}

/// The header of an answer.
pub fn header(head: Head) -> pb::Header {
    let Head { cluster_id, incarnation, node_id, term, revision } = head;
    pb::Header { cluster_id, node_id, term, revision, incarnation }
}

/// A record as clients see it.
pub fn key_value(record: Record) -> pb::KeyValue {
    let Record { key, value, create_revision, mod_revision, version, deadline_ms } = record;
    pb::KeyValue { key, value, create_revision, mod_revision, version, deadline_ms }
}

fn operation(op: pb::BatchOp) -> Result<Op, RequestError> {
    let kind = match op.op {
        Some(pb::batch_op::Op::Put(pb::batch_op::Put { key, value, ttl_ms })) => {
            check_key(&key)?;
            OpKind::Put(Put { key, value, ttl_ms })
        }
        Some(pb::batch_op::Op::Delete(range)) => OpKind::Delete(key_range(Some(range))?),
        None => return Err(invalid("an operation of the batch is neither a put nor a delete")),
    };
    Ok(Op { kind: Some(kind) })
}

/// `own` is the key an empty one stands for.
fn condition_of(condition: pb::Condition, own: Option<&Bytes>) -> Result<Condition, RequestError> {
    use pb::condition::Expect;
    let key = match own {
        Some(own) if condition.key.is_empty() => own.clone(),
        _ => {
            check_key(&condition.key)?;
            condition.key
        }
    };
    let mod_revision = match condition.expect {
        Some(Expect::Absent(true)) => 0,
        Some(Expect::ModRevision(revision)) if revision > 0 => revision,
        Some(Expect::ModRevision(_)) => {
            return Err(invalid("a condition's mod_revision must be at least 1; use absent for no such key"));
        }
        Some(Expect::Absent(false)) => {
            return Err(invalid("a condition's absent cannot be false; name the mod_revision instead"));
        }
        None => return Err(invalid("a condition expects either absent or a mod_revision")),
    };
    Ok(Condition { key, mod_revision })
}

fn invalid(message: &str) -> RequestError {
    RequestError::Invalid(message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pb::condition::Expect;

    fn write(kind: Kind) -> Write {
        match kind {
            Kind::Write(write) => write,
            other => panic!("not a write: {other:?}"),
        }
    }

    fn range(start: &'static str, end: &'static str, unbounded: bool) -> Option<pb::KeyRange> {
        Some(pb::KeyRange { start: start.into(), end: end.into(), unbounded })
    }

    /// An empty condition key stands for the key that is written, where there is just one.
    #[test]
    fn a_condition_without_a_key_means_the_written_key() {
        let condition = pb::Condition { key: Bytes::new(), expect: Some(Expect::Absent(true)) };
        let request =
            pb::SetRequest { key: "k".into(), condition: Some(condition.clone()), ..Default::default() };
        let own = vec![Condition { key: "k".into(), mod_revision: 0 }];
        assert_eq!(write(set(request).unwrap()).conditions, own);

        let request = pb::DeleteRequest {
            range: range("k", "", false),
            condition: Some(condition.clone()),
            ..Default::default()
        };
        assert_eq!(write(delete(request).unwrap()).conditions, own);

        let request = pb::DeleteRequest {
            range: range("k", "z", false),
            condition: Some(condition),
            ..Default::default()
        };
        assert!(delete(request).is_err(), "a range of keys gives a condition no key of its own");
    }

    /// What makes no sense is refused at the edge, with a message and not by a panic or by silence.
    #[test]
    fn nonsense_is_refused() {
        let long = Bytes::from(vec![b'k'; KEY_BYTES_MAX + 1]);
        assert!(set(pb::SetRequest::default()).is_err());
        assert!(set(pb::SetRequest { key: long.clone(), ..Default::default() }).is_err());
        assert!(set(pb::SetRequest { key: long.slice(1..), ..Default::default() }).is_ok());
        for expect in [None, Some(Expect::Absent(false)), Some(Expect::ModRevision(0))] {
            let condition = Some(pb::Condition { key: "k".into(), expect });
            assert!(set(pb::SetRequest { key: "k".into(), condition, ..Default::default() }).is_err());
        }
        assert!(expire(pb::ExpireRequest { key: "k".into(), ttl_ms: 0 }).is_err());
        assert!(persist(pb::PersistRequest::default()).is_err());
        assert!(batch(pb::BatchRequest::default()).is_err());
        let ops = vec![pb::BatchOp { op: None }];
        assert!(batch(pb::BatchRequest { ops, ..Default::default() }).is_err());
        let put = pb::batch_op::Put { key: "k".into(), ..Default::default() };
        let ops = vec![pb::BatchOp { op: Some(pb::batch_op::Op::Put(put)) }; BATCH_OPS_MAX + 1];
        assert!(batch(pb::BatchRequest { ops, ..Default::default() }).is_err());
    }

    /// Ranges: one key, half-open, prefix of everything; an inverted one is empty.
    #[test]
    fn ranges_are_normalised() {
        assert!(key_range(None).is_err());
        assert!(key_range(range("", "", false)).is_err(), "an empty single key");
        assert!(key_range(range("a", "b", true)).is_err());
        assert!(key_range(range("", "", true)).unwrap().contains(b"anything"));
        assert!(key_range(range("a", "", false)).unwrap().is_key());
        let inverted = key_range(range("b", "a", false)).unwrap();
        assert!(!inverted.contains(b"a") && !inverted.contains(b"b") && !inverted.is_key());
    }
}
