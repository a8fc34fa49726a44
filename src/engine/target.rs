//! A volume's NVMe/TCP target: the mirror exported under the volume's stable identity, on a port that stays the engine's
//! from the first export until the engine goes.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::instance::{Engine, Frontend};
use crate::error::{Error, Result};
use crate::name::{HostPort, Nguid, Nqn, spdk::volume_namespace_uuid};
use crate::ports::PortRangeGuard;
use crate::spdk::SpdkError;
use crate::spdk::nvmf::{self, Export, Hosts};

pub use crate::spdk::nvmf::AnaState;

impl AnaState {
    /// From the wire (`engine-behaviour` §6.7).
    pub fn parse(field: &'static str, text: &str) -> Result<Self> {
        [Self::Optimized, Self::NonOptimized, Self::Inaccessible]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| {
                let words = "\"optimized\", \"non-optimized\", \"inaccessible\"";
                Error::invalid(field, format!("{text:?} is none of {words}"))
            })
    }

    /// As the wire spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Optimized => "optimized",
            Self::NonOptimized => "non-optimized",
            Self::Inaccessible => "inaccessible",
        }
    }
}

/// An engine's target. Its port is given back when this is dropped, after [`Engine::unexport`].
pub(super) struct Target {
    nqn: Nqn,
    _port: PortRangeGuard,
    address: HostPort,
    /// Whether hosts can connect.
    exported: bool,
    ana: AnaState,
}

impl Engine {
    /// Takes the port that the target had before a restart; nobody else can have it from now on.
    pub(super) async fn reserve_port(&self, port: u16) -> Result<()> {
        let port = self.context.ports.reserve(port, NonZeroU16::MIN)?;
        let mut slot = self.target.lock().await;
        self.place(&mut slot, port).map(drop)
    }

    /// Exports the mirror when the frontend wants a target and hosts may have it.
    pub(super) async fn export(&self) -> Result<()> {
        if self.frontend == Frontend::None {
            return Ok(());
        }
        let mut slot = self.target.lock().await;
        let target = match &mut *slot {
            Some(target) => target,
            empty => self.place(empty, self.context.ports.allocate(NonZeroU16::MIN)?)?,
        };
        self.serve(target).await
    }

    /// Takes the target down and gives its port back; clients are disconnected.
    pub(super) async fn unexport(&self) -> Result<()> {
        let mut slot = self.target.lock().await;
        if let Some(target) = &mut *slot {
            self.withdraw_target(target).await?;
        }
        *slot = None;
        self.publish(|published| published.target = None);
        Ok(())
    }

    /// Takes the target down and keeps its port for the next [`Engine::export`]; clients are disconnected.
    pub(super) async fn withdraw(&self) -> Result<()> {
        match &mut *self.target.lock().await {
            Some(target) => self.withdraw_target(target).await,
            None => Ok(()),
        }
    }

    /// Tells hosts how to think of this path. Where the linked SPDK has no such states, an inaccessible target is one that
    /// nobody can connect to, and the other two are the same.
    ///
    /// A path that is closed has no I/O under way when this returns, and its mirror sleeps. One that is opened again after another
    /// engine has gone on with the replicas gets a new mirror first.
    pub async fn set_ana_state(self: &Arc<Self>, state: AnaState) -> Result<()> {
        let mut slot = self.target.lock().await;
        let Some(target) = &mut *slot else {
            let frontend = self.frontend.as_str();
            return Err(Error::precondition(
                self.object(),
                format!("it has no target, with its frontend {frontend:?}"),
            ));
        };
        tracing::info!(engine = %self.name, volume = %self.volume, from = target.ana.as_str(), to = state.as_str(),
            "the target's access state changes");
        let before = target.ana;
        let closed = AnaState::Inaccessible;
        if state != closed && self.is_superseded().await {
            self.withdraw_target(target).await?;
            self.renew().await?;
        }
        let mut changed = self.show(target, state).await;
        if changed.is_ok() && state == closed {
            changed = self.rest().await;
            if changed.is_err() {
                self.show(target, before).await?;
            }
        }
        changed
    }

    /// Has hosts see the target in that state. After an error it counts as in the one before.
    async fn show(&self, target: &mut Target, state: AnaState) -> Result<()> {
        let before = std::mem::replace(&mut target.ana, state);
        let changed = if self.context.capabilities.ana && target.exported {
            self.tell_hosts(target).await
        } else if self.hides(state) {
            self.withdraw_target(target).await
        } else {
            self.serve(target).await
        };
        if changed.is_err() {
            target.ana = before;
        }
        changed
    }

