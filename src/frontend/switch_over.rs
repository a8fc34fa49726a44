//! From one engine of a volume to another, in three phases that the manager may ask for one by one
//! (`engine-behaviour` §7.6):
//!
//! 1. *Preparing*: the new engine's target is made inaccessible, this host's kernel gets a path to it, and the path becomes
//!    one that works and is not preferred.
//! 2. *Switching*: the old engine's target becomes inaccessible; from here on it takes no I/O.
//! 3. *Promoting*: the new engine's target becomes the one to use; the frontend's record says so; the frontend is the new one's.
//!
//! A phase does what those before it have not done, so it may be repeated, also after a restart. A promotion that fails gives
//! the volume back to the old engine. Without a kernel's path there is no second step in the preparation: the new target
//! stays closed until the promotion, so that no two engines are open to clients.

use std::sync::Arc;

use super::bring_up::{fail, required_target};
use super::instance::EngineFrontend;
use super::state::{EnginePath, SwitchStage};
use super::{EngineFrontends, detached};
use crate::engine::instance::Frontend;
use crate::engine::target::AnaState;
use crate::error::{Error, Result};
use crate::name::FrontendName;

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SwitchPhase {
    /// The new path is there.
    Preparing,
    /// The old engine is closed.
    Switching,
    /// The new engine is in use.
    Promoting,
}

impl SwitchPhase {
    /// From the wire; nothing means all the way.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "preparing" => Ok(Self::Preparing),
            "switching" => Ok(Self::Switching),
            "promoting" | "" => Ok(Self::Promoting),
            other => {
                let words = "\"preparing\", \"switching\", \"promoting\", \"\"";
                Err(Error::invalid("switchover_phase", format!("{other:?} is none of {words}")))
            }
        }
    }
}

/// A parsed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchOver {
    /// Which frontend.
    pub frontend: FrontendName,
    /// To which engine.
    pub to: EnginePath,
    /// How far.
    pub phase: SwitchPhase,
}

impl EngineFrontends {
    /// Goes as far with a switch-over as is asked; what is done already is done.
    pub async fn switch_over(&self, order: SwitchOver) -> Result<()> {
        let frontend = self.get(&order.frontend)?;
        let frontends = self.clone();
        detached(async move {
            let _exclusion = frontend.try_exclusively("a switch-over")?;
            frontend.require_running("switch-over")?;
            let published = frontend.published();
            if published.active.is_same_engine(&order.to) {
                return frontends.return_to_active(&frontend).await;
            }
            match &published.switch {
                Some((begun, _)) if !begun.is_same_engine(&order.to) && order.phase != SwitchPhase::Preparing => {
                    let problem =
                        format!("a switch-over to engine {} is prepared, not to {}", begun.engine, order.to.engine);
                    return Err(Error::precondition(frontend.object(), problem));
                }
                _ => {}
            }
            frontends.advance(&frontend, order).await
        })
        .await
    }

