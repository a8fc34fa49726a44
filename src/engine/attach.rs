//! Opening a replica as a member of a mirror: directly when it is on this node, over NVMe/TCP when it is not.
//!
//! The bdev name of a member is the one that the attach returned, exactly one, and it is opened under that name before
//! the member exists. Nothing keeps a name that no attach has confirmed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::backend::Backend;
use crate::error::{Error, Result};
use crate::faults::{self, Point};
use crate::mirror::core::{Locality, OpenMember};
use crate::mirror::{DiskFlush, MemberFlush, OpenedMember};
use crate::name::{BdevName, LvolName, Nqn, ReplicaAddress, ReplicaName};
use crate::spdk::base;
use crate::spdk::bdev::{BdevEvent, OpenBdev};
use crate::spdk::nvme::{self, AttachFault, Peer, TcpTarget};
use crate::spdk::{Control, SpdkError};

/// How long a peer that is asked whether it lives may take.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// A replica's head on this node, ready to be opened.
pub struct LocalHead {
    /// The head's bdev.
    pub bdev: BdevName,
    /// Flushes the disk below it.
    pub flush: Arc<dyn DiskFlush>,
}

/// A replica that an engine was asked to have, and how it is reached.
pub struct ReplicaPath {
    /// Which.
    pub replica: ReplicaName,
    /// Where it is exported.
    pub address: ReplicaAddress,
    /// Its control.
    pub backend: Arc<dyn Backend>,
    /// Set when it is on this node.
    pub local: Option<LocalHead>,
}

/// Opens a member. What was attached is detached again if the open fails.
pub async fn open(control: &Control, path: &ReplicaPath, limit: Duration) -> Result<OpenedMember> {
    match &path.local {
        Some(head) => {
            let opened = open_bdev(control, head.bdev.clone()).await?;
            Ok(member(path, Locality::Local, opened, MemberFlush::Disk(head.flush.clone())))
        }
        None => {
            let name = attach(control, path, limit).await?;
            match open_bdev(control, name).await {
                Ok(opened) => Ok(member(path, Locality::Remote, opened, MemberFlush::Bdev)),
                Err(error) => {
                    detach(control, &path.replica, path.address, false).await;
                    Err(error)
                }
            }
        }
    }
}

/// Bytes that a member's bdev has now, after its replica has grown: of another node, what that node answers within `limit`.
pub async fn size_now(control: &Control, path: &ReplicaPath, bdev: &BdevName, limit: Duration) -> Result<u64> {
    let bdev = bdev.clone();
    if path.local.is_some() {
        let info = control.run(move |on| async move { base::info(on, &bdev) }).await?;
        return Ok(info.geometry.size());
    }
    let controller = controller_name(&path.replica);
    let asked = control.run(move |on| async move { nvme::read_size(on, &controller, &bdev).await });
    let peer = format!("replica {} at {}", path.replica, path.address);
    match tokio::time::timeout(limit, asked).await {
        Ok(answer) => Ok(answer.map_err(|error: SpdkError| Error::peer(peer, error.to_string()))?.size()),
        Err(_) => Err(Error::Timeout { what: format!("reading the size of {peer}"), limit }),
    }
}

fn member(
    path: &ReplicaPath,
    locality: Locality,
    (bdev, removed): (Arc<OpenBdev>, watch::Receiver<bool>),
    flush: MemberFlush,
) -> OpenedMember {
    let open = OpenMember {
        replica: path.replica.clone(),
        bdev: bdev.name().clone(),
        address: path.address,
        locality,
        size_bytes: bdev.geometry().size(),
        block_bytes: bdev.geometry().block_size,
    };
    OpenedMember { open, bdev, flush, removed }
}

/// Opens a bdev; the watch tells when it is going away.
async fn open_bdev(control: &Control, name: BdevName) -> Result<(Arc<OpenBdev>, watch::Receiver<bool>)> {
    let (tell, removed) = watch::channel(false);
    let opened = control.run(move |on| async move {
        let tell_removal = move |event| {
            if event == BdevEvent::Removed {
                tell.send_replace(true);
            }
        };
        OpenBdev::open(on, &name, true, tell_removal).map_err(Error::from)
    });
    Ok((opened.await?, removed))
}

/// Attaches the replica's target and returns the one bdev it gave.
async fn attach(control: &Control, path: &ReplicaPath, limit: Duration) -> Result<BdevName> {
    reachable(path, limit).await?;
    let controller = controller_name(&path.replica);
    let target = TcpTarget {
        address: path.address,
        subsystem: Nqn::replica(&path.replica),
        host: Nqn::internal_host(),
        io_queues: IO_QUEUES,
    };
    let peer = format!("replica {} at {}", path.replica, path.address);
    let fault = ordered_fault();
    let attached = control.run(move |on| async move {
        if let Some(fault) = fault {
            nvme::inject_fault(on, fault);
        }
        let names = nvme::attach_tcp(on, &controller, &target, limit).await?;
        nvme::only(on, &controller, names, limit).await
    });
    attached.await.map_err(|error: SpdkError| Error::peer(peer, error.to_string()))
}

/// What a test has ordered the next attach to answer.
fn ordered_fault() -> Option<AttachFault> {
    let points = [
        (Point::AttachNoName, AttachFault::NoName),
        (Point::AttachTwoNames, AttachFault::TwoNames),
        (Point::AttachEmptyName, AttachFault::EmptyName),
    ];
    points.into_iter().find(|(point, _)| faults::fails(*point)).map(|(_, fault)| fault)
}

/// SPDK 20.07 connects on the reactor and waits for the kernel's own limit, so the address is tried from here first.
async fn reachable(path: &ReplicaPath, limit: Duration) -> Result<()> {
    let peer = format!("replica {} at {}", path.replica, path.address);
    match tokio::time::timeout(limit, tokio::net::TcpStream::connect(path.address.socket())).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Error::peer(peer, format!("its target cannot be reached: {error}"))),
        Err(_) => Err(Error::Timeout { what: format!("connecting to {peer}"), limit }),
    }
}

/// Lets go of an attached replica. One that failed, or does not answer now, is told nothing and its I/O is aborted. What
/// cannot be detached is logged, as nobody could act on it here.
pub async fn detach(control: &Control, replica: &ReplicaName, address: ReplicaAddress, failed: bool) {
    let answers = tokio::time::timeout(PROBE_LIMIT, tokio::net::TcpStream::connect(address.socket())).await;
    let peer = if !failed && matches!(answers, Ok(Ok(_))) { Peer::Alive } else { Peer::Lost };
    let name = controller_name(replica);
    let detached = control.run(move |on| async move {
        if nvme::is_attached(on, &name) { nvme::detach(on, &name, peer, DETACH_LIMIT).await } else { Ok(()) }
    });
    if let Err(error) = detached.await {
        let error: SpdkError = error;
        tracing::warn!(%replica, %error, "a replica's controller could not be detached");
    }
}

/// Queues of a connection: one for the reactor of the mirror's channel, one to spare.
const IO_QUEUES: u32 = 2;

/// How long a controller may take to go.
const DETACH_LIMIT: Duration = Duration::from_secs(10);

/// The controller of a replica is named as the lvol it exposes; its bdev is what the attach returns.
fn controller_name(replica: &ReplicaName) -> BdevName {
    LvolName::head(replica).into()
}
