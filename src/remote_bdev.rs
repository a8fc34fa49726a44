//! A bdev of another node that is open for a while: for a copy.

use std::time::Duration;

use crate::name::{BdevName, HostPort, LvolName, Nqn};
use crate::nvme_host;
use crate::spdk::Control;
use crate::spdk::client::BdevClient;
use crate::spdk::nvme::{Peer, TcpTarget};
use crate::{Error, Result};

/// How long a controller may take to go.
const DETACH_LIMIT: Duration = Duration::from_secs(10);

/// A bdev of another node, open. [`RemoteBdev::close`] lets go of it; dropping it leaves its controller attached.
pub struct RemoteBdev {
    control: Control,
    bdev: BdevClient,
    controller: BdevName,
}

impl RemoteBdev {
    /// Opens what the target of `lvol` at `address` exports. `what` is for messages. After an error nothing of it is left.
    pub async fn open(
        control: &Control,
        what: &str,
        lvol: &LvolName,
        address: HostPort,
        write: bool,
        limit: Duration,
    ) -> Result<Self> {
        let (name, controller) = attach(control, what, lvol, address, limit).await?;
        match BdevClient::open(control, name, write).await {
            Ok(bdev) => Ok(Self { control: control.clone(), bdev, controller }),
            Err(error) => {
                detach(control, &controller, true).await;
                Err(error.into())
            }
        }
    }

    /// The bdev.
    pub fn bdev(&self) -> &BdevClient {
        &self.bdev
    }

    /// Lets go of it. With `orderly` a target that answers is told; without, I/O in flight is aborted.
    pub async fn close(self, orderly: bool) {
        drop(self.bdev);
        detach(&self.control, &self.controller, orderly).await;
    }
}

/// Attaches a target; returns its one bdev, and the controller's name, which is nobody else's.
async fn attach(
    control: &Control,
    what: &str,
    lvol: &LvolName,
    address: HostPort,
    limit: Duration,
) -> Result<(BdevName, BdevName)> {
    let controller = BdevName::parse(&format!("{lvol}-{:08x}", rand::random::<u32>()))
        .map_err(|error| Error::internal("name of a controller", error.to_string()))?;
    let target = TcpTarget { address, subsystem: Nqn::lvol(lvol), host: Nqn::internal_host() };
    let attached = nvme_host::attach(control, &controller, &target, None, limit).await;
    let bdev = attached.map_err(|error| Error::peer(format!("{what} at {address}"), error.to_string()))?;
    Ok((bdev, controller))
}

/// Detaches. Without `orderly` the target is told nothing. What cannot be detached is logged, as nobody could act on it here.
async fn detach(control: &Control, controller: &BdevName, orderly: bool) {
    let peer = if orderly { Peer::Alive } else { Peer::Lost };
    if let Err(error) = nvme_host::detach(control, controller, peer, DETACH_LIMIT).await {
        tracing::warn!(%controller, %error, "the controller of a copy could not be detached");
    }
}
