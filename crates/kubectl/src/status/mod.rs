//! `kubectl kvorum status`: one screen of a cluster, or a line for each.

mod render;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use kvorum_cli::failure::Failure;
use kvorum_cli::output::Output;
use kvorum_cli::table;
use kvorum_crd::KvCluster;
use kvorum_operator::names;
use serde_json::Value;

use self::render::{Disk, Seen};
use crate::args::Status;
use crate::session::{Session, refused};

/// Between two looks of `-w`.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many clusters are listed at most; who has more sees that the list is cut.
const CLUSTERS_MAX: u32 = 500;
/// A cluster has at most so many claims: of members, and of some that left.
const CLAIMS_MAX: u32 = 100;
/// The label of a machine's zone.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";
/// Clears a terminal, and begins at its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(crate) async fn status(session: &Session, args: Status, output: &mut Output) -> Result<(), Failure> {
    let mut before = String::new();
    loop {
        let screen = match see(session, &args).await {
            Ok(screen) => screen,
            // Whoever stays has seen it before, and an API server that is away comes back.
            Err(Failure::Other(said)) if args.watch && !before.is_empty() => {
                let said = format!("{said}; looking again");
                if said != before {
                    eprintln!("{said}");
                    before = said;
                }
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        // What a terminal shows is drawn anew; a pipe gets what has changed.
        let key = screen.object().to_string();
        if key != before {
            if args.watch && output.terminal() && !output.json() {
                output.raw(CLEAR.as_bytes())?;
            }
            screen.print(output)?;
            output.flush()?;
            before = key;
        }
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn see(session: &Session, args: &Status) -> Result<Screen, Failure> {
    Ok(match &args.name {
        Some(name) => Screen::One(Box::new(look(session, name).await?)),
        None => Screen::All(list(session, args.all_namespaces).await?),
    })
}

enum Screen {
    One(Box<Seen>),
    All(Vec<KvCluster>),
}

impl Screen {
    fn object(&self) -> Value {
        match self {
            Screen::One(seen) => render::object(seen),
            Screen::All(clusters) => clusters.iter().map(render::summary).collect(),
        }
    }

    fn print(&self, output: &mut Output) -> Result<(), Failure> {
        match (output.json(), self) {
            (true, Screen::One(_)) => output.object(&self.object()),
            (true, Screen::All(clusters)) => {
                clusters.iter().try_for_each(|cluster| output.object(&render::summary(cluster)))
            }
            (false, Screen::One(seen)) => {
                for line in render::head(seen, output.colour()) {
                    output.line(line, Value::Null)?;
                }
                table::print(render::members(seen, output.colour(), output.terminal()), output)?;
                render::foot(seen, output.colour())
                    .into_iter()
                    .try_for_each(|line| output.line(line, Value::Null))
            }
            (false, Screen::All(clusters)) if clusters.is_empty() => {
                output.line("no KvCluster is there; -A looks in all namespaces", Value::Null)
            }
            (false, Screen::All(clusters)) => {
                table::print(render::list(clusters, output.colour(), output.terminal()), output)
            }
        }
    }
}

async fn list(session: &Session, all_namespaces: bool) -> Result<Vec<KvCluster>, Failure> {
    let api = match all_namespaces {
        true => Api::all(session.client.clone()),
        false => session.api::<KvCluster>(),
    };
    let listed = api.list(&ListParams::default().limit(CLUSTERS_MAX)).await;
    Ok(listed.map_err(|error| refused("list KvClusters", &error))?.items)
}

/// Reads what is shown of a cluster.
async fn look(session: &Session, name: &str) -> Result<Seen, Failure> {
    let cluster = session.cluster(name).await?;
    let labels = ListParams::default().labels(&names::selector_text(name)).limit(CLAIMS_MAX);
    let claims = session.api::<PersistentVolumeClaim>().list(&labels).await;
    let claims = claims.map_err(|error| refused(&format!("list the claims of {name}"), &error))?;
    let disks = claims.items.iter().map(|claim| (claim.name_any(), disk(claim))).collect();
    let members = cluster.status.iter().flat_map(|status| &status.members);
    let machines: Vec<String> = members.filter_map(|member| member.machine.clone()).collect();
    let zones = zones(session, &machines).await;
    Ok(Seen { namespace: session.namespace.clone(), cluster, disks, zones })
}

fn disk(claim: &PersistentVolumeClaim) -> Disk {
    let status = claim.status.as_ref();
    let capacity = status.and_then(|status| Some(status.capacity.as_ref()?.get("storage")?.0.clone()));
    Disk {
        volume: claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()),
        capacity,
        retired: claim.annotations().get(names::RETIRED).cloned(),
        deleting: claim.metadata.deletion_timestamp.is_some(),
    }
}

/// The zones of these machines. Who may not read machines sees none.
async fn zones(session: &Session, machines: &[String]) -> BTreeMap<String, String> {
    let api: Api<Node> = Api::all(session.client.clone());
    let mut zones = BTreeMap::new();
    for machine in machines {
        if let Ok(Some(node)) = api.get_metadata_opt(machine).await
            && let Some(zone) = node.labels().get(ZONE)
        {
            zones.insert(machine.clone(), zone.clone());
        }
    }
    zones
}
