//! What is done to a disk before raft begins.

pub mod recover;
pub mod restore;

use kvorum_store::log::Done;
use tokio::sync::oneshot;

/// Tells the log something, and returns when that is durable: its worker ends only with the process.
async fn durably(tell: impl FnOnce(Done)) {
    let (done, told) = oneshot::channel();
    tell(Box::new(move || _ = done.send(())));
    let _ = told.await;
}
