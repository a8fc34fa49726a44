//! An image from a disk of a node: of another, exposed there while it is copied, or of this one.

use uuid::Uuid;

use super::BackingImages;
use super::remote::RemoteImage;
use super::request::ImageRequest;
use crate::name::{HostPort, LvolAlias};
use crate::spdk::client::BdevClient;
use crate::{Error, Result};

/// The image as a node has it, open for reading. [`PeerImage::close`] lets go of it.
pub(super) enum PeerImage {
    /// Of another disk of this node: never through our own target.
    Own(BdevClient),
    /// Of another node.
    Other(RemoteImage),
}

impl PeerImage {
    /// The bdev.
    pub(super) fn bdev(&self) -> &BdevClient {
        match self {
            Self::Own(bdev) => bdev,
            Self::Other(remote) => remote.bdev(),
        }
    }

    /// Lets go of it.
    pub(super) async fn close(self, copied: bool) {
        match self {
            Self::Own(bdev) => drop(bdev),
            Self::Other(remote) => remote.close(copied).await,
        }
    }
}

impl BackingImages {
    /// Opens the image `request` asks for in the lvstore `lvs_uuid` of `node`.
    pub(super) async fn open_peer(&self, request: &ImageRequest, node: HostPort, lvs_uuid: Uuid) -> Result<PeerImage> {
        if node.ip() == self.data_ip() {
            return self.open_own(request, lvs_uuid).await;
        }
        let (name, peer) = (&request.name, self.peers().node(node)?);
        let found = RemoteImage::describe(&peer, name, lvs_uuid).await?;
        fits(request, &found.state, found.size, &format!("backing image {name} on {}", peer.title()))?;
        let opened = RemoteImage::open(self.control(), peer, name, lvs_uuid, self.limits().connect);
        opened.await.map(PeerImage::Other)
    }

    async fn open_own(&self, request: &ImageRequest, lvs_uuid: Uuid) -> Result<PeerImage> {
        if lvs_uuid == request.lvs_uuid {
            return Err(Error::precondition(format!("backing image {}", request.name), "it cannot be its own source"));
        }
        let source = self.known(&request.name, lvs_uuid)?;
        let view = source.view();
        fits(request, view.state.as_str(), view.size, &source.object())?;
        let alias = LvolAlias { lvs: view.lvs_name.clone(), lvol: source.lvol() };
        Ok(PeerImage::Own(BdevClient::open(self.control(), alias.bdev(), false).await?))
    }
}

/// Only a whole image of the same size is a source.
fn fits(request: &ImageRequest, state: &str, size: u64, object: &str) -> Result<()> {
    if state != "ready" {
        return Err(Error::precondition(object, format!("it is in state {state}; a source must be ready")));
    }
    if size != request.size {
        return Err(Error::precondition(object, format!("it has {size} bytes, {} were asked for", request.size)));
    }
    Ok(())
}
