//! From a path to a ready disk: open the device, make its bdev, find its lvstore or make one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use uuid::Uuid;

use super::device::{Device, check_carried};
use super::flush::{Flusher, Medium};
use super::handle::{Disk, Holds, Inner};
use super::moved;
use super::request::{DiskDriver, DiskPath, DiskRequest};
use super::signature::PROBE_LENGTH;
use super::user_space;
use crate::name::{BdevName, LvsName};
use crate::spdk::bdev::OpenBdev;
use crate::spdk::lvstore::{self, ClearMethod, LvsInfo};
use crate::spdk::{Control, DmaBuffer, SpdkError, base};
use crate::{Error, Result, faults};

/// Bytes in a cluster of a new lvstore (`engine-behaviour` §2).
const CLUSTER_SIZE: u32 = 1 << 20;
/// How long lvols of a disk that is taken away may be open still: who used them has been told, and closes them by and by.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
const SETTLE_STEP: Duration = Duration::from_millis(20);

/// What a bring-up needs of the node.
pub(super) struct BringUp {
    pub(super) control: Control,
    /// What is put in front of the path of a file or block device.
    pub(super) host_prefix: Option<PathBuf>,
}

/// The path that is really opened.
pub(crate) fn host_path(prefix: Option<&PathBuf>, path: &Path) -> PathBuf {
    match prefix {
        // Joining an absolute path would replace the prefix.
        Some(prefix) => prefix.join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_owned(),
    }
}

/// A device that has a bdev.
struct Base {
    driver: DiskDriver,
    id: String,
    bdev: BdevName,
    below: Below,
}

/// What is below a bdev.
enum Below {
    Kernel(Arc<Device>),
    UserSpace,
}

/// Ids and names of disks that are ready already.
pub(super) type Others = [(String, String)];

impl BringUp {
    /// Makes the disk ready. On an error nothing is left open.
    pub(super) async fn run(&self, request: &DiskRequest, others: &Others) -> Result<Disk> {
        let base = match (&request.path, request.driver) {
            (DiskPath::File(path), DiskDriver::Auto | DiskDriver::Aio) => {
                let path = host_path(self.host_prefix.as_ref(), path);
                self.kernel_device(request, path, others).await?
            }
            (DiskPath::File(path), driver) => {
                let problem =
                    format!("{} is not a PCI address, which the {} driver needs", path.display(), driver.as_str());
                return Err(Error::invalid("disk_path", problem));
            }
            (DiskPath::Pci(address), _) => {
                refuse_known(&request.path, address, others)?;
                let (driver, bdev) = user_space::attach(&self.control, request, address).await?;
                Base { driver, id: address.clone(), bdev, below: Below::UserSpace }
            }
        };
        self.finish_or_undo(request, base).await
    }

    /// Asks all block devices for the lvstore of a disk of an earlier run that is not where it was: the kernel may have
    /// given its device another name since.
    pub(super) async fn search(&self, request: &DiskRequest, others: &Others) -> Result<Option<Disk>> {
        let (DiskPath::File(old), Some(_)) = (&request.path, request.uuid) else { return Ok(None) };
        for path in moved::candidates(self.host_prefix.clone(), old.clone()).await? {
            let at = host_path(self.host_prefix.as_ref(), &path);
            let found = match self.kernel_device(request, at, others).await {
                Ok(base) => self.finish_or_undo(request, base).await,
                Err(error) => Err(error),
            };
            match found {
                Ok(disk) => {
                    tracing::warn!(
                        disk = %request.name, old = %old.display(), path = %path.display(), uuid = %disk.uuid(),
                        "a disk was found by its lvstore under another path than before"
                    );
                    return Ok(Some(disk));
                }
                Err(error) => tracing::debug!(disk = %request.name, path = %path.display(), %error, "not this disk"),
            }
        }
        Ok(None)
    }

    async fn finish_or_undo(&self, request: &DiskRequest, base: Base) -> Result<Disk> {
        match self.finish(request, &base).await {
            Ok(disk) => Ok(disk),
            Err(error) => {
                if let Err(undo) = take_down(&self.control, request, base.driver, &base.bdev).await {
                    let disk = &request.name;
                    tracing::error!(%disk, error = %undo, "a disk that could not be created could not be taken down");
                }
                Err(error)
            }
        }
    }

