//! One endpoint and its channel.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use crate::address::Address;
use crate::channel::{self, Channel};
use crate::connect::ConnectOptions;
use crate::judge::{Setback, root_cause};

/// An endpoint. It is connected when it is first used, and anew once its connection has failed, always
/// as a step of its own: while that step has not succeeded, surely no request of a caller was sent.
#[derive(Debug)]
pub(crate) struct Node {
    address: Address,
    /// Replaced by an empty cell when the channel in it has failed. The lock is a plain one because it
    /// is held just long enough to clone or replace the pointer, never across an await.
    slot: RwLock<Arc<OnceCell<Channel>>>,
    /// The id of the node behind the endpoint; 0 before it has answered.
    node_id: AtomicU64,
}

/// A channel, and the slot it came from.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) channel: Channel,
    slot: Arc<OnceCell<Channel>>,
}

impl Node {
    pub(crate) fn new(address: Address) -> Node {
        Node { address, slot: RwLock::default(), node_id: AtomicU64::new(0) }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn node_id(&self) -> u64 {
        self.node_id.load(Ordering::Relaxed)
    }

    /// Remembers which node answered.
    pub(crate) fn answered_as(&self, node_id: u64) {
        if self.node_id() != node_id {
            self.node_id.store(node_id, Ordering::Relaxed);
        }
    }

    /// The channel, connected if need be. Callers that come at the same time share one attempt, and nobody
    /// gets a new connection before it has passed the check.
    pub(crate) async fn connected<Check: Future<Output = Result<(), Setback>>>(
        &self,
        until: Instant,
        options: &ConnectOptions,
        check: impl FnOnce(Channel) -> Check,
    ) -> Result<Connected, Setback> {
        let mut slot = Arc::clone(&self.slot.read().unwrap_or_else(PoisonError::into_inner));
        if let Some(channel) = slot.get() {
            if !channel.is_closed() {
                return Ok(Connected { channel: channel.clone(), slot });
            }
            slot = self.replace(&slot);
        }
        // TLS has a time of its own, which it bounds itself.
        let until = until.min(Instant::now() + 2 * options.timeout);
        let connecting = slot.get_or_try_init(async move || {
            let connected = channel::connect(&self.address, options).await;
            let channel = connected.map_err(|error| Setback::not_sent(root_cause(&error)))?;
            check(channel.clone()).await.map(|()| channel)
        });
        match timeout_at(until, connecting).await {
            Ok(Ok(channel)) => {
                let channel = channel.clone();
                Ok(Connected { channel, slot })
            }
            Ok(Err(setback)) => Err(setback),
            Err(_) => Err(Setback::not_sent("cannot be connected to in time".to_owned())),
        }
    }

    /// Lets the next call connect anew, unless another call has already seen to it.
    pub(crate) fn discard(&self, connected: &Connected) {
        self.replace(&connected.slot);
    }

    /// The slot that comes after `old`.
    fn replace(&self, old: &Arc<OnceCell<Channel>>) -> Arc<OnceCell<Channel>> {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&slot, old) {
            *slot = Arc::default();
        }
        Arc::clone(&slot)
    }
}
