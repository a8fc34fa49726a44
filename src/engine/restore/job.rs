//! One restore from the claim to the proof.
//!
//! 1. The replicas durably know that a restore is under way ([`super::marker`]).
//! 2. Blocks move; the mirror is flushed.
//! 3. A snapshot on every replica in sync holds the image; the snapshot of the restore before is deleted.
//! 4. The replicas durably know that the restore is complete.
//! 5. The chain is read again from every replica in sync, and all must show exactly that snapshot.
//! 6. Snapshots, head and `last_restored` are published at once.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::account::Account;
use super::marker::{RestoreMarker, Restored};
use super::request::Claim;
use super::sink::MirrorSink;
use super::status::RestorePhase;
use crate::backup::store::load_plan;
use crate::backup::{Cancel, CancelHandle, Progress, RestoreOnto, RestoreReport, RestoreSettings, VolumeLock};
use crate::engine::backend::{Attribute, Child};
use crate::engine::instance::Engine;
use crate::engine::state::Chain;
use crate::error::{Error, Result};
use crate::name::{BackupName, SnapshotName};

/// How often progress is looked at, to tell a stall.
const STALL_STEP: Duration = Duration::from_secs(1);

/// A restore that is ready to run.
pub(in crate::engine) struct Job {
    pub(super) engine: Arc<Engine>,
    pub(super) backup: BackupName,
    pub(super) snapshot: Option<SnapshotName>,
    pub(super) lock: VolumeLock,
    pub(super) workers: usize,
    pub(super) progress: Arc<Progress>,
    pub(super) cancel: Cancel,
    pub(super) cancel_handle: CancelHandle,
    pub(super) done: watch::Sender<bool>,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// A restore that runs, for whoever wants to see or stop it.
pub(in crate::engine) struct RunningRestore {
    progress: Arc<Progress>,
    cancel: CancelHandle,
    done: watch::Receiver<bool>,
}

impl RunningRestore {
    pub(super) fn percent(&self) -> u32 {
        self.progress.percent()
    }

    pub(super) async fn cancel(mut self) {
        self.cancel.cancel();
        // An error means that the job is gone, which is what is waited for.
        let _ = self.done.wait_for(|done| *done).await;
    }
}

impl Job {
    pub(super) fn running(&self) -> RunningRestore {
        RunningRestore {
            progress: self.progress.clone(),
            cancel: self.cancel_handle.clone(),
            done: self.done.subscribe(),
        }
    }

    /// Runs to the end; the claim is given back with the outcome.
    pub(super) async fn run(self, claim: Claim) {
        let _operation = self.engine.operations.lock().await;
        let account = Account::begin(&self.engine, &self.backup, self.progress.clone());
        let result = self.restore().await;
        let ended = account.end(&result);
        match result {
            Ok((chain, report)) => {
                tracing::info!(engine = %self.engine.name, volume = %self.engine.volume, backup = %self.backup,
                    blocks = report.blocks, bytes_stored = report.bytes_stored, bytes_written = report.bytes_written,
                    bytes_zeroed = report.bytes_zeroed, "a restore is complete");
                let backup = self.backup.clone();
                claim.end(|published| {
                    published.chain = chain;
                    published.restore.last_restored = Some(backup);
                    published.restore.phase = RestorePhase::Complete;
                    published.restore.progress = 100;
                    published.restore.error.clear();
                });
            }
            Err(error) => claim.fail(&error),
        }
        ended.tell();
        self.lock.release().await;
        self.done.send_replace(true);
    }

    async fn restore(&self) -> Result<(Chain, RestoreReport)> {
        let before = self.markers().await?;
        let onto = self.onto(&before).await?;
        let plan = load_plan(&self.lock, &self.backup, &onto).await?;
        tracing::info!(engine = %self.engine.name, backup = %self.backup, ?onto, incremental = plan.is_incremental,
            blocks = plan.blocks_to_write(), bytes_to_zero = plan.bytes_to_zero(), "a restore starts");
        let last = before.first().and_then(|marker| marker.restored.clone());
        self.mark(RestoreMarker { restored: last.clone(), in_progress: Some(self.backup.clone()) }).await?;
        let report = self.move_blocks(&plan).await?;
        let snapshot = self.take_restore_snapshot().await?;
        self.delete_earlier(&snapshot, last.as_ref()).await?;
        let restored = Restored { backup: self.backup.clone(), snapshot: snapshot.clone() };
        self.mark(RestoreMarker { restored: Some(restored), in_progress: None }).await?;
        Ok((self.prove(&snapshot).await?, report))
    }

