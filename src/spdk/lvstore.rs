//! Lvol stores: the allocator of a disk's clusters, and the catalogue of its lvols.

use std::ffi::c_void;

use spdk_sys as sys;
use uuid::Uuid;

use super::base;
use super::completion;
use super::control::OnControl;
use super::errno::{Errno, SpdkError};
use super::text;
use crate::name::{BdevName, LvsName};

/// What a store is, and how full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LvsInfo {
    /// Its name, unique on the node.
    pub name: LvsName,
    /// Its identity; it survives a rename.
    pub uuid: Uuid,
    /// The bdev it lies on.
    pub base: BdevName,
    /// Bytes in a cluster, the unit of allocation.
    pub cluster_size: u32,
    /// Bytes in a logical block of its lvols.
    pub block_size: u32,
    /// Clusters for data in all.
    pub total_clusters: u64,
    /// Clusters that no lvol owns. Thin lvols may have promised more.
    pub free_clusters: u64,
}

/// How clusters are made unreadable when they are given back. A thin lvol does not clear a cluster that it takes, so
/// this is what keeps one volume from reading another's deleted data (`spdk-versions` §8, 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClearMethod {
    /// Not at all. For a format this is right when the device is known to hold zeroes.
    None,
    /// By unmap. Only right when the device returns zeroes for unmapped blocks: SPDK 20.07's aio bdev has no
    /// unmap, and the blobstore then skips it silently.
    Unmap,
    /// By writing zeroes.
    WriteZeroes,
}

impl ClearMethod {
    pub(super) fn raw(self) -> sys::cs_clear {
        match self {
            Self::None => sys::CS_CLEAR_NONE,
            Self::Unmap => sys::CS_CLEAR_UNMAP,
            Self::WriteZeroes => sys::CS_CLEAR_WRITE_ZEROES,
        }
    }
}

/// Formats `base`; what is on it is lost. `cluster_size` is in bytes; `clear` is what is done to all clusters now.
pub async fn create(
    on: OnControl,
    base: &BdevName,
    name: &LvsName,
    cluster_size: u32,
    clear: ClearMethod,
) -> Result<LvsInfo, SpdkError> {
    base::settled(on).await?;
    let (c_base, c_name) = (text::to_c(base.as_str()), text::to_c(name.as_str()));
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the names are read during the call only.
        unsafe { sys::cs_lvs_create(c_base.as_ptr(), c_name.as_ptr(), cluster_size, clear.raw(), cb, arg) }
    })
    .await
    .map_err(|errno| match errno {
        Errno::ENODEV => SpdkError::NoSuchBdev(base.clone()),
        Errno::EEXIST => SpdkError::failed("format", format!("lvstore {name}"), errno),
        Errno::EBUSY => SpdkError::refused(format!("bdev {base}"), "it is open or claimed and cannot be formatted"),
        errno => SpdkError::failed("format", format!("lvstore {name} on bdev {base}"), errno),
    })?;
    info(on, name)
}

/// The shim runs one load at a time (it tells their ends apart by a count alone); the others queue here.
static LOADING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Loads the store that `base` carries, with all its lvols. `None` is proof that there is none: the first block could
/// be read and does not start one. A store that is there but cannot be loaded is an error, never `None`, so nobody
/// formats a disk because it could not be read.
pub async fn load(on: OnControl, base: &BdevName) -> Result<Option<LvsInfo>, SpdkError> {
    let c_base = text::to_c(base.as_str());
    let _one_at_a_time = LOADING.lock().await;
    let loaded = completion::done(|cb, arg| {
        // SAFETY: on the control thread; the name is read during the call only.
        unsafe { sys::cs_lvs_load(c_base.as_ptr(), cb, arg) }
    })
    .await;
    match loaded {
        Ok(()) => on_base(on, base)?
            .map(Some)
            .ok_or_else(|| SpdkError::answer("load", format!("bdev {base}"), "the store vanished once it was loaded")),
        Err(Errno::ENOENT) => Ok(None),
        Err(Errno::ENODEV) => Err(SpdkError::NoSuchBdev(base.clone())),
        Err(Errno::EILSEQ) => Err(SpdkError::refused(
            format!("bdev {base}"),
            "it carries an lvstore that does not load: it is damaged, or one of the same name is loaded already",
        )),
        Err(Errno::EBUSY) => Err(SpdkError::refused(format!("bdev {base}"), "it is claimed by something else")),
        Err(errno) => Err(SpdkError::failed("load of the lvstore", format!("bdev {base}"), errno)),
    }
}

/// Puts the store away; its data stays. Refused while one of its lvols is open.
pub async fn unload(on: OnControl, name: &LvsName) -> Result<(), SpdkError> {
    base::settled(on).await?;
    let c_name = text::to_c(name.as_str());
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the name is read during the call only.
        unsafe { sys::cs_lvs_unload(c_name.as_ptr(), cb, arg) }
    })
    .await
    .map_err(|errno| failed("unload", name, errno))
}

