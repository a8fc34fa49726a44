//! A restore into one replica by itself: by an engine over that replica alone, which nobody lists, no restart brings back,
//! and which is put away when the restore has ended. So it is the same restore, with the same marker, snapshot and proof.
//!
//! It raises the replica's generation, as every engine does at its start. The replica is then the newest copy of its
//! volume, and others are made from it by a rebuild: what was restored into one copy is never taken for what others hold.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::request::RestoreRequest;
use super::status::{RestorePhase, RestoreState};
use crate::engine::assemble::{self, Start};
use crate::engine::instance::{Engine, Frontend};
use crate::engine::{EngineRequest, Engines, Worker};
use crate::error::{Error, Result};
use crate::name::{EngineName, ReplicaAddress, ReplicaName, VolumeName};

/// The replica of this node that is restored into.
#[derive(Debug, Clone)]
pub struct SingleReplica {
    /// Its name.
    pub name: ReplicaName,
    /// Where its head is exported.
    pub address: ReplicaAddress,
    /// Bytes it has.
    pub size: u64,
}

impl SingleReplica {
    fn request(&self) -> Result<EngineRequest> {
        let name = format!("{}-restore", self.name);
        let refused = |error| Error::name("replica_name", error);
        Ok(EngineRequest {
            name: EngineName::parse(&name).map_err(refused)?,
            volume: VolumeName::parse(&name).map_err(refused)?,
            size: self.size,
            replicas: BTreeMap::from([(self.name.clone(), self.address)]),
            frontend: Frontend::None,
            salvage: false,
            snapshot_max_count: 0,
        })
    }
}

impl Engines {
    /// Starts a restore into one replica and returns once it runs. It goes on when the caller stops waiting.
    ///
    /// # Errors
    /// As [`Engine::restore`]; also when an engine of this node has the replica, or a restore into it runs.
    pub async fn restore_replica(&self, replica: &SingleReplica, request: RestoreRequest) -> Result<()> {
        let made = replica.request()?;
        let _busy = self.occupy(&made.name, Worker::Owner)?;
        self.require_free(&replica.name)?;
        let path = self.context.path(replica.name.clone(), replica.address).await?;
        let engine = Arc::new(Engine::passing(self.context.clone(), &made));
        engine.set_paths(vec![Arc::new(path)]);
        engine.context.telemetry.metrics.volume_begins(&engine.volume);
        if let Err(error) = assemble::bring_up(&engine, Start::Listed).await {
            engine.context.telemetry.metrics.volume_ends(&engine.volume);
            return Err(error);
        }
        assemble::is_up(&engine);
        // Known before it has begun: the deletion of the replica must find it.
        let before = self.singles().insert(replica.name.clone(), engine.clone());
        let started = engine.restore(request).await;
        // What asking again would not help shows in the status, as it does with an engine's own.
        if started.is_err() && engine.published().restore.phase != RestorePhase::Error {
            self.put_back(&replica.name, &engine, before);
        }
        tokio::spawn(put_away(engine));
        started
    }

    /// After a restore that was refused: the one before it is the last again.
    fn put_back(&self, replica: &ReplicaName, refused: &Arc<Engine>, before: Option<Arc<Engine>>) {
        let mut singles = self.singles();
        // The replica may be gone by now, and the restores with it.
        if singles.get(replica).is_some_and(|known| Arc::ptr_eq(known, refused)) {
            singles.remove(replica);
            if let Some(before) = before {
                singles.insert(replica.clone(), before);
            }
        }
    }

    /// The last restore into one replica by itself since the node started, and how far it is in per cent.
    pub fn replica_restore(&self, replica: &ReplicaName) -> Option<(RestoreState, u32)> {
        let engine = self.singles().get(replica).cloned()?;
        let restore = engine.published().restore;
        let progress = engine.restore_progress().filter(|_| restore.is_restoring()).unwrap_or(restore.progress);
        Some((restore, progress))
    }

    /// Refuses what must not happen to a replica that is being restored into by itself.
    pub(in crate::engine) fn require_no_restore_into(&self, replica: &ReplicaName) -> Result<()> {
        let singles = self.singles();
        match singles.get(replica) {
            Some(engine) if engine.mirror().is_ok() => {
                Err(Error::precondition(format!("replica {replica}"), "restore is in progress; wait for its end"))
            }
            _ => Ok(()),
        }
    }

    /// Cancels the restore into one replica, if one runs, and waits until nothing of it has the replica open; whether one ran.
    pub async fn cancel_replica_restore(&self, replica: &ReplicaName) -> bool {
        let Some(engine) = self.singles().get(replica).cloned() else { return false };
        // Without its mirror it cannot touch the replica any more, also when its request has not noticed yet.
        let ran = engine.published().restore.is_restoring() && engine.mirror().is_ok();
        stop(&engine).await;
        ran
    }

    /// Forgets how the last restore into a replica went, as the replica is gone.
    pub fn forget_replica_restore(&self, replica: &ReplicaName) {
        self.singles().remove(replica);
    }

    /// Cancels all restores into single replicas, as the node goes down.
    pub(in crate::engine) async fn stop_replica_restores(&self) {
        let engines: Vec<_> = self.singles().values().cloned().collect();
        for engine in engines {
            stop(&engine).await;
        }
    }

    /// Neither a restore into it runs, nor has an engine of this node taken it.
    fn require_free(&self, replica: &ReplicaName) -> Result<()> {
        if let Some(engine) = self.singles().get(replica)
            && (engine.published().restore.is_restoring() || engine.mirror().is_ok())
        {
            let detail = ": restoring is in progress".into();
            return Err(Error::AlreadyExists { kind: "restore into replica", name: replica.to_string(), detail });
        }
        match self.list().into_iter().find(|engine| engine.published().replicas.contains_key(replica)) {
            Some(engine) => {
                let problem = format!("engine {} has it; restore through that engine, or delete it first", engine.name);
                Err(Error::precondition(format!("replica {replica}"), problem))
            }
            None => Ok(()),
        }
    }

    fn singles(&self) -> MutexGuard<'_, BTreeMap<ReplicaName, Arc<Engine>>> {
        self.singles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the restore's end and takes the mirror down.
async fn put_away(engine: Arc<Engine>) {
    engine.restore_ended().await;
    stop(&engine).await;
    engine.context.telemetry.metrics.volume_ends(&engine.volume);
}

async fn stop(engine: &Arc<Engine>) {
    if let Err(error) = engine.take_down().await {
        tracing::warn!(engine = %engine.name, %error, "what a restore into one replica used could not be put away");
    }
}