    /// What the replicas in sync know of earlier restores.
    async fn markers(&self) -> Result<Vec<RestoreMarker>> {
        let mut markers = Vec::new();
        for path in self.engine.in_sync() {
            let stored = path.backend.attribute(Attribute::Restore).await?;
            let marker = RestoreMarker::parse(stored.as_deref()).map_err(|problem| Error::Corruption {
                object: format!("restore marker of replica {}", path.replica),
                problem,
            })?;
            markers.push(marker);
        }
        Ok(markers)
    }

    /// What the volume is known to hold. An interrupted restore of the same backup goes on from the same base: all it
    /// may have changed is what it will write again. After any other one nothing is assumed.
    async fn onto(&self, markers: &[RestoreMarker]) -> Result<RestoreOnto> {
        let Some(first) = markers.first() else {
            return Err(Error::precondition(self.engine.object(), "no replica is in sync"));
        };
        let alike = markers.iter().all(|marker| marker == first);
        let resumable = first.in_progress.is_none() || first.in_progress.as_ref() == Some(&self.backup);
        if let (true, true, Some(restored)) = (alike, resumable, &first.restored) {
            return Ok(RestoreOnto::Backup(restored.backup.clone()));
        }
        if *first != RestoreMarker::default() || !alike {
            return Ok(RestoreOnto::Unknown);
        }
        for path in self.engine.in_sync() {
            if !path.backend.describe().await?.is_fresh() {
                return Ok(RestoreOnto::Unknown);
            }
        }
        Ok(RestoreOnto::Fresh)
    }

    /// Stores the marker on every replica in sync; one that cannot leaves the mirror.
    async fn mark(&self, marker: RestoreMarker) -> Result<()> {
        let value = marker.encode();
        let answers = self.engine.on_all(|path| {
            let value = value.clone();
            async move { path.backend.set_attribute(Attribute::Restore, value).await }
        });
        let answers = answers.await;
        self.settle("restore marker", answers).await
    }

    /// As [`Engine::settle`], but the restore goes on while a replica is left.
    async fn settle(
        &self,
        what: &str,
        answers: Vec<(Arc<crate::engine::attach::ReplicaPath>, Result<()>)>,
    ) -> Result<()> {
        let some_succeeded = answers.iter().any(|(_, result)| result.is_ok());
        match self.engine.settle(what, answers).await {
            Err(error) if some_succeeded => {
                tracing::warn!(engine = %self.engine.name, %error, "a restore goes on without a replica");
                Ok(())
            }
            result => result,
        }
    }

    async fn move_blocks(&self, plan: &crate::backup::RestorePlan) -> Result<RestoreReport> {
        let limits = &self.engine.context.limits;
        let settings = RestoreSettings {
            blocks_in_flight: limits.restore_queue_depth,
            fetches: (2 * self.workers).min(limits.restore_queue_depth),
            workers: self.workers,
            ..RestoreSettings::default()
        };
        let mirror = self.engine.mirror()?;
        let sink = MirrorSink::open(&self.engine.context.control, mirror.bdev(), settings.blocks_in_flight).await?;
        let restore = crate::backup::restore(&self.lock, plan, Arc::new(sink), &settings, &self.progress, &self.cancel);
        tokio::select! {
            result = restore => result.map_err(|error| self.name_cancel(error)),
            stalled = self.stalled() => {
                self.cancel_handle.cancel();
                Err(stalled)
            }
        }
    }

    /// Ends when no block has moved for too long.
    async fn stalled(&self) -> Error {
        let limit = self.engine.context.limits.restore_stall;
        let (mut last, mut since) = (self.moved(), tokio::time::Instant::now());
        loop {
            tokio::time::sleep(STALL_STEP).await;
            let moved = self.moved();
            if moved != last {
                (last, since) = (moved, tokio::time::Instant::now());
            } else if since.elapsed() > limit {
                let what = format!("moving the next block of backup {} into {}", self.backup, self.engine.object());
                return Error::Timeout { what, limit };
            }
        }
    }