    /// Gives the engine a target on that port, not exported yet.
    fn place<'a>(&self, slot: &'a mut Option<Target>, port: PortRangeGuard) -> Result<&'a mut Target> {
        let address = HostPort::new(self.context.data_ip, port.first())
            .map_err(|error| Error::internal(self.object(), error.to_string()))?;
        let nqn = Nqn::volume(&self.volume);
        self.publish(|published| published.target = Some(address));
        Ok(slot.insert(Target { nqn, _port: port, address, exported: false, ana: AnaState::Optimized }))
    }

    /// Whether a target in that state cannot be shown to hosts at all.
    fn hides(&self, state: AnaState) -> bool {
        state == AnaState::Inaccessible && !self.context.capabilities.ana
    }

    async fn serve(&self, target: &mut Target) -> Result<()> {
        if target.exported || self.hides(target.ana) {
            return Ok(());
        }
        let export = Export {
            nqn: target.nqn.clone(),
            bdev: self.mirror()?.bdev().clone(),
            nguid: Nguid::volume(&self.volume),
            uuid: volume_namespace_uuid(&self.volume),
            hosts: Hosts::Any,
            listen: target.address,
            controller_ids: Some(controller_ids(self.name.as_str())),
            ana: self.context.capabilities.ana,
        };
        let exported = self.context.control.run(move |on| async move { nvmf::export(on, &export).await });
        exported.await.map_err(|error: SpdkError| Error::from(error))?;
        target.exported = true;
        // A new export is optimized.
        if target.ana == AnaState::Optimized { Ok(()) } else { self.tell_hosts(target).await }
    }

    async fn tell_hosts(&self, target: &Target) -> Result<()> {
        if !self.context.capabilities.ana {
            return Ok(());
        }
        let (nqn, listen, state) = (target.nqn.clone(), target.address, target.ana);
        let told = self.context.control.run(move |on| async move { nvmf::set_ana(on, &nqn, &listen, state).await });
        told.await.map_err(|error: SpdkError| Error::from(error))
    }

    async fn withdraw_target(&self, target: &mut Target) -> Result<()> {
        if target.exported {
            let nqn = target.nqn.clone();
            let done = self.context.control.run(move |on| async move { nvmf::unexport(on, &nqn).await });
            done.await.map_err(|error: SpdkError| Error::from(error))?;
            target.exported = false;
        }
        Ok(())
    }
}

/// How many hosts can be connected to one target at once. With a single id a second one would be refused, and so would a
/// host that comes back before its old connection has been found dead.
const HOSTS: u16 = 64;
/// NVMe reserves all ids above.
const LAST_CONTROLLER_ID: u16 = 0xffef;

/// The block of controller ids that goes with the ordinal at the end of the engine's name (`…-e-<n>`), so that the paths
/// of a volume's two engines can be joined by a multipath host (`engine-behaviour` §1.6).
fn controller_ids(engine: &str) -> RangeInclusive<u16> {
    let ordinal = engine.rsplit_once("-e-").and_then(|(_, ordinal)| ordinal.parse::<u16>().ok()).unwrap_or(0);
    let first = 1 + ordinal % (LAST_CONTROLLER_ID / HOSTS) * HOSTS;
    first..=first + (HOSTS - 1)
}

#[cfg(test)]
mod tests {
    use super::{AnaState, controller_ids};

    #[test]
    fn the_controller_ids_follow_the_engines_ordinal() {
        for (engine, ids) in [
            ("vol-e-0", 1..=64),
            ("vol-e-7", 449..=512),
            ("vol", 1..=64),
            ("vol-e-x", 1..=64),
            ("vol-e-1022", 65409..=65472),
            ("vol-e-1023", 1..=64),
        ] {
            assert_eq!(controller_ids(engine), ids, "{engine}");
        }
    }

    #[test]
    fn access_states_read_back_as_they_are_spelled_and_nothing_else_does() {
        for state in [AnaState::Optimized, AnaState::NonOptimized, AnaState::Inaccessible] {
            assert_eq!(AnaState::parse("ana_state", state.as_str()).unwrap(), state);
        }
        for text in ["", "Optimized", "non_optimized", "persistent-loss"] {
            assert!(AnaState::parse("ana_state", text).is_err(), "{text}");
        }
    }
}
