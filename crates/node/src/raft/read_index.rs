//! Linearizable reads by ReadIndex: many readers share one confirmation of leadership.
//!
//! A reader joins the confirmation that begins next, never one that began before it came: the index
//! it gets then covers everything that was acknowledged before its read began.

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::error::RequestError;

/// Readers that may wait for the next confirmation. Later ones wait for room until their deadline.
const READERS_WAITING_MAX: usize = 8192;
/// Readers that one confirmation takes along.
const READERS_PER_CONFIRMATION_MAX: usize = 1024;

type Reader = oneshot::Sender<Result<u64, RequestError>>;

/// Finds out which index a linearizable read must wait for.
pub trait Confirm: Send + 'static {
    /// Answers the log index that a read which begins now must see applied.
    fn confirm(&mut self) -> impl Future<Output = Result<u64, RequestError>> + Send;
}

/// A handle to the task that confirms, which ends when the last handle is dropped.
#[derive(Clone)]
pub struct ReadIndex {
    readers: mpsc::Sender<Reader>,
}

impl ReadIndex {
    /// Starts the task, which begins a confirmation only when the one before has ended.
    pub fn start(mut confirm: impl Confirm) -> ReadIndex {
        let (readers, mut queue) = mpsc::channel::<Reader>(READERS_WAITING_MAX);
        tokio::spawn(async move {
            let mut waiting = Vec::new();
            while queue.recv_many(&mut waiting, READERS_PER_CONFIRMATION_MAX).await > 0 {
                let result = confirm.confirm().await;
                for reader in waiting.drain(..) {
                    // Whoever asked may have given up waiting.
                    let _ = reader.send(result.clone());
                }
            }
        });
        ReadIndex { readers }
    }

    /// Joins the next confirmation and answers its index.
    pub async fn get(&self, deadline: Instant) -> Result<u64, RequestError> {
        let (reader, index) = oneshot::channel();
        let wait = async {
            self.readers.send(reader).await.map_err(|_| RequestError::ShuttingDown)?;
            index.await.map_err(|_| RequestError::ShuttingDown)?
        };
        timeout_at(deadline, wait).await.map_err(|_| RequestError::Deadline { outcome_unknown: false })?
    }
}
