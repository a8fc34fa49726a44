//! The destination's lvol as the source opens it: on this node directly, on another as an NVMe/TCP host.

use std::time::Duration;

use crate::Result;
use crate::name::{BdevName, HostPort, LvolName};
use crate::remote_bdev::RemoteBdev;
use crate::spdk::Control;
use crate::spdk::client::BdevClient;

/// Where the destination's lvol is.
pub(in crate::replica) enum Place {
    /// On this node: never through our own target.
    Local(BdevName),
    /// On another.
    Remote { lvol: LvolName, address: HostPort },
}

/// The lvol, open for writing. [`CopyTarget::close`] lets go of it.
pub(super) enum CopyTarget {
    Local(BdevClient),
    Remote(RemoteBdev),
}

impl CopyTarget {
    /// Opens it. After an error nothing of it is left.
    pub(super) async fn open(control: &Control, place: Place, limit: Duration) -> Result<Self> {
        match place {
            Place::Local(bdev) => Ok(Self::Local(BdevClient::open(control, bdev, true).await?)),
            Place::Remote { lvol, address } => {
                let what = format!("lvol {lvol}");
                RemoteBdev::open(control, &what, &lvol, address, true, limit).await.map(Self::Remote)
            }
        }
    }

    /// The lvol.
    pub(super) fn bdev(&self) -> &BdevClient {
        match self {
            Self::Local(bdev) => bdev,
            Self::Remote(remote) => remote.bdev(),
        }
    }

    /// Lets go of it. I/O that is in flight, as there can be after a failure only, is aborted if it is on another node.
    pub(super) async fn close(self, copied: bool) {
        match self {
            Self::Local(bdev) => drop(bdev),
            Self::Remote(remote) => remote.close(copied).await,
        }
    }
}
