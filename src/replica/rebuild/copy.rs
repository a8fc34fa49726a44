//! One copy: clusters of a snapshot read here and written to the destination's lvol, several pieces in flight, a flush at
//! the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::Semaphore;

use super::target::{CopyTarget, Place};
use super::types::{CopyProgress, CopyState};
use crate::backup::Cancel;
use crate::name::{LvolAlias, ReplicaName, SnapshotName};
use crate::spdk::client::BdevClient;
use crate::spdk::{Control, DmaBuffer};
use crate::{Error, Result};

/// The largest piece of a cluster that is read and written at once: the largest I/O of our NVMe/TCP targets.
const PIECE: u64 = 256 << 10;

/// How far one copy is, for whoever asks.
#[derive(Debug)]
pub(in crate::replica) struct CopyRecord {
    pub(in crate::replica) destination: ReplicaName,
    pub(in crate::replica) snapshot: SnapshotName,
    total_clusters: u64,
    copied_bytes: AtomicU64,
    cluster_size: AtomicU64,
    phase: Mutex<(CopyState, String)>,
}

impl CopyRecord {
    /// Of a copy that has not begun.
    pub(in crate::replica) fn new(destination: &ReplicaName, snapshot: &SnapshotName, total_clusters: u64) -> Self {
        Self {
            destination: destination.clone(),
            snapshot: snapshot.clone(),
            total_clusters,
            copied_bytes: AtomicU64::new(0),
            cluster_size: AtomicU64::new(1),
            phase: Mutex::new((CopyState::Starting, String::new())),
        }
    }

    /// As it is now.
    pub(in crate::replica) fn progress(&self) -> CopyProgress {
        let (state, error) = self.phase().clone();
        let copied_clusters = self.copied_bytes.load(Ordering::Relaxed) / self.cluster_size.load(Ordering::Relaxed);
        CopyProgress { state, copied_clusters, total_clusters: self.total_clusters, error }
    }

    /// Whether it is of that snapshot.
    pub(in crate::replica) fn is_of(&self, snapshot: &SnapshotName) -> bool {
        self.snapshot == *snapshot
    }

    fn set(&self, state: CopyState, error: String) {
        *self.phase() = (state, error);
    }

    fn phase(&self) -> MutexGuard<'_, (CopyState, String)> {
        // Only whole values are put in.
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is copied.
pub(in crate::replica) struct CopyJob {
    pub(in crate::replica) source: LvolAlias,
    pub(in crate::replica) control: Control,
    pub(in crate::replica) cluster_size: u64,
    pub(in crate::replica) clusters: Vec<u64>,
    pub(in crate::replica) record: Arc<CopyRecord>,
}

/// Where to, and within which limits.
pub(in crate::replica) struct CopyRun {
    pub(in crate::replica) place: Place,
    pub(in crate::replica) limits: CopyLimits,
}

/// Limits of copies, from the configuration.
#[derive(Clone)]
pub(in crate::replica) struct CopyLimits {
    /// Copies of the node at once; further ones wait.
    pub(in crate::replica) at_once: Arc<Semaphore>,
    /// Pieces that one copy has in flight.
    pub(in crate::replica) depth: usize,
    /// Reaching the destination.
    pub(in crate::replica) attach: Duration,
    /// A copy without progress for so long has failed.
    pub(in crate::replica) stall: Duration,
}

impl CopyRun {
    /// Runs the copy to its end, whatever that is, and notes it.
    pub(in crate::replica) async fn run_and_note(self, job: CopyJob, cancel: Cancel) {
        let record = job.record.clone();
        let (destination, snapshot, clusters) = (&record.destination, &record.snapshot, record.total_clusters);
        match self.run(job, &cancel).await {
            Ok(()) => {
                tracing::info!(%destination, %snapshot, clusters, "a snapshot is copied");
                record.set(CopyState::Complete, String::new());
            }
            Err(error) => {
                tracing::warn!(%destination, %snapshot, %error, "the copy of a snapshot failed");
                record.set(CopyState::Error, error.to_string());
            }
        }
    }

