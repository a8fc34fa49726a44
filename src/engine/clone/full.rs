//! A full copy into the one replica of a volume. The engine is down while it runs and comes up when it is complete; the
//! replica itself tells how far it is.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::CloneRequest;
use super::source::SourceVolume;
use crate::engine::assemble::Start;
use crate::engine::attach::ReplicaPath;
use crate::engine::instance::Engine;
use crate::engine::restore::replicas::forget_restores;
use crate::engine::state::{EngineState, ReplicaMode};
use crate::error::{Error, Result};
use crate::replica::clone::CloneOrder;
use crate::replica::rebuild::CopyState;

/// How often the replica is asked how far it is.
const CHECK_STEP: Duration = Duration::from_millis(250);

/// A copy that runs, for whoever wants the engine back.
pub(in crate::engine) struct RunningClone {
    cancel: watch::Sender<bool>,
    done: watch::Receiver<bool>,
}

struct Follower {
    engine: Arc<Engine>,
    /// What the mirror's start may take for granted when the copy is complete.
    as_asked: Start,
    canceled: watch::Receiver<bool>,
    done: watch::Sender<bool>,
}

/// What a follower begins with.
enum Beginning {
    /// A copy is to be begun.
    Order(CloneOrder),
    /// One runs into this replica.
    Running(Arc<ReplicaPath>),
}

impl Engine {
    /// Begins a full copy; returns when it runs. What fails before that changes nothing.
    pub(super) async fn copy(self: &Arc<Self>, request: &CloneRequest, source: &SourceVolume) -> Result<()> {
        let from = source.replicas.iter().find(|(_, (_, in_sync))| *in_sync);
        let Some((replica, (address, _))) = from else {
            return Err(Error::precondition(&source.object, "no replica is in sync, so there is nothing to copy"));
        };
        let order = CloneOrder {
            source: replica.clone(),
            source_address: *address,
            snapshot: request.snapshot.clone(),
            mode: request.mode,
        };
        self.follow_copy(Beginning::Order(order), Start::Listed).await
    }

    /// Follows a copy that runs into the engine's one replica; returns when the engine runs, as while any copy.
    pub(in crate::engine) async fn follow_running(
        self: &Arc<Self>,
        path: Arc<ReplicaPath>,
        as_asked: Start,
    ) -> Result<()> {
        self.follow_copy(Beginning::Running(path), as_asked).await
    }

    async fn follow_copy(self: &Arc<Self>, beginning: Beginning, as_asked: Start) -> Result<()> {
        let (cancel, canceled) = watch::channel(false);
        let (done, is_done) = watch::channel(false);
        let (started, answer) = oneshot::channel();
        let follower = Follower { engine: self.clone(), as_asked, canceled, done };
        tokio::spawn(follower.run(beginning, RunningClone { cancel, done: is_done }, started));
        answer.await.map_err(|_| Error::internal(self.object(), "a copy ended before it began"))?
    }

    /// The copy into the volume has failed, or was cut short.
    pub(in crate::engine) fn is_no_copy(&self, error: &Error) {
        self.publish(|published| {
            published.state = EngineState::Error;
            published.error_message = format!("the volume is no whole copy: {error}");
        });
    }

    fn running_clone(&self) -> MutexGuard<'_, Option<RunningClone>> {
        // Only whole values are put in.
        self.clone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a full copy into the volume runs.
    pub(in crate::engine) fn is_cloning(&self) -> bool {
        self.running_clone().is_some()
    }

    /// Follows no copy any more, and waits until that is so. The replica goes on with it.
    pub(in crate::engine) async fn cancel_clone(&self) {
        let running = self.running_clone().take();
        if let Some(mut running) = running {
            running.cancel.send_replace(true);
            // An error means that the follower is gone, which is what is waited for.
            let _ = running.done.wait_for(|done| *done).await;
        }
    }
}

impl Follower {
    async fn run(self, beginning: Beginning, running: RunningClone, started: oneshot::Sender<Result<()>>) {
        let engine = self.engine.clone();
        // Held to the end of the copy.
        let _operation = match engine.begin("a clone") {
            Ok(operation) => operation,
            Err(error) => return drop(started.send(Err(error))),
        };
        *engine.running_clone() = Some(running);
        let begun = match beginning {
            Beginning::Order(order) => self.begin(order).await,
            Beginning::Running(path) => Ok(self.go_on(path)),
        };
        match begun {
            Ok(path) => {
                let _ = started.send(Ok(()));
                self.follow_to_the_end(&path).await;
            }
            Err(error) => drop(started.send(Err(error))),
        }
        *engine.running_clone() = None;
        self.done.send_replace(true);
    }

