//! The source's part in full copies: all that a snapshot shows is read here and written to the clone's lvol. Several clones
//! are copied at a time; the node's limit of copies holds for all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::backup::{Cancel, CancelHandle};
use crate::name::{HostPort, LvolName, ReplicaName, SnapshotName};
use crate::replica::export::local_device;
use crate::replica::rebuild::{CopyJob, CopyProgress, CopyRecord, CopyRun, CopyState, Place};
use crate::replica::{Replicas, detached};
use crate::spdk::clustermap::ClusterMap;
use crate::{Error, Result};

/// How long a cancelled copy may take to let go of what it has open.
const END_LIMIT: Duration = Duration::from_secs(15);
/// Copies of one replica that are remembered when they are over.
const REMEMBERED: usize = 100;

/// The copies of one replica's snapshots, by the clone.
#[derive(Default)]
pub(in crate::replica) struct Copies(Mutex<BTreeMap<ReplicaName, RunningCopy>>);

struct RunningCopy {
    record: Arc<CopyRecord>,
    cancel: CancelHandle,
    task: JoinHandle<()>,
}

impl Copies {
    fn add(&self, destination: ReplicaName, copy: RunningCopy) {
        let mut copies = self.copies();
        if copies.len() >= REMEMBERED {
            copies.retain(|_, copy| !copy.task.is_finished());
        }
        copies.insert(destination, copy);
    }

    /// Ends the copy to `destination`, if there is one.
    async fn end(&self, destination: &ReplicaName) -> Result<()> {
        let Some(copy) = self.copies().remove(destination) else { return Ok(()) };
        copy.cancel.cancel();
        match tokio::time::timeout(END_LIMIT, copy.task).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let what = format!("the end of a cancelled copy to replica {destination}");
                Err(Error::Timeout { what, limit: END_LIMIT })
            }
        }
    }

    /// Ends all copies.
    pub(in crate::replica) async fn end_all(&self) -> Result<()> {
        let all: Vec<_> = self.copies().keys().cloned().collect();
        for destination in all {
            self.end(&destination).await?;
        }
        Ok(())
    }

    fn progress(&self, destination: &ReplicaName, snapshot: &SnapshotName) -> Option<CopyProgress> {
        let copies = self.copies();
        let copy = copies.get(destination).filter(|copy| copy.record.is_of(snapshot))?;
        Some(copy.record.progress())
    }

    fn copies(&self) -> MutexGuard<'_, BTreeMap<ReplicaName, RunningCopy>> {
        // No code between two changes of the map can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replicas {
    /// Begins to copy all that a snapshot shows to the clone's lvol served at `address`. A copy to it from before is over.
    pub async fn clone_source_start(
        &self,
        name: &ReplicaName,
        destination: &ReplicaName,
        snapshot: &SnapshotName,
        address: HostPort,
    ) -> Result<()> {
        let replica = self.known(name)?;
        if name == destination {
            return Err(Error::invalid("dst_replica_name", "a replica cannot be a clone of itself"));
        }
        let place = self.clone_place(destination, address)?;
        let (replicas, destination, snapshot) = (self.clone(), destination.clone(), snapshot.clone());
        detached(async move {
            let mut turn = replica.turn().await?;
            turn.require_usable()?;
            turn.refresh().await?;
            let lvol = turn.lvol_of(&snapshot)?;
            replica.copies.end(&destination).await?;
            let hold = replica.disk.hold(format!("replica {} is being copied", replica.name))?;
            let mut shown = ClusterMap::empty(0);
            replica.store.layers(&lvol).await?.iter().for_each(|layer| shown.or(layer));
            let clusters: Vec<_> = shown.iter().collect();
            let record = Arc::new(CopyRecord::new(&destination, &snapshot, clusters.len() as u64));
            let job = CopyJob {
                source: replica.store.alias(&lvol),
                control: replica.store.control().clone(),
                cluster_size: replica.disk.cluster_size(),
                clusters,
                record: record.clone(),
            };
            let run = CopyRun { place, limits: replicas.copy_limits().clone() };
            let reader = replica.readers.add(&snapshot, format!("the copy to replica {destination}"));
            let (cancel, cancelled) = Cancel::pair();
            let task = tokio::spawn(async move {
                run.run_and_note(job, cancelled).await;
                drop((reader, hold));
            });
            replica.copies.add(destination, RunningCopy { record, cancel, task });
            Ok(())
        })
        .await
    }

    /// Where a clone's lvol is opened.
    fn clone_place(&self, destination: &ReplicaName, address: HostPort) -> Result<Place> {
        let lvol = LvolName::cloning(destination);
        if address.ip() != self.data_ip() {
            return Ok(Place::Remote { lvol, address });
        }
        let replica = self.known(destination)?;
        Ok(Place::Local(local_device(&replica.store.alias(&lvol))?))
    }

    /// How far the copy of that snapshot is.
    pub fn clone_source_progress(
        &self,
        name: &ReplicaName,
        destination: &ReplicaName,
        snapshot: &SnapshotName,
    ) -> Result<CopyProgress> {
        let replica = self.known(name)?;
        if let Some(clone) = self.find(destination)
            && clone.view().linked.as_ref().is_some_and(|mark| (&mark.source, &mark.snapshot) == (name, snapshot))
        {
            // A linked clone was complete at once, without a copy.
            let (state, error) = (CopyState::Complete, String::new());
            return Ok(CopyProgress { state, copied_clusters: 0, total_clusters: 0, error });
        }
        replica.copies.progress(destination, snapshot).ok_or_else(|| {
            let problem = format!("no copy of snapshot {snapshot} to replica {destination} was begun");
            Error::precondition(replica.object(), problem)
        })
    }

    /// Ends the part in the copy to `destination`. That there is none is no error.
    pub async fn clone_source_finish(&self, name: &ReplicaName, destination: &ReplicaName) -> Result<()> {
        self.known(name)?.copies.end(destination).await
    }
}
