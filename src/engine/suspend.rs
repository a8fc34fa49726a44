//! Holding client I/O on request: what is in flight is finished, what comes is held, and all of it goes on at the resume.
//!
//! A suspension has its limit, so that a caller who goes away cannot hold a volume up for ever. It is told at the resume when
//! the limit ended it: what was done under it was not at one point in time. Snapshots may be taken meanwhile; they rely on
//! the suspension instead of pausing themselves.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::instance::{Engine, Frontend};
use super::state::EngineState;
use crate::error::{Error, Result};
use crate::mirror::PauseGuard;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

/// The mirror's own limit is this much later, so that it is the engine that ends a suspension, and knows.
const BACKSTOP: Duration = Duration::from_secs(1);

/// The suspension of an engine, and how the last one ended.
#[derive(Default)]
pub(super) struct Suspension {
    /// Counts suspensions, to tell one from the next.
    number: u64,
    held: Option<PauseGuard>,
    /// The last one was ended by its limit, and nobody has been told yet.
    is_broken: bool,
    /// Read by operations that rely on the suspension, written by the resume, which waits for them.
    reliance: Arc<RwLock<()>>,
}

/// Client I/O is held while an operation works: by a suspension that is on, or by a pause for the operation alone.
pub(super) enum Held {
    Suspension(u64, OwnedRwLockReadGuard<()>),
    Pause(PauseGuard),
}

impl Engine {
    fn suspension(&self) -> std::sync::MutexGuard<'_, Suspension> {
        // No code between two changes of it can panic.
        self.suspension.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether client I/O is held.
    pub fn is_suspended(&self) -> bool {
        self.suspension().held.is_some()
    }

    /// Holds client I/O until [`Engine::resume`], at most for the returned time. Done already is done.
    pub async fn suspend(self: &Arc<Self>) -> Result<Duration> {
        let limit = self.context.limits.suspend;
        if self.frontend == Frontend::None {
            return Err(Error::Unimplemented {
                what: "the suspension of an engine without a frontend",
                reason: "it has no client whose I/O could be held",
            });
        }
        let _operation = self.operations.try_lock().map_err(|_| {
            Error::precondition(self.object(), "another operation is in progress; repeat the suspension")
        })?;
        if self.is_suspended() {
            return Ok(limit);
        }
        self.refuse_in_rebuild("the suspension")?;
        let published = self.published();
        if published.state != EngineState::Running {
            let problem = format!("it is in state {}: {}", published.state.as_str(), published.error_message);
            return Err(Error::precondition(self.object(), problem));
        }
        let end = tokio::time::Instant::now() + limit;
        let guard = self.mirror()?.pause(limit + BACKSTOP).await?;
        let number = {
            let mut suspension = self.suspension();
            suspension.number += 1;
            suspension.held = Some(guard);
            suspension.is_broken = false;
            suspension.number
        };
        tracing::info!(engine = %self.name, volume = %self.volume, ?limit, "client I/O is suspended");
        let engine = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep_until(end).await;
            if let Some(engine) = engine.upgrade() {
                engine.break_suspension(number).await;
            }
        });
        Ok(limit)
    }

    /// Lets client I/O go on. Nothing to do when it does; an error once, when the limit had ended the suspension.
    pub async fn resume(&self) -> Result<()> {
        let limit = self.context.limits.suspend;
        let reliance = self.suspension().reliance.clone();
        let finished = tokio::time::timeout(limit, reliance.write_owned());
        let _finished = finished.await.map_err(|_| Error::Timeout {
            what: format!("an operation under the suspension of {}", self.object()),
            limit,
        })?;
        let (held, was_broken) = {
            let mut suspension = self.suspension();
            (suspension.held.take(), std::mem::take(&mut suspension.is_broken))
        };
        if was_broken {
            let problem =
                format!("its suspension was ended by timeouts.suspend, {limit:?}; client I/O has gone on since");
            return Err(Error::precondition(self.object(), problem));
        }
        let Some(guard) = held else { return Ok(()) };
        guard.resume().await?;
        tracing::info!(engine = %self.name, volume = %self.volume, "client I/O goes on");
        Ok(())
    }

    /// Ends a suspension whose time is over.
    async fn break_suspension(&self, number: u64) {
        let guard = {
            let mut suspension = self.suspension();
            if suspension.number != number {
                return;
            }
            let guard = suspension.held.take();
            suspension.is_broken = guard.is_some();
            guard
        };
        if let Some(guard) = guard {
            let limit = self.context.limits.suspend;
            tracing::warn!(engine = %self.name, volume = %self.volume, ?limit, "a suspension was ended by its limit");
            // An error means that I/O goes on already.
            let _ = guard.resume().await;
        }
    }

    /// Ends a suspension because the engine goes.
    pub(super) async fn drop_suspension(&self) {
        let guard = self.suspension().held.take();
        if let Some(guard) = guard {
            let _ = guard.resume().await;
        }
    }

    /// Refuses what cannot be done while client I/O is held.
    pub(super) fn refuse_when_suspended(&self, what: &str) -> Result<()> {
        if self.is_suspended() {
            let problem = format!("it is suspended; resume it before {what}");
            return Err(Error::precondition(self.object(), problem));
        }
        Ok(())
    }

    /// Holds client I/O for an operation, which the caller has begun.
    pub(super) async fn hold(&self) -> Result<Held> {
        let suspended = {
            let suspension = self.suspension();
            match (&suspension.held, suspension.reliance.clone().try_read_owned()) {
                (None, _) => None,
                (Some(_), Ok(reliance)) => Some((suspension.number, reliance)),
                (Some(_), Err(_)) => {
                    return Err(Error::precondition(self.object(), "it is being resumed; try again later"));
                }
            }
        };
        match suspended {
            Some((number, reliance)) => Ok(Held::Suspension(number, reliance)),
            None => Ok(Held::Pause(self.mirror()?.pause(self.context.limits.pause).await?)),
        }
    }

    /// Ends what [`Engine::hold`] began. An error means that client I/O had gone on before.
    pub(super) async fn release(&self, held: Held) -> Result<()> {
        match held {
            Held::Pause(guard) => guard.resume().await,
            Held::Suspension(number, _reliance) => {
                let suspension = self.suspension();
                if suspension.number == number && suspension.held.is_some() {
                    return Ok(());
                }
                Err(Error::precondition(self.object(), "the suspension that it relied on was ended by its limit"))
            }
        }
    }
}
