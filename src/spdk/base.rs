//! Bdevs as such: describe, list; and the kinds that disks and tests are made of: aio, malloc, null, error, delay.

use std::ffi::{CString, c_void};
use std::path::Path;

use spdk_sys as sys;
use uuid::Uuid;

use super::bdev::{Geometry, IoKind};
use super::completion;
use super::control::OnControl;
use super::errno::{Errno, SpdkError};
use super::text;
use crate::name::BdevName;

/// What a bdev is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BdevInfo {
    /// Its own name, which may differ from the alias it was asked by.
    pub name: BdevName,
    /// Its kind in SPDK's words, e.g. `AIO disk`, `Logical Volume`, `NVMe disk`.
    pub product: String,
    /// Its UUID; nil when it has none.
    pub uuid: Uuid,
    /// Its size.
    pub geometry: Geometry,
    /// Logical blocks a write should be a multiple of.
    pub write_unit_blocks: u32,
    /// Alignment its memory needs, in bytes.
    pub alignment: u32,
    /// An SPDK module (an lvol store, an export, another bdev) has it for itself.
    pub claimed: bool,
    io_types: u32,
}

impl BdevInfo {
    /// Whether it takes this kind of I/O.
    pub fn supports(&self, kind: IoKind) -> bool {
        self.io_types & (1 << kind.raw()) != 0
    }

    /// # Safety
    /// The strings of `raw` are null or live for the call.
    unsafe fn from_raw(raw: &sys::cs_bdev_info) -> Result<Self, SpdkError> {
        // SAFETY: by this function's contract.
        let (name, product) = unsafe { (text::from_c(raw.name), text::from_c(raw.product)) };
        Ok(Self {
            name: text::parse("description", "bdev", &name, BdevName::parse)?,
            product,
            uuid: Uuid::from_bytes(raw.uuid),
            geometry: Geometry { block_size: raw.block_size, block_count: raw.block_count },
            write_unit_blocks: raw.write_unit_blocks,
            alignment: raw.alignment,
            claimed: raw.claimed,
            io_types: raw.io_types,
        })
    }
}

/// Describes the bdev of this name or alias.
pub fn info(_on: OnControl, name: &BdevName) -> Result<BdevInfo, SpdkError> {
    let c_name = text::to_c(name.as_str());
    // SAFETY: the structure is plain data for which zero is a value.
    let mut raw = unsafe { std::mem::zeroed::<sys::cs_bdev_info>() };
    // SAFETY: on the control thread (the token), so the bdev cannot go between the call and the copy of its strings.
    let rc = unsafe { sys::cs_bdev_info(c_name.as_ptr(), &mut raw) };
    Errno::check(rc).map_err(|errno| failed("description", name, errno))?;
    // SAFETY: as above, the bdev still is there and so are its strings.
    unsafe { BdevInfo::from_raw(&raw) }
}

/// Describes all bdevs. One whose name is no [`BdevName`] is none of ours and left out.
pub fn list(_on: OnControl) -> Vec<BdevInfo> {
    unsafe extern "C" fn add(arg: *mut c_void, raw: *const sys::cs_bdev_info) {
        // SAFETY: `arg` is the vector below, used by nobody else during the call; `raw` and its strings live for it.
        let (found, info) = unsafe { (&mut *arg.cast::<Vec<BdevInfo>>(), BdevInfo::from_raw(&*raw)) };
        match info {
            Ok(info) => found.push(info),
            Err(error) => tracing::debug!(%error, "a bdev is left out of the list"),
        }
    }
    let mut found: Vec<BdevInfo> = Vec::new();
    // SAFETY: on the control thread; `add` is called only during the call and fits the argument.
    unsafe { sys::cs_bdev_list(Some(add), (&raw mut found).cast()) };
    found
}

/// The other names of a bdev; an lvol has one, `<lvstore>/<lvol>`.
pub fn aliases(_on: OnControl, name: &BdevName) -> Vec<BdevName> {
    unsafe extern "C" fn add(arg: *mut c_void, alias: *const std::ffi::c_char) {
        // SAFETY: `arg` is the vector below, used by nobody else during the call; `alias` lives for it.
        let (found, alias) = unsafe { (&mut *arg.cast::<Vec<BdevName>>(), text::from_c(alias)) };
        found.extend(BdevName::parse(&alias));
    }
    let c_name = text::to_c(name.as_str());
    let mut found: Vec<BdevName> = Vec::new();
    // SAFETY: on the control thread; `add` is called only during the call and fits the argument.
    unsafe { sys::cs_bdev_aliases(c_name.as_ptr(), Some(add), (&raw mut found).cast()) };
    found
}

/// Opens a file or block device by Linux' asynchronous I/O. Its size must be a multiple of `block_size` (512 or 4096).
/// SPDK 20.07 gives it a random UUID at each start, later releases `uuid`.
pub fn create_aio(
    on: OnControl,
    name: &BdevName,
    path: &Path,
    block_size: u32,
    uuid: Uuid,
) -> Result<BdevInfo, SpdkError> {
    let c_name = text::to_c(name.as_str());
    let c_path = CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| SpdkError::refused(format!("disk {name}"), format!("its path {path:?} has a NUL in it")))?;
    // SAFETY: on the control thread; strings and UUID outlive the call.
    let rc = unsafe { sys::cs_aio_create(c_name.as_ptr(), c_path.as_ptr(), block_size, uuid.as_bytes().as_ptr()) };
    created(on, name, rc)
}

