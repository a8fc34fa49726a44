//! Disks without space, told where a write has failed: SPDK only says that it failed, so the replicas' nodes are asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;

use super::instance::Engine;
use super::state::{ListedReplica, out_reason_text};
use crate::error::Error;
use crate::mirror::core::control::OutReason;
use crate::name::ReplicaName;
use crate::telemetry::events::ObjectKind;

/// How long the disks of an engine are not looked at again after its client was told of a failed write.
const LOOK_PAUSE: Duration = Duration::from_secs(10);

impl Engine {
    /// Those of these replicas whose disks have no space left, each with the error of a write to it. Who does not answer has.
    async fn full_disks(&self, replicas: &BTreeMap<ReplicaName, ListedReplica>) -> BTreeMap<ReplicaName, Error> {
        let paths = self.paths().into_iter().filter(|path| replicas.contains_key(&path.replica));
        let asked = paths.map(|path| async move {
            let space = path.backend.disk_space().await.ok().filter(|space| space.free == 0)?;
            let object = format!("disk {} of replica {} at {}", space.disk, path.replica, path.address);
            let problem = "delete snapshots or replicas there, or give the volume a replica on another disk".into();
            Some((path.replica.clone(), Error::NoSpace { object, problem }))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// What a failed write to the volume means when a disk below it is full.
    pub(super) async fn explain_write(&self, error: Error) -> Error {
        match &error {
            Error::Medium { .. } => {
                self.full_disks(&self.published().replicas).await.into_values().next().unwrap_or(error)
            }
            _ => error,
        }
    }

    /// Lists the full disk as what is wrong with each replica that left the mirror for a failed write. Does not wait.
    pub(super) fn explain_failed_members(self: &Arc<Self>) {
        let failed = |listed: &ListedReplica| listed.problem == out_reason_text(OutReason::WriteFailed);
        let mut replicas = self.published().replicas;
        replicas.retain(|_, listed| failed(listed));
        if replicas.is_empty() {
            return;
        }
        let engine = self.clone();
        tokio::spawn(async move {
            for (replica, full) in engine.full_disks(&replicas).await {
                engine.publish(|published| {
                    if let Some(listed) = published.replicas.get_mut(&replica).filter(|listed| failed(listed)) {
                        listed.problem = format!("it failed a write: {full}");
                    }
                });
            }
        });
    }

    /// An I/O of the volume has failed at a replica; if a disk is full, that is logged and told. Does not wait: the
    /// looking is done on `runtime`.
    pub(super) fn look_for_full_disks(self: &Arc<Self>, runtime: &tokio::runtime::Handle) {
        if self.is_looking.swap(true, Ordering::Relaxed) {
            return;
        }
        let engine = self.clone();
        runtime.spawn(async move {
            for (replica, full) in engine.full_disks(&engine.published().replicas).await {
                tracing::error!(engine = %engine.name, volume = %engine.volume, %replica, error = %full,
                    "a volume has no space for a write");
                engine.context.telemetry.events.tell(ObjectKind::Member, &replica, "no-space", full.to_string());
            }
            tokio::time::sleep(LOOK_PAUSE).await;
            engine.is_looking.store(false, Ordering::Relaxed);
        });
    }
}
