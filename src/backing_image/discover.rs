//! What a disk that was just loaded has: its images, found again, and what an interrupted making left, set right.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::BackingImages;
use super::instance::Image;
use super::record::ImageRecord;
use super::store::{Found, ImageStore, survey};
use crate::Result;
use crate::disk::{Disk, DiskObserver};
use crate::name::BackingImageName;
use crate::spdk::{SpdkError, lvol};

impl BackingImages {
    async fn discover(&self, disk: &Disk) -> Result<()> {
        let found = survey(self.control(), disk).await?;
        let mut changed = false;
        for temp_head in found.iter().filter(|found| found.is_temp_head()) {
            changed = true;
            if let Err(error) = self.settle(disk, temp_head, &found).await {
                let lvol = &temp_head.lvol.alias.lvol;
                tracing::error!(disk = %disk.name(), %lvol, %error, "what a backing image was written to is left over");
            }
        }
        let found = if changed { survey(self.control(), disk).await? } else { found };
        for found in found.iter().filter(|found| !found.is_temp_head()) {
            let Some(record) = &found.record else { continue };
            let tell = (self.changes().clone(), self.events().clone());
            let image = Image::found(self.control(), disk, record, &found.lvol, tell);
            tracing::info!(image = %record.name, disk = %disk.name(), state = image.view().state.as_str(), "backing image found");
            self.add_found(image);
        }
        Ok(())
    }

    /// An image whose making had come to its end is finished; what was only begun is deleted.
    async fn settle(&self, disk: &Disk, temp_head: &Found, all: &[Found]) -> Result<()> {
        let lvol = &temp_head.lvol.alias.lvol;
        let record = temp_head.record.as_ref().filter(|record| record.outcome.is_some());
        let is_finished = |record: &ImageRecord| is_settled(disk, &record.name, all);
        match record {
            Some(record) if !is_finished(record) => {
                tracing::warn!(%lvol, disk = %disk.name(), "the making of a backing image is finished");
                ImageStore::new(self.control(), disk, &record.name).finish(record).await.map(drop)
            }
            _ => {
                tracing::warn!(%lvol, disk = %disk.name(), "what an interrupted making of a backing image left is deleted");
                let alias = temp_head.lvol.alias.clone();
                let deleted = self.control().run(move |on| async move { lvol::delete_leaf(on, &alias).await });
                Ok(deleted.await.map_err(|error: SpdkError| error)?)
            }
        }
    }
}

/// Whether the image is there and says itself how its making ended.
fn is_settled(disk: &Disk, image: &BackingImageName, all: &[Found]) -> bool {
    let lvol = crate::name::LvolName::backing_image(image, disk.uuid());
    let found = all.iter().find(|found| found.lvol.alias.lvol == lvol);
    found.and_then(|found| found.record.as_ref()).is_some_and(|record| record.outcome.is_some())
}

impl DiskObserver for BackingImages {
    fn loaded(&self, disk: Disk) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.discover(&disk).await {
                tracing::error!(disk = %disk.name(), %error, "the backing images of a disk could not be found");
            }
        })
    }

    fn unloading(&self, disk: Disk) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let leaving: Vec<Arc<Image>> = self.on_disk(disk.uuid());
            for image in leaving {
                // None of them is in use, for that holds the disk; but one may be looked at this moment.
                if let Ok(mut turn) = image.turn().await {
                    turn.gone = true;
                }
                self.forget(&image);
            }
        })
    }

    fn lost(&self, disk: Disk) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            for image in self.on_disk(disk.uuid()) {
                let Ok(mut turn) = image.turn().await else { continue };
                let left = async {
                    image.cancel_making().await?;
                    self.take_down(&image, &mut turn).await
                };
                match left.await {
                    Ok(()) => {
                        turn.gone = true;
                        self.forget(&image);
                    }
                    Err(error) => tracing::warn!(image = %image.object(), %error, "an image of a lost disk is in use"),
                }
            }
        })
    }
}