/// As [`unload`], of a store whose device has left the machine: what cannot be written any more is given up.
pub async fn abandon(on: OnControl, name: &LvsName) -> Result<(), SpdkError> {
    base::settled(on).await?;
    let c_name = text::to_c(name.as_str());
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the name is read during the call only.
        unsafe { sys::cs_lvs_abandon(c_name.as_ptr(), cb, arg) }
    })
    .await
    .map_err(|errno| failed("unload", name, errno))
}

/// Deletes the store with all its lvols. Refused while one of them is open.
pub async fn destroy(on: OnControl, name: &LvsName) -> Result<(), SpdkError> {
    base::settled(on).await?;
    let c_name = text::to_c(name.as_str());
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the name is read during the call only.
        unsafe { sys::cs_lvs_destroy(c_name.as_ptr(), cb, arg) }
    })
    .await
    .map_err(|errno| failed("destruction", name, errno))
}

/// Gives the store, and with it the aliases of its lvols, another name.
pub async fn rename(_on: OnControl, name: &LvsName, new_name: &LvsName) -> Result<(), SpdkError> {
    let (c_name, c_new_name) = (text::to_c(name.as_str()), text::to_c(new_name.as_str()));
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the names are read during the call only.
        unsafe { sys::cs_lvs_rename(c_name.as_ptr(), c_new_name.as_ptr(), cb, arg) }
    })
    .await
    .map_err(|errno| failed("rename", name, errno))
}

/// Describes a store.
pub fn info(_on: OnControl, name: &LvsName) -> Result<LvsInfo, SpdkError> {
    let c_name = text::to_c(name.as_str());
    one(|cb, arg| {
        // SAFETY: on the control thread; the callback fits the argument and is called only during the call.
        unsafe { sys::cs_lvs_info(c_name.as_ptr(), cb, arg) }
    })?
    .ok_or_else(|| SpdkError::no_such("lvstore", name))
}

/// Describes the store on this bdev, if one is loaded.
pub fn on_base(_on: OnControl, base: &BdevName) -> Result<Option<LvsInfo>, SpdkError> {
    let c_base = text::to_c(base.as_str());
    one(|cb, arg| {
        // SAFETY: on the control thread; the callback fits the argument and is called only during the call.
        unsafe { sys::cs_lvs_on(c_base.as_ptr(), cb, arg) }
    })
}

/// Describes all stores that are loaded.
pub fn list(_on: OnControl) -> Result<Vec<LvsInfo>, SpdkError> {
    let mut found = Found::new();
    // SAFETY: on the control thread; the callback fits the argument and is called only during the call.
    unsafe { sys::cs_lvs_list(Some(add), (&raw mut found).cast()) };
    found.into_iter().collect()
}

type Found = Vec<Result<LvsInfo, SpdkError>>;

unsafe extern "C" fn add(arg: *mut c_void, raw: *const sys::cs_lvs_info) {
    // SAFETY: `arg` is the vector of `one` or `list`, used by nobody else during the call; `raw` and its strings
    // live for this callback.
    unsafe {
        let raw = &*raw;
        (*arg.cast::<Found>()).push(describe(raw, &text::from_c(raw.name), &text::from_c(raw.base)));
    }
}

fn describe(raw: &sys::cs_lvs_info, name: &str, base: &str) -> Result<LvsInfo, SpdkError> {
    Ok(LvsInfo {
        name: text::parse("description", format!("lvstore on bdev {base}"), name, LvsName::parse)?,
        uuid: Uuid::from_bytes(raw.uuid),
        base: text::parse("description", format!("lvstore {name}"), base, BdevName::parse)?,
        cluster_size: raw.cluster_size,
        block_size: raw.block_size,
        total_clusters: raw.total_clusters,
        free_clusters: raw.free_clusters,
    })
}

/// Runs a query that reports one store or answers that there is none.
fn one(query: impl FnOnce(sys::cs_lvs_info_cb, *mut c_void) -> i32) -> Result<Option<LvsInfo>, SpdkError> {
    let mut found = Found::new();
    match Errno::check(query(Some(add), (&raw mut found).cast())) {
        Ok(()) => found.pop().transpose(),
        Err(_) => Ok(None),
    }
}

fn failed(what: &'static str, name: &LvsName, errno: Errno) -> SpdkError {
    match errno {
        Errno::ENODEV => SpdkError::no_such("lvstore", name),
        Errno::EBUSY => {
            SpdkError::refused(format!("lvstore {name}"), "some of its lvols are in use; stop their users first")
        }
        errno => SpdkError::failed(what, format!("lvstore {name}"), errno),
    }
}
