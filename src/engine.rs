//! Engines: volumes served by this node, each a mirror over replicas.
//!
//! - [`instance`]: one engine. [`state`]: what it publishes. [`context`]: what it needs of the node.
//! - [`backend`]: a replica as an engine controls it; [`local`]: one of this node; [`peer`]: one of another.
//! - [`record`]: what is remembered of an engine; `recover`: brought up again from that.
//! - `probe`: all replicas asked. [`attach`]: a replica as a member. [`assemble`]: members as a mirror. [`target`]: the
//!   mirror as a target.
//! - `create`: from a request to a volume that is served. `snapshot`, `hash`, `expand`, `suspend`, `rebuild`, [`backup`],
//!   [`checksum`], [`clone`], [`restore`]: operations. `tell`: what changed, as events.
//!   `outage`: a replica that failed and is back. `full_disk`: why a write failed.

pub mod assemble;
pub mod attach;
pub mod backend;
pub mod backup;
pub mod checksum;
pub mod clone;
pub mod context;
mod create;
mod expand;
mod full_disk;
mod hash;
pub mod instance;
pub mod local;
mod outage;
mod ownership;
pub mod peer;
mod probe;
mod rebuild;
pub mod record;
mod recover;
pub mod restore;
mod snapshot;
pub mod state;
mod suspend;
pub mod target;
mod tell;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::name::{EngineName, ReplicaAddress, ReplicaName, VolumeName};
use crate::telemetry::events::ObjectKind;
use context::EngineContext;
use instance::{Engine, Frontend};
pub use rebuild::ReplicaAddition;
use state::{EngineState, ReplicaMode};

/// How often an engine is looked at whose turn is waited for.
const WORKER_POLL: std::time::Duration = std::time::Duration::from_millis(20);

/// A parsed request for an engine.
#[derive(Debug, Clone)]
pub struct EngineRequest {
    /// Its name.
    pub name: EngineName,
    /// The volume it serves.
    pub volume: VolumeName,
    /// Bytes the volume has.
    pub size: u64,
    /// Its replicas: 1 to 8, distinct addresses.
    pub replicas: BTreeMap<ReplicaName, ReplicaAddress>,
    /// How clients reach it.
    pub frontend: Frontend,
    /// Start from the newest replica there is, whatever it may lack.
    pub salvage: bool,
    /// User snapshots at most; 0 for no limit.
    pub snapshot_max_count: u32,
}

/// All engines of this node.
pub struct Engines {
    context: Arc<EngineContext>,
    engines: Mutex<Registry>,
    /// Those of restores into one replica by itself, the last of each replica.
    singles: Mutex<BTreeMap<ReplicaName, Arc<Engine>>>,
}

#[derive(Default)]
struct Registry {
    running: BTreeMap<EngineName, Arc<Engine>>,
    /// Engines that are being worked on, and by whom.
    busy: BTreeMap<EngineName, Worker>,
    /// The node goes down: nothing comes up any more.
    is_stopping: bool,
}

/// Who creates, brings up, deletes or shrinks an engine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worker {
    /// Its owner, by a call.
    Owner,
    /// Its owner, who takes a replica out.
    Removal,
    /// The node, after a restart.
    Recovery,
}

/// Keeps a name busy while an engine comes or goes.
struct Busy<'a> {
    engines: &'a Engines,
    name: EngineName,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.engines.registry().busy.remove(&self.name);
    }
}

impl Engines {
    /// No engine yet.
    pub fn new(context: Arc<EngineContext>) -> Self {
        Self { context, engines: Mutex::default(), singles: Mutex::default() }
    }

    /// Who watches engines.
    pub fn changes(&self) -> &crate::changes::Changes {
        &self.context.changes
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to other nodes.
    pub fn peers(&self) -> &crate::peer::Peers {
        &self.context.peers
    }

    /// An engine by name.
    pub fn get(&self, name: &EngineName) -> Result<Arc<Engine>> {
        self.registry().running.get(name).cloned().ok_or_else(|| Error::not_found("engine", name))
    }

    /// All engines.
    pub fn list(&self) -> Vec<Arc<Engine>> {
        self.registry().running.values().cloned().collect()
    }

    fn occupy(&self, name: &EngineName, worker: Worker) -> Result<Busy<'_>> {
        let mut registry = self.registry();
        let problem = match registry.busy.get(name) {
            _ if registry.is_stopping => "the node is stopping",
            Some(Worker::Owner) => "it is being created or deleted; try again later",
            Some(Worker::Removal) => "a replica is being taken out of it; try again later",
            Some(Worker::Recovery) => "it is being brought up again; try again later",
            None => {
                registry.busy.insert(name.clone(), worker);
                return Ok(Busy { engines: self, name: name.clone() });
            }
        };
        Err(Error::precondition(format!("engine {name}"), problem))
    }

