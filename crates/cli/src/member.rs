//! `kvorum cluster init`, `kvorum member` and `kvorum leader`.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use kvorum_client::admin::{Operations, Step, Voter};
use kvorum_client::{Client, ConnectOptions};
use serde_json::json;

use crate::args::MemberCommand;
use crate::failure::{Failure, person_watches};
use crate::output::{Output, id};
use crate::status;
use crate::text;

/// How often the sign of life turns.
const SPIN: Duration = Duration::from_millis(100);

pub(crate) async fn init(
    peers: &[String],
    timeout: Duration,
    connect: ConnectOptions,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut operations = Operations::at(peers.to_vec(), timeout)?.connect_options(connect);
    let reporter = Reporter::new();
    let cluster_id = operations.found(peers, &mut |step| reporter.step(step)).await?;
    reporter.finish();
    let text = format!("cluster {} has {}", id(cluster_id), text::count(peers.len() as u64, "member"));
    output.line(text, json!({ "cluster_id": id(cluster_id), "members": peers.len() }))
}

pub(crate) async fn member(
    client: &Client,
    timeout: Duration,
    command: MemberCommand,
    output: &mut Output,
) -> Result<(), Failure> {
    if let MemberCommand::List = command {
        return status::list(client, output).await;
    }
    let mut operations = Operations::of(client, timeout).await?;
    let reporter = Reporter::new();
    let mut report = |step: &Step| reporter.step(step);
    let (node_id, what) = match command {
        MemberCommand::Add { peer, learner } => {
            let (voter, what) = match learner {
                true => (Voter::No, "added as a learner"),
                false => (Voter::Yes, "added"),
            };
            (operations.add(&peer, voter, &mut report).await?, what)
        }
        MemberCommand::Remove { id } => {
            operations.remove(id, &mut report).await?;
            (id, "removed")
        }
        MemberCommand::Promote { id } => {
            operations.promote(id, &mut report).await?;
            (id, "promoted")
        }
        MemberCommand::List => return Ok(()),
    };
    reporter.finish();
    output.line(format!("member {} {what}", id(node_id)), json!({ "id": id(node_id), "done": what }))
}

pub(crate) async fn transfer(
    client: &Client,
    timeout: Duration,
    to: Option<u64>,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut operations = Operations::of(client, timeout).await?;
    let leader = operations.transfer_leader(to).await?;
    output.line(format!("{} leads", id(leader)), json!({ "leader_id": id(leader) }))
}

/// Tells a person which step is under way; a log gets a line for each step and none for the waiting.
struct Reporter {
    bar: Option<ProgressBar>,
}

impl Reporter {
    fn new() -> Reporter {
        let bar = person_watches().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(SPIN);
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
            style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
        });
        Reporter { bar }
    }

    fn step(&self, step: &Step) {
        match (&self.bar, step) {
            (Some(bar), step) => bar.set_message(step.to_string()),
            (None, Step::Wait(_)) => {}
            (None, step) => eprintln!("{step}"),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
