//! Engines: volumes served by this node, each a mirror over replicas.
//!
//! - [`instance`]: one engine. [`state`]: what it publishes. [`context`]: what it needs of the node.
//! - [`backend`]: a replica as an engine controls it; [`local`]: one of this node; [`peer`]: one of another.
//! - [`record`]: what is remembered of an engine; `recover`: brought up again from that.
//! - `probe`: all replicas asked. [`attach`]: a replica as a member. [`assemble`]: members as a mirror. [`target`]: the
//!   mirror as a target.
//! - `snapshot`, `expand`, `suspend`, `rebuild`, [`backup`], [`checksum`], [`restore`]: operations. `tell`: what changed, as
//!   events.

pub mod assemble;
pub mod attach;
pub mod backend;
pub mod backup;
pub mod checksum;
pub mod context;
mod expand;
pub mod instance;
pub mod local;
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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::name::{EngineName, ReplicaAddress, ReplicaName, VolumeName};
use crate::telemetry::events::ObjectKind;
use assemble::Start;
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
}

#[derive(Default)]
struct Registry {
    running: BTreeMap<EngineName, Arc<Engine>>,
    /// Engines that are being worked on, and by whom.
    busy: BTreeMap<EngineName, Worker>,
    /// The node goes down: nothing comes up any more.
    is_stopping: bool,
}

/// Who creates, brings up or deletes an engine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worker {
    /// Its owner, by a call.
    Owner,
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
        Self { context, engines: Mutex::default() }
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
            Some(Worker::Recovery) => "it is being brought up again; try again later",
            None => {
                registry.busy.insert(name.clone(), worker);
                return Ok(Busy { engines: self, name: name.clone() });
            }
        };
        Err(Error::precondition(format!("engine {name}"), problem))
    }

    /// As [`Self::occupy`] for its owner, after an attempt of the node to bring it up, which is waited for.
    async fn occupy_for_owner(&self, name: &EngineName) -> Result<Busy<'_>> {
        let end = tokio::time::Instant::now() + self.context.limits.attach;
        loop {
            let occupied = self.occupy(name, Worker::Owner);
            let is_recovering = self.registry().busy.get(name) == Some(&Worker::Recovery);
            if occupied.is_ok() || !is_recovering || tokio::time::Instant::now() > end {
                return occupied;
            }
            tokio::time::sleep(WORKER_POLL).await;
        }
    }

    /// Creates an engine. The same request again gives the engine as it is, after another attempt to bring it up when it is not.
    /// A request that cannot be leaves nothing behind; a failure of replicas, mirror or target gives an engine in state
    /// `error`, as callers expect (`engine-behaviour` §1.4).
    pub async fn create(&self, request: EngineRequest) -> Result<Arc<Engine>> {
        let _busy = self.occupy_for_owner(&request.name).await?;
        let known = self.get(&request.name).ok();
        if let Some(known) = &known {
            require_same(known, &request)?;
            if known.published().state == EngineState::Running {
                return Ok(known.clone());
            }
            known.withdraw().await?;
            if let Some(mirror) = known.set_mirror(None) {
                mirror.stop().await?;
            }
        } else {
            self.check_new(&request)?;
        }
        let mut paths = Vec::new();
        for (replica, address) in &request.replicas {
            paths.push(Arc::new(self.context.path(replica.clone(), *address).await?));
        }
        let is_new = known.is_none();
        let engine = known.unwrap_or_else(|| Arc::new(Engine::new(self.context.clone(), &request)));
        engine.set_paths(paths);
        self.context.telemetry.metrics.volume_begins(&engine.volume);
        let created = self.bring_up_created(&engine, &request).await;
        if created.is_err() && is_new {
            self.context.telemetry.metrics.volume_ends(&engine.volume);
            self.context.records.remove(request.name.as_str()).await?;
        }
        created?;
        self.registry().running.insert(request.name, engine.clone());
        self.context.changes.announce();
        if is_new {
            let message = format!("volume {}", engine.volume);
            self.context.telemetry.events.tell(ObjectKind::Engine, &engine.name, "created", message);
        }
        Ok(engine)
    }

    /// Brings an engine up and makes it durable. An error means that there is to be no such engine.
    async fn bring_up_created(&self, engine: &Arc<Engine>, request: &EngineRequest) -> Result<()> {
        let as_asked = if request.salvage { Start::Salvage } else { Start::Listed };
        if let Err(error) = start(engine, as_asked).await {
            if matches!(error, Error::InvalidArgument { .. }) {
                return Err(error);
            }
            tracing::error!(engine = %engine.name, volume = %engine.volume, %error, "an engine could not be started");
            engine.publish(|published| {
                published.state = EngineState::Error;
                published.error_message = error.to_string();
            });
        }
        if let Err(error) = engine.remember().await {
            engine.take_down().await?;
            return Err(error);
        }
        Ok(())
    }

    fn check_new(&self, request: &EngineRequest) -> Result<()> {
        let limit = self.context.limits.replicas;
        if request.replicas.is_empty() || request.replicas.len() > limit {
            let problem = format!("{} replicas; 1 to {limit} are allowed", request.replicas.len());
            return Err(Error::invalid("replica_address_map", problem));
        }
        let addresses: BTreeSet<_> = request.replicas.values().collect();
        if addresses.len() != request.replicas.len() {
            return Err(Error::invalid("replica_address_map", "two replicas have the same address"));
        }
        let registry = self.registry();
        if let Some(other) = registry.running.values().find(|engine| engine.volume == request.volume) {
            let detail = format!(": engine {} serves it on this node", other.name);
            return Err(Error::AlreadyExists { kind: "volume", name: request.volume.to_string(), detail });
        }
        Ok(())
    }

    /// Deletes an engine; an unknown one is fine. Replicas and their data stay.
    pub async fn delete(&self, name: &EngineName) -> Result<()> {
        let _busy = self.occupy_for_owner(name).await?;
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
        for engine in self.list() {
            // Whatever is being done with it is finished first; the node limits the whole wait.
            while self.registry().busy.contains_key(&engine.name) {
                tokio::time::sleep(WORKER_POLL).await;
            }
            if let Err(error) = engine.take_down().await {
                tracing::warn!(engine = %engine.name, volume = %engine.volume, %error, "an engine could not be stopped");
            }
        }
    }
}

