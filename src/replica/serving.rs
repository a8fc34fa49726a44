//! A running replica: its head's two devices and its export, brought up and taken down as one.

use std::net::IpAddr;
use std::time::Duration;

use super::head::{self, HeadConfig};
use super::view::ReplicaPorts;
use crate::disk::{Disk, DiskHold, FlushHandle};
use crate::name::{BdevName, HostPort, LvolAlias, Nguid, Nqn, ReplicaName};
use crate::ports::PortRangeGuard;
use crate::spdk::nvmf::{self, Export, Hosts};
use crate::spdk::{Control, SpdkError};
use crate::{Error, Result};

/// How long who has a device open may take to close it.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// What a replica has while it runs. [`Serving::stop`] takes it down; dropping it does not.
pub(super) struct Serving {
    control: Control,
    replica: ReplicaName,
    alias: LvolAlias,
    cluster_size: u64,
    flush: FlushHandle,
    ip: IpAddr,
    pub(super) ports: PortRangeGuard,
    _hold: DiskHold,
}

impl Serving {
    /// Prepares; nothing is served yet.
    pub(super) fn new(
        control: &Control,
        replica: &ReplicaName,
        disk: &Disk,
        alias: LvolAlias,
        ip: IpAddr,
        ports: PortRangeGuard,
    ) -> Result<Self> {
        Ok(Self {
            control: control.clone(),
            replica: replica.clone(),
            alias,
            cluster_size: disk.cluster_size(),
            flush: disk.flush_handle(),
            ip,
            ports,
            _hold: disk.hold(format!("replica {replica} is running"))?,
        })
    }

    /// Where it is reached.
    pub(super) fn address(&self) -> ReplicaPorts {
        ReplicaPorts { ip: self.ip, first: self.ports.first(), last: self.ports.last() }
    }

    /// The device that an engine of this node opens.
    pub(super) fn local_bdev(&self) -> Result<BdevName> {
        self.device("local")
    }

    /// The replica's own view of its disk's flushes.
    pub(super) fn flush_handle(&self) -> FlushHandle {
        self.flush.clone()
    }

    /// Serves the head. After an error nothing of it is left.
    pub(super) async fn start(&self) -> Result<()> {
        let started = self.try_start().await;
        if started.is_err()
            && let Err(error) = self.stop().await
        {
            tracing::error!(replica = %self.replica, %error, "a half-made export could not be taken down");
        }
        started
    }

    async fn try_start(&self) -> Result<()> {
        for name in [self.device("local")?, self.device("export")?] {
            let config = HeadConfig {
                name,
                alias: self.alias.clone(),
                cluster_size: self.cluster_size,
                flush: self.flush.clone(),
                control: self.control.clone(),
                runtime: tokio::runtime::Handle::current(),
            };
            self.control.run(move |on| async move { head::register(on, config).map(drop) }).await?;
        }
        let export = self.export()?;
        self.control.run(move |on| async move { nvmf::export(on, &export).await.map(drop) }).await?;
        Ok(())
    }

    /// Stops serving: hosts are disconnected, I/O of an engine of this node fails. Waits until all have closed the
    /// head, but not for ever. What is down already is no error.
    pub(super) async fn stop(&self) -> Result<()> {
        let nqn = Nqn::replica(&self.replica);
        let (export, local) = (self.device("export")?, self.device("local")?);
        let down = self.control.run(move |on| async move {
            match nvmf::unexport(on, &nqn).await {
                Ok(()) | Err(SpdkError::NoSuch { .. }) => {}
                Err(error) => return Err(error),
            }
            head::unregister(on, &export).await?;
            head::unregister(on, &local).await
        });
        match tokio::time::timeout(CLOSE_LIMIT, down).await {
            Ok(down) => Ok(down?),
            Err(_) => Err(Error::Timeout {
                what: format!("closing the head of replica {} (an engine of this node holds it)", self.replica),
                limit: CLOSE_LIMIT,
            }),
        }
    }

    /// Makes all who have the head open see its new size.
    pub(super) async fn resize(&self) -> Result<()> {
        let names = [self.device("export")?, self.device("local")?];
        let resized =
            self.control.run(move |on| async move { names.iter().try_for_each(|name| head::resize(on, name)) });
        Ok(resized.await?)
    }

    fn export(&self) -> Result<Export> {
        let nguid = Nguid::replica(&self.replica);
        Ok(Export {
            nqn: Nqn::replica(&self.replica),
            bdev: self.device("export")?,
            nguid,
            // Hosts make a bdev's UUID of it, so it must be of no other namespace.
            uuid: uuid::Uuid::from_bytes(nguid.0),
            listen: HostPort::new(self.ip, self.ports.first()).map_err(|error| Error::name("data address", error))?,
            hosts: Hosts::Only(vec![Nqn::internal_host()]),
            controller_id: None,
            ana: false,
        })
    }

    fn device(&self, role: &str) -> Result<BdevName> {
        BdevName::parse(&format!("{role}:{}", self.alias.bdev()))
            .map_err(|error| Error::internal(format!("replica {}", self.replica), error.to_string()))
    }
}
