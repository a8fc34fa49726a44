//! Engines: volumes served by this node, each a mirror over replicas.
//!
//! - [`instance`]: one engine. [`state`]: what it publishes. [`context`]: what it needs of the node.
//! - [`backend`]: a replica as an engine controls it; [`local`]: one of this node; [`peer`]: one of another.
//! - `probe`: all replicas asked. [`attach`]: a replica as a member. [`assemble`]: members as a mirror. `target`: the
//!   mirror as a target.
//! - `snapshot`, `hash`, `expand`, `rebuild`, [`backup`], [`checksum`], [`restore`]: operations. `tell`: what changed, as
//!   events.

pub mod assemble;
pub mod attach;
pub mod backend;
pub mod backup;
pub mod checksum;
pub mod context;
mod expand;
mod hash;
pub mod instance;
pub mod local;
pub mod peer;
mod probe;
mod rebuild;
pub mod restore;
mod snapshot;
pub mod state;
mod target;
mod tell;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::name::{EngineName, ReplicaAddress, ReplicaName, VolumeName};
use crate::telemetry::events::ObjectKind;
use context::EngineContext;
use instance::{Engine, Frontend};
pub use rebuild::ReplicaAddition;
use state::{EngineState, ReplicaMode};

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
    /// Names of engines that are being created or deleted.
    busy: BTreeSet<EngineName>,
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

    /// An engine by name.
    pub fn get(&self, name: &EngineName) -> Result<Arc<Engine>> {
        self.registry().running.get(name).cloned().ok_or_else(|| Error::not_found("engine", name))
    }

    /// All engines.
    pub fn list(&self) -> Vec<Arc<Engine>> {
        self.registry().running.values().cloned().collect()
    }

    fn occupy(&self, name: &EngineName) -> Result<Busy<'_>> {
        let mut registry = self.registry();
        if !registry.busy.insert(name.clone()) {
            return Err(Error::precondition(
                format!("engine {name}"),
                "it is being created or deleted; try again later",
            ));
        }
        Ok(Busy { engines: self, name: name.clone() })
    }

    /// Creates an engine. A request that cannot be leaves nothing behind; a failure of replicas, mirror or target gives
    /// an engine in state `error`, as callers expect (`engine-behaviour` §1.4).
    pub async fn create(&self, request: EngineRequest) -> Result<Arc<Engine>> {
        let _busy = self.occupy(&request.name)?;
        self.check_new(&request)?;
        let mut paths = Vec::new();
        for (replica, address) in &request.replicas {
            paths.push(Arc::new(self.context.path(replica.clone(), *address).await?));
        }
        let engine = Arc::new(Engine::new(
            self.context.clone(),
            request.name.clone(),
            request.volume,
            request.frontend,
            request.size,
            request.snapshot_max_count,
            paths,
        ));
        self.context.telemetry.metrics.volume_begins(&engine.volume);
        if let Err(error) = start(&engine, request.salvage).await {
            if matches!(error, Error::InvalidArgument { .. }) {
                self.context.telemetry.metrics.volume_ends(&engine.volume);
                return Err(error);
            }
            tracing::error!(engine = %engine.name, volume = %engine.volume, %error, "an engine could not be started");
            engine.publish(|published| {
                published.state = EngineState::Error;
                published.error_message = error.to_string();
            });
        }
        self.registry().running.insert(request.name, engine.clone());
        self.context.changes.announce();
        self.context.telemetry.events.tell(
            ObjectKind::Engine,
            &engine.name,
            "created",
            format!("volume {}", engine.volume),
        );
        Ok(engine)
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
        if registry.running.contains_key(&request.name) {
            return Err(Error::exists("engine", &request.name));
        }
        if let Some(other) = registry.running.values().find(|engine| engine.volume == request.volume) {
            let detail = format!(": engine {} serves it on this node", other.name);
            return Err(Error::AlreadyExists { kind: "volume", name: request.volume.to_string(), detail });
        }
        Ok(())
    }

    /// Deletes an engine; an unknown one is fine. Replicas and their data stay.
    pub async fn delete(&self, name: &EngineName) -> Result<()> {
        let _busy = self.occupy(name)?;
        let Ok(engine) = self.get(name) else { return Ok(()) };
        engine.take_down().await?;
        self.registry().running.remove(name);
        self.context.changes.announce();
        self.context.telemetry.metrics.volume_ends(&engine.volume);
        self.context.telemetry.events.tell(ObjectKind::Engine, name, "deleted", "its replicas and their data stay");
        Ok(())
    }
}

async fn start(engine: &Arc<Engine>, salvage: bool) -> Result<()> {
    assemble::bring_up(engine, salvage).await?;
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
        Ok(())
    }
}
