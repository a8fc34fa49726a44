//! The lvols of one image on its disk: the temporary head that it is written to, and the snapshot that it is in the end.

use std::time::{Duration, Instant};

use super::record::ImageRecord;
use super::view::ImageLvol;
use crate::disk::Disk;
use crate::faults::{self, Point};
use crate::name::{BackingImageName, LvolAlias, LvolName};
use crate::spdk::lvol::{LvolInfo, Provision};
use crate::spdk::{Control, SpdkError, lvol};
use crate::{Error, Result};

/// How long an lvol may be open still, after whoever used it was told to stop.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
const SETTLE_STEP: Duration = Duration::from_millis(20);

/// Where the lvols of one image are.
#[derive(Clone)]
pub(super) struct ImageStore {
    control: Control,
    disk: Disk,
    temp_head: LvolAlias,
    image: LvolAlias,
}

/// An lvol that is of a backing image.
pub(super) struct Found {
    pub(super) lvol: LvolInfo,
    /// `None` of a temporary head that tells nothing.
    pub(super) record: Option<ImageRecord>,
}

impl Found {
    pub(super) fn is_temp_head(&self) -> bool {
        self.lvol.alias.lvol.is_backing_image_temp_head()
    }
}

/// All lvols of backing images on a disk.
pub(super) async fn survey(control: &Control, disk: &Disk) -> Result<Vec<Found>> {
    let lvs = disk.lvs().clone();
    let found = control.run(move |on| async move {
        let mut found = Vec::new();
        for lvol in lvol::list(on, &lvs)? {
            let record = ImageRecord::read(on, &lvol.alias)?;
            let is_image = record.is_some() && lvol.is_snapshot;
            if is_image || lvol.alias.lvol.is_backing_image_temp_head() {
                found.push(Found { lvol, record });
            }
        }
        Ok::<_, SpdkError>(found)
    });
    Ok(found.await?)
}

/// An image's lvol as it is shown.
pub(super) fn shown(info: &LvolInfo) -> ImageLvol {
    ImageLvol {
        name: info.alias.lvol.clone(),
        uuid: info.uuid,
        spec_size: info.size,
        actual_size: info.allocated_clusters * (info.size / info.clusters.max(1)),
    }
}

impl ImageStore {
    /// The lvols of `image` on `disk`.
    pub(super) fn new(control: &Control, disk: &Disk, image: &BackingImageName) -> Self {
        let alias = |lvol| LvolAlias { lvs: disk.lvs().clone(), lvol };
        Self {
            control: control.clone(),
            disk: disk.clone(),
            temp_head: alias(LvolName::backing_image_temp_head(image, disk.uuid())),
            image: alias(LvolName::backing_image(image, disk.uuid())),
        }
    }

    /// What the image is written to.
    pub(super) fn temp_head(&self) -> &LvolAlias {
        &self.temp_head
    }

    /// The image.
    pub(super) fn image(&self) -> &LvolAlias {
        &self.image
    }

    /// The image's lvol, if it is there.
    pub(super) async fn find(&self) -> Result<Option<LvolInfo>> {
        self.look(&self.image).await
    }

    async fn look(&self, alias: &LvolAlias) -> Result<Option<LvolInfo>> {
        let alias = alias.clone();
        Ok(self.control.run(move |on| async move { lvol::find(on, &alias) }).await?)
    }

    /// Makes the temporary head, which says from the start what it is to be.
    pub(super) async fn begin(&self, record: &ImageRecord, size: u64) -> Result<()> {
        self.delete_temp_head().await?;
        let (alias, clear, changes) = (self.temp_head.clone(), self.disk.clear_method(), record.own()?);
        let made = self.control.run(move |on| async move {
            lvol::create(on, &alias, size, Provision::Thin, clear).await?;
            lvol::apply_xattrs(on, &alias, &changes).await
        });
        made.await.map_err(|error: SpdkError| self.no_room(error))?;
        self.disk.flush().await
    }