    async fn kernel_device(&self, request: &DiskRequest, path: PathBuf, others: &Others) -> Result<Base> {
        let block_size = request.block_size;
        let device = blocking(move || Device::open(&path, block_size)).await?;
        let id = device.identity.to_string();
        refuse_known(&request.path, &id, others)?;
        let bdev = request.bdev_name()?;
        let (name, path) = (bdev.clone(), device.path.clone());
        let uuid = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("disk-{bdev}").as_bytes());
        self.control
            .run(move |on| async move { base::create_aio(on, &name, &path, block_size.bytes(), uuid).map(drop) })
            .await?;
        Ok(Base { driver: DiskDriver::Aio, id, bdev, below: Below::Kernel(Arc::new(device)) })
    }

    /// From a bdev to a disk.
    async fn finish(&self, request: &DiskRequest, base: &Base) -> Result<Disk> {
        let (lvs, medium, raw) = match &base.below {
            Below::Kernel(device) => {
                let lvs = self.store(request, base).await?;
                // Both descriptors are one open file, so its lock stays as long as the flusher has it.
                let file = device.file.try_clone();
                let file = file.map_err(|error| Error::medium(device.path.display(), error.to_string()))?;
                (lvs, Medium::Kernel(Arc::new(file)), Weak::new())
            }
            Below::UserSpace => {
                // A raw flush needs a descriptor for writing, which cannot be had once the lvstore has its claim.
                let found = self.store(request, base).await?;
                let (name, bdev) = (found.name, base.bdev.clone());
                let opened = self.control.run(move |on| async move {
                    lvstore::unload(on, &name).await?;
                    let flushed = bdev.clone();
                    OpenBdev::open(on, &bdev, true, move |event| tracing::warn!(bdev = %flushed, ?event, "a disk"))
                });
                let opened = opened.await?;
                let raw = Arc::downgrade(&opened);
                let medium = Medium::Bdev(self.control.clone(), opened);
                let lvs = self.load(&base.bdev).await?;
                (lvs.ok_or_else(|| Error::medium(&base.bdev, "its lvstore vanished"))?, medium, raw)
            }
        };
        Ok(Disk::new(Inner {
            request: request.clone(),
            control: self.control.clone(),
            driver: base.driver,
            id: base.id.clone(),
            lvs,
            bdev: base.bdev.clone(),
            raw,
            // The aio bdev has no unmap in 20.07, and none of the drivers promises zeroes after one.
            clear: ClearMethod::WriteZeroes,
            flusher: Flusher::start(request.name.as_str(), medium),
            holds: Arc::new(Mutex::new(Holds::default())),
        }))
    }

    /// Finds the lvstore that is asked for, or makes one where that destroys nothing.
    async fn store(&self, request: &DiskRequest, base: &Base) -> Result<LvsInfo> {
        let name = request.lvs_name()?;
        if let Some(found) = self.load(&base.bdev).await? {
            return self.adopt(request, found, name).await;
        }
        if let Some(uuid) = request.uuid {
            return Err(store_missing(request, uuid, "it carries no lvstore, and is not formatted for that"));
        }
        let clear = match &base.below {
            Below::Kernel(device) => {
                let device = device.clone();
                let is_zero = blocking(move || device.check_vacant().map(|()| device.zero_quickly())).await?;
                if is_zero { ClearMethod::None } else { ClearMethod::WriteZeroes }
            }
            Below::UserSpace => {
                let start = self.read_start(&base.bdev).await?;
                check_carried(&request.path, &start)?;
                ClearMethod::WriteZeroes
            }
        };
        tracing::info!(disk = %request.name, path = %request.path, ?clear, "formatting a disk");
        let bdev = base.bdev.clone();
        let made =
            self.control.run(move |on| async move { lvstore::create(on, &bdev, &name, CLUSTER_SIZE, clear).await });
        Ok(made.await?)
    }

    async fn read_start(&self, bdev: &BdevName) -> Result<DmaBuffer> {
        let bdev = bdev.clone();
        let read = self.control.run(move |on| async move {
            let bdev = OpenBdev::open(on, &bdev, false, |_| {})?;
            let length = bdev.geometry().size().min(PROBE_LENGTH as u64);
            bdev.channel(on.thread())?.read(0, DmaBuffer::zeroed(length as usize)?).await
        });
        Ok(read.await?)
    }

    async fn load(&self, bdev: &BdevName) -> Result<Option<LvsInfo>> {
        let bdev = bdev.clone();
        Ok(self.control.run(move |on| async move { lvstore::load(on, &bdev).await }).await?)
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
        let renamed = self.control.run(move |on| async move {
            lvstore::rename(on, &old, &name).await?;
            lvstore::info(on, &name)
        });
        Ok(renamed.await?)
    }
}

