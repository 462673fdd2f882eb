//! The election of one leader among many processes: a key whose value is the leader's name, set on condition that
//! it is absent, or unchanged since this process set it. The key's revision is the leader's term.
//!
//! `cargo run --example election -- NAME 127.0.0.1:2379`, in several terminals.

use std::time::Duration;

use kvorum_client::{Client, Error};
use tokio::time::sleep;

const KEY: &str = "election/leader";
/// Without a leader for so long at most, once one dies.
const TTL: Duration = Duration::from_secs(6);
/// How often each process looks: a leader renews, and the others try to become it.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What this process is, as far as it may believe it until its next look.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    Leader { term: u64 },
    Follower,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| format!("process {}", std::process::id()));
    let endpoint = arguments.next().unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let client = Client::connect([endpoint]).await?;
    let mut role = Role::Follower;
    loop {
        let now = campaign(&client, &name, &role).await?;
        if now != role {
            eprintln!("{name} is {now:?}");
        }
        role = now;
        sleep(LOOK_EVERY).await;
    }
}

/// One look: renews the leadership, or tries to get it.
async fn campaign(client: &Client, name: &str, role: &Role) -> Result<Role, Error> {
    let claim = client.set(KEY, name.to_owned()).ttl(TTL).timeout(LOOK_EVERY);
    let claim = match role {
        Role::Leader { term } => claim.if_revision(*term),
        Role::Follower => claim.if_absent(),
    };
    match claim.await {
        Ok(answer) => Ok(Role::Leader { term: answer.header.revision }),
        Err(Error::ConditionFailed { .. }) => Ok(Role::Follower),
        // Whoever cannot know that it leads must not act as if it did. If the claim did arrive, it runs out.
        Err(Error::OutcomeUnknown { .. } | Error::Unanswered { .. }) => Ok(Role::Follower),
        Err(error) => Err(error),
    }
}
