//! Engine frontends: how a host reaches a volume, through an engine of this node or of another.
//!
//! - [`instance`]: one frontend. [`state`]: what it publishes. [`record`]: what is remembered of it; `recover`: brought up
//!   again from that.
//! - [`control`]: an engine as a frontend uses it; [`local`]: one of this node; [`remote`]: one of another.
//! - `create`, `bring_up`: from a request to a volume that is reached. `operations`: what goes through a frontend to its engine.
//!   `suspend`: client I/O held. `switch_over`: from one engine to another.
//! - [`kernel`]: the volume as a block device of this host.

mod bring_up;
pub mod control;
mod create;
pub mod instance;
pub mod kernel;
pub mod local;
mod operations;
mod record;
mod recover;
pub mod remote;
pub mod state;
mod suspend;
mod switch_over;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::changes::Changes;
use crate::engine::Engines;
use crate::engine::instance::Frontend;
use crate::engine::state::EngineState;
use crate::error::{Error, Result};
use crate::name::{FrontendName, HostPort, VolumeName};
use crate::record::Records;
use crate::telemetry::events::{Events, ObjectKind};
use control::EngineControl;
use instance::EngineFrontend;
use kernel::KernelInitiator;
use local::LocalEngine;
use record::FrontendRecord;
use remote::RemoteEngine;
use state::{EnginePath, FrontendState};

pub use operations::SnapshotOrder;
pub use switch_over::{SwitchOver, SwitchPhase};

/// A parsed request for a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontendRequest {
    /// Its name.
    pub name: FrontendName,
    /// The volume to reach.
    pub volume: VolumeName,
    /// How.
    pub kind: Frontend,
    /// Bytes that the volume must have at least.
    pub size: u64,
    /// Through which engine.
    pub path: EnginePath,
    /// I/O queues of the kernel's connection; `None` leaves it to the kernel.
    pub io_queues: Option<NonZeroU16>,
}

/// What frontends need of the node.
pub struct FrontendContext {
    /// This node's engines, and the way to those of others.
    pub engines: Arc<Engines>,
    /// This node's data address, and the port of its gRPC as other nodes reach it.
    pub service: HostPort,
    /// This host's kernel.
    pub kernel: KernelInitiator,
    /// How long frontends of the last run are tried again.
    pub recovery: Duration,
    /// Where they tell what happens.
    pub events: Events,
}

/// All frontends of this node. Cheap to clone.
#[derive(Clone)]
pub struct EngineFrontends(Arc<Shared>);

struct Shared {
    context: FrontendContext,
    records: Records<FrontendRecord>,
    changes: Changes,
    registry: Mutex<BTreeMap<FrontendName, Arc<EngineFrontend>>>,
}

impl EngineFrontends {
    /// No frontend yet; [`Self::recover`] brings back those that the state directory knows.
    pub fn new(context: FrontendContext, state_dir: &Path) -> Self {
        Self(Arc::new(Shared {
            context,
            records: Records::new(state_dir),
            changes: Changes::new(),
            registry: Mutex::default(),
        }))
    }

    /// Who watches frontends.
    pub fn changes(&self) -> &Changes {
        &self.0.changes
    }

    /// This node, as the default place of an engine.
    pub fn node(&self) -> IpAddr {
        self.0.context.service.ip()
    }

    /// A frontend by name.
    pub fn get(&self, name: &FrontendName) -> Result<Arc<EngineFrontend>> {
        self.registry().get(name).cloned().ok_or_else(|| Error::not_found("engine frontend", name))
    }

    /// All frontends.
    pub fn list(&self) -> Vec<Arc<EngineFrontend>> {
        self.registry().values().cloned().collect()
    }

    /// Deletes a frontend; an unknown one is fine. Its engine stays.
    pub async fn delete(&self, name: &FrontendName) -> Result<()> {
        let Ok(frontend) = self.get(name) else { return Ok(()) };
        let frontends = self.clone();
        detached(async move {
            let _exclusion = frontend.exclusively().await;
            if !frontends.has(&frontend) {
                return Ok(());
            }
            let before = frontend.publish(|published| std::mem::replace(&mut published.state, FrontendState::Terminating));
            let gone = frontends.take_down(&frontend, before).await;
            if let Err(error) = &gone {
                tracing::error!(frontend = %frontend.name, volume = %frontend.volume, %error, "a frontend could not be deleted");
                frontend.publish(|published| {
                    published.state = FrontendState::Error;
                    published.error_message = error.to_string();
                });
                return gone;
            }
            frontends.forget(&frontend);
            frontends.tell(&frontend, "deleted", "its engine stays");
            tracing::info!(frontend = %frontend.name, volume = %frontend.volume, "engine frontend deleted");
            Ok(())
        })
        .await
    }