    async fn begin(&self, order: CloneOrder) -> Result<Arc<ReplicaPath>> {
        let engine = &self.engine;
        let described = engine.describe_for_clone().await?;
        let (count, path) = (engine.published().replicas.len(), described.first().map(|(path, _)| path.clone()));
        let path = match path {
            Some(path) if count == 1 => path,
            _ => {
                let problem =
                    format!("it has {count} replicas; a full copy goes to exactly one, others are added after it");
                return Err(Error::precondition(engine.object(), problem));
            }
        };
        engine.require_fresh(&described).await?;
        engine.close_for_clone().await?;
        let begun = match forget_restores(&path).await {
            Ok(()) => path.backend.clone_start(order.clone()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = begun {
            return Err(match self.bring_up().await {
                Ok(()) => error,
                Err(down) => self.is_down(error, &down),
            });
        }
        tracing::info!(engine = %engine.name, volume = %engine.volume, replica = %path.replica, source = %order.source,
            snapshot = %order.snapshot, "a full copy runs; the volume comes up when it is complete");
        Ok(path)
    }

    /// As it was when the copy began: the engine runs, and its replica is the one that counts, though nothing is served.
    fn go_on(&self, path: Arc<ReplicaPath>) -> Arc<ReplicaPath> {
        let engine = &self.engine;
        tracing::info!(engine = %engine.name, volume = %engine.volume, replica = %path.replica,
            "a full copy runs still; the volume comes up when it is complete");
        engine.publish(|published| {
            published.state = EngineState::Running;
            published.error_message.clear();
            if let Some(listed) = published.replicas.get_mut(&path.replica) {
                listed.mode = ReplicaMode::ReadWrite;
                listed.problem.clear();
            }
        });
        path
    }

    /// A copy did not begin, and the volume is down. The call and the engine tell of both.
    fn is_down(&self, error: Error, down: &Error) -> Error {
        let engine = &self.engine;
        let note = format!("; and the volume did not come up again: {down}");
        tracing::error!(engine = %engine.name, volume = %engine.volume, %error, %down, "a full copy failed");
        engine.publish(|published| {
            published.state = EngineState::Error;
            published.error_message = format!("a copy into it did not begin: {error}{note}");
        });
        error.with_note(&note)
    }

    async fn follow_to_the_end(&self, path: &ReplicaPath) {
        let engine = &self.engine;
        let mut canceled = self.canceled.clone();
        let outcome = tokio::select! {
            outcome = self.copied(path) => outcome,
            // An error means that nobody can cancel any more.
            Ok(_) = canceled.wait_for(|canceled| *canceled) => return,
        };
        if let Err(error) = outcome {
            tracing::error!(engine = %engine.name, volume = %engine.volume, %error, "a full copy failed");
            return engine.is_no_copy(&error);
        }
        match self.bring_up().await {
            Ok(()) => tracing::info!(engine = %engine.name, volume = %engine.volume, "a full copy is complete"),
            Err(error) => {
                tracing::error!(engine = %engine.name, volume = %engine.volume, %error,
                    "a full copy is complete, and its volume does not come up");
                engine.publish(|published| {
                    published.state = EngineState::Error;
                    published.error_message = format!("the copy is complete, and the volume does not come up: {error}");
                });
            }
        }
    }

    async fn bring_up(&self) -> Result<()> {
        self.engine.bring_up_again(self.as_asked).await?;
        self.engine.export().await?;
        self.engine.remember_change().await;
        Ok(())
    }

    /// Waits until the copy is complete. A replica that cannot be asked for too long has failed; whether the copy gets on is
    /// for the replica to see.
    async fn copied(&self, path: &ReplicaPath) -> Result<()> {
        let limit = self.engine.context.limits.rebuild_stall;
        let mut answered = tokio::time::Instant::now();
        loop {
            match path.backend.clone_progress().await {
                Ok(progress) => {
                    answered = tokio::time::Instant::now();
                    match progress.state {
                        CopyState::Complete => return Ok(()),
                        CopyState::Starting | CopyState::InProgress => {}
                        CopyState::Error | CopyState::Idle => {
                            return Err(Error::peer(format!("replica {}", path.replica), progress.error));
                        }
                    }
                }
                Err(error @ Error::NotFound { .. }) => return Err(error),
                Err(error) if answered.elapsed() > limit => return Err(error),
                Err(_) => {}
            }
            tokio::time::sleep(CHECK_STEP).await;
        }
    }
}
