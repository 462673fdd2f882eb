//! Compaction.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use kvorum_proto::kv::v1 as wire;

use crate::pool::Pool;
use crate::reads::Answer;
use crate::types::header;
use crate::writes::write;
use crate::{Error, Header};

/// Makes a revision the oldest one that can be read; await it.
#[derive(Debug, Clone)]
#[must_use = "a call does nothing until it is awaited"]
pub struct Compact {
    pool: Arc<Pool>,
    request: wire::CompactRequest,
    timeout: Duration,
}

/// The store was compacted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactResponse {
    /// Who answered, and at which revision.
    pub header: Header,
}

impl Compact {
    pub(crate) fn new(pool: Arc<Pool>, revision: u64) -> Compact {
        let timeout = pool.settings().timeout;
        Compact { pool, request: wire::CompactRequest { revision }, timeout }
    }

    /// How long the call may take, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Compact {
        self.timeout = timeout;
        self
    }
}

impl IntoFuture for Compact {
    type Output = Result<CompactResponse, Error>;
    type IntoFuture = Answer<CompactResponse>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let answer = write(&self.pool, &self.request, self.timeout, || None).await?;
            Ok(CompactResponse { header: header(answer.header) })
        })
    }
}
