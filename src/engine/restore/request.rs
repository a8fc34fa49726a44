//! The request of a restore: checked, claimed, started. Nothing is touched before the claim.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::job::{Job, RunningRestore};
use super::status::{RestorePhase, RestoreState};
use crate::backup::{BackupUrl, Cancel, LockKind, LockSettings, Progress, Target, VolumeLock};
use crate::engine::instance::{Engine, Frontend};
use crate::engine::state::{Chain, EngineState, Published, ReplicaMode};
use crate::error::{Error, Result};
use crate::faults::{self, Point};
use crate::name::{BackupName, SnapshotName};
use crate::task::to_its_end;

/// A parsed request.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// Which backup.
    pub url: BackupUrl,
    /// Blocks in work at once; `None` for the node's own limit.
    pub workers: Option<usize>,
}

/// The right to restore into an engine. Dropping it without [`Claim::end`] gives it back as an error.
pub(super) struct Claim {
    engine: Arc<Engine>,
    /// What was published before.
    before: RestoreState,
    ended: bool,
}

impl Claim {
    /// Takes the right, or says why not. From here on a second request is refused without effect on this one.
    fn take(engine: &Arc<Engine>, url: &BackupUrl, backup: &BackupName) -> Result<Self> {
        let before = engine.publish(|published| {
            may_restore(engine, published, backup)?;
            let before = published.restore.clone();
            published.restore = RestoreState {
                phase: RestorePhase::InProgress,
                last_restored: before.last_restored.clone(),
                current: Some(backup.clone()),
                url: Some(url.clone()),
                error: String::new(),
                progress: 0,
            };
            Ok::<_, Error>(before)
        })?;
        // The job of the restore before; its progress is not this one's.
        engine.running_restore().take();
        Ok(Self { engine: engine.clone(), before, ended: false })
    }

    /// Gives the right back with an outcome, together with whatever else is to be published with it.
    pub(super) fn end(mut self, publish: impl FnOnce(&mut Published)) {
        self.ended = true;
        self.engine.publish(|published| {
            published.restore.current = None;
            publish(published);
            assert!(!published.restore.is_restoring(), "a restore ends in another phase than it runs in");
        });
    }

    /// Gives the right back as if it had never been taken.
    fn withdraw(mut self) {
        let before = std::mem::take(&mut self.before);
        self.end(|published| published.restore = before);
    }

    /// Gives the right back because of an error, with the snapshots as they are after it, where they were read.
    pub(super) fn fail(self, error: &Error, chain: Option<Arc<Chain>>) {
        let (engine, volume) = (self.engine.name.clone(), self.engine.volume.clone());
        let phase = match error {
            Error::Canceled { .. } => RestorePhase::Canceled,
            _ => RestorePhase::Error,
        };
        tracing::error!(%engine, %volume, %error, ?phase, "a restore failed");
        self.end(|published| {
            published.restore.phase = phase;
            published.restore.error = error.to_string();
            if let Some(chain) = chain {
                published.chain = chain;
            }
        });
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.ended {
            self.engine.publish(|published| {
                published.restore.phase = RestorePhase::Error;
                published.restore.current = None;
                published.restore.error = "the restore was abandoned".into();
            });
        }
    }
}

fn not_running(engine: &Engine, published: &Published) -> Error {
    let problem = format!("it is in state {}: {}", published.state.as_str(), published.error_message);
    Error::precondition(engine.object(), problem)
}

fn may_restore(engine: &Engine, published: &Published, backup: &BackupName) -> Result<()> {
    let refuse = |problem: String| Err(Error::precondition(engine.object(), problem));
    if engine.frontend != Frontend::None {
        let frontend = engine.frontend.as_str();
        return refuse(format!("cannot restore backup: engine {} has a non-empty frontend {frontend}", engine.name));
    }
    if published.restore.is_restoring() {
        return refuse("restoring is in progress".into());
    }
    if engine.is_cloning() {
        return refuse("a clone is in progress; the restore must wait for its end".into());
    }
    // After a failed restore the head is a mixture, so the last good backup may be asked for again.
    let is_whole = matches!(published.restore.phase, RestorePhase::Idle | RestorePhase::Complete);
    if is_whole && published.restore.last_restored.as_ref() == Some(backup) {
        return refuse(format!("already restored backup {backup}"));
    }
    if published.state != EngineState::Running {
        return Err(not_running(engine, published));
    }
    if let Some((replica, _)) = published.replicas.iter().find(|(_, listed)| listed.mode != ReplicaMode::ReadWrite) {
        return refuse(format!("replica {replica} is not in sync; remove or rebuild it first"));
    }
    Ok(())
}

