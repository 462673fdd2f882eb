//! `kubectl kvorum transfer`: another leader.

use kvorum_cli::failure::Failure;
use kvorum_cli::output::{Output, id};
use kvorum_client::admin::Operations;
use kvorum_operator::names::unhex;
use serde_json::json;

use crate::session::Session;

pub(crate) async fn transfer(
    session: &Session,
    name: &str,
    to: Option<&str>,
    output: &mut Output,
) -> Result<(), Failure> {
    let members = session.cluster(name).await?.status.map(|status| status.members).unwrap_or_default();
    let member = |pod: &str| members.iter().find(|member| member.pod == pod);
    let to = match to {
        None => None,
        Some(pod) => {
            let found = member(pod).and_then(|member| unhex(member.node_id.as_deref()?));
            Some(found.ok_or_else(|| {
                let pods: Vec<&str> = members.iter().map(|member| member.pod.as_str()).collect();
                Failure::Usage(format!(
                    "{pod} is no member of {name} that answers; there are {}",
                    pods.join(", ")
                ))
            })?)
        }
    };
    let client = session.data(name).await?;
    let leader = Operations::of(&client, session.timeout).await?.transfer_leader(to).await?;
    let pod = members.iter().find(|member| member.node_id.as_deref() == Some(&id(leader)));
    let pod = pod.map_or_else(|| id(leader), |member| member.pod.clone());
    output.line(format!("{pod} leads"), json!({"leader": pod, "leader_id": id(leader)}))
}