    /// As [`Self::occupy`], after an attempt of the node to bring it up, or the removal of a replica, which are waited for.
    async fn occupy_in_turn(&self, name: &EngineName, worker: Worker) -> Result<Busy<'_>> {
        let end = tokio::time::Instant::now() + self.context.limits.attach;
        loop {
            let occupied = self.occupy(name, worker);
            let busy = self.registry().busy.get(name).copied();
            let passes = matches!(busy, Some(Worker::Recovery | Worker::Removal));
            if occupied.is_ok() || !passes || tokio::time::Instant::now() > end {
                return occupied;
            }
            tokio::time::sleep(WORKER_POLL).await;
        }
    }

    /// Takes a replica out of an engine, by its name, its address or both. Not while the engine is being brought up, which
    /// would take the replica in.
    pub async fn remove_replica(
        &self,
        name: &EngineName,
        replica: Option<ReplicaName>,
        address: Option<ReplicaAddress>,
    ) -> Result<()> {
        let _busy = self.occupy_in_turn(name, Worker::Removal).await?;
        self.get(name)?.remove_replica(replica, address).await
    }

    /// Deletes an engine; an unknown one is fine. Replicas and their data stay.
    pub async fn delete(&self, name: &EngineName) -> Result<()> {
        let _busy = self.occupy_in_turn(name, Worker::Owner).await?;
        let Ok(engine) = self.get(name) else { return Ok(()) };
        engine.take_down().await?;
        self.context.records.remove(name.as_str()).await?;
        self.registry().running.remove(name);
        self.context.changes.announce();
        self.context.telemetry.metrics.volume_ends(&engine.volume);
        self.context.telemetry.events.tell(ObjectKind::Engine, name, "deleted", "its replicas and their data stay");
        Ok(())
    }

    /// Takes all engines down as the node goes down. Their records stay, and bring them back at the next start.
    pub async fn stop_all(&self) {
        self.registry().is_stopping = true;
        // Whatever is being done with any is finished first; the node limits the whole wait.
        while !self.registry().busy.is_empty() {
            tokio::time::sleep(WORKER_POLL).await;
        }
        self.stop_replica_restores().await;
        for engine in self.list() {
            if let Err(error) = engine.take_down().await {
                tracing::warn!(engine = %engine.name, volume = %engine.volume, %error, "an engine could not be stopped");
            }
        }
    }
}

impl Engine {
    /// Cancels a restore, takes target and mirror down.
    async fn take_down(self: &Arc<Self>) -> Result<()> {
        self.publish(|published| published.state = EngineState::Terminating);
        self.cancel_clone().await;
        self.cancel_restore().await;
        self.cancel_rebuild(None).await;
        self.drop_suspension().await;
        let _operation = self.operations.lock().await;
        self.unexport().await?;
        match self.set_mirror(None) {
            Some(mirror) => mirror.stop().await,
            None => Ok(()),
        }
    }

    /// Takes a replica out. Refused for the last one in sync, which would lose the volume (hazard O15).
    async fn remove_replica(&self, replica: Option<ReplicaName>, address: Option<ReplicaAddress>) -> Result<()> {
        let listed = self.published().replicas;
        let name = match (&replica, address) {
            (Some(name), _) => name.clone(),
            (None, Some(address)) => match listed.iter().find(|(_, listed)| listed.address == address) {
                Some((name, _)) => name.clone(),
                None => return Err(Error::not_found("replica", address)),
            },
            (None, None) => return Err(Error::invalid("replica_name", "neither a name nor an address is given")),
        };
        let Some(entry) = listed.get(&name) else { return Err(Error::not_found("replica", name)) };
        if let Some(address) = address.filter(|address| *address != entry.address) {
            let problem = format!("replica {name} has the address {}, not {address}", entry.address);
            return Err(Error::invalid("replica_address", problem));
        }
        self.cancel_rebuild(Some(&name)).await;
        let others = listed.iter().any(|(other, listed)| *other != name && listed.mode == ReplicaMode::ReadWrite);
        if entry.mode == ReplicaMode::ReadWrite && !others {
            let problem = format!("replica {name} is the last one in sync; removing it would lose the volume");
            return Err(Error::precondition(self.object(), problem));
        }
        if let Ok(mirror) = self.mirror() {
            match mirror.remove_member(&name).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.forget(&name);
        self.remember_change().await;
        Ok(())
    }
}
