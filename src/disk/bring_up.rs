//! From a path to a ready disk: open the device, make its bdev, find its lvstore or make one.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use uuid::Uuid;

use super::device::Device;
use super::flush::{Flusher, Medium};
use super::handle::{Disk, Holds, Inner};
use super::request::{DiskDriver, DiskPath, DiskRequest};
use crate::name::{BdevName, LvsName};
use crate::spdk::lvstore::{self, ClearMethod, LvsInfo};
use crate::spdk::{Control, base};
use crate::{Error, Result};

/// Bytes in a cluster of a new lvstore (`engine-behaviour` §2).
const CLUSTER_SIZE: u32 = 1 << 20;

/// What a bring-up needs of the node.
pub(super) struct BringUp {
    pub(super) control: Control,
    /// What is put in front of the path of a file or block device.
    pub(super) host_prefix: Option<PathBuf>,
}

/// The path that is really opened.
pub(super) fn host_path(prefix: Option<&PathBuf>, path: &std::path::Path) -> PathBuf {
    match prefix {
        // Joining an absolute path would replace the prefix.
        Some(prefix) => prefix.join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_owned(),
    }
}

impl BringUp {
    /// Makes the disk ready. `others` are the ids of disks that are ready already. On an error nothing is left open.
    pub(super) async fn run(&self, request: &DiskRequest, others: &[(String, String)]) -> Result<Disk> {
        match (&request.path, request.driver) {
            (DiskPath::File(path), DiskDriver::Auto | DiskDriver::Aio) => {
                let path = host_path(self.host_prefix.as_ref(), path);
                self.kernel_device(request, path, others).await
            }
            (DiskPath::File(path), DiskDriver::Nvme) => Err(Error::invalid(
                "disk_path",
                format!("{} is not a PCI address, which the nvme driver needs", path.display()),
            )),
            (DiskPath::Pci(address), DiskDriver::Aio) => Err(Error::invalid(
                "disk_path",
                format!("{address} is a PCI address; the aio driver needs the path of a file or block device"),
            )),
            (DiskPath::Pci(_), DiskDriver::Auto | DiskDriver::Nvme) => Err(Error::Unimplemented {
                what: "a disk by PCI address",
                reason: "give its block device as an aio disk",
            }),
        }
    }

    async fn kernel_device(&self, request: &DiskRequest, path: PathBuf, others: &[(String, String)]) -> Result<Disk> {
        let block_size = request.block_size;
        let device = blocking(move || Device::open(&path, block_size)).await?;
        let id = device.identity.to_string();
        if let Some((_, other)) = others.iter().find(|(other_id, _)| *other_id == id) {
            return Err(Error::precondition(device.path.display(), format!("it is disk {other} already")));
        }
        let bdev = request.bdev_name()?;
        self.create_aio(&bdev, &device, request).await?;
        let device = Arc::new(device);
        match self.store(request, &bdev, &device).await {
            Ok(lvs) => Ok(self.ready(request, bdev, lvs, id, device)?),
            Err(error) => {
                self.take_down(&bdev).await;
                Err(error)
            }
        }
    }

    fn ready(
        &self,
        request: &DiskRequest,
        bdev: BdevName,
        lvs: LvsInfo,
        id: String,
        device: Arc<Device>,
    ) -> Result<Disk> {
        let file = device
            .file
            .try_clone()
            .map_err(|error| Error::medium(device.path.display(), format!("its descriptor: {error}")))?;
        // Both descriptors are one open file, so the lock stays as long as the flusher has it.
        let flusher = Flusher::start(request.name.as_str(), Medium::Kernel(Arc::new(file)));
        Ok(Disk::new(Inner {
            request: request.clone(),
            control: self.control.clone(),
            driver: DiskDriver::Aio,
            id,
            lvs,
            bdev,
            // The aio bdev has no unmap in 20.07, and its unmap promises no zeroes on newer releases' block devices.
            clear: ClearMethod::WriteZeroes,
            flusher,
            holds: Arc::new(Mutex::new(Holds::default())),
        }))
    }

