//! The backing image below a volume that is restored. A backup of a volume on an image lists only what the volume has of its
//! own; where it lists nothing, the image shows through. So a restore over something else writes the image's bytes there.

use super::sink::Below;
use crate::backing_image::RemoteImage;
use crate::backup::RestorePlan;
use crate::engine::instance::Engine;
use crate::error::{Error, Result};
use crate::name::{LvolAlias, LvolName};
use crate::spdk::BdevClient;

/// The image of a replica in sync, open for reading. [`BaseImage::close`] lets go of it.
pub(super) enum BaseImage {
    /// On this node.
    Own(BdevClient),
    /// On another.
    Other(RemoteImage),
}

impl BaseImage {
    /// For the sink.
    pub(super) fn below(&self) -> Below {
        match self {
            Self::Own(bdev) => Below::of(bdev.clone()),
            Self::Other(remote) => Below::of(remote.bdev().clone()),
        }
    }

    /// Lets go of it.
    pub(super) async fn close(self, orderly: bool) {
        match self {
            Self::Own(bdev) => drop(bdev),
            Self::Other(remote) => remote.close(orderly).await,
        }
    }
}

impl Engine {
    /// Whether the replicas in sync stand on an image. An error if that is not the one the backup was made above, whose
    /// blocks are of no use without it. A backup of a volume without an image goes onto any.
    pub(super) async fn check_base(&self, backed_up: &str) -> Result<bool> {
        let mut stands_on_image = false;
        for (path, description) in self.describe_in_sync().await? {
            let found = description.backing_image_name().map(ToString::to_string).unwrap_or_default();
            if !backed_up.is_empty() && found != backed_up {
                let found = if found.is_empty() { "none".to_owned() } else { found };
                let problem = format!(
                    "the backup was made above backing image {backed_up}, and replica {} stands on {found}",
                    path.replica
                );
                return Err(Error::precondition(self.object(), problem));
            }
            stands_on_image |= !found.is_empty();
        }
        Ok(stands_on_image)
    }

    /// Opens the image that the plan's empty ranges are to show; none when it has no such ranges.
    pub(super) async fn open_base(&self, plan: &RestorePlan) -> Result<Option<BaseImage>> {
        if plan.backing_image_name.is_empty() || plan.bytes_to_zero() == 0 {
            return Ok(None);
        }
        // The first is one of this node, if there is any.
        let Some((path, description)) = self.describe_in_sync().await?.into_iter().next() else {
            return Err(Error::precondition(self.object(), "no replica is in sync"));
        };
        let Some(image) = description.backing_image else {
            return Err(Error::internal(self.object(), "its replicas stand on no backing image any more"));
        };
        let control = &self.context.control;
        if path.local.is_some() {
            let lvol = LvolName::backing_image(&image.name, image.lvs_uuid);
            let alias = LvolAlias { lvs: image.lvs_name, lvol };
            return Ok(Some(BaseImage::Own(BdevClient::open(control, alias.bdev(), false).await?)));
        }
        let peer = self.context.peers.node_of(path.address)?;
        let limit = self.context.limits.attach;
        let opened = RemoteImage::open(control, peer, &image.name, image.lvs_uuid, limit).await?;
        Ok(Some(BaseImage::Other(opened)))
    }
}
