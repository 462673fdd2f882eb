//! A cluster as its operator sees it, looked at from here: by the operator's own eyes, over port-forwards.

use std::time::Duration;

use kvorum_cli::failure::Failure;
use kvorum_operator::memory::Memory;
use kvorum_operator::observe::{Follow, Nodes, Seen, observe};
use kvorum_operator::observed::Monitor;
use kvorum_operator::options::Options;

use crate::session::Session;

/// How long a member may take to answer, the port-forward included.
const ANSWER_MAX: Duration = Duration::from_secs(8);

/// Looks once. How long anything has lasted, a single look cannot tell.
pub(crate) async fn look(session: &Session, name: &str) -> Result<Seen, Failure> {
    // One that nobody has is not taken for a cluster without anything.
    session.cluster(name).await?;
    let mut memory = Memory::reaching(session.connect_options(name).await?, ANSWER_MAX);
    let options = Options::default();
    let machines = Nodes::watch(session.client.clone());
    let (client, namespace) = (&session.client, &session.namespace);
    let seen = observe(client, &options, &machines, namespace, name, Follow::No, &mut memory).await;
    let seen = seen.map_err(|error| {
        Failure::Other(format!(
            "could not {error}; the account needs the right to read pods, claims, Services, StatefulSets and disruption \
             budgets"
        ))
    })?;
    let mut seen = seen.ok_or_else(|| Failure::Other(format!("KvCluster {name} was deleted just now")))?;
    // Whether objects are as they were applied, only the operator remembers. It has looked at this very spec, or else
    // the template shows what is to come.
    let status = seen.cluster.status.as_ref();
    let known = status.is_some_and(|status| status.observed_generation == seen.cluster.metadata.generation);
    seen.observed.objects_current = true;
    if known && seen.observed.monitor == Monitor::Differs {
        seen.observed.monitor = Monitor::AsWanted;
    }
    if let Some(set) = &mut seen.observed.stateful_set {
        set.current = known || set.template == seen.template.hash;
    }
    Ok(seen)
}
