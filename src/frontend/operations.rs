//! What goes through a frontend to its engine: snapshots, replicas, expansion.

use std::sync::Arc;

use super::bring_up::required_target;
use super::control::ReplicaAddOrder;
use super::instance::EngineFrontend;
use super::kernel::Expected;
use super::{EngineFrontends, detached};
use crate::engine::instance::Frontend;
use crate::error::{Error, Result};
use crate::name::{FrontendName, HostPort, SnapshotLabels, SnapshotName};

/// A change of a volume's snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotOrder {
    /// Deletes one; a missing one is fine.
    Delete(SnapshotName),
    /// Makes the volume what it is.
    Revert(SnapshotName),
    /// Deletes what the system made and nobody needs.
    Purge,
}

impl EngineFrontends {
    /// This node's gRPC, as other nodes reach it.
    pub fn service(&self) -> HostPort {
        self.0.context.service
    }

    /// Takes a snapshot of the volume; a missing name is made up. Returns the name. What this host's kernel has buffered for
    /// the device is in it; what file systems above it have not written yet is not.
    pub async fn snapshot_create(
        &self,
        name: &FrontendName,
        snapshot: Option<SnapshotName>,
        labels: SnapshotLabels,
    ) -> Result<SnapshotName> {
        let frontend = self.get(name)?;
        let frontends = self.clone();
        detached(async move {
            let _shared = frontend.try_shared("a snapshot")?;
            frontend.require_working("snapshot")?;
            // While I/O is held a flush would only wait.
            if frontend.kind == Frontend::NvmeTcpBlockdev && frontend.require_running("flush").is_ok() {
                frontends.0.context.kernel.flush(&frontend.volume).await?;
            }
            frontends.active(&frontend)?.snapshot_create(snapshot, labels).await
        })
        .await
    }

    /// Changes the volume's snapshots.
    pub async fn change_snapshots(&self, name: &FrontendName, order: SnapshotOrder) -> Result<()> {
        let frontend = self.get(name)?;
        let frontends = self.clone();
        detached(async move {
            let _shared = frontend.try_shared("a change of snapshots")?;
            frontend.require_working("change of snapshots")?;
            if matches!(order, SnapshotOrder::Revert(_)) && frontend.kind != Frontend::None {
                let kind = frontend.kind.as_str();
                let problem = format!("a revert needs the empty frontend, this one is {kind:?}; the volume is in use");
                return Err(Error::precondition(frontend.object(), problem));
            }
            let engine = frontends.active(&frontend)?;
            match order {
                SnapshotOrder::Delete(snapshot) => engine.snapshot_delete(&snapshot).await,
                SnapshotOrder::Revert(snapshot) => engine.snapshot_revert(&snapshot).await,
                SnapshotOrder::Purge => engine.snapshot_purge().await,
            }
        })
        .await
    }

    /// Has a replica join the volume.
    pub async fn replica_add(&self, order: ReplicaAddOrder) -> Result<()> {
        let frontend = self.get(&order.frontend)?;
        let frontends = self.clone();
        detached(async move {
            let _shared = frontend.try_shared("the addition of a replica")?;
            frontend.require_running("addition of a replica")?;
            frontends.active(&frontend)?.replica_add(order).await
        })
        .await
    }

    /// Grows the volume, and waits until this host's kernel sees it. Done already is done.
    pub async fn expand(&self, name: &FrontendName, size: u64) -> Result<()> {
        let frontend = self.get(name)?;
        let frontends = self.clone();
        detached(async move {
            let _exclusion = frontend.try_exclusively("an expansion")?;
            frontend.require_running("expansion")?;
            frontend.publish(|published| published.is_expanding = true);
            let grown = frontends.grow(&frontend, size).await;
            frontend.publish(|published| {
                published.is_expanding = false;
                published.expansion_failure = grown.as_ref().err().map(|error| {
                    (error.to_string(), jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
                });
            });
            grown
        })
        .await
    }

    async fn grow(&self, frontend: &Arc<EngineFrontend>, size: u64) -> Result<()> {
        let path = frontend.published().active;
        let grown = self.control(&path)?.expand(size).await;
        // Also after a failure: some of the replicas may have grown, and the volume with them.
        let seen = self.follow_size(frontend).await;
        grown.and(seen)
    }

    /// Takes over what the engine's volume has become.
    async fn follow_size(&self, frontend: &Arc<EngineFrontend>) -> Result<()> {
        let path = frontend.published().active;
        let engine = self.describe(frontend, &path).await?;
        let target = required_target(frontend, &path, &engine)?;
        if let (Frontend::NvmeTcpBlockdev, Some(target)) = (frontend.kind, target) {
            let expected = Expected { volume: frontend.volume.clone(), size: engine.size };
            self.0.context.kernel.device(&frontend.connection(target), &expected).await?;
        }
        frontend.publish(|published| {
            published.size = engine.size;
            published.active.target = target;
        });
        self.remember(frontend).await
    }
}