    fn moved(&self) -> (u64, u64, u64) {
        (self.progress.bytes_stored(), self.progress.bytes_moved(), self.progress.bytes_zeroed())
    }

    /// The manager and the v2 engine look for this text (`backupstore-format` §16).
    fn name_cancel(&self, error: Error) -> Error {
        match error {
            Error::Canceled { what } => Error::Canceled { what: format!("backup restoration is cancelled: {what}") },
            other => other,
        }
    }

    /// `restore-<snapshot of the backup>`; a few characters more when that name is taken.
    async fn take_restore_snapshot(&self) -> Result<SnapshotName> {
        let taken = self.engine.read_chain().await?.snapshots;
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let base = match &self.snapshot {
            Some(snapshot) => format!("restore-{snapshot}"),
            None => format!("restore-{unique}"),
        };
        let internal = |error: crate::name::NameError| Error::internal("restore snapshot", error.to_string());
        let mut name = SnapshotName::parse(&base).map_err(internal)?;
        if taken.contains_key(&name) {
            name = SnapshotName::parse(&format!("{base}-{}", &unique[..5])).map_err(internal)?;
        }
        let result = self.engine.take_snapshot(&name, true).await;
        match result {
            // A replica that failed alone is out by now, and the others have the snapshot.
            Err(error) if !self.engine.in_sync().is_empty() && self.all_have(&name).await => {
                tracing::warn!(engine = %self.engine.name, %error, "a restore goes on without a replica");
                Ok(name)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(name),
        }
    }

    async fn all_have(&self, snapshot: &SnapshotName) -> bool {
        let descriptions = join_all(self.engine.in_sync().into_iter().map(|path| async move {
            path.backend.describe().await.is_ok_and(|description| description.snapshots.contains_key(snapshot))
        }))
        .await;
        !descriptions.is_empty() && descriptions.into_iter().all(|has| has)
    }

    /// Deletes the snapshot of the restore before, and what earlier failed attempts left.
    async fn delete_earlier(&self, kept: &SnapshotName, last: Option<&Restored>) -> Result<()> {
        let chain = self.engine.read_chain().await?;
        let earlier = chain.snapshots.keys().filter(|name| {
            *name != kept && (name.as_str().starts_with("restore-") || last.is_some_and(|last| last.snapshot == **name))
        });
        for name in earlier {
            let answers = self.engine.on_all(|path| async move { path.backend.snapshot_delete(name).await }).await;
            self.settle("deletion of an earlier restore's snapshot", answers).await?;
        }
        Ok(())
    }

    /// Every replica in sync must show the snapshot, directly below its head, and no other restore's.
    async fn prove(&self, snapshot: &SnapshotName) -> Result<Chain> {
        let mut proven = None;
        for path in self.engine.in_sync() {
            let description = path.backend.describe().await?;
            let object = format!("replica {} of {}", path.replica, self.engine.object());
            let layer = description
                .snapshots
                .get(snapshot)
                .ok_or_else(|| Error::internal(&object, format!("it lacks snapshot {snapshot} after the restore")))?;
            if layer.children != [Child::Head] {
                return Err(Error::internal(&object, format!("snapshot {snapshot} is not directly below the head")));
            }
            let others =
                description.snapshots.keys().any(|name| name != snapshot && name.as_str().starts_with("restore-"));
            if others {
                return Err(Error::internal(&object, "it still has the snapshot of an earlier restore"));
            }
            proven.get_or_insert(Chain { snapshots: description.snapshots, head: description.head });
        }
        proven.ok_or_else(|| Error::precondition(self.engine.object(), "no replica is in sync any more"))
    }
}

impl Engine {
    /// Forgets what was restored: from now on the content is the client's.
    pub(in crate::engine) async fn clear_marker(&self) {
        let answers = self.on_all(|path| async move {
            let stored = path.backend.attribute(Attribute::Restore).await?;
            match stored {
                Some(value) if !value.is_empty() => path.backend.set_attribute(Attribute::Restore, Vec::new()).await,
                _ => Ok(()),
            }
        });
        for (path, result) in answers.await {
            if let Err(error) = result {
                tracing::warn!(engine = %self.name, replica = %path.replica, %error, "its restore marker could not be cleared");
            }
        }
    }
}
