//! Opening a replica as a member of a mirror: directly when it is on this node, over NVMe/TCP when it is not.
//!
//! The bdev name of a member is the one that the attach returned, exactly one, and it is opened under that name before
//! the member exists. Nothing keeps a name that no attach has confirmed.

use std::sync::Arc;
use std::time::Duration;

use super::backend::Backend;
use crate::error::{Error, Result};
use crate::mirror::core::{Locality, OpenMember};
use crate::mirror::{DiskFlush, MemberFlush, OpenedMember};
use crate::name::{BdevName, NonEmpty, Nqn, ReplicaAddress, ReplicaName};
use crate::spdk::bdev::{BdevEvent, OpenBdev};
use crate::spdk::{Control, SpdkError};

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
            let bdev = open_bdev(control, head.bdev.clone()).await?;
            Ok(member(path, Locality::Local, bdev, MemberFlush::Disk(head.flush.clone())))
        }
        None => {
            let name = attach(control, path, limit).await?;
            match open_bdev(control, name).await {
                Ok(bdev) => Ok(member(path, Locality::Remote, bdev, MemberFlush::Bdev)),
                Err(error) => {
                    detach(control, &path.replica).await;
                    Err(error)
                }
            }
        }
    }
}

fn member(path: &ReplicaPath, locality: Locality, bdev: Arc<OpenBdev>, flush: MemberFlush) -> OpenedMember {
    let open = OpenMember {
        replica: path.replica.clone(),
        bdev: bdev.name().clone(),
        address: path.address,
        locality,
        size_bytes: bdev.geometry().size(),
        block_bytes: bdev.geometry().block_size,
    };
    OpenedMember { open, bdev, flush }
}

async fn open_bdev(control: &Control, name: BdevName) -> Result<Arc<OpenBdev>> {
    control
        .run(move |on| async move {
            let opened = name.clone();
            // The mirror learns of a removal by the I/O that fails, and closes the member then.
            OpenBdev::open(on, &name, true, move |event| {
                if event == BdevEvent::Removed {
                    tracing::warn!(bdev = %opened, "a member's bdev is going away");
                }
            })
            .map_err(Error::from)
        })
        .await
}

/// Attaches the replica's target and returns the one bdev it gave.
async fn attach(control: &Control, path: &ReplicaPath, limit: Duration) -> Result<BdevName> {
    reachable(path, limit).await?;
    let (replica, address) = (path.replica.clone(), path.address);
    let attached = control.run(move |on| async move {
        let target = crate::spdk::nvme::TcpTarget {
            controller: controller_name(&replica),
            address,
            subsystem: Nqn::replica(&replica),
            host: Nqn::internal_host(),
        };
        crate::spdk::nvme::attach_tcp(on, &target).await
    });
    let names: std::result::Result<NonEmpty<BdevName>, SpdkError> = match tokio::time::timeout(limit, attached).await {
        Ok(names) => names,
        Err(_) => {
            let what = format!("attaching replica {} at {}", path.replica, path.address);
            return Err(Error::Timeout { what, limit });
        }
    };
    match names?.into_only() {
        Ok(name) => Ok(name),
        Err(several) => {
            detach(control, &path.replica).await;
            let problem = format!("its attach returned {} bdevs, exactly one is expected", several.count());
            Err(Error::peer(format!("replica {} at {}", path.replica, path.address), problem))
        }
    }
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

/// Lets go of an attached replica; what cannot be detached is logged, as nobody could act on it here.
pub async fn detach(control: &Control, replica: &ReplicaName) {
    let name = controller_name(replica);
    let result = control.run(move |on| async move { crate::spdk::nvme::detach(on, &name).await }).await;
    if let Err(error) = result {
        let error: SpdkError = error;
        tracing::warn!(%replica, %error, "a replica's controller could not be detached");
    }
}

fn controller_name(replica: &ReplicaName) -> crate::name::LvolName {
    crate::name::LvolName::head(replica)
}
