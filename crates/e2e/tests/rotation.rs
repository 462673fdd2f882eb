//! Goal: members take what the operator makes, the operator is let in by its own certificate throughout, and a whole CA
//! is replaced under load without a request that fails or another leader, by operators that are killed after every write.
//!
//! Method: the operator's own plan of certificates and what it makes of it, on real members without a Kubernetes: objects
//! are maps, and what is written into the members' Secret is put where they have mounted it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kvorum_client::admin::AdminClient;
use kvorum_client::{Client, ConnectOptions};
use kvorum_e2e::{Failure, Result, ensure};
use kvorum_faults::certificates::Certificates;
use kvorum_faults::latency::Distribution;
use kvorum_faults::writers::{self, Style, Writers};
use kvorum_faults::{Cluster, Layout};
use kvorum_operator::certificates::{
    AuthorityData, Content, Held, LeafData, Look, Own, Report, Slot, Stage, Target, leaf_names, made, next,
    own,
};
use kvorum_tls::make::Subject;
use tokio::time::{Instant, sleep};

/// All three steps: in each, members look at their files within 10 s, and connect anew within 10 s more.
const LIMIT: Duration = Duration::from_secs(240);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const NOW: i64 = 1_800_000_000;

type Data = BTreeMap<String, String>;

struct Objects {
    files: Arc<Certificates>,
    names: Vec<String>,
    authority: Option<Data>,
    members: Option<Data>,
    root: Option<Data>,
    bundle: Option<Data>,
    own: Option<Own>,
}

impl Objects {
    /// Makes the next change, if there is one, and answers how far all is.
    fn step(
        &mut self,
        members: Vec<(String, Option<Report>)>,
        token: Option<&str>,
    ) -> Result<(bool, Stage, bool)> {
        let authority = self.authority.as_ref().map(AuthorityData::read).transpose().map_err(Failure::new)?;
        let leaf = |data: &Option<Data>, subject: &Subject| {
            data.as_ref().map(|data| LeafData::read(data, subject)).transpose()
        };
        let of_members = leaf(&self.members, &Subject::Member(self.names.clone())).map_err(Failure::new)?;
        let root = leaf(&self.root, &Subject::User("root".into())).map_err(Failure::new)?;
        let facts = authority.as_ref().and_then(|authority| authority.facts(false));
        let bundle =
            self.bundle.as_ref().map(|data| kvorum_tls::pem_fingerprint(&data["ca.crt"])).transpose()?;
        let held = Held {
            authority: slot(facts),
            members: slot(of_members.as_ref().map(|(_, leaf)| leaf.clone())),
            root: slot(root.as_ref().map(|(_, leaf)| leaf.clone())),
            users: BTreeMap::new(),
            bundle: slot(bundle),
        };
        let token = token.map(str::to_owned);
        let now = NOW;
        let users = BTreeSet::new();
        let look =
            Look { held, members, settled: true, users, retain: true, token, overlap: 0, quiet: 0, now };
        let content = Content {
            authority,
            members: of_members.map(|(data, _)| data),
            root: root.map(|(data, _)| data),
            users: BTreeMap::new(),
        };
        self.own = own(self.own.take(), &content, NOW);
        let next = next(&look);
        let Some(change) = &next.change else { return Ok((false, next.stage, next.drops)) };
        let (target, data) = made(change, &content, "demo", &self.names, rand(), NOW)
            .map_err(|e| Failure::new(e.to_string()))?;
        match target {
            Target::Authority => self.authority = Some(data),
            Target::Bundle => self.bundle = Some(data),
            Target::User(_) => return Err(Failure::new("nobody is to have a certificate")),
            Target::Members => {
                self.mount("member", &data)?;
                self.members = Some(data);
            }
            Target::Root => {
                self.mount("root", &data)?;
                self.root = Some(data);
            }
        }
        Ok((true, next.stage, next.drops))
    }

    fn mount(&self, who: &str, data: &Data) -> Result<()> {
        let directory = self.files.directory(who);
        for (name, text) in data {
            let new = directory.join("new");
            fs::write(&new, text)?;
            fs::rename(&new, directory.join(name))?;
        }
        Ok(())
    }

