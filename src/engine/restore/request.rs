//! The request of a restore: checked, claimed, started. Nothing is touched before the claim.

use std::sync::Arc;

use super::job::{Job, RunningRestore};
use super::status::RestorePhase;
use crate::backup::{BackupUrl, Cancel, LockKind, LockSettings, Progress, Target, VolumeLock};
use crate::engine::instance::{Engine, Frontend};
use crate::engine::state::{EngineState, ReplicaMode};
use crate::error::{Error, Result};
use crate::name::{BackupName, SnapshotName};

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
    ended: bool,
}

impl Claim {
    /// Takes the right, or says why not. From here on a second request is refused without effect on this one.
    fn take(engine: &Arc<Engine>, url: &BackupUrl, backup: &BackupName) -> Result<Self> {
        let mut outcome = Ok(());
        engine.publish(|published| {
            outcome = may_restore(engine, published, backup);
            if outcome.is_ok() {
                let restore = &mut published.restore;
                restore.phase = RestorePhase::InProgress;
                restore.current = Some(backup.clone());
                restore.url = Some(url.clone());
                restore.error.clear();
                restore.progress = 0;
            }
        });
        outcome.map(|()| Self { engine: engine.clone(), ended: false })
    }

    /// Gives the right back with an outcome, together with whatever else is to be published with it.
    pub(super) fn end(mut self, publish: impl FnOnce(&mut crate::engine::state::Published)) {
        self.ended = true;
        self.engine.publish(|published| {
            published.restore.current = None;
            publish(published);
            assert!(!published.restore.is_restoring(), "a restore ends in another phase than it runs in");
        });
    }

    /// Gives the right back because of an error.
    pub(super) fn fail(self, error: &Error) {
        let (engine, volume) = (self.engine.name.clone(), self.engine.volume.clone());
        let phase = match error {
            Error::Canceled { .. } => RestorePhase::Canceled,
            _ => RestorePhase::Error,
        };
        tracing::error!(%engine, %volume, %error, ?phase, "a restore failed");
        self.end(|published| {
            published.restore.phase = phase;
            published.restore.error = error.to_string();
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

fn may_restore(engine: &Engine, published: &crate::engine::state::Published, backup: &BackupName) -> Result<()> {
    let refuse = |problem: String| Err(Error::precondition(engine.object(), problem));
    if engine.frontend != Frontend::None {
        let frontend = engine.frontend.as_str();
        return refuse(format!("cannot restore backup: engine {} has a non-empty frontend {frontend}", engine.name));
    }
    if published.restore.is_restoring() {
        return refuse("restoring is in progress".into());
    }
    // After a failed restore the head is a mixture, so the last good backup may be asked for again.
    let is_whole = matches!(published.restore.phase, RestorePhase::Idle | RestorePhase::Complete);
    if is_whole && published.restore.last_restored.as_ref() == Some(backup) {
        return refuse(format!("already restored backup {backup}"));
    }
    if published.state != EngineState::Running {
        return refuse(format!("it is in state {}: {}", published.state.as_str(), published.error_message));
    }
    if let Some((replica, _)) = published.replicas.iter().find(|(_, listed)| listed.mode != ReplicaMode::ReadWrite) {
        return refuse(format!("replica {replica} is not in sync; remove or rebuild it first"));
    }
    Ok(())
}

impl Engine {
    /// Starts a restore and returns once it runs. An error leaves everything as it was.
    pub async fn restore(self: &Arc<Self>, request: RestoreRequest) -> Result<()> {
        let backup = request.url.require_backup()?.clone();
        let before = self.published().restore;
        let claim = Claim::take(self, &request.url, &backup)?;
        match self.prepare(&request, &backup).await {
            Ok(job) => {
                let running = job.running();
                *self.restore.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(running);
                tokio::spawn(job.run(claim));
                Ok(())
            }
            Err(error) => {
                // Refused, not failed: the status stays what it was before the request.
                claim.end(|published| published.restore = before);
                Err(error)
            }
        }
    }

    /// Reads what the store says about the backup and checks that it fits.
    async fn prepare(self: &Arc<Self>, request: &RestoreRequest, backup: &BackupName) -> Result<Job> {
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
        let snapshot = SnapshotName::parse(&summary.snapshot_name).ok();
        let store = crate::backup::store::VolumeStore::new(target, request.url.volume.clone());
        let lock = VolumeLock::acquire(store, LockKind::CreateRestore, &LockSettings::default()).await?;
        let (cancel_handle, cancel) = Cancel::pair();
        Ok(Job {
            engine: self.clone(),
            backup: backup.clone(),
            snapshot,
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
        let running: Option<RunningRestore> =
            self.restore.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(running) = running {
            running.cancel().await;
        }
    }

    /// Per cent of the restore that runs.
    pub fn restore_progress(&self) -> Option<u32> {
        let running = self.restore.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        running.as_ref().map(RunningRestore::percent)
    }
}
