//! Client I/O held and let go on. The engine holds it, whatever the frontend's type and wherever the client is.

use std::sync::Arc;
use std::time::Duration;

use super::instance::EngineFrontend;
use super::state::FrontendState;
use super::{EngineFrontends, detached};
use crate::engine::instance::Frontend;
use crate::error::{Error, Result};
use crate::name::FrontendName;

impl EngineFrontends {
    /// Holds client I/O until [`Self::resume`] or the limit of the engine's node. Done already is done.
    pub async fn suspend(&self, name: &FrontendName) -> Result<()> {
        let frontend = self.get(name)?;
        if frontend.kind == Frontend::None {
            return Err(Error::Unimplemented {
                what: "the suspension of an empty frontend",
                reason: "no client I/O goes through it",
            });
        }
        let frontends = self.clone();
        detached(async move {
            let _shared = frontend.try_shared("a suspension")?;
            frontend.require_working("suspension")?;
            if frontend.published().state == FrontendState::Suspended {
                return Ok(());
            }
            let limit = frontends.active(&frontend)?.suspend().await?;
            let number = frontend.publish(|published| {
                published.state = FrontendState::Suspended;
                published.is_suspension_broken = false;
                published.suspension += 1;
                published.suspension
            });
            expire_later(&frontend, number, limit);
            Ok(())
        })
        .await
    }

    /// Lets client I/O go on. Nothing to do when it does; an error once, when the limit had ended the suspension.
    pub async fn resume(&self, name: &FrontendName) -> Result<()> {
        let frontend = self.get(name)?;
        let frontends = self.clone();
        detached(async move {
            let _shared = frontend.try_shared("a resumption")?;
            frontend.require_working("resumption")?;
            let published = frontend.published();
            if published.state == FrontendState::Running && !published.is_suspension_broken {
                return Ok(());
            }
            let resumed = frontends.active(&frontend)?.resume().await;
            // A node that does not answer lets the I/O go on by itself; until then it is held.
            if !matches!(resumed, Err(Error::Peer { .. } | Error::Timeout { .. })) {
                frontend.publish(|published| {
                    if published.state == FrontendState::Suspended {
                        published.state = FrontendState::Running;
                    }
                    published.is_suspension_broken = false;
                });
            }
            match resumed {
                Ok(()) if published.is_suspension_broken => Err(broken(&frontend)),
                resumed => resumed,
            }
        })
        .await
    }

    /// Lets client I/O go on because the frontend or the node goes; the engine's own limit does it if this fails.
    pub(super) async fn let_go(&self, frontend: &EngineFrontend) {
        let resumed = async { self.active(frontend)?.resume().await };
        if let Err(error) = resumed.await {
            tracing::warn!(frontend = %frontend.name, volume = %frontend.volume, %error, "held I/O could not be let go on");
        }
    }
}

fn broken(frontend: &EngineFrontend) -> Error {
    let problem =
        "its suspension was ended by the limit of the engine's node, timeouts.suspend; client I/O has gone on since";
    Error::precondition(frontend.object(), problem)
}

/// Shows the end of a suspension that nobody ends.
fn expire_later(frontend: &Arc<EngineFrontend>, number: u64, limit: Duration) {
    let frontend = Arc::downgrade(frontend);
    tokio::spawn(async move {
        tokio::time::sleep(limit).await;
        let Some(frontend) = frontend.upgrade() else { return };
        let published = frontend.published();
        if published.state != FrontendState::Suspended || published.suspension != number {
            return;
        }
        tracing::warn!(frontend = %frontend.name, volume = %frontend.volume, ?limit, "a suspension has reached its limit");
        frontend.publish(|published| {
            if published.state == FrontendState::Suspended && published.suspension == number {
                published.state = FrontendState::Running;
                published.is_suspension_broken = true;
            }
        });
    });
}