    async fn run(self, job: CopyJob, cancel: &Cancel) -> Result<()> {
        let cancelled = || Error::Canceled { what: format!("the copy of snapshot {}", job.record.snapshot) };
        let _turn = tokio::select! {
            turn = self.limits.at_once.acquire() => turn.map_err(|_| cancelled())?,
            () = cancel.cancelled() => return Err(cancelled()),
        };
        job.record.cluster_size.store(job.cluster_size, Ordering::Relaxed);
        let source = BdevClient::open(&job.control, job.source.bdev(), false).await?;
        let target = CopyTarget::open(&job.control, self.place, self.limits.attach).await?;
        job.record.set(CopyState::InProgress, String::new());
        let outcome = tokio::select! {
            outcome = copy(&source, target.bdev(), &job, self.limits.depth) => outcome,
            () = cancel.cancelled() => Err(cancelled()),
            limit = stalled(&job.record, self.limits.stall) => {
                Err(Error::Timeout { what: format!("a piece of the copy of snapshot {}", job.record.snapshot), limit })
            }
        };
        drop(source);
        target.close(outcome.is_ok()).await;
        outcome
    }
}

/// Copies all pieces, and makes them durable.
async fn copy(source: &BdevClient, target: &BdevClient, job: &CopyJob, depth: usize) -> Result<()> {
    let (own, there) = (source.geometry(), target.geometry());
    if there.size() < own.size() || !job.cluster_size.is_multiple_of(u64::from(there.block_size)) {
        let problem = format!(
            "it has {} bytes in blocks of {}, and the snapshot {} in clusters of {}",
            there.size(),
            there.block_size,
            own.size(),
            job.cluster_size
        );
        return Err(Error::precondition(format!("the lvol of the copy to {}", job.record.destination), problem));
    }
    let buffers = Mutex::new(Vec::new());
    let copies = stream::iter(pieces(job.clusters.clone(), job.cluster_size)).map(|piece| {
        let buffers = &buffers;
        async move { copy_piece(source, target, buffers, piece, &job.record).await }
    });
    copies.buffer_unordered(depth).try_for_each(|()| async { Ok(()) }).await?;
    Ok(target.flush().await?)
}

/// Offset and length of each piece of the clusters.
fn pieces(clusters: Vec<u64>, cluster_size: u64) -> impl Iterator<Item = (u64, usize)> + Send {
    let in_cluster = cluster_size.div_ceil(PIECE);
    clusters.into_iter().flat_map(move |cluster| {
        (0..in_cluster).map(move |index| {
            let start = index * PIECE;
            // At most PIECE.
            (cluster * cluster_size + start, PIECE.min(cluster_size - start) as usize)
        })
    })
}

async fn copy_piece(
    source: &BdevClient,
    target: &BdevClient,
    buffers: &Mutex<Vec<DmaBuffer>>,
    (offset, length): (u64, usize),
    record: &CopyRecord,
) -> Result<()> {
    let spare = || buffers.lock().unwrap_or_else(PoisonError::into_inner);
    let used = spare().pop().filter(|buffer| buffer.len() == length);
    let buffer = match used {
        Some(buffer) => buffer,
        None => DmaBuffer::zeroed(length)?,
    };
    let buffer = source.read(offset, buffer).await?;
    let buffer = target.write(offset, buffer).await?;
    spare().push(buffer);
    record.copied_bytes.fetch_add(length as u64, Ordering::Relaxed);
    Ok(())
}

/// Ends when nothing was copied for `limit`.
async fn stalled(record: &CopyRecord, limit: Duration) -> Duration {
    loop {
        let before = record.copied_bytes.load(Ordering::Relaxed);
        tokio::time::sleep(limit).await;
        if record.copied_bytes.load(Ordering::Relaxed) == before {
            return limit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_clusters_exactly() {
        let cluster = 2 * PIECE + 512;
        let found: Vec<_> = pieces(vec![0, 3], cluster).collect();
        let expected = [0, 3].into_iter().flat_map(|index| {
            let start = index * cluster;
            [(start, PIECE as usize), (start + PIECE, PIECE as usize), (start + 2 * PIECE, 512)]
        });
        assert_eq!(found, expected.collect::<Vec<_>>());
        assert_eq!(pieces(vec![7], 4096).collect::<Vec<_>>(), [(7 * 4096, 4096)]);
        assert_eq!(pieces(vec![], PIECE).count(), 0);
    }
}
