//! An image exposed to other nodes: a read-only target that any host may connect to, while it is copied.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::BackingImages;
use super::instance::{Image, Turn};
use crate::disk::DiskHold;
use crate::name::{BackingImageName, HostPort, Nguid, Nqn};
use crate::ports::PortRangeGuard;
use crate::spdk::nvmf::{self, Export, Hosts};
use crate::spdk::{Control, SpdkError};
use crate::task::to_its_end;
use crate::{Error, Result};

/// How often it is looked whether the last host has left.
const LEAVE_STEP: Duration = Duration::from_millis(500);

/// What an exposed image has.
pub(super) struct Exposed {
    nqn: Nqn,
    address: HostPort,
    /// It is taken down when the last host has left.
    leaving: bool,
    _port: PortRangeGuard,
    _hold: DiskHold,
}

impl BackingImages {
    /// Exposes an image; returns where. One that is exposed stays where it is.
    pub async fn expose(&self, name: &BackingImageName, lvs_uuid: Uuid) -> Result<HostPort> {
        let (images, image) = (self.clone(), self.known(name, lvs_uuid)?);
        to_its_end("the exposure of a backing image", async move { images.expose_now(&image).await }).await
    }

    async fn expose_now(&self, image: &Image) -> Result<HostPort> {
        let mut turn = image.turn().await?;
        image.require_ready()?;
        if let Some(exposed) = &mut turn.exposed {
            exposed.leaving = false;
            return Ok(exposed.address);
        }
        let hold = image.disk.hold(format!("backing image {} is exposed", image.view().name))?;
        let port = self.ports().allocate(NonZeroU16::MIN)?;
        let address =
            HostPort::new(self.data_ip(), port.first()).map_err(|error| Error::name("data address", error))?;
        let alias = image.store.image();
        let (nqn, nguid) = (Nqn::lvol(&alias.lvol), Nguid::lvol(&alias.lvol));
        let export = Export {
            nqn: nqn.clone(),
            bdev: alias.bdev(),
            nguid,
            // Hosts make a bdev's UUID of it, so it must be of no other namespace.
            uuid: Uuid::from_bytes(nguid.0),
            listen: address,
            hosts: Hosts::Any,
            controller_ids: None,
            ana: false,
        };
        self.control().run(move |on| async move { nvmf::export(on, &export).await.map(drop) }).await?;
        tracing::info!(image = %image.view().name, disk = %image.disk.name(), %address, "a backing image is exposed");
        turn.exposed = Some(Exposed { nqn, address, leaving: false, _port: port, _hold: hold });
        Ok(address)
    }

    /// Ends the exposure of an image. While hosts are connected, as another copy may be under way, it stays until the
    /// last has left.
    pub async fn unexpose(&self, name: &BackingImageName, lvs_uuid: Uuid) -> Result<()> {
        let (images, image) = (self.clone(), self.known(name, lvs_uuid)?);
        to_its_end("the end of an exposure", async move { images.unexpose_now(image).await }).await
    }

    async fn unexpose_now(&self, image: Arc<Image>) -> Result<()> {
        let mut turn = image.turn().await?;
        if turn.exposed.as_ref().is_none_or(|exposed| exposed.leaving) {
            return Ok(());
        }
        if !is_left(self.control(), &turn).await? {
            if let Some(exposed) = &mut turn.exposed {
                exposed.leaving = true;
            }
            tracing::info!(image = %image.view().name, "a backing image stays exposed until its last host has left");
            tokio::spawn(self.clone().take_down_when_left(image.clone()));
            return Ok(());
        }
        self.take_down(&image, &mut turn).await
    }

    async fn take_down_when_left(self, image: Arc<Image>) {
        loop {
            tokio::time::sleep(LEAVE_STEP).await;
            let Ok(mut turn) = image.turn().await else { return };
            if turn.exposed.as_ref().is_none_or(|exposed| !exposed.leaving) {
                return;
            }
            let ended = match is_left(self.control(), &turn).await {
                Ok(true) => self.take_down(&image, &mut turn).await,
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                tracing::warn!(image = %image.view().name, %error, "a backing image could not be taken from its target");
            }
            return;
        }
    }

    /// Ends the exposure whoever is connected.
    pub(super) async fn take_down(&self, image: &Image, turn: &mut Turn<'_>) -> Result<()> {
        let Some(exposed) = &turn.exposed else { return Ok(()) };
        let nqn = exposed.nqn.clone();
        let down = self.control().run(move |on| async move {
            match nvmf::unexport(on, &nqn).await {
                Ok(()) | Err(SpdkError::NoSuch { .. }) => Ok::<_, SpdkError>(()),
                Err(error) => Err(error),
            }
        });
        down.await?;
        turn.exposed = None;
        tracing::info!(image = %image.view().name, disk = %image.disk.name(), "a backing image is exposed no more");
        Ok(())
    }
}

/// Whether nobody is connected.
async fn is_left(control: &Control, turn: &Turn<'_>) -> Result<bool> {
    let Some(nqn) = turn.exposed.as_ref().map(|exposed| exposed.nqn.clone()) else { return Ok(true) };
    let connected = control.run(move |on| async move {
        match nvmf::info(on, &nqn) {
            Ok(info) => Ok(info.connected),
            Err(SpdkError::NoSuch { .. }) => Ok(0),
            Err(error) => Err(error),
        }
    });
    Ok(connected.await? == 0)
}
