//! Which of several operators works: the one that holds the Lease.
//!
//! It keeps operators out of each other's way and is no fence: an operator that is late is refused by
//! what each step is planned for.

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The Lease's name where none is given.
pub const LEASE: &str = "kvorum-operator";
/// For how long nobody else takes over from an operator that is silent.
const DURATION_SECONDS: u64 = 15;
/// So long before that it is renewed.
const GRACE_SECONDS: u64 = 5;

/// Takes part in the election.
pub struct Election {
    leads: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Election {
    /// Begins to take part. Operators that are to work beside each other have Leases of different names.
    pub async fn begin(
        client: Client,
        namespace: &str,
        lease: &str,
        identity: &str,
    ) -> Result<Election, LeaseManagerError> {
        let manager = LeaseManagerBuilder::new(client, lease)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_duration(DURATION_SECONDS)
            .with_grace(GRACE_SECONDS)
            .build()
            .await?;
        let (leads, task) = manager.watch().await;
        Ok(Election { leads, task })
    }

    /// Returns once this operator holds the Lease.
    pub async fn won(&mut self) {
        // A manager that is gone never wins.
        if self.leads.wait_for(|leads| *leads).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns once it no longer does.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + Sync + 'static {
        let mut leads = self.leads.clone();
        async move {
            let _ = leads.wait_for(|leads| !*leads).await;
        }
    }

    /// Lets another operator take over at once.
    pub async fn resign(self) {
        let Election { leads, task } = self;
        drop(leads);
        match task.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "release the lease"),
            Err(error) => tracing::warn!(%error, "release the lease"),
        }
    }
}