/// First step of taking a disk away: its lvstore. Refused while something on it is open; nothing is lost then.
pub(super) async fn unload(disk: &Disk) -> Result<()> {
    let inner = disk.inner();
    unload_store(&inner.control, &inner.bdev, Ending::Orderly).await
}

/// Second step: the device. The data stays on it. One that failed can be repeated.
pub(super) async fn let_go(disk: &Disk) -> Result<()> {
    let inner = disk.inner();
    inner.flusher.stop().await;
    faults::pass(faults::Point::DiskLetGo).await?;
    remove_bdev(&inner.control, &inner.request, inner.driver, &inner.bdev).await
}

/// Takes away a disk whose device has left the machine and has been abandoned. One that failed can be repeated.
pub(super) async fn take_away(disk: &Disk) -> Result<()> {
    let inner = disk.inner();
    if let Err(error) = unload_store(&inner.control, &inner.bdev, Ending::Abandoned).await {
        // Its last words can't be written. It is unloaded all the same, or the next look finds it.
        tracing::warn!(disk = %disk.name(), %error, "the lvstore of an unplugged disk was left as it is");
        let bdev = inner.bdev.clone();
        let left = inner.control.run(move |on| async move { lvstore::on_base(on, &bdev) }).await;
        if !matches!(left, Ok(None)) {
            return Err(error);
        }
    }
    let_go(disk).await
}

async fn take_down(control: &Control, request: &DiskRequest, driver: DiskDriver, bdev: &BdevName) -> Result<()> {
    unload_store(control, bdev, Ending::Orderly).await?;
    remove_bdev(control, request, driver, bdev).await
}

/// How an lvstore is put away.
#[derive(Clone, Copy)]
enum Ending {
    /// All of it is written.
    Orderly,
    /// Its device has left; what cannot be written is given up.
    Abandoned,
}

/// Puts an lvstore away. Nobody uses its lvols any more, but who did may be about to close them.
async fn unload_store(control: &Control, bdev: &BdevName, ending: Ending) -> Result<()> {
    let started = tokio::time::Instant::now();
    loop {
        let bdev = bdev.clone();
        let unloaded = control.run(move |on| async move {
            match (lvstore::on_base(on, &bdev)?, ending) {
                (Some(lvs), Ending::Orderly) => lvstore::unload(on, &lvs.name).await,
                (Some(lvs), Ending::Abandoned) => lvstore::abandon(on, &lvs.name).await,
                (None, _) => Ok(()),
            }
        });
        match unloaded.await {
            // What SPDK refuses here is a store with an lvol that is open.
            Err(SpdkError::Refused { .. }) if started.elapsed() < SETTLE_LIMIT => {
                tokio::time::sleep(SETTLE_STEP).await;
            }
            unloaded => return Ok(unloaded?),
        }
    }
}

async fn remove_bdev(control: &Control, request: &DiskRequest, driver: DiskDriver, bdev: &BdevName) -> Result<()> {
    match &request.path {
        DiskPath::Pci(address) => user_space::detach(control, request, driver, address).await,
        DiskPath::File(_) => {
            let bdev = bdev.clone();
            Ok(control.run(move |on| async move { base::delete(on, &bdev).await }).await?)
        }
    }
}

fn refuse_known(path: &DiskPath, id: &str, others: &Others) -> Result<()> {
    match others.iter().find(|(other, _)| other == id) {
        Some((_, name)) => Err(Error::precondition(path, format!("it is disk {name} already"))),
        None => Ok(()),
    }
}

fn store_missing(request: &DiskRequest, uuid: Uuid, instead: &str) -> Error {
    Error::not_found("lvstore", format!("{uuid} on {} (disk {}): {instead}; it", request.path, request.name))
}

/// Runs what blocks on a thread for that.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(Error::internal("a blocking task", error.to_string())))
}
