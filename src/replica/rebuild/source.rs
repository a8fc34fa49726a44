//! The source's part in a rebuild: the newest snapshot exposed, and one copy at a time, for one destination at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::copy::{CopyJob, CopyRecord, CopyRun};
use crate::backup::{Cancel, CancelHandle};
use crate::name::{HostPort, LvolAlias, Nqn, ReplicaName, SnapshotName};
use crate::replica::export::export_of;
use crate::replica::instance::Turn;
use crate::replica::readers::Reader;
use crate::replica::view::ReplicaState;
use crate::spdk::{SpdkError, nvmf};
use crate::{Error, Result};

/// How long a cancelled copy may take to let go of what it has open.
const END_LIMIT: Duration = Duration::from_secs(15);

/// What a replica has while it is a source.
pub(in crate::replica) struct Source {
    destination: ReplicaName,
    exposed: SnapshotName,
    alias: LvolAlias,
    address: HostPort,
    copy: Option<RunningCopy>,
    _reader: Reader,
}

struct RunningCopy {
    cancel: CancelHandle,
    task: JoinHandle<()>,
}

impl Source {
    /// Which replica is rebuilt from it.
    pub(super) fn destination(&self) -> &ReplicaName {
        &self.destination
    }

    fn is_copying(&self) -> bool {
        self.copy.as_ref().is_some_and(|copy| !copy.task.is_finished())
    }
}

impl Turn<'_> {
    /// Becomes the source of a rebuild of `destination`, and exposes a snapshot; returns where.
    pub(super) async fn source_begin(
        &mut self,
        destination: &ReplicaName,
        snapshot: &SnapshotName,
    ) -> Result<HostPort> {
        let replica = self.replica;
        self.require_usable()?;
        if *destination == replica.name {
            return Err(Error::invalid("dst_replica_name", "a replica cannot be rebuilt from itself"));
        }
        let state = self.state();
        let Some(address) = self.work.serving.as_ref().filter(|_| state == ReplicaState::Running) else {
            let problem = format!("it is in state {}; a source must be running", state.as_str());
            return Err(Error::precondition(replica.object(), problem));
        };
        let address = address.second_address()?;
        self.refresh().await?;
        let alias = replica.store.alias(&self.lvol_of(snapshot)?);
        if let Some(source) = &self.work.source {
            if source.destination == *destination && source.exposed == *snapshot {
                return Ok(source.address);
            }
            if source.destination != *destination && source.is_copying() {
                let problem = format!("it is being copied to replica {}; one at a time", source.destination);
                return Err(Error::precondition(replica.object(), problem));
            }
            self.source_end().await?;
        }
        let export = export_of(&alias, alias.bdev(), address);
        let exported = replica.store.control().run(move |on| async move { nvmf::export(on, &export).await.map(drop) });
        exported.await?;
        tracing::info!(replica = %replica.name, %destination, %snapshot, "a replica is the source of a rebuild");
        let reader = replica.readers.add(snapshot, format!("the rebuild of replica {destination}"));
        let (destination, exposed) = (destination.clone(), snapshot.clone());
        self.work.source = Some(Source { destination, exposed, alias, address, copy: None, _reader: reader });
        Ok(address)
    }

    /// Begins to copy a snapshot, all clusters of its own or those that are listed. A copy from before is over.
    pub(super) async fn source_copy(
        &mut self,
        snapshot: &SnapshotName,
        clusters: Option<Vec<u64>>,
        run: impl FnOnce(ReplicaName) -> Result<CopyRun>,
    ) -> Result<()> {
        let replica = self.replica;
        self.require_usable()?;
        if self.work.source.is_none() {
            let problem = "it is not the source of a rebuild; make it one first (ReplicaRebuildingSrcStart)";
            return Err(Error::precondition(replica.object(), problem));
        }
        self.refresh().await?;
        let lvol = self.lvol_of(snapshot)?;
        let own = replica.store.cluster_map(&lvol).await?;
        let clusters = match clusters {
            None => own.iter().collect(),
            Some(listed) => match listed.iter().find(|cluster| **cluster >= own.len()) {
                None => listed,
                Some(beyond) => {
                    let problem = format!("cluster {beyond} is beyond the {} of snapshot {snapshot}", own.len());
                    return Err(Error::invalid("mismatching_cluster_list", problem));
                }
            },
        };
        self.source_cancel_copy().await?;
        let Some(source) = &mut self.work.source else {
            return Err(Error::internal(replica.object(), "it is no source any more"));
        };
        let run = run(source.destination.clone())?;
        let record = Arc::new(CopyRecord::new(&source.destination, snapshot, clusters.len() as u64));
        *replica.copy() = Some(record.clone());
        let job = CopyJob {
            source: replica.store.alias(&lvol),
            control: replica.store.control().clone(),
            cluster_size: replica.disk.cluster_size(),
            clusters,
            record,
        };
        let reader = replica.readers.add(snapshot, format!("the rebuild of replica {}", source.destination));
        let (cancel, cancelled) = Cancel::pair();
        let task = tokio::spawn(async move {
            run.run_and_note(job, cancelled).await;
            drop(reader);
        });
        source.copy = Some(RunningCopy { cancel, task });
        Ok(())
    }

    /// Is the source for `destination` no more. That it is none is no error.
    pub(super) async fn source_finish(&mut self, destination: &ReplicaName) -> Result<()> {
        match &self.work.source {
            Some(source) if source.destination != *destination => {
                let problem = format!("it is the source for replica {}, not for {destination}", source.destination);
                Err(Error::precondition(self.replica.object(), problem))
            }
            Some(_) => self.source_end().await,
            None => Ok(()),
        }
    }

    /// Ends the part in a rebuild, whichever it is. After an error it is as it was, without a copy.
    pub(in crate::replica) async fn source_end(&mut self) -> Result<()> {
        self.source_cancel_copy().await?;
        let Some(source) = &self.work.source else { return Ok(()) };
        let nqn = Nqn::lvol(&source.alias.lvol);
        let ended = self.replica.store.control().run(move |on| async move {
            match nvmf::unexport(on, &nqn).await {
                Ok(()) | Err(SpdkError::NoSuch { .. }) => Ok::<_, SpdkError>(()),
                Err(error) => Err(error),
            }
        });
        ended.await?;
        tracing::info!(replica = %self.replica.name, destination = %source.destination, "a rebuild's source is free again");
        self.work.source = None;
        Ok(())
    }

    async fn source_cancel_copy(&mut self) -> Result<()> {
        let Some(copy) = self.work.source.as_mut().and_then(|source| source.copy.as_mut()) else { return Ok(()) };
        copy.cancel.cancel();
        if tokio::time::timeout(END_LIMIT, &mut copy.task).await.is_err() {
            let what = format!("the end of a cancelled copy of replica {}", self.replica.name);
            return Err(Error::Timeout { what, limit: END_LIMIT });
        }
        if let Some(source) = &mut self.work.source {
            source.copy = None;
        }
        Ok(())
    }
}
