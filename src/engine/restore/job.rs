//! One restore from the claim to the proof.
//!
//! 1. The replicas durably know that a restore is under way ([`super::marker`]).
//! 2. Blocks move; the mirror is flushed.
//! 3. A snapshot on every replica in sync holds the image ([`super::point`]).
//! 4. The replicas durably know that the restore is complete: from here on a crash leads to the new point, up to here to
//!    the one before ([`super::recover`]).
//! 5. The snapshot of the restore before is deleted.
//! 6. The chain is read again from every replica in sync, and all must show exactly that snapshot.
//! 7. Snapshots, head and `last_restored` are published at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};

use super::account::Account;
use super::base::BaseImage;
use super::marker::{RestoreMarker, Restored, Unfinished};
use super::request::Claim;
use super::sink::{Below, MirrorSink};
use super::status::RestorePhase;
use crate::backup::store::load_plan;
use crate::backup::{
    Cancel, CancelHandle, Progress, RestoreOnto, RestorePlan, RestoreReport, RestoreSettings, VolumeLock,
};
use crate::engine::instance::Engine;
use crate::engine::state::{Chain, EngineState};
use crate::error::{Error, Result};
use crate::faults::{self, Point};
use crate::mirror::Mirror;
use crate::name::{BackupName, SnapshotName};

/// How often progress is looked at, to tell a stall.
const STALL_STEP: Duration = Duration::from_secs(1);
/// How long the writes of a stalled restore may take to end. A member that is gone fails its I/O well before.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// A restore that is ready to run.
pub(in crate::engine) struct Job {
    pub(super) engine: Arc<Engine>,
    pub(super) backup: BackupName,
    pub(super) snapshot: Option<SnapshotName>,
    /// The image that the backup was made above; empty for none.
    pub(super) backing_image: String,
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

    pub(super) async fn cancel(self) {
        self.cancel.cancel();
        self.ended().await;
    }

    pub(super) fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut done = self.done.clone();
        async move {
            // An error means that the job is gone, which is what is waited for.
            let _ = done.wait_for(|done| *done).await;
        }
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

    /// Lets go of what was taken for it, without having run.
    pub(super) async fn give_up(self) {
        self.lock.release().await;
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
            Err(error) => {
                // What an attempt that failed late has left is shown, not hidden behind what was there before.
                let chain = self.engine.read_chain().await.ok();
                claim.fail(&error, chain);
            }
        }
        ended.tell();
        self.lock.release().await;
        self.done.send_replace(true);
    }

    async fn restore(&self) -> Result<(Arc<Chain>, RestoreReport)> {
        let engine = &self.engine;
        // An engine that was deleted meanwhile has none, and its replicas are not to be touched.
        let mirror = engine.mirror()?;
        let volume = self.lock.store().volume().clone();
        let mut before = engine.before_restore(&volume, &self.backup).await?;
        if engine.check_base(&self.backing_image).await? && self.backing_image.is_empty() {
            // What was never written shows an image that the backup knows nothing of.
            before.onto = match before.onto {
                RestoreOnto::Fresh => RestoreOnto::Unknown,
                known => known,
            };
        }
        let plan = load_plan(&self.lock, &self.backup, &before.onto).await?;
        tracing::info!(engine = %engine.name, backup = %self.backup, onto = ?before.onto,
            incremental = plan.is_incremental, blocks = plan.blocks_to_write(), bytes_to_zero = plan.bytes_to_zero(),
            "a restore starts");
        let base_intact = matches!(before.onto, RestoreOnto::Backup(_));
        let begun = Unfinished { volume: volume.clone(), backup: self.backup.clone(), base_intact };
        let last = before.restored.as_ref().map(|restored| restored.snapshot.clone());
        engine.mark(&RestoreMarker { restored: before.restored, in_progress: Some(begun) }).await?;
        faults::pass(Point::RestoreMarked).await?;
        let base = engine.open_base(&plan).await?;
        let moved = self.move_blocks(&mirror, &plan, base.as_ref().map(BaseImage::below)).await;
        if let Some(base) = base {
            base.close(moved.is_ok()).await;
        }
        let report = match moved {
            Ok(report) => report,
            Err(error) => return Err(engine.explain_write(error).await),
        };
        faults::pass(Point::RestoreFlushed).await?;
        engine.delete_other_restores(last.as_ref()).await?;
        let snapshot = engine.take_restore_snapshot(self.snapshot.as_ref()).await?;
        faults::pass(Point::RestoreSnapshotsTaken).await?;
        let restored = Restored { volume, backup: self.backup.clone(), snapshot: snapshot.clone() };
        engine.mark(&RestoreMarker { restored: Some(restored), in_progress: None }).await?;
        faults::pass(Point::RestoreMarkedComplete).await?;
        engine.delete_other_restores(Some(&snapshot)).await?;
        faults::pass(Point::RestoreEarlierDeleted).await?;
        let chain = engine.prove_restore(&snapshot).await?;
        faults::pass(Point::RestoreProven).await?;
        Ok((Arc::new(chain), report))
    }

    async fn move_blocks(&self, mirror: &Mirror, plan: &RestorePlan, below: Option<Below>) -> Result<RestoreReport> {
        let limits = &self.engine.context.limits;
        let settings = RestoreSettings {
            blocks_in_flight: limits.restore_queue_depth,
            fetches: (2 * self.workers).min(limits.restore_queue_depth),
            workers: self.workers,
            ..RestoreSettings::default()
        };
        let sink =
            MirrorSink::open(&self.engine.context.control, mirror.bdev(), settings.blocks_in_flight, below).await?;
        let restore = crate::backup::restore(&self.lock, plan, Arc::new(sink), &settings, &self.progress, &self.cancel);
        let mut restore = std::pin::pin!(restore);
        let stalled = tokio::select! {
            result = &mut restore => return result,
            stalled = self.stalled() => stalled,
        };
        tracing::warn!(engine = %self.engine.name, error = %stalled, "a restore stalls and is given up");
        self.cancel_handle.cancel();
        // The claim is given back only when no write of this restore can land any more, on top of the next one's.
        if tokio::time::timeout(DRAIN_LIMIT, restore).await.is_err() {
            self.engine.publish(|published| {
                published.state = EngineState::Error;
                published.error_message =
                    "writes of a restore that stalled may still be under way; delete the engine and create it again"
                        .into();
            });
        }
        Err(stalled)
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
}
