//! What tests share that begin with an earlier release.

use kvorum_e2e::cluster::Lives;
use kvorum_e2e::{Cluster, Result, operator, settings};

/// Installs the operator of the earlier release that the environment names; says so where it names none.
pub async fn install() -> Result<bool> {
    let Some(before) = settings::before() else {
        eprintln!(
            "skipped: E2E_BEFORE_IMAGE and E2E_BEFORE_CHART name no earlier release; see scripts/before"
        );
        return Ok(false);
    };
    operator::install_chart(operator::NAMESPACE, &before.chart, &before.image, &[]).await?;
    Ok(true)
}

/// What must stay as it is.
#[derive(Debug, PartialEq)]
pub struct Was {
    /// Who runs, and for how long.
    pub lives: Lives,
    /// The claims' uids and volumes.
    pub disks: Vec<(Option<String>, Option<String>)>,
    /// The cluster's id.
    pub id: String,
}

impl Was {
    /// As it is now.
    pub async fn of(cluster: &Cluster<'_>) -> Result<Was> {
        let (lives, id) = (cluster.lives().await?, cluster.id().await?);
        let mut disks = Vec::new();
        for ordinal in lives.keys() {
            let claim = cluster.claim(*ordinal).await?;
            disks.push((claim.metadata.uid, claim.spec.and_then(|spec| spec.volume_name)));
        }
        Ok(Was { lives, disks, id })
    }
}
