//! One lvol served: two devices over it ([`super::head`]), and the export of one of them to other nodes of ours.

use std::sync::Arc;
use std::time::Duration;

use super::head::{self, HeadConfig};
use super::pace::Pace;
use crate::disk::{Disk, FlushHandle};
use crate::name::{BdevName, HostPort, LvolAlias, Nguid, Nqn};
use crate::spdk::nvmf::{self, Export, Hosts};
use crate::spdk::{Control, SpdkError};
use crate::{Error, Result};

/// How long who has a device open may take to close it.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// An lvol that can be served. [`ServedLvol::stop`] takes it down; dropping it does not.
pub(super) struct ServedLvol {
    control: Control,
    alias: LvolAlias,
    cluster_size: u64,
    flush: FlushHandle,
    pace: Option<Arc<Pace>>,
    listen: HostPort,
}

impl ServedLvol {
    /// Prepares; nothing is served yet.
    pub(super) fn new(control: &Control, disk: &Disk, alias: LvolAlias, listen: HostPort) -> Self {
        Self {
            control: control.clone(),
            alias,
            cluster_size: disk.cluster_size(),
            flush: disk.flush_handle(),
            pace: None,
            listen,
        }
    }

    /// Limits its writes.
    pub(super) fn paced(self, pace: Arc<Pace>) -> Self {
        Self { pace: Some(pace), ..self }
    }

    /// Where it is exported.
    pub(super) fn listen(&self) -> HostPort {
        self.listen
    }

    /// The disk's flushes as its users see them.
    pub(super) fn flush_handle(&self) -> FlushHandle {
        self.flush.clone()
    }

    /// Serves the lvol. After an error nothing of it is left.
    pub(super) async fn start(&self) -> Result<()> {
        let started = self.try_start().await;
        if started.is_err()
            && let Err(error) = self.stop().await
        {
            tracing::error!(lvol = %self.alias.bdev(), %error, "a half-made export could not be taken down");
        }
        started
    }

    async fn try_start(&self) -> Result<()> {
        for name in [local_device(&self.alias)?, export_device(&self.alias)?] {
            let config = HeadConfig {
                name,
                alias: self.alias.clone(),
                cluster_size: self.cluster_size,
                flush: self.flush.clone(),
                control: self.control.clone(),
                runtime: tokio::runtime::Handle::current(),
                pace: self.pace.clone(),
            };
            self.control.run(move |on| async move { head::register(on, config).map(drop) }).await?;
        }
        let export = export_of(&self.alias, export_device(&self.alias)?, self.listen);
        self.control.run(move |on| async move { nvmf::export(on, &export).await.map(drop) }).await?;
        Ok(())
    }

    /// Stops serving: hosts are disconnected, I/O of this node fails. Waits until all have closed the lvol, but not for
    /// ever. What is down already is no error.
    pub(super) async fn stop(&self) -> Result<()> {
        let nqn = Nqn::lvol(&self.alias.lvol);
        let (export, local) = (export_device(&self.alias)?, local_device(&self.alias)?);
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
                what: format!("closing lvol {} (an engine or a copy of this node holds it)", self.alias.bdev()),
                limit: CLOSE_LIMIT,
            }),
        }
    }

    /// Exports it anew: hosts are disconnected, and all that they had sent has ended, or never begins. Those may connect
    /// again.
    pub(super) async fn export_anew(&self) -> Result<()> {
        let export = export_of(&self.alias, export_device(&self.alias)?, self.listen);
        let renewed = self.control.run(move |on| async move {
            match nvmf::unexport(on, &export.nqn).await {
                Ok(()) | Err(SpdkError::NoSuch { .. }) => {}
                Err(error) => return Err(error),
            }
            nvmf::export(on, &export).await.map(drop)
        });
        Ok(renewed.await?)
    }

    /// Makes all who have the lvol open see its new size.
    pub(super) async fn resize(&self) -> Result<()> {
        let names = [export_device(&self.alias)?, local_device(&self.alias)?];
        let resized =
            self.control.run(move |on| async move { names.iter().try_for_each(|name| head::resize(on, name)) });
        Ok(resized.await?)
    }

    /// The device that users of this node open.
    pub(super) fn local_bdev(&self) -> Result<BdevName> {
        local_device(&self.alias)
    }
}

/// The device over a served lvol that users of this node open.
pub(super) fn local_device(alias: &LvolAlias) -> Result<BdevName> {
    device("local", alias)
}

/// The device over a served lvol that is exported.
fn export_device(alias: &LvolAlias) -> Result<BdevName> {
    device("export", alias)
}

fn device(role: &str, alias: &LvolAlias) -> Result<BdevName> {
    BdevName::parse(&format!("{role}:{}", alias.bdev()))
        .map_err(|error| Error::internal(format!("lvol {}", alias.bdev()), error.to_string()))
}

/// The export of `bdev` under the name and identity of an lvol, to nodes of ours only.
pub(super) fn export_of(alias: &LvolAlias, bdev: BdevName, listen: HostPort) -> Export {
    let nguid = Nguid::lvol(&alias.lvol);
    Export {
        nqn: Nqn::lvol(&alias.lvol),
        bdev,
        nguid,
        // Hosts make a bdev's UUID of it, so it must be of no other namespace.
        uuid: uuid::Uuid::from_bytes(nguid.0),
        listen,
        hosts: Hosts::Only(vec![Nqn::internal_host()]),
        controller_ids: None,
        ana: false,
    }
}
