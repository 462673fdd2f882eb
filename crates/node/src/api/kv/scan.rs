//! `Scan`: a range in pages at one pinned revision.
//!
//! The next page is read only when the last one was taken by the connection and there is room for it in
//! the budget of what waits to be sent; no snapshot of the store lives longer than the reading of a page.

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::try_unfold;
use kvorum_proto::kv::v1 as pb;
use kvorum_store::command::KeyRange;
use kvorum_store::{Scan, Store};
use tonic::Status;

use super::convert::key_value;
use crate::access::Grant;
use crate::error::{RequestError, answered};
use crate::net::outbox::{Frame, Outbox};
use crate::net::sizes::REQUEST_OVERHEAD_BYTES;
use crate::requests::Reads;

/// Keys in a response, for keys of few bytes.
const PAGE_KEYS_MAX: u64 = 10_000;

/// Reads pages, as many at a time as the door lets.
pub struct Reader {
    /// Where from.
    pub reads: Reads,
    /// The header of every response, but for the revision.
    pub header: pb::Header,
    /// Where to.
    pub outbox: Outbox,
    /// Bytes in a page, see [`Limits`](crate::limits::Limits).
    pub page_bytes_max: usize,
    /// The largest record, in bytes: a page may go beyond its size by one.
    pub record_bytes_max: usize,
}

/// A page that is ready to be sent, and what is known of it.
struct Read {
    frame: Frame,
    revision: u64,
    records: u64,
    next: Option<Bytes>,
}

impl Reader {
    async fn read(&self, scan: Scan) -> Result<Read, RequestError> {
        let bytes_max = self.page_bytes_max + self.record_bytes_max + REQUEST_OVERHEAD_BYTES;
        let room = self.outbox.reserve(bytes_max).await?;
        let header = self.header;
        let read = move |store: &Store| {
            let page = answered(store.scan_page(&scan))?;
            let (revision, records, next) = (page.revision, page.records.len() as u64, page.next);
            let header = Some(pb::Header { revision, ..header });
            let kvs = page.records.into_iter().map(key_value).collect();
            let frame = Frame::encode(&pb::ScanResponse { header, kvs }, room);
            Ok(Read { frame, revision, records, next })
        };
        self.reads.read(read).await?
    }
}

/// Where a scan stands.
struct Progress {
    reader: Reader,
    /// It must hold for each page.
    grant: Grant,
    scan: Scan,
    /// Read before the stream was opened, so that a refusal is an error of the call.
    first: Option<Read>,
    /// Keys that may still be answered; `None`: all.
    left: Option<u64>,
    done: bool,
}

/// The responses of a scan; even an empty range has one, for its revision.
pub async fn pages(
    reader: Reader,
    mut grant: Grant,
    range: KeyRange,
    request: &pb::ScanRequest,
) -> Result<impl Stream<Item = Result<Frame, Status>> + use<>, RequestError> {
    let left = (request.limit > 0).then_some(request.limit);
    let scan = Scan {
        range,
        revision: request.revision,
        reverse: request.reverse,
        keys_only: request.keys_only,
        after: None,
        keys_max: keys_in_page(left),
        bytes_max: reader.page_bytes_max,
    };
    let first = reader.read(scan.clone()).await?;
    grant.holds()?;
    let scan = Scan { revision: first.revision, ..scan };
    let progress = Progress { reader, grant, scan, first: Some(first), left, done: false };
    Ok(try_unfold(progress, next))
}

async fn next(mut at: Progress) -> Result<Option<(Frame, Progress)>, Status> {
    if at.done {
        return Ok(None);
    }
    let page = match at.first.take() {
        Some(page) => page,
        None => at.reader.read(at.scan.clone()).await?,
    };
    at.grant.holds()?;
    at.left = at.left.map(|left| left.saturating_sub(page.records));
    at.advance(page.next);
    Ok(Some((page.frame, at)))
}

impl Progress {
    fn advance(&mut self, after: Option<Bytes>) {
        self.done = after.is_none() || self.left == Some(0);
        self.scan.after = after;
        self.scan.keys_max = keys_in_page(self.left);
    }
}

fn keys_in_page(left: Option<u64>) -> usize {
    left.unwrap_or(u64::MAX).min(PAGE_KEYS_MAX) as usize
}
