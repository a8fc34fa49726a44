//! A bdev of another node that is open for a while: for a copy. Nothing of this node is reached this way, as a node must
//! never attach its own target.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::name::{BdevName, HostPort, LvolName, Nqn};
use crate::spdk::client::BdevClient;
use crate::spdk::nvme::{self, Peer, TcpTarget};
use crate::spdk::{Control, SpdkError};
use crate::{Error, Result};

/// Queues of a connection: one for the thread that copies, one to spare.
const IO_QUEUES: u32 = 2;
/// How long a controller may take to go.
const DETACH_LIMIT: Duration = Duration::from_secs(10);
/// How long a target that is asked whether it lives may take.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// A bdev of another node, open. [`RemoteBdev::close`] lets go of it; dropping it leaves its controller attached.
pub struct RemoteBdev {
    control: Control,
    bdev: BdevClient,
    controller: BdevName,
    address: HostPort,
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
            Ok(bdev) => Ok(Self { control: control.clone(), bdev, controller, address }),
            Err(error) => {
                detach(control, controller, address, true).await;
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
        detach(&self.control, self.controller, self.address, orderly).await;
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
    let peer = format!("{what} at {address}");
    // SPDK 20.07 connects on the reactor and waits for the kernel's own limit, so the address is tried from here first.
    match tokio::time::timeout(limit, TcpStream::connect(address.socket())).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(Error::peer(peer, format!("its target cannot be reached: {error}"))),
        Err(_) => return Err(Error::Timeout { what: format!("connecting to {peer}"), limit }),
    }
    let controller = BdevName::parse(&format!("{lvol}-{:08x}", rand::random::<u32>()))
        .map_err(|error| Error::internal("name of a controller", error.to_string()))?;
    let target = TcpTarget { address, subsystem: Nqn::lvol(lvol), host: Nqn::internal_host(), io_queues: IO_QUEUES };
    let name = controller.clone();
    let attached = control.run(move |on| async move {
        let names = nvme::attach_tcp(on, &name, &target, limit).await?;
        nvme::only(on, &name, names, limit).await
    });
    let bdev = attached.await.map_err(|error: SpdkError| Error::peer(peer, error.to_string()))?;
    Ok((bdev, controller))
}

/// Detaches. A target that does not answer is told nothing. What cannot be detached is logged, as nobody could act on it
/// here.
async fn detach(control: &Control, controller: BdevName, address: HostPort, orderly: bool) {
    let answers = tokio::time::timeout(PROBE_LIMIT, TcpStream::connect(address.socket())).await;
    let peer = if orderly && matches!(answers, Ok(Ok(_))) { Peer::Alive } else { Peer::Lost };
    let name = controller.clone();
    let detached = control.run(move |on| async move { nvme::detach(on, &name, peer, DETACH_LIMIT).await });
    if let Err(error) = detached.await {
        let error: SpdkError = error;
        tracing::warn!(%controller, %error, "the controller of a copy could not be detached");
    }
}
