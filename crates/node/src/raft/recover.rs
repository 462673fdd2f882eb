//! Going on alone where a quorum is lost for good: the checks before it, and the order that the next start
//! carries out, see `boot::recover`.

use std::io;
use std::time::Duration;

use kvorum_proto::admin::v1 as admin;
use kvorum_store::data_dir::DataDir;
use kvorum_store::entry::LogId;
use tokio::time::sleep;

use super::Raft;
use crate::error::MembershipError;
use crate::place::Overview;

/// The order's file in the data directory. It stays until it is carried out.
pub const ORDER: &str = "recover";

/// The answer to `Recover` gets out before the node stops.
const ANSWER_FIRST: Duration = Duration::from_millis(200);

/// What a recovery is to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The last entry of the log.
    pub last: LogId,
    /// The incarnation that begins.
    pub incarnation: u64,
}

/// Writes an order down; durable when it returns.
fn write_order(data_dir: &DataDir, order: Order) -> io::Result<()> {
    let Order { last, incarnation } = order;
    data_dir.replace(ORDER, format!("{} {} {incarnation}\n", last.term, last.index).as_bytes())
}

impl Raft {
    /// Makes this node, whose quorum is lost for good, the only voter of a new incarnation, if all is
    /// exactly as the caller saw it. That takes a restart, which is begun here.
    pub async fn recover(&self, wanted: admin::RecoverRequest) -> Result<(), MembershipError> {
        let admin::RecoverRequest { node_id, last_log_id, from_incarnation, to_incarnation } = wanted;
        let refused = |reason: String| Err(MembershipError::Refused(reason));
        if let Some(reason) = self.never_recovers() {
            return refused(reason.to_string());
        }
        if self.status_only().is_none() {
            self.core()?;
        }
        let Overview { node_id: own, incarnation, .. } = *self.overview();
        if node_id != own {
            return refused(format!("the disk here is node {own:016x}, not {node_id:016x}"));
        }
        if incarnation == to_incarnation {
            return Ok(());
        }
        let next = self.options().incarnation_min.max(incarnation + 1);
        if incarnation != from_incarnation || to_incarnation < next {
            return refused(format!("this is incarnation {incarnation}; the next one is {next} or later"));
        }
        if self.confirm().await {
            return refused(
                "a quorum is there and has confirmed its leader: nothing is to be recovered".into(),
            );
        }
        let last = self.inner.log.state().last.unwrap_or_default();
        let wanted = last_log_id.map(|id| (id.term, id.index));
        if wanted != Some((last.term, last.index)) {
            return refused(format!("the log here ends at {last}; look again, and repeat the request"));
        }
        self.check_alone(last).await?;
        // It took seconds to find nobody.
        let now = self.inner.log.state().last.unwrap_or_default();
        if now != last || self.confirm().await {
            return refused(format!("the log here ended at {last} and ends at {now}: it is not alone"));
        }
        let order = Order { last, incarnation: to_incarnation };
        let raft = self.clone();
        let written = self.inner.blocking.run(move || write_order(&raft.inner.data_dir, order)).await;
        written
            .map_err(io::Error::from)
            .flatten()
            .map_err(|error| MembershipError::Io(format!("write the order to recover: {error}")))?;
        tracing::warn!(%last, "this node is to recover its cluster alone, and stops, to be started again");
        let raft = self.clone();
        tokio::spawn(async move {
            sleep(ANSWER_FIRST).await;
            raft.inner.restart.send_replace(true);
        });
        Ok(())
    }
}