    async fn advance(&self, frontend: &Arc<EngineFrontend>, order: SwitchOver) -> Result<()> {
        let stage = frontend.published().switch.filter(|(begun, _)| begun.is_same_engine(&order.to));
        let mut to = match &stage {
            Some((begun, _)) if order.phase != SwitchPhase::Preparing => begun.clone(),
            _ => self.prepare(frontend, order.to).await?,
        };
        let is_switched = matches!(stage, Some((_, SwitchStage::Switched)));
        if order.phase >= SwitchPhase::Switching && !is_switched {
            self.close_old(frontend).await?;
            frontend.publish(|published| published.switch = Some((to.clone(), SwitchStage::Switched)));
        }
        if order.phase == SwitchPhase::Promoting {
            to.ana = AnaState::Optimized;
            if let Err(error) = self.promote(frontend, &to).await {
                self.roll_back(frontend, &to).await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Looks at the new engine and gets a path to it that is not used.
    async fn prepare(&self, frontend: &Arc<EngineFrontend>, mut to: EnginePath) -> Result<EnginePath> {
        let engine = self.describe(frontend, &to).await?;
        let size = frontend.published().size;
        if engine.size != size {
            let problem = format!("its volume has {} bytes, the frontend's has {size}", engine.size);
            return Err(Error::precondition(format!("engine {}", to.engine), problem));
        }
        to.target = required_target(frontend, &to, &engine)?;
        let control = self.control(&to)?;
        if to.target.is_some() {
            to.ana = AnaState::Inaccessible;
            control.set_ana_state(to.ana).await?;
        }
        if let (Frontend::NvmeTcpBlockdev, Some(target)) = (frontend.kind, to.target) {
            self.0.context.kernel.connect(&frontend.connection(target)).await?;
            to.ana = AnaState::NonOptimized;
            control.set_ana_state(to.ana).await?;
        }
        frontend.publish(|published| {
            let given_up = published.switch.take().map(|(begun, _)| begun);
            let is_given_up = |other: &EnginePath| given_up.as_ref().is_some_and(|begun| begun.is_same_engine(other));
            published.others.retain(|other| !other.is_same_engine(&to) && !is_given_up(other));
            published.others.push(to.clone());
            published.switch = Some((to.clone(), SwitchStage::Prepared));
        });
        tracing::info!(frontend = %frontend.name, volume = %frontend.volume, engine = %to.engine, "a switch-over is prepared");
        Ok(to)
    }

    /// Has the old engine serve no I/O any more; one that does not exist serves none.
    async fn close_old(&self, frontend: &EngineFrontend) -> Result<()> {
        let from = frontend.published().active;
        if from.target.is_none() {
            return Ok(());
        }
        match self.control(&from)?.set_ana_state(AnaState::Inaccessible).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        frontend.publish(|published| published.active.ana = AnaState::Inaccessible);
        Ok(())
    }

    /// Makes the new path the one in use, for hosts and for the record.
    async fn promote(&self, frontend: &Arc<EngineFrontend>, to: &EnginePath) -> Result<()> {
        if let Some(target) = to.target {
            self.control(to)?.set_ana_state(AnaState::Optimized).await?;
            if frontend.kind == Frontend::NvmeTcpBlockdev {
                let connection = frontend.connection(target);
                self.0.context.kernel.await_ana(&connection, AnaState::Optimized.as_str()).await?;
                self.connect(frontend, target, frontend.published().size).await?;
            }
        }
        let before = frontend.publish(|published| {
            let before = published.clone();
            let from = std::mem::replace(&mut published.active, to.clone());
            published.others = vec![from];
            published.switch = None;
            before
        });
        if let Err(error) = self.remember(frontend).await {
            frontend.publish(|published| *published = before);
            return Err(error);
        }
        let (name, volume) = (&frontend.name, &frontend.volume);
        tracing::info!(frontend = %name, %volume, engine = %to.engine, endpoint = frontend.endpoint(), "switched over");
        Ok(())
    }

    /// Gives the volume back to the old engine after a failed promotion.
    async fn roll_back(&self, frontend: &Arc<EngineFrontend>, to: &EnginePath) {
        if let Some(other) = frontend.publish(|published| {
            published.switch = None;
            published.others.iter_mut().find(|other| other.is_same_engine(to)).map(|other| {
                other.ana = AnaState::Inaccessible;
                other.clone()
            })
        }) && other.target.is_some()
        {
            let closed = async { self.control(&other)?.set_ana_state(AnaState::Inaccessible).await };
            if let Err(error) = closed.await {
                tracing::error!(frontend = %frontend.name, engine = %to.engine, %error, "the new engine could not be closed again");
            }
        }
        if let Err(error) = self.return_to_active(frontend).await {
            fail(frontend, &error);
        }
    }

    /// Makes sure that the engine in use is open: nothing has switched, or it is to be taken back.
    async fn return_to_active(&self, frontend: &EngineFrontend) -> Result<()> {
        let active = frontend.published().active;
        if active.target.is_some() {
            self.control(&active)?.set_ana_state(AnaState::Optimized).await?;
        }
        frontend.publish(|published| {
            published.active.ana = AnaState::Optimized;
            published.switch = None;
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::SwitchPhase;

    #[test]
    fn a_phase_comes_after_those_before_it_and_nothing_means_all() {
        let phase = |text| SwitchPhase::parse(text).unwrap();
        assert!(phase("preparing") < phase("switching") && phase("switching") < phase("promoting"));
        assert_eq!(phase(""), SwitchPhase::Promoting);
        for text in ["Preparing", "finalizing", " "] {
            assert!(SwitchPhase::parse(text).is_err(), "{text:?}");
        }
    }
}
