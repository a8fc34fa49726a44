//! The destination's lvol as the source opens it: on this node directly, on another as an NVMe/TCP host.

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
/// How long a destination that is asked whether it lives may take.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Where the destination's lvol is.
pub(in crate::replica) enum Place {
    /// On this node: never through our own target.
    Local(BdevName),
    /// On another.
    Remote { lvol: LvolName, address: HostPort },
}

/// The lvol, open for writing. [`CopyTarget::close`] lets go of it.
pub(super) struct CopyTarget {
    control: Control,
    bdev: BdevClient,
    /// The controller, when it is on another node.
    attached: Option<(BdevName, HostPort)>,
}

impl CopyTarget {
    /// Opens it. After an error nothing of it is left.
    pub(super) async fn open(control: &Control, place: Place, limit: Duration) -> Result<Self> {
        let (name, attached) = match place {
            Place::Local(bdev) => (bdev, None),
            Place::Remote { lvol, address } => {
                let (name, controller) = attach(control, &lvol, address, limit).await?;
                (name, Some((controller, address)))
            }
        };
        match BdevClient::open(control, name, true).await {
            Ok(bdev) => Ok(Self { control: control.clone(), bdev, attached }),
            Err(error) => {
                if let Some((controller, address)) = attached {
                    detach(control, controller, address, true).await;
                }
                Err(error.into())
            }
        }
    }

    /// The lvol.
    pub(super) fn bdev(&self) -> &BdevClient {
        &self.bdev
    }

    /// Lets go of it. I/O that is in flight, as there can be after a failure only, is aborted if it is on another node.
    pub(super) async fn close(self, copied: bool) {
        drop(self.bdev);
        if let Some((controller, address)) = self.attached {
            detach(&self.control, controller, address, copied).await;
        }
    }
}

/// Attaches the destination's target; returns its one bdev, and the controller's name, which is nobody else's.
async fn attach(
    control: &Control,
    lvol: &LvolName,
    address: HostPort,
    limit: Duration,
) -> Result<(BdevName, BdevName)> {
    let peer = format!("{lvol} at {address}");
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

/// Detaches. A destination that does not answer is told nothing. What cannot be detached is logged, as nobody could act
/// on it here.
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