/// Makes a disk of memory.
pub fn create_malloc(on: OnControl, name: &BdevName, geometry: Geometry, uuid: Uuid) -> Result<BdevInfo, SpdkError> {
    let c_name = text::to_c(name.as_str());
    // SAFETY: on the control thread; name and UUID outlive the call.
    let rc = unsafe {
        sys::cs_malloc_create(c_name.as_ptr(), uuid.as_bytes().as_ptr(), geometry.block_count, geometry.block_size)
    };
    created(on, name, rc)
}

/// Makes a disk that forgets what is written and leaves memory as it is when read.
pub fn create_null(on: OnControl, name: &BdevName, geometry: Geometry, uuid: Uuid) -> Result<BdevInfo, SpdkError> {
    let c_name = text::to_c(name.as_str());
    // SAFETY: on the control thread; name and UUID outlive the call.
    let rc = unsafe {
        sys::cs_null_create(c_name.as_ptr(), uuid.as_bytes().as_ptr(), geometry.block_count, geometry.block_size)
    };
    created(on, name, rc)
}

/// Puts a bdev over `base` that can be told to fail; its name is `EE_<base>`.
pub fn create_error(on: OnControl, base: &BdevName) -> Result<BdevInfo, SpdkError> {
    let c_base = text::to_c(base.as_str());
    // SAFETY: on the control thread; the name outlives the call.
    let rc = unsafe { sys::cs_error_create(c_base.as_ptr()) };
    Errno::check(rc).map_err(|errno| failed("error bdev", base, errno))?;
    let over = text::parse("error bdev", format!("bdev {base}"), &format!("EE_{base}"), BdevName::parse)?;
    info(on, &over)
}

/// How an I/O on an error bdev ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// With an error.
    Fail,
    /// Not at all, until the bdev is reset.
    Hang,
}

/// Makes the next `count` I/Os of `kind` on an error bdev (`None`: of any kind) end as `fault` says; 0 takes the fault
/// away. Resets and writes of zeroes cannot be made to fail.
pub fn inject(
    _on: OnControl,
    name: &BdevName,
    kind: Option<IoKind>,
    fault: Fault,
    count: u32,
) -> Result<(), SpdkError> {
    let c_name = text::to_c(name.as_str());
    let raw_kind = kind.map_or(sys::CS_IO_OTHER, IoKind::raw);
    let raw_fault = match fault {
        Fault::Fail => sys::CS_ERROR_FAIL,
        Fault::Hang => sys::CS_ERROR_HANG,
    };
    // SAFETY: on the control thread; the name outlives the call.
    let rc = unsafe { sys::cs_error_inject(c_name.as_ptr(), raw_kind, raw_fault, count) };
    Errno::check(rc).map_err(|errno| failed("fault injection", name, errno))
}

/// Puts `name` over `base`; each I/O takes at least that many microseconds.
pub fn create_delay(
    on: OnControl,
    base: &BdevName,
    name: &BdevName,
    read_us: u64,
    write_us: u64,
) -> Result<BdevInfo, SpdkError> {
    let (c_base, c_name) = (text::to_c(base.as_str()), text::to_c(name.as_str()));
    // SAFETY: on the control thread; the names outlive the call.
    let rc = unsafe { sys::cs_delay_create(c_base.as_ptr(), c_name.as_ptr(), read_us, write_us) };
    created(on, name, rc)
}

/// Changes the delays of a delay bdev.
pub fn set_delay(_on: OnControl, name: &BdevName, read_us: u64, write_us: u64) -> Result<(), SpdkError> {
    let c_name = text::to_c(name.as_str());
    // SAFETY: on the control thread; the name outlives the call.
    let rc = unsafe { sys::cs_delay_set(c_name.as_ptr(), read_us, write_us) };
    Errno::check(rc).map_err(|errno| failed("change of the delay", name, errno))
}

/// Deletes a bdev of this module's kinds. Refused while it is open or claimed; an lvol store on it is to be unloaded
/// first. The data of a file or block device stays.
pub async fn delete(on: OnControl, name: &BdevName) -> Result<(), SpdkError> {
    settled(on).await?;
    let c_name = text::to_c(name.as_str());
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the name is read during the call only.
        unsafe { sys::cs_base_delete(c_name.as_ptr(), cb, arg) }
    })
    .await
    .map_err(|errno| failed("deletion", name, errno))
}

/// Waits until only its users have a new bdev open. Newer releases open it themselves for a moment, and what must not be
/// open would be refused then.
pub(super) async fn settled(_on: OnControl) -> Result<(), SpdkError> {
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the callback and its slot fit each other.
        unsafe { sys::cs_bdev_settle(cb, arg) }
    })
    .await
    .map_err(|errno| SpdkError::failed("examination", "bdevs", errno))
}

fn created(on: OnControl, name: &BdevName, rc: i32) -> Result<BdevInfo, SpdkError> {
    Errno::check(rc).map_err(|errno| SpdkError::failed("creation", format!("bdev {name}"), errno))?;
    info(on, name)
}

fn failed(what: &'static str, name: &BdevName, errno: Errno) -> SpdkError {
    match errno {
        Errno::ENODEV => SpdkError::NoSuchBdev(name.clone()),
        Errno::EBUSY => SpdkError::refused(format!("bdev {name}"), "it is open or claimed; stop its users first"),
        errno => SpdkError::failed(what, format!("bdev {name}"), errno),
    }
}
