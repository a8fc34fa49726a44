//! Checksums of snapshots: read in the background, kept durably with the snapshot, and compared when it is read again.
//!
//! A snapshot cannot change, so one that reads differently later is silently corrupted; only a merge of the snapshot
//! below into it changes what it has of its own, and that drops its checksum.
//!
//! - [`checksum`]: the sums. [`jobs`]: which snapshots of a replica are being read.

mod checksum;
mod jobs;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::attributes::{self, removal, setting};
use super::instance::{Replica, Turn};
use super::{Replicas, detached};
use crate::backup::Cancel;
use crate::disk::DiskHold;
use crate::name::{LvolName, ReplicaName, SnapshotName};
use crate::spdk::client::BdevClient;
use crate::{Error, Result};

use checksum::ClusterReader;
use jobs::Job;

pub(super) use jobs::HashJobs;

/// Clusters that one call may ask the sums of.
const RANGE_LIMIT: u64 = 1024;

/// How much is hashed at once on this node.
pub(super) struct HashLimits {
    jobs: Arc<Semaphore>,
    ranges: Semaphore,
}

impl HashLimits {
    /// At most `count` snapshots, and as many calls for ranges.
    pub(super) fn new(count: usize) -> Self {
        Self { jobs: Arc::new(Semaphore::new(count)), ranges: Semaphore::new(count) }
    }
}

/// What is known of a snapshot's hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashStatus {
    /// How far it is.
    pub phase: HashPhase,
    /// The checksum as last read, decimal; empty when there is none.
    pub checksum: String,
    /// Why hashing failed; empty when it did not.
    pub error: String,
    /// The snapshot, which cannot change, reads differently from when it was hashed first.
    pub silently_corrupted: bool,
}

/// Where hashing a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashPhase {
    /// It was never asked for, or was cancelled.
    None,
    /// It waits for its turn.
    Starting,
    /// Clusters are being read.
    InProgress,
    /// The checksum is known, and durable.
    Complete,
    /// It failed.
    Error,
}

impl HashPhase {
    /// The wire's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Starting => "starting",
            Self::InProgress => "in_progress",
            Self::Complete => "complete",
            Self::Error => "error",
        }
    }

    /// From the wire's word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::None, Self::Starting, Self::InProgress, Self::Complete, Self::Error]
            .into_iter()
            .find(|phase| phase.as_str() == text)
    }
}

/// A snapshot that is open for hashing. Its disk cannot be deleted meanwhile.
struct OpenSnapshot {
    lvol: LvolName,
    reader: ClusterReader,
    own: Vec<u64>,
    _hold: DiskHold,
}

impl OpenSnapshot {
    async fn open(replica: &Replica, turn: &mut Turn<'_>, snapshot: &SnapshotName) -> Result<Self> {
        turn.require_usable()?;
        turn.refresh().await?;
        let lvol = turn.lvol_of(snapshot)?;
        let hold = replica.disk.hold(format!("snapshot {snapshot} of replica {} is being hashed", replica.name))?;
        let own = replica.store.cluster_map(&lvol).await?.iter().collect();
        let bdev = BdevClient::open(replica.store.control(), replica.store.alias(&lvol).bdev(), false).await?;
        Ok(Self { lvol, reader: ClusterReader::new(bdev, replica.disk.cluster_size()), own, _hold: hold })
    }
}

impl Replicas {
    /// Begins to hash a snapshot in the background. One that has a checksum is read again only with `rehash`.
    pub async fn snapshot_hash(&self, name: &ReplicaName, snapshot: &SnapshotName, rehash: bool) -> Result<()> {
        let replica = self.known(name)?;
        let (replicas, snapshot) = (self.clone(), snapshot.clone());
        detached(async move {
            let mut turn = replica.turn().await?;
            turn.require_usable()?;
            turn.refresh().await?;
            turn.lvol_of(&snapshot)?;
            let known = replica.view().snapshots.get(&snapshot).is_some_and(|view| !view.checksum.is_empty());
            if known && !rehash {
                return Ok(());
            }
            if let Some((job, cancelled)) = replica.hashes.begin(&snapshot) {
                drop(turn);
                tokio::spawn(replicas.hash_to_its_end(replica, snapshot, job, cancelled));
            }
            Ok(())
        })
        .await
    }

    async fn hash_to_its_end(self, replica: Arc<Replica>, snapshot: SnapshotName, job: Arc<Job>, cancelled: Cancel) {
        let outcome = tokio::select! {
            outcome = self.hash(&replica, &snapshot, &job) => outcome,
            () = cancelled.cancelled() => Err(Error::Canceled { what: format!("hashing snapshot {snapshot}") }),
        };
        match &outcome {
            Ok(()) => tracing::info!(replica = %replica.name, %snapshot, "a snapshot is hashed"),
            Err(error) => tracing::warn!(replica = %replica.name, %snapshot, %error, "a snapshot could not be hashed"),
        }
        replica.hashes.end(&snapshot, &job, outcome);
    }