/// Whether an error of the preparation will come again however often the request is repeated, as it lies with what is
/// stored. Longhorn's manager repeats a refused request at every poll, and stops at an error in the status
/// (`engine-behaviour` §10.1).
fn is_permanent(error: &Error) -> bool {
    matches!(error, Error::Corruption { .. })
}

impl Engine {
    /// Starts a restore and returns once it runs. It goes on when the caller stops waiting.
    ///
    /// # Errors
    /// A refused request leaves everything as it was. A backup that is damaged shows in the status as well.
    pub async fn restore(self: &Arc<Self>, request: RestoreRequest) -> Result<()> {
        let backup = request.url.require_backup()?.clone();
        let claim = Claim::take(self, &request.url, &backup)?;
        let engine = self.clone();
        to_its_end("the start of a restore", async move { engine.begin_restore(request, backup, claim).await }).await
    }

    async fn begin_restore(self: &Arc<Self>, request: RestoreRequest, backup: BackupName, claim: Claim) -> Result<()> {
        let job = match self.prepare(&request, &backup).await {
            Ok(job) => job,
            Err(error) => {
                // What is only refused, and may be repeated, leaves the status what it was before the request.
                if is_permanent(&error) {
                    claim.fail(&error, None)
                } else {
                    claim.withdraw()
                }
                return Err(error);
            }
        };
        if let Err(error) = self.enter(&job) {
            job.give_up().await;
            claim.withdraw();
            return Err(error);
        }
        tokio::spawn(job.run(claim));
        Ok(())
    }

    /// Makes the job the one that a deletion of the engine cancels and waits for. An engine whose deletion has begun takes
    /// none any more.
    fn enter(&self, job: &Job) -> Result<()> {
        let mut running = self.running_restore();
        let published = self.published();
        if published.state != EngineState::Running {
            return Err(not_running(self, &published));
        }
        *running = Some(job.running());
        Ok(())
    }

    fn running_restore(&self) -> MutexGuard<'_, Option<RunningRestore>> {
        self.restore.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the store says about the backup and checks that it fits.
    async fn prepare(self: &Arc<Self>, request: &RestoreRequest, backup: &BackupName) -> Result<Job> {
        faults::pass(Point::RestoreClaimed).await?;
        let permit = self.context.restores.clone().try_acquire_owned().map_err(|_| Error::Exhausted {
            resource: "restores at once",
            problem: format!("this node runs {} already, its limit", self.context.limits.restores),
        })?;
        let target = Target::open(&request.url.target)?;
        let summary = crate::backup::inspect::inspect_backup(&target, &request.url.volume, backup).await?;
        let size = self.published().size;
        if summary.volume_size != size {
            let problem = format!(
                "the backup volume {} size {} must be the same as the Longhorn volume size {size}",
                request.url.volume, summary.volume_size
            );
            return Err(Error::invalid("backup_url", problem));
        }
        // Of a backup without an image nothing is to be refused, so no replica is asked before the restore runs.
        if !summary.volume_backing_image_name.is_empty() {
            self.check_base(&summary.volume_backing_image_name).await?;
        }
        let snapshot = SnapshotName::parse(&summary.snapshot_name).ok();
        let store = crate::backup::store::VolumeStore::new(target, request.url.volume.clone());
        let lock = VolumeLock::acquire(store, LockKind::CreateRestore, &LockSettings::default()).await?;
        let (cancel_handle, cancel) = Cancel::pair();
        Ok(Job {
            engine: self.clone(),
            backup: backup.clone(),
            snapshot,
            backing_image: summary.volume_backing_image_name,
            lock,
            workers: request.workers.unwrap_or(self.context.limits.restore_workers).max(1),
            progress: Arc::new(Progress::default()),
            cancel,
            cancel_handle,
            done: tokio::sync::watch::channel(false).0,
            _permit: permit,
        })
    }

    /// Cancels the restore that runs, if any, and waits until it has ended.
    pub(in crate::engine) async fn cancel_restore(&self) {
        let running = self.running_restore().take();
        if let Some(running) = running {
            running.cancel().await;
        }
    }

    /// Waits for the end of the restore that runs, if any.
    pub(in crate::engine) async fn restore_ended(&self) {
        let ended = self.running_restore().as_ref().map(RunningRestore::ended);
        if let Some(ended) = ended {
            ended.await;
        }
    }

    /// Per cent of the restore that runs.
    pub fn restore_progress(&self) -> Option<u32> {
        self.running_restore().as_ref().map(RunningRestore::percent)
    }
}
