//! `kvorum snapshot`.

use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kvorum_client::admin::AdminClient;
use kvorum_client::snapshot::{self, Progress};
use kvorum_client::{Client, Member, Role};
use serde_json::json;

use crate::failure::{Failure, person_watches};
use crate::output::{Output, id};
use crate::text;

pub(crate) async fn save(
    client: &Client,
    timeout: Duration,
    file: &Path,
    from: Option<u64>,
    output: &mut Output,
) -> Result<(), Failure> {
    let members = client.members().await?.members;
    let member = source(&members, from)?;
    let admin = AdminClient::of(client, &member.peer_address, timeout)?;
    let bar = bar();
    let saved = snapshot::save(&admin, file, &mut |progress| show(&bar, progress)).await?;
    bar.finish_and_clear();
    let text = format!(
        "saved revision {} of cluster {} to {} ({})",
        saved.revision,
        id(saved.cluster_id),
        file.display(),
        text::bytes(saved.bytes)
    );
    let object = json!({
        "file": file.display().to_string(),
        "cluster_id": id(saved.cluster_id),
        "revision": saved.revision,
        "bytes": saved.bytes,
        "member": id(member.node_id),
    });
    output.line(text, object)
}

pub(crate) fn restore(file: &Path, data_dir: &Path, output: &mut Output) -> Result<(), Failure> {
    let bar = bar();
    let restored = snapshot::restore(file, data_dir, &mut |progress| show(&bar, progress))
        .map_err(|error| Failure::Client(error.into()))?;
    bar.finish_and_clear();
    let text = format!(
        "restored revision {} ({}); start it with: kvorum-node --bootstrap single --data-dir {}",
        restored.revision,
        text::bytes(restored.bytes),
        data_dir.display()
    );
    let object = json!({
        "data_dir": data_dir.display().to_string(),
        "revision": restored.revision,
        "bytes": restored.bytes,
    });
    output.line(text, object)
}

/// The member to take a snapshot from: the wanted one, else the follower that is furthest, since the
/// leader has enough to do.
fn source(members: &[Member], wanted: Option<u64>) -> Result<&Member, Failure> {
    match wanted {
        Some(wanted) => members.iter().find(|member| member.node_id == wanted).ok_or_else(|| {
            let wanted = id(wanted);
            Failure::Other(format!("there is no member {wanted}; `kvorum member list` prints them"))
        }),
        None => members
            .iter()
            .filter(|member| member.reachable && member.alarms.is_empty())
            .max_by_key(|member| (member.voter, member.role != Role::Leader, member.applied_index))
            .ok_or_else(|| {
                Failure::Other("no member is reachable and without an alarm; see `kvorum status`".to_owned())
            }),
    }
}

/// On a terminal a bar; elsewhere nothing.
fn bar() -> ProgressBar {
    let target = match person_watches() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let template =
        "{bar:40} {percent}%  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta}";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.total_bytes);
    bar.set_position(progress.bytes);
}