    async fn create_aio(&self, bdev: &BdevName, device: &Device, request: &DiskRequest) -> Result<()> {
        let (bdev, path, block_size) = (bdev.clone(), device.path.clone(), request.block_size.bytes());
        let uuid = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("disk-{bdev}").as_bytes());
        let made = self
            .control
            .run(move |on| async move { base::create_aio(on, &bdev, &path, block_size, uuid).map(drop) })
            .await;
        Ok(made?)
    }

    /// Finds the lvstore that is asked for, or makes one where that destroys nothing.
    async fn store(&self, request: &DiskRequest, bdev: &BdevName, device: &Arc<Device>) -> Result<LvsInfo> {
        let name = request.lvs_name()?;
        match self.load(bdev).await? {
            Some(found) => self.adopt(request, found, name).await,
            None => {
                if let Some(uuid) = request.uuid {
                    return Err(store_missing(request, uuid, "it carries no lvstore, and is not formatted for that"));
                }
                let checked = device.clone();
                let is_zero = blocking(move || checked.check_vacant().map(|()| checked.zero_quickly())).await?;
                let clear = if is_zero { ClearMethod::None } else { ClearMethod::WriteZeroes };
                tracing::info!(disk = %request.name, path = %request.path, ?clear, "formatting a disk");
                let bdev = bdev.clone();
                let made = self
                    .control
                    .run(move |on| async move { lvstore::create(on, &bdev, &name, CLUSTER_SIZE, clear).await })
                    .await;
                Ok(made?)
            }
        }
    }

    async fn load(&self, bdev: &BdevName) -> Result<Option<LvsInfo>> {
        let bdev = bdev.clone();
        let loaded = self.control.run(move |on| async move { lvstore::load(on, &bdev).await }).await;
        Ok(loaded?)
    }

    async fn adopt(&self, request: &DiskRequest, found: LvsInfo, name: LvsName) -> Result<LvsInfo> {
        if let Some(uuid) = request.uuid
            && uuid != found.uuid
        {
            return Err(store_missing(request, uuid, &format!("it carries lvstore {} ({})", found.uuid, found.name)));
        }
        if found.name == name {
            return Ok(found);
        }
        tracing::info!(disk = %request.name, old = %found.name, "the lvstore takes its disk's name");
        let old = found.name;
        let renamed = self
            .control
            .run(move |on| async move {
                lvstore::rename(on, &old, &name).await?;
                lvstore::info(on, &name)
            })
            .await;
        Ok(renamed?)
    }

    /// Unloads the store, if one is loaded, and deletes the bdev, after a bring-up that failed.
    async fn take_down(&self, bdev: &BdevName) {
        let gone = bdev.clone();
        let down = self
            .control
            .run(move |on| async move {
                if let Some(lvs) = lvstore::on_base(on, &gone)? {
                    lvstore::unload(on, &lvs.name).await?;
                }
                base::delete(on, &gone).await
            })
            .await;
        if let Err(error) = down {
            tracing::error!(%bdev, %error, "a disk that could not be created could not be taken down either");
        }
    }
}

/// Unloads the lvstore of a disk that nobody uses, and deletes its bdev. The data stays.
pub(super) async fn take_down(disk: &Disk) -> Result<()> {
    let (lvs, bdev) = (disk.lvs().clone(), disk.inner().bdev.clone());
    let down = disk
        .inner()
        .control
        .run(move |on| async move {
            // A delete that failed half-way is repeated from there.
            if lvstore::on_base(on, &bdev)?.is_some() {
                lvstore::unload(on, &lvs).await?;
            }
            base::delete(on, &bdev).await
        })
        .await;
    Ok(down?)
}

fn store_missing(request: &DiskRequest, uuid: Uuid, instead: &str) -> Error {
    Error::not_found("lvstore", format!("{uuid} on {} (disk {}): {instead}; it", request.path, request.name))
}

/// Runs what blocks on a thread for that.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(Error::internal("a blocking task", error.to_string())))
}