    /// Makes the image of the temporary head, with how its making ended. Each step can be the last before the process
    /// ends: doing it all again leads to the same.
    pub(super) async fn finish(&self, record: &ImageRecord) -> Result<LvolInfo> {
        let image = match self.find().await? {
            Some(found) => {
                let (alias, changes) = (self.image.clone(), record.all()?);
                self.control.run(move |on| async move { lvol::apply_xattrs(on, &alias, &changes).await }).await?;
                found
            }
            None => self.take_snapshot(record).await?,
        };
        self.disk.flush().await?;
        faults::pass(Point::ImageTaken).await?;
        self.delete_temp_head().await?;
        self.disk.flush().await?;
        Ok(image)
    }

    async fn take_snapshot(&self, record: &ImageRecord) -> Result<LvolInfo> {
        let (temp_head, own) = (self.temp_head.clone(), record.own()?);
        self.control.run(move |on| async move { lvol::apply_xattrs(on, &temp_head, &own).await }).await?;
        // Nothing may be taken for an image whose record is not durable.
        self.disk.flush().await?;
        faults::pass(Point::ImageRecorded).await?;
        let (temp_head, image) = (self.temp_head.clone(), self.image.lvol.clone());
        let carried: Vec<_> =
            record.all()?.into_iter().filter_map(|change| Some((change.name, change.value?))).collect();
        let taken = self.control.run(move |on| async move { lvol::snapshot(on, &temp_head, &image, &carried).await });
        taken.await.map_err(|error| self.no_room(error))
    }

    /// Changes what is known of an image that is there.
    pub(super) async fn note(&self, record: &ImageRecord) -> Result<()> {
        let (alias, changes) = (self.image.clone(), record.all()?);
        self.control.run(move |on| async move { lvol::apply_xattrs(on, &alias, &changes).await }).await?;
        self.disk.flush().await
    }

    /// Deletes the image and what it is written to. Refused, and nothing changed, while something is based on it.
    pub(super) async fn delete(&self) -> Result<()> {
        self.delete_temp_head().await?;
        self.delete_lvol(&self.image).await?;
        self.disk.flush().await
    }

    /// Deletes what an image was written to. That it is not there is no error.
    pub(super) async fn delete_temp_head(&self) -> Result<()> {
        self.delete_lvol(&self.temp_head).await
    }

    /// Waits until who has the lvol open has closed it, but not for ever.
    async fn delete_lvol(&self, alias: &LvolAlias) -> Result<()> {
        let started = Instant::now();
        loop {
            match self.look(alias).await? {
                None => return Ok(()),
                Some(found) if found.open && started.elapsed() < SETTLE_LIMIT => tokio::time::sleep(SETTLE_STEP).await,
                Some(found) if found.open => {
                    let problem = "it is in use still (by a copy or a backup); stop that first";
                    return Err(Error::precondition(format!("lvol {}", alias.bdev()), problem));
                }
                Some(_) => {
                    let alias = alias.clone();
                    let deleted = self.control.run(move |on| async move { lvol::delete_leaf(on, &alias).await });
                    return Ok(deleted.await?);
                }
            }
        }
    }

    /// Who stands on the image: replicas by name, other lvols by theirs.
    pub(super) async fn users(&self) -> Result<Vec<String>> {
        let (image, temp_head) = (self.image.clone(), self.temp_head.lvol.clone());
        let users = self.control.run(move |on| async move {
            let Some(found) = lvol::find(on, &image)? else { return Ok(Vec::new()) };
            let mut users = Vec::new();
            for lvol in found.children.into_iter().filter(|child| *child != temp_head) {
                let alias = LvolAlias { lvs: image.lvs.clone(), lvol };
                users.push(match super::record::replica_of(on, &alias)? {
                    Some(replica) => format!("replica {replica}"),
                    None => format!("lvol {}", alias.lvol),
                });
            }
            users.sort();
            users.dedup();
            Ok::<_, SpdkError>(users)
        });
        Ok(users.await?)
    }

    fn no_room(&self, error: SpdkError) -> Error {
        use crate::spdk::Errno;
        match error.errno() {
            Some(Errno::ENOSPC | Errno::ENOMEM) => Error::NoSpace {
                object: format!("lvstore {}", self.image.lvs),
                problem: format!("{error}; delete snapshots, replicas or images, or use another disk"),
            },
            _ => error.into(),
        }
    }
}
