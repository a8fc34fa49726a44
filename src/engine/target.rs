//! A volume's NVMe/TCP target: the mirror exported under the volume's stable identity.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use super::instance::{Engine, Frontend};
use crate::error::{Error, Result};
use crate::name::{HostPort, Nguid, Nqn, spdk::volume_namespace_uuid};
use crate::ports::PortRangeGuard;
use crate::spdk::SpdkError;
use crate::spdk::nvmf::{self, Export, Hosts};

/// An exported target. Its port is given back when this is dropped, after [`Engine::unexport`].
pub(super) struct Target {
    nqn: Nqn,
    port: PortRangeGuard,
}

impl Engine {
    /// Exports the mirror when the frontend wants a target and there is none yet.
    pub(super) async fn export(&self) -> Result<()> {
        let mut target = self.target.lock().await;
        if self.frontend == Frontend::None || target.is_some() {
            return Ok(());
        }
        let mirror = self.mirror()?;
        let port = self.context.ports.allocate(NonZeroU16::MIN)?;
        let nqn = Nqn::volume(&self.volume);
        let export = Export {
            nqn: nqn.clone(),
            bdev: mirror.bdev().clone(),
            nguid: Nguid::volume(&self.volume),
            uuid: volume_namespace_uuid(&self.volume),
            hosts: Hosts::Any,
            listen: HostPort::new(self.context.data_ip, port.first())
                .map_err(|error| Error::internal(self.object(), error.to_string()))?,
            controller_ids: Some(controller_ids(self.name.as_str())),
            ana: self.context.capabilities.ana,
        };
        let exported = self.context.control.run(move |on| async move { nvmf::export(on, &export).await });
        exported.await.map_err(|error: SpdkError| Error::from(error))?;
        *target = Some(Target { nqn, port });
        Ok(())
    }

    /// Takes the target down; clients are disconnected.
    pub(super) async fn unexport(&self) -> Result<()> {
        let mut target = self.target.lock().await;
        let Some(exported) = target.as_ref() else { return Ok(()) };
        let nqn = exported.nqn.clone();
        let done = self.context.control.run(move |on| async move { nvmf::unexport(on, &nqn).await });
        done.await.map_err(|error: SpdkError| Error::from(error))?;
        *target = None;
        Ok(())
    }

    /// Where clients connect, when there is a target.
    pub async fn target_address(&self) -> Option<HostPort> {
        let target = self.target.lock().await;
        HostPort::new(self.context.data_ip, target.as_ref()?.port.first()).ok()
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
    use super::controller_ids;

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
}