/// An engine of the same name must be the one that is asked for; else the error says what differs.
fn require_same(known: &Engine, request: &EngineRequest) -> Result<()> {
    let published = known.published();
    let listed: BTreeMap<_, _> = published.replicas.iter().map(|(name, listed)| (name, listed.address)).collect();
    let asked: BTreeMap<_, _> = request.replicas.iter().map(|(name, address)| (name, *address)).collect();
    let differs = if known.volume != request.volume {
        format!("its volume is {}", known.volume)
    } else if known.frontend != request.frontend {
        format!("its frontend is {:?}", known.frontend.as_str())
    } else if published.size != request.size {
        format!("its volume has {} bytes", published.size)
    } else if listed != asked {
        "it has other replicas, or has them at other addresses".into()
    } else {
        return Ok(());
    };
    Err(Error::AlreadyExists { kind: "engine", name: known.name.to_string(), detail: format!(": {differs}") })
}

async fn start(engine: &Arc<Engine>, as_asked: Start) -> Result<()> {
    assemble::bring_up(engine, as_asked).await?;
    if engine.frontend != Frontend::None {
        // From here on clients write: what was restored is theirs now.
        engine.clear_marker().await?;
        engine.publish(|published| published.restore = Default::default());
    }
    engine.export().await
}

impl Engine {
    /// Cancels a restore, takes target and mirror down.
    async fn take_down(self: &Arc<Self>) -> Result<()> {
        self.publish(|published| published.state = EngineState::Terminating);
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
    pub async fn remove_replica(&self, replica: Option<ReplicaName>, address: Option<ReplicaAddress>) -> Result<()> {
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