    async fn hash(&self, replica: &Arc<Replica>, snapshot: &SnapshotName, job: &Job) -> Result<()> {
        let at_once = &self.hash_limits().jobs;
        let _permit = at_once.acquire().await.map_err(|_| Error::Canceled { what: "hashing".into() })?;
        let open = {
            let mut turn = replica.turn().await?;
            OpenSnapshot::open(replica, &mut turn, snapshot).await?
        };
        job.set(HashPhase::InProgress);
        let sum = open.reader.whole(&open.own).await?;
        let (replica, snapshot, lvol) = (replica.clone(), snapshot.clone(), open.lvol.clone());
        // Once it is being stored it is stored, also when it is cancelled then.
        let cancelled = job.cancelled();
        detached(async move { store(&replica, &snapshot, &lvol, sum, &cancelled).await }).await
    }

    /// What is known of a snapshot's hash.
    pub async fn snapshot_hash_status(&self, name: &ReplicaName, snapshot: &SnapshotName) -> Result<HashStatus> {
        let view = self.get(name).await?;
        let Some(lvol) = view.snapshots.get(snapshot) else {
            return Err(Error::not_found("snapshot", format!("{snapshot} of replica {name}")));
        };
        let (phase, error) = match self.known(name)?.hashes.phase(snapshot) {
            Some(job) => job,
            None if lvol.checksum.is_empty() => (HashPhase::None, String::new()),
            None => (HashPhase::Complete, String::new()),
        };
        let (checksum, silently_corrupted) = (lvol.checksum.clone(), lvol.silently_corrupted);
        Ok(HashStatus { phase, checksum, error, silently_corrupted })
    }

    /// Stops hashing a snapshot. That nobody does is no error.
    pub async fn snapshot_hash_cancel(&self, name: &ReplicaName, snapshot: &SnapshotName) -> Result<()> {
        self.known(name)?.hashes.cancel(snapshot);
        Ok(())
    }

    /// Whether a snapshot of the replica is being hashed.
    pub fn is_hashing(&self, name: &ReplicaName) -> Result<bool> {
        Ok(self.known(name)?.hashes.is_busy())
    }

    /// The checksums of those clusters among `count` from `first` on that the snapshot has of its own.
    pub async fn snapshot_range_hash(
        &self,
        name: &ReplicaName,
        snapshot: &SnapshotName,
        first: u64,
        count: u64,
    ) -> Result<BTreeMap<u64, u64>> {
        if count > RANGE_LIMIT {
            let problem = format!("{count} is more than the {RANGE_LIMIT} that one call may ask for");
            return Err(Error::invalid("cluster_count", problem));
        }
        let replica = self.known(name)?;
        let _permit = self.hash_limits().ranges.acquire().await;
        let open = {
            let mut turn = replica.turn().await?;
            OpenSnapshot::open(&replica, &mut turn, snapshot).await?
        };
        let window = first..first.saturating_add(count);
        let clusters: Vec<_> = open.own.iter().copied().filter(|cluster| window.contains(cluster)).collect();
        open.reader.each(&clusters).await
    }
}

/// Keeps the checksum with the snapshot, or that it is another than the one that was kept before.
async fn store(
    replica: &Replica,
    snapshot: &SnapshotName,
    lvol: &LvolName,
    sum: u64,
    cancelled: &Cancel,
) -> Result<()> {
    let mut turn = replica.turn().await?;
    turn.refresh().await?;
    if cancelled.is_cancelled() || turn.lvol_of(snapshot)? != *lvol {
        return Err(Error::Canceled { what: format!("hashing snapshot {snapshot}") });
    }
    let kept = turn.work.tree.snapshots.get(snapshot).and_then(|node| node.checksum);
    let change = match kept {
        None => setting(attributes::CHECKSUM, &sum.to_string())?,
        Some(kept) if kept == sum => removal(attributes::CHECKSUM_FOUND),
        Some(kept) => {
            tracing::error!(replica = %replica.name, %snapshot, kept, found = sum, "a snapshot is silently corrupted");
            setting(attributes::CHECKSUM_FOUND, &sum.to_string())?
        }
    };
    replica.store.apply(lvol, vec![change]).await?;
    replica.disk.flush().await?;
    turn.refresh().await
}

impl Turn<'_> {
    /// Before a snapshot is deleted: nobody may be reading it, and the snapshot based on it, which gets its clusters, loses
    /// its checksum.
    pub(super) async fn forget_hashes(&mut self, snapshot: &SnapshotName) -> Result<()> {
        let replica = self.replica;
        replica.hashes.cancel(snapshot);
        let based = self.work.tree.snapshots.iter().filter(|(_, node)| node.view.parent.as_ref() == Some(snapshot));
        let based: Vec<_> = based.map(|(name, node)| (name.clone(), node.lvol.clone(), node.checksum)).collect();
        for (name, lvol, checksum) in based {
            replica.hashes.cancel(&name);
            if checksum.is_some() {
                let changes = vec![removal(attributes::CHECKSUM), removal(attributes::CHECKSUM_FOUND)];
                replica.store.apply(&lvol, changes).await?;
            }
        }
        Ok(())
    }
}
