//! An image read again, on request: whether it is still what its checksum says. A restart does not read it, as that would
//! take the disk's time from volumes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::SHA512;
use uuid::Uuid;

use super::BackingImages;
use super::checksum::ImageChecksum;
use super::instance::Image;
use super::record::Outcome;
use super::view::BackingImageState;
use crate::digest::digest_device;
use crate::name::BackingImageName;
use crate::spdk::client::BdevClient;
use crate::{Error, Result};

/// How far a verification is.
#[derive(Debug, Default)]
pub struct VerifyProgress {
    done_bytes: AtomicU64,
}

impl VerifyProgress {
    /// Bytes that were read.
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes.load(Ordering::Relaxed)
    }
}

impl BackingImages {
    /// Reads an image that is ready. When it is not what its checksum says it is in state failed from then on, also after a
    /// restart. Dropping the future ends the reading.
    pub async fn verify(
        &self,
        name: &BackingImageName,
        lvs_uuid: Uuid,
        progress: &VerifyProgress,
    ) -> Result<ImageChecksum> {
        let image = self.known(name, lvs_uuid)?;
        image.require_ready()?;
        let view = image.view();
        let Some(expected) = view.checksum.clone() else {
            return Err(Error::precondition(image.object(), "what it should be is not known: its checksum is lost"));
        };
        let _hold = image.disk.hold(format!("backing image {name} is being verified"))?;
        let _turn =
            self.limits().at_once.acquire().await.map_err(|_| Error::internal(image.object(), "no turn comes"))?;
        let device = BdevClient::open(self.control(), image.store.image().bdev(), false).await?;
        let digest = digest_device(&device, view.size, &SHA512, |bytes| {
            progress.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        });
        let found = ImageChecksum::of(digest.await?.as_ref());
        drop(device);
        if found == expected {
            return Ok(found);
        }
        let problem = format!("its SHA-512 is {found}, and was {expected}; replicas on it read wrong data");
        let error = Error::Corruption { object: image.object(), problem };
        self.condemn(&image, found, &error).await?;
        Err(error)
    }

    async fn condemn(&self, image: &Arc<Image>, found: ImageChecksum, error: &Error) -> Result<()> {
        tracing::error!(image = %image.view().name, disk = %image.disk.name(), %error, "a backing image has changed");
        let _turn = image.turn().await?;
        image.show(|view| {
            view.found = Some(found);
            view.state = BackingImageState::Failed;
            view.error = error.to_string();
        });
        image.store.note(&image.record(Some(Outcome::Failed), error.to_string())).await
    }
}
