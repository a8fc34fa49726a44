//! What a replica has while it runs: its ports, its claim on the disk, and its head, served.

use std::net::IpAddr;
use std::sync::Arc;

use super::export::ServedLvol;
use super::pace::Pace;
use super::view::ReplicaPorts;
use crate::disk::{Disk, DiskHold, FlushHandle};
use crate::name::{BdevName, HostPort, LvolAlias, ReplicaName};
use crate::ports::PortRangeGuard;
use crate::spdk::Control;
use crate::{Error, Result};

/// What a replica has while it runs. [`Serving::stop`] takes the head's export down; dropping it does not.
pub(super) struct Serving {
    control: Control,
    disk: Disk,
    ip: IpAddr,
    ports: PortRangeGuard,
    head: ServedLvol,
    _hold: DiskHold,
}

impl Serving {
    /// Prepares; nothing is served yet.
    pub(super) fn new(
        control: &Control,
        replica: &ReplicaName,
        disk: &Disk,
        head: LvolAlias,
        ip: IpAddr,
        ports: PortRangeGuard,
    ) -> Result<Self> {
        let listen = HostPort::new(ip, ports.first()).map_err(|error| Error::name("data address", error))?;
        Ok(Self {
            control: control.clone(),
            disk: disk.clone(),
            ip,
            ports,
            head: ServedLvol::new(control, disk, head, listen),
            _hold: disk.hold(format!("replica {replica} is running"))?,
        })
    }

    /// Where it is reached.
    pub(super) fn address(&self) -> ReplicaPorts {
        ReplicaPorts { ip: self.ip, first: self.ports.first(), last: self.ports.last() }
    }

    /// Where its head is exported.
    pub(super) fn head_address(&self) -> HostPort {
        self.head.listen()
    }

    /// Where something besides the head can be exported: the port after the head's.
    pub(super) fn second_address(&self) -> Result<HostPort> {
        match self.ports.first() < self.ports.last() {
            true => HostPort::new(self.ip, self.ports.first() + 1).map_err(|error| Error::name("data address", error)),
            false => {
                let problem = "it has only one port; a rebuild takes a second (port_count)";
                Err(Error::precondition("replica", problem))
            }
        }
    }

    /// Another lvol of the replica, to be served at the second address with limited writes.
    pub(super) fn second(&self, alias: LvolAlias, pace: Arc<Pace>) -> Result<ServedLvol> {
        Ok(ServedLvol::new(&self.control, &self.disk, alias, self.second_address()?).paced(pace))
    }

    /// The device that an engine of this node opens.
    pub(super) fn local_bdev(&self) -> Result<BdevName> {
        self.head.local_bdev()
    }

    /// The replica's own view of its disk's flushes.
    pub(super) fn flush_handle(&self) -> FlushHandle {
        self.head.flush_handle()
    }

    /// Serves the head. After an error nothing of it is left.
    pub(super) async fn start(&self) -> Result<()> {
        self.head.start().await
    }

    /// Stops serving the head, as [`ServedLvol::stop`]; the ports stay taken.
    pub(super) async fn stop(&self) -> Result<()> {
        self.head.stop().await
    }

    /// Disconnects the head's hosts, as [`ServedLvol::export_anew`].
    pub(super) async fn export_anew(&self) -> Result<()> {
        self.head.export_anew().await
    }

    /// Makes all who have the head open see its new size.
    pub(super) async fn resize(&self) -> Result<()> {
        self.head.resize().await
    }
}
