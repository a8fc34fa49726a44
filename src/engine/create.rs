//! Creating an engine, and what that means when there is one of the name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::assemble::{self, Start};
use super::attach::ReplicaPath;
use super::clone::CopyFound;
use super::instance::{Engine, Frontend};
use super::state::EngineState;
use super::{EngineRequest, Engines, Worker};
use crate::error::{Error, Result};
use crate::telemetry::events::ObjectKind;

impl Engines {
    /// Creates an engine. The same request again gives the engine as it is, after another attempt to bring it up when it is not.
    /// A request that cannot be leaves nothing behind; a failure of replicas, mirror or target gives an engine in state
    /// `error`, as callers expect (`engine-behaviour` §1.4).
    pub async fn create(&self, request: EngineRequest) -> Result<Arc<Engine>> {
        let _busy = self.occupy_in_turn(&request.name, Worker::Owner).await?;
        for replica in request.replicas.keys() {
            self.require_no_restore_into(replica)?;
        }
        let known = self.get(&request.name).ok();
        match &known {
            Some(known) => {
                require_same(known, &request)?;
                if known.published().state == EngineState::Running {
                    return Ok(known.clone());
                }
            }
            None => self.check_new(&request)?,
        }
        let mut paths = Vec::new();
        for (replica, address) in &request.replicas {
            paths.push(Arc::new(self.context.path(replica.clone(), *address).await?));
        }
        match known {
            Some(engine) => self.bring_up_known(engine, &request, paths).await,
            None => self.bring_up_new(&request, paths).await,
        }
    }

    async fn bring_up_new(&self, request: &EngineRequest, paths: Vec<Arc<ReplicaPath>>) -> Result<Arc<Engine>> {
        let (metrics, events) = (&self.context.telemetry.metrics, &self.context.telemetry.events);
        let engine = Arc::new(Engine::new(self.context.clone(), request));
        engine.set_paths(paths);
        metrics.volume_begins(&engine.volume);
        if let Err(error) = self.bring_up_created(&engine, request).await {
            metrics.volume_ends(&engine.volume);
            self.context.records.remove(request.name.as_str()).await?;
            return Err(error);
        }
        self.registry().running.insert(engine.name.clone(), engine.clone());
        self.context.changes.announce();
        events.tell(ObjectKind::Engine, &engine.name, "created", format!("volume {}", engine.volume));
        Ok(engine)
    }

    /// Another attempt, from the ground up.
    async fn bring_up_known(
        &self,
        engine: Arc<Engine>,
        request: &EngineRequest,
        paths: Vec<Arc<ReplicaPath>>,
    ) -> Result<Arc<Engine>> {
        engine.withdraw().await?;
        if let Some(mirror) = engine.set_mirror(None) {
            mirror.stop().await?;
        }
        engine.set_paths(paths);
        self.bring_up_created(&engine, request).await?;
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
}

/// An engine of the same name must be the one that is asked for; else the error says what differs.
fn require_same(known: &Engine, request: &EngineRequest) -> Result<()> {
    let published = known.published();
    if published.state == EngineState::Terminating {
        let problem = "its deletion has failed; delete it again before it is created";
        return Err(Error::precondition(known.object(), problem));
    }
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

/// Brings an engine up, or has it wait for the full copy that runs into its replica.
async fn start(engine: &Arc<Engine>, as_asked: Start) -> Result<()> {
    match engine.copy_found().await {
        None => start_whole(engine, as_asked).await,
        Some(CopyFound::Running(path)) => {
            engine.vouch_for_copy(&path).await;
            engine.follow_running(path, as_asked).await
        }
        Some(CopyFound::CutShort(error)) => {
            Err(Error::precondition(engine.object(), format!("the volume is no whole copy: {error}")))
        }
    }
}

/// Brings an engine up of replicas into which nothing is being copied.
pub(super) async fn start_whole(engine: &Arc<Engine>, as_asked: Start) -> Result<()> {
    assemble::bring_up(engine, as_asked).await?;
    if engine.frontend != Frontend::None {
        // From here on clients write: what was restored is theirs now.
        engine.clear_marker().await?;
        engine.publish(|published| published.restore = Default::default());
    }
    engine.export().await?;
    assemble::is_up(engine);
    Ok(())
}
