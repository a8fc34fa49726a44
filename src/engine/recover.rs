//! Engines of the last run, brought up again from their records while the node serves already.
//!
//! Nobody vouches for a replica that does not answer now, as an owner does who creates an engine: it may be the one with the
//! newest data. So an engine comes back only when every replica that may have such data was asked, and is tried again until
//! then. And it comes back only when no other engine has served the volume since: that one may be doing so now. An owner who
//! knows better deletes the engine and creates it again.

use std::sync::Arc;
use std::time::Duration;

use super::assemble::Start;
use super::clone::CopyFound;
use super::create::start_whole;
use super::instance::{Engine, Frontend};
use super::record::{EngineRecord, Remembered};
use super::state::EngineState;
use super::{Engines, Worker};
use crate::error::{Error, Result};
use crate::mirror::core::{Assembly, GenerationRecord};
use crate::record::Record;

/// The first and the longest wait between two attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How an attempt ended.
enum Tried {
    /// The engine is up.
    Up,
    /// There is nothing more to try; the engine says what it waits for, or what is wrong.
    Settled,
}

impl Engines {
    /// Takes all records up again. Returns when each engine is known, in state `pending`, and has its port; they come up in the
    /// background, tried for `timeouts.recovery`. What does not come up by then is in state `error`, and its record stays.
    pub async fn recover(self: &Arc<Self>) -> Result<()> {
        for record in self.context.records.read_all().await? {
            let name = record.name().to_owned();
            match self.restore(record).await {
                Ok((engine, port)) => drop(tokio::spawn(self.clone().try_until_up(engine, port))),
                Err(error) => {
                    tracing::error!(engine = name, %error, "an engine's record cannot be used; it is left as it is");
                }
            }
        }
        Ok(())
    }

    async fn restore(&self, record: EngineRecord) -> Result<(Arc<Engine>, Option<u16>)> {
        let Remembered { request, port, incarnations } = record.parse()?;
        let engine = Arc::new(Engine::new(self.context.clone(), &request));
        engine.set_incarnations(incarnations);
        if let Some(port) = port
            && let Err(error) = engine.reserve_port(port).await
        {
            tracing::warn!(engine = %engine.name, volume = %engine.volume, port, %error, "the target's port cannot be had yet");
        }
        self.context.telemetry.metrics.volume_begins(&engine.volume);
        self.registry().running.insert(engine.name.clone(), engine.clone());
        Ok((engine, port))
    }

    async fn try_until_up(self: Arc<Self>, engine: Arc<Engine>, port: Option<u16>) {
        let end = tokio::time::Instant::now() + self.context.limits.recovery;
        let mut pause = FIRST_PAUSE;
        while self.is_recovering(&engine) {
            let error = match self.try_once(&engine, port).await {
                Ok(Tried::Up) => {
                    tracing::info!(engine = %engine.name, volume = %engine.volume, "an engine is up again");
                    return;
                }
                Ok(Tried::Settled) => return,
                Err(error) => error,
            };
            let is_over = tokio::time::Instant::now() + pause > end;
            if !self.is_recovering(&engine) {
                return;
            }
            engine.publish(|published| {
                published.error_message = error.to_string();
                if is_over {
                    published.state = EngineState::Error;
                }
            });
            if is_over {
                tracing::error!(engine = %engine.name, volume = %engine.volume, %error, "an engine could not be brought up again");
                return;
            }
            tracing::info!(engine = %engine.name, volume = %engine.volume, %error, ?pause, "an engine is tried again later");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether the engine is still there and nobody else has done anything with it.
    fn is_recovering(&self, engine: &Arc<Engine>) -> bool {
        let registry = self.registry();
        let known = registry.running.get(&engine.name).is_some_and(|known| Arc::ptr_eq(known, engine));
        known && !registry.is_stopping && engine.published().state == EngineState::Pending
    }

    async fn try_once(&self, engine: &Arc<Engine>, port: Option<u16>) -> Result<Tried> {
        let _busy = self.occupy(&engine.name, Worker::Recovery)?;
        if !self.is_recovering(engine) {
            return Ok(Tried::Settled);
        }
        if let (Some(port), None) = (port, engine.target_address())
            && engine.frontend != Frontend::None
        {
            engine.reserve_port(port).await?;
        }
        self.find_paths(engine).await;
        match engine.copy_found().await {
            None => {}
            Some(CopyFound::Running(path)) => {
                engine.follow_running(path, Start::Recovered).await?;
                return Ok(Tried::Settled);
            }
            Some(CopyFound::CutShort(error)) => {
                tracing::error!(engine = %engine.name, volume = %engine.volume, %error, "a full copy was cut short");
                engine.is_no_copy(&error);
                return Ok(Tried::Settled);
            }
        }
        let started = start_whole(engine, Start::Recovered).await;
        if started.is_err() {
            engine.publish(|published| published.state = EngineState::Pending);
            if let Some(mirror) = engine.set_mirror(None) {
                mirror.stop().await?;
            }
        }
        started.map(|()| Tried::Up)
    }

    /// Where the replicas are now. One of this node that does not run has no path, and so cannot be asked.
    async fn find_paths(&self, engine: &Arc<Engine>) {
        let mut paths = Vec::new();
        for (replica, listed) in engine.published().replicas {
            match self.context.path(replica.clone(), listed.address).await {
                Ok(path) => paths.push(Arc::new(path)),
                Err(error) => engine.publish(|published| {
                    if let Some(listed) = published.replicas.get_mut(&replica) {
                        listed.problem = error.to_string();
                    }
                }),
            }
        }
        engine.set_paths(paths);
    }
}

impl Engine {
    /// Refuses to touch replicas that another engine has served, or serves, since this one did. What this one has left on a part of
    /// them when another was quicker is not served by anybody, so it is not among `records`.
    pub(super) fn require_own(&self, records: &[GenerationRecord]) -> Result<()> {
        // A void record tells how far the others had come.
        let reached = records.iter().map(|record| record.generation.max(record.base)).max();
        match reached {
            Some(_) if self.incarnations().is_empty() => {
                let problem = "it has served nothing before the restart of its node, so it cannot tell whether another \
                               engine has since; create it again";
                Err(Error::precondition(self.object(), problem))
            }
            Some(newest) if !self.incarnations().contains(&newest.incarnation()) => {
                let problem = "another engine has served its volume since; this one does not come back by itself. Delete it, \
                               or delete the other and create this one again";
                Err(Error::precondition(self.object(), problem))
            }
            _ => Ok(()),
        }
    }

    /// Notes durably as whom the engine is about to raise generations, so that a restart can tell its own from another engine's.
    /// Until it does so for the first time the replicas hold another's, which may be serving them: then it is not to come back by
    /// itself.
    pub(super) async fn claim(&self, assembly: &Assembly) -> Result<()> {
        let mut incarnations = self.incarnations();
        incarnations.retain(|own| *own == assembly.newest.incarnation());
        incarnations.push(assembly.incarnation);
        self.set_incarnations(incarnations);
        self.remember().await
    }
}