    async fn take_down(&self, frontend: &EngineFrontend, before: FrontendState) -> Result<()> {
        if before == FrontendState::Suspended {
            self.let_go(frontend).await;
        }
        if frontend.kind == Frontend::NvmeTcpBlockdev {
            self.0.context.kernel.disconnect(&frontend.volume).await?;
        }
        self.0.records.remove(frontend.name.as_str()).await
    }

    /// Lets held client I/O go on as the node goes down. Connections of the kernel stay: it waits for the target to come
    /// back, and the next start takes them over.
    pub async fn stop_all(&self) {
        for frontend in self.list() {
            if frontend.published().state == FrontendState::Suspended {
                self.let_go(&frontend).await;
            }
        }
    }

    /// How a frontend is now, and why: what it publishes, unless its engine of this node is gone or does not work. An engine of
    /// another node is not asked; what goes through the frontend to it fails by itself.
    pub fn condition(&self, frontend: &EngineFrontend) -> (FrontendState, String) {
        let published = frontend.published();
        let is_up = matches!(published.state, FrontendState::Running | FrontendState::Suspended);
        if !is_up || published.active.node != self.node() {
            return (published.state, published.error_message);
        }
        let engine = match self.0.context.engines.get(&published.active.engine) {
            Ok(engine) => engine.published(),
            Err(error) => return (FrontendState::Error, error.to_string()),
        };
        match engine.state {
            EngineState::Running if frontend.kind != Frontend::None && engine.target != published.active.target => {
                let name = &published.active.engine;
                let problem = format!("engine {name} was made anew and has another target; create this frontend again");
                (FrontendState::Error, problem)
            }
            EngineState::Running => (published.state, published.error_message),
            EngineState::Pending => (FrontendState::Pending, engine.error_message),
            EngineState::Error | EngineState::Terminating => {
                let state = engine.state.as_str();
                let problem =
                    format!("engine {} is in state {state}: {}", published.active.engine, engine.error_message);
                (FrontendState::Error, problem)
            }
        }
    }

    /// The engine at the end of a path.
    fn control(&self, path: &EnginePath) -> Result<Arc<dyn EngineControl>> {
        let engines = &self.0.context.engines;
        if path.node == self.node() {
            return Ok(Arc::new(LocalEngine::new(engines.clone(), path.engine.clone())));
        }
        Ok(Arc::new(RemoteEngine::new(engines.peers(), path.engine.clone(), path.node)?))
    }

    /// Control of the engine that a frontend uses now.
    fn active(&self, frontend: &EngineFrontend) -> Result<Arc<dyn EngineControl>> {
        self.control(&frontend.published().active)
    }

    /// Stores what is to be remembered of a frontend now.
    async fn remember(&self, frontend: &EngineFrontend) -> Result<()> {
        self.0.records.write(|| FrontendRecord::of(frontend)).await
    }

    fn make(&self, request: FrontendRequest, others: Vec<EnginePath>) -> Arc<EngineFrontend> {
        let (changes, events) = (self.0.changes.clone(), self.0.context.events.clone());
        Arc::new(EngineFrontend::new(request, others, changes, events))
    }

    fn tell(&self, frontend: &EngineFrontend, what: &'static str, message: impl Into<String>) {
        self.0.context.events.tell(ObjectKind::Frontend, &frontend.name, what, message);
    }

    fn has(&self, frontend: &Arc<EngineFrontend>) -> bool {
        self.registry().get(&frontend.name).is_some_and(|known| Arc::ptr_eq(known, frontend))
    }

    fn forget(&self, frontend: &Arc<EngineFrontend>) {
        if self.has(frontend) {
            self.registry().remove(&frontend.name);
        }
        self.0.changes.announce();
    }

    fn registry(&self) -> MutexGuard<'_, BTreeMap<FrontendName, Arc<EngineFrontend>>> {
        // No code between two changes of the map can panic.
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs an operation to its end, also when nobody waits for it any more.
async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    crate::task::to_its_end("an operation on an engine frontend", work).await
}
