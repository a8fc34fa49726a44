//! From a request to a volume that is reached: the engine is asked, and the kernel connected where there is a device.

use std::sync::Arc;

use super::EngineFrontends;
use super::control::EngineView;
use super::instance::EngineFrontend;
use super::kernel::Expected;
use super::state::{EnginePath, FrontendState};
use crate::engine::instance::Frontend;
use crate::error::{Error, Result};
use crate::name::HostPort;

impl EngineFrontends {
    /// Brings a frontend up and makes it durable. An error means that there is to be no such frontend.
    pub(super) async fn bring_up_created(&self, frontend: &Arc<EngineFrontend>) -> Result<()> {
        match self.bring_up(frontend).await {
            Ok(()) => {}
            Err(error @ Error::InvalidArgument { .. }) => return Err(error),
            Err(error) => fail(frontend, &error),
        }
        if let Err(error) = self.remember(frontend).await {
            if frontend.kind == Frontend::NvmeTcpBlockdev
                && let Err(undo) = self.0.context.kernel.disconnect(&frontend.volume).await
            {
                tracing::error!(frontend = %frontend.name, %undo, "a connection could not be taken back");
            }
            return Err(error);
        }
        Ok(())
    }

    /// Brings a frontend up on its active path; done already is done.
    pub(super) async fn bring_up(&self, frontend: &EngineFrontend) -> Result<()> {
        let published = frontend.published();
        let path = published.active;
        let engine = self.describe(frontend, &path).await?;
        if engine.size < published.size {
            let problem = format!("the engine's volume has {} bytes, less than {}", engine.size, published.size);
            return Err(Error::invalid("spec_size", problem));
        }
        let target = required_target(frontend, &path, &engine)?;
        if let (Frontend::NvmeTcpBlockdev, Some(target)) = (frontend.kind, target) {
            self.connect(frontend, target, engine.size).await?;
        }
        frontend.publish(|published| {
            published.state = FrontendState::Running;
            published.error_message.clear();
            published.size = engine.size;
            published.active.target = target;
        });
        let (name, volume) = (&frontend.name, &frontend.volume);
        tracing::info!(frontend = %name, %volume, engine = %path.engine, endpoint = frontend.endpoint(), "the volume is reached");
        Ok(())
    }

    /// The engine of a path, which must serve the frontend's volume.
    pub(super) async fn describe(&self, frontend: &EngineFrontend, path: &EnginePath) -> Result<EngineView> {
        let engine = self.control(path)?.describe().await?;
        let object = format!("engine {}", path.engine);
        if engine.volume != frontend.volume {
            let problem = format!("it serves volume {}, not {}", engine.volume, frontend.volume);
            return Err(Error::precondition(object, problem));
        }
        if engine.state != "running" {
            let problem = format!("it is in state {}: {}", engine.state, engine.error_message);
            return Err(Error::precondition(object, problem));
        }
        Ok(engine)
    }

    /// Has the kernel connect, and makes the device node.
    pub(super) async fn connect(&self, frontend: &EngineFrontend, target: HostPort, size: u64) -> Result<()> {
        let kernel = &self.0.context.kernel;
        kernel.require()?;
        let connection = frontend.connection(target);
        kernel.connect(&connection).await?;
        kernel.publish(&connection, &Expected { volume: frontend.volume.clone(), size }).await
    }
}

/// The engine's target, which the frontend must have unless it is the empty one, at the address that the path names.
pub(super) fn required_target(
    frontend: &EngineFrontend,
    path: &EnginePath,
    engine: &EngineView,
) -> Result<Option<HostPort>> {
    let object = format!("engine {}", path.engine);
    match (frontend.kind, engine.target, path.target) {
        (_, Some(target), Some(asked)) if target != asked => {
            Err(Error::precondition(object, format!("its target is at {target}, not at {asked}")))
        }
        (Frontend::None, target, _) => Ok(target),
        (_, Some(target), _) => Ok(Some(target)),
        (kind, None, _) => {
            let problem = format!("it has no target; create it with a frontend to reach it by {}", kind.as_str());
            Err(Error::precondition(object, problem))
        }
    }
}

/// Puts a frontend into state `error`, with the reason.
pub(super) fn fail(frontend: &EngineFrontend, error: &Error) {
    tracing::error!(frontend = %frontend.name, volume = %frontend.volume, %error, "a frontend does not work");
    frontend.publish(|published| {
        published.state = FrontendState::Error;
        published.error_message = error.to_string();
    });
}