    /// What the members say to the operator.
    async fn reports(&self, cluster: &Cluster) -> Result<Vec<(String, Option<Report>)>> {
        let Some(own) = &self.own else {
            // One that was started a moment ago has no certificate before its first look.
            let silent = cluster.nodes().iter().map(|node| (node.name().to_string(), None));
            return Ok(silent.collect());
        };
        let ask = cluster.nodes().iter().map(async |node| {
            let admin = AdminClient::new(node.peer_address(), ANSWER_LIMIT)?;
            let status = admin.connect_options(ConnectOptions::new().tls(own.tls.clone())).status().await;
            let report = status.ok().and_then(|status| status.tls).map(|tls| Report {
                bundle: tls.bundle_sha256[..].try_into().unwrap_or_default(),
                leaf: tls.leaf_sha256[..].try_into().unwrap_or_default(),
                old_ca_peers: tls.old_ca_peers,
                old_ca_clients: tls.old_ca_clients,
            });
            Ok::<_, Failure>((node.name().to_string(), report))
        });
        join_all(ask).await.into_iter().collect()
    }
}

fn slot<T>(there: Option<T>) -> Slot<T> {
    there.map_or(Slot::Absent, Slot::There)
}

/// A number for a CA's name.
fn rand() -> u32 {
    std::process::id() ^ std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos())
}

#[tokio::test]
async fn members_take_what_the_operator_makes() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let files = Arc::new(Certificates::make(directory.path())?);
    let names = leaf_names("demo", "shop", "cluster.local");
    let (authority, members, root, bundle, own) = (None, None, None, None, None);
    let mut objects = Objects { files: files.clone(), names, authority, members, root, bundle, own };
    while objects.step(Vec::new(), None)?.0 {}
    let first = objects.authority.clone();
    let layout = Layout { flags: files.flags("required"), tls: Some(files.clone()), ..Layout::default() };
    let cluster = Cluster::found(3, layout).await?;
    for (member, report) in objects.reports(&cluster).await? {
        ensure!(report.is_some(), "{member} does not let the operator in");
    }
    let term = cluster.leader().await?.status().await?.term;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let builder = Client::builder(cluster.endpoints()).connect_options(cluster.connect_options()?);
        clients.push(builder.connect().await?);
    }
    let writing = Writers::by(clients, 0, Style::default(), Instant::now());

    let (begun, mut stages, mut killed) = (Instant::now(), vec![Stage::Settled], 0);
    loop {
        let reports = objects.reports(&cluster).await?;
        ensure!(begun.elapsed() < LIMIT, "it is at {stages:?} after {LIMIT:?}: {reports:?}");
        let (changed, stage, drops) = objects.step(reports, Some("1"))?;
        if changed {
            // The operator is killed after each write: what it had in memory is gone.
            (objects.own, killed) = (None, killed + 1);
        }
        if stages.last() != Some(&stage) {
            stages.push(stage);
        }
        if !changed && stages.len() > 1 && stage == Stage::Settled && !drops {
            break;
        }
        sleep(Duration::from_millis(if changed { 10 } else { 500 })).await;
    }
    ensure!(stages == [Stage::Settled, Stage::Trust, Stage::Issue, Stage::Settled], "{stages:?}");
    ensure!(
        first.map(|data| data["tls.crt"].clone()) != objects.authority.map(|data| data["tls.crt"].clone()),
        "the CA is the same"
    );
    let ledgers = writing.finish().await?;
    writers::check_no_failure(&ledgers)?;
    let took = writers::latencies(&ledgers);
    ensure!(!took.is_empty(), "nothing was written");
    let (count, took) = (took.len(), Distribution::new(took));
    eprintln!(
        "a CA was replaced in {:.0?} by operators that were killed {killed} times, beside {count} writes, none of which \
         failed, of {:.1?} at p99, {:.1?} at most",
        begun.elapsed(),
        took.percentile(99),
        took.percentile(100)
    );
    ensure!(killed > 5, "the operator was killed {killed} times only");
    ensure!(cluster.leader().await?.status().await?.term == term, "there was an election");
    cluster.close()
}
