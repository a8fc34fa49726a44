//! Creating a frontend, and what that means when there is one of the name.

use std::sync::Arc;

use super::instance::EngineFrontend;
use super::state::FrontendState;
use super::{EngineFrontends, FrontendRequest, detached};
use crate::engine::instance::Frontend;
use crate::error::{Error, Result};
use crate::name::HostPort;

impl EngineFrontends {
    /// Creates a frontend. The same request again gives the frontend as it is, after another attempt to bring it up when it does
    /// not work. What the caller can correct is an error and leaves nothing behind; a failure of the engine, its node or the
    /// kernel gives a frontend in state `error`, as callers expect (`engine-behaviour` §1.4).
    pub async fn create(&self, request: FrontendRequest) -> Result<Arc<EngineFrontend>> {
        if request.kind == Frontend::NvmeTcpBlockdev {
            self.0.context.kernel.require()?;
        }
        let asked = request.path.target;
        let (frontend, is_new) = self.find_or_add(request)?;
        self.0.changes.announce();
        let frontends = self.clone();
        detached(async move {
            let _exclusion = frontend.exclusively().await;
            if !frontends.has(&frontend) {
                return Err(Error::precondition(frontend.object(), "it was deleted meanwhile; create it again"));
            }
            if !matches!(frontends.condition(&frontend).0, FrontendState::Pending | FrontendState::Error) {
                return Ok(frontend);
            }
            if !is_new {
                frontends.forget_target(&frontend, asked).await?;
            }
            let created = frontends.bring_up_created(&frontend).await;
            if created.is_err() && is_new {
                frontends.forget(&frontend);
            }
            created.map(|()| frontend)
        })
        .await
    }

    /// Lets go of a target that does not work, so that the engine is asked anew where it is.
    async fn forget_target(&self, frontend: &EngineFrontend, asked: Option<HostPort>) -> Result<()> {
        if frontend.kind == Frontend::NvmeTcpBlockdev && frontend.published().active.target.is_some() {
            self.0.context.kernel.disconnect(&frontend.volume).await?;
        }
        frontend.publish(|published| {
            published.state = FrontendState::Pending;
            published.active.target = asked;
        });
        Ok(())
    }

    /// The frontend that is asked for, made pending when there is none; and whether it was made.
    fn find_or_add(&self, request: FrontendRequest) -> Result<(Arc<EngineFrontend>, bool)> {
        let mut registry = self.registry();
        if let Some(known) = registry.get(&request.name) {
            // One that does not work may be given the address that its engine has now.
            let works = self.condition(known).0 != FrontendState::Error;
            require_same(known, &request, works)?;
            return Ok((known.clone(), false));
        }
        if let Some(other) = registry.values().find(|other| other.volume == request.volume) {
            let detail = format!(": engine frontend {} of this node has it", other.name);
            return Err(Error::AlreadyExists { kind: "volume", name: request.volume.to_string(), detail });
        }
        let frontend = self.make(request, Vec::new());
        registry.insert(frontend.name.clone(), frontend.clone());
        self.tell(&frontend, "created", format!("volume {}", frontend.volume));
        Ok((frontend, true))
    }
}

/// A frontend of the same name must be the one that is asked for; else the error says what differs.
fn require_same(known: &EngineFrontend, request: &FrontendRequest, works: bool) -> Result<()> {
    let published = known.published();
    let differs = if known.volume != request.volume {
        format!("its volume is {}", known.volume)
    } else if known.kind != request.kind {
        format!("its frontend is {:?}", known.kind.as_str())
    } else if !published.active.is_same_engine(&request.path) {
        format!("its engine is {} of node {}", published.active.engine, published.active.node)
    } else if works && request.path.target.is_some() && request.path.target != published.active.target {
        let target = published.active.target.map_or("none".into(), |target| target.to_string());
        format!("its target is {target}")
    } else if request.size > published.size {
        format!("its volume has {} bytes, less than {}", published.size, request.size)
    } else if request.io_queues != known.io_queues {
        "it has another number of I/O queues".into()
    } else {
        return Ok(());
    };
    Err(Error::AlreadyExists {
        kind: "engine frontend",
        name: request.name.to_string(),
        detail: format!(": {differs}"),
    })
}
