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
use crate::nvme_host;
use crate::spdk::Control;
use crate::spdk::base;
use crate::spdk::bdev::{BdevEvent, OpenBdev};
use crate::spdk::nvme::{AttachFault, Peer, TcpTarget};

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
                    detach(control, &path.replica, false).await;
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
    let size = nvme_host::read_size(control, &controller_name(&path.replica), limit).await;
    size.map(|geometry| geometry.size()).map_err(|error| Error::peer(peer_of(path), error.to_string()))
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
    let controller = controller_name(&path.replica);
    let target =
        TcpTarget { address: path.address, subsystem: Nqn::replica(&path.replica), host: Nqn::internal_host() };
    let attached = nvme_host::attach(control, &controller, &target, ordered_fault(), limit).await;
    attached.map_err(|error| Error::peer(peer_of(path), error.to_string()))
}

fn peer_of(path: &ReplicaPath) -> String {
    format!("replica {} at {}", path.replica, path.address)
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

/// Lets go of an attached replica. One that failed is told nothing. What cannot be detached is logged, as nobody could act on it
/// here.
pub async fn detach(control: &Control, replica: &ReplicaName, failed: bool) {
    let peer = if failed { Peer::Lost } else { Peer::Alive };
    if let Err(error) = nvme_host::detach(control, &controller_name(replica), peer, DETACH_LIMIT).await {
        tracing::warn!(%replica, %error, "a replica's controller could not be detached");
    }
}

/// How long a controller may take to go.
const DETACH_LIMIT: Duration = Duration::from_secs(10);

/// The controller of a replica is named as the lvol it exposes; its bdev is what the attach returns.
fn controller_name(replica: &ReplicaName) -> BdevName {
    LvolName::head(replica).into()
}
