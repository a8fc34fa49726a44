//! Lvols: volumes of an lvol store and their snapshots.
//!
//! A snapshot takes over the lvol's clusters and becomes its parent; it is read-only. The lvol goes on as a clone that
//! owns only what is written from then on. The lvol keeps its xattrs, the snapshot starts with none but those given
//! to [`snapshot`]. Deleting a snapshot gives its clusters to its one child.
//!
//! What can surprise, in SPDK 20.07 and partly later:
//! - Unmap on a clone does not hide what its parent holds there, and on a disk without unmap (aio) it does nothing. To
//!   make a range read as zeroes, write zeroes.
//! - An lvol has no flush, and its reset fails; flush the disk below.
//! - An export claims its lvol: nobody can open it for writing any more, but who has it open keeps it.

use std::ffi::c_void;

use spdk_sys as sys;
use uuid::Uuid;

use super::base;
use super::clustermap::ClusterMap;
use super::completion;
use super::control::OnControl;
use super::errno::{Errno, SpdkError};
use super::lvstore::ClearMethod;
use super::text;
use super::xattr::{XATTR_VALUE_LIMIT, XattrChange, XattrName, XattrValue};
use crate::name::{BdevName, LvolAlias, LvolName, LvsName};

/// What an lvol is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LvolInfo {
    /// Store and name.
    pub alias: LvolAlias,
    /// Its identity; it survives a rename.
    pub uuid: Uuid,
    /// Its bdev's own name (the UUID); the alias names the same bdev.
    pub bdev: BdevName,
    /// Size in bytes, a multiple of the cluster size.
    pub size: u64,
    /// Size in clusters.
    pub clusters: u64,
    /// Clusters of its own, without its parents'.
    pub allocated_clusters: u64,
    /// The snapshot it was made from or that was made of it.
    pub parent: Option<LvolName>,
    /// What was made from it, or goes on from it.
    pub children: Vec<LvolName>,
    /// Clusters are taken when they are first written.
    pub thin: bool,
    /// It is a snapshot: neither data nor size can change.
    pub is_snapshot: bool,
    /// Somebody has its bdev open: an export, a mirror, a copy.
    pub open: bool,
}

/// When an lvol takes its clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provision {
    /// When they are first written.
    Thin,
    /// At once.
    Thick,
}

/// Makes an lvol of `size` bytes, rounded up to clusters. `clear` is what happens to its clusters, and those of its
/// snapshots and clones, when they are given back.
pub async fn create(
    on: OnControl,
    alias: &LvolAlias,
    size: u64,
    provision: Provision,
    clear: ClearMethod,
) -> Result<LvolInfo, SpdkError> {
    if size == 0 {
        return Err(SpdkError::refused(object(alias), "a volume of no bytes cannot be made"));
    }
    let (lvs, lvol) = c_names(alias);
    let thin = provision == Provision::Thin;
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the names are read during the call only.
        unsafe { sys::cs_lvol_create(lvs.as_ptr(), lvol.as_ptr(), size, thin, clear.raw(), cb, arg) }
    })
    .await
    .map_err(|errno| match errno {
        Errno::ENODEV => SpdkError::no_such("lvstore", &alias.lvs),
        errno => SpdkError::failed("creation", object(alias), errno),
    })?;
    info(on, alias)
}

/// Takes a snapshot. It is there with its xattrs, or not at all, unless the process ends in between: then it may be
/// there without them, and whoever finds it must take it for incomplete.
pub async fn snapshot(
    on: OnControl,
    alias: &LvolAlias,
    name: &LvolName,
    xattrs: &[(XattrName, XattrValue)],
) -> Result<LvolInfo, SpdkError> {
    let (lvs, lvol) = c_names(alias);
    let c_name = text::to_c(name.as_str());
    let made = LvolAlias { lvs: alias.lvs.clone(), lvol: name.clone() };
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the names are read during the call only.
        unsafe { sys::cs_lvol_snapshot(lvs.as_ptr(), lvol.as_ptr(), c_name.as_ptr(), cb, arg) }
    })
    .await
    .map_err(|errno| relation_failed("snapshot", alias, &made, errno))?;
    let changes: Vec<_> = xattrs.iter().map(|(name, value)| XattrChange::set(name.clone(), value.clone())).collect();
    if let Err(error) = apply_xattrs(on, &made, &changes).await {
        if let Err(undo) = delete(on, &made).await {
            tracing::error!(lvol = %made.bdev(), %undo, "a snapshot without its xattrs could not be taken back");
        }
        return Err(error);
    }
    info(on, &made)
}

/// Makes a writable lvol of a snapshot's content, in the same store. It takes over the snapshot's clear method.
pub async fn clone(on: OnControl, snapshot: &LvolAlias, name: &LvolName) -> Result<LvolInfo, SpdkError> {
    let (lvs, lvol) = c_names(snapshot);
    let c_name = text::to_c(name.as_str());
    let made = LvolAlias { lvs: snapshot.lvs.clone(), lvol: name.clone() };
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the names are read during the call only.
        unsafe { sys::cs_lvol_clone(lvs.as_ptr(), lvol.as_ptr(), c_name.as_ptr(), cb, arg) }
    })
    .await
    .map_err(|errno| match errno {
        Errno::EINVAL => SpdkError::refused(object(snapshot), "it is not a snapshot, so it cannot be cloned"),
        errno => relation_failed("clone", snapshot, &made, errno),
    })?;
    info(on, &made)
}

/// Gives the lvol another name in its store.
pub async fn rename(on: OnControl, alias: &LvolAlias, name: &LvolName) -> Result<LvolInfo, SpdkError> {
    let (lvs, lvol) = c_names(alias);
    let c_name = text::to_c(name.as_str());
    let renamed = LvolAlias { lvs: alias.lvs.clone(), lvol: name.clone() };
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the names are read during the call only.
        unsafe { sys::cs_lvol_rename(lvs.as_ptr(), lvol.as_ptr(), c_name.as_ptr(), cb, arg) }
    })
    .await
    .map_err(|errno| relation_failed("rename", alias, &renamed, errno))?;
    info(on, &renamed)
}

/// Makes the lvol `size` bytes large, rounded up to clusters, under I/O; who has it open gets an event. It never
/// shrinks. Its snapshots keep their size; what lies beyond a parent's end reads as zeroes.
pub async fn grow(on: OnControl, alias: &LvolAlias, size: u64) -> Result<LvolInfo, SpdkError> {
    let (lvs, lvol) = c_names(alias);
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the names are read during the call only.
        unsafe { sys::cs_lvol_grow(lvs.as_ptr(), lvol.as_ptr(), size, cb, arg) }
    })
    .await
    .map_err(|errno| match errno {
        Errno::EINVAL => SpdkError::refused(object(alias), format!("it is larger than {size} bytes and cannot shrink")),
        Errno::EPERM => SpdkError::refused(object(alias), "a snapshot cannot grow"),
        errno => failed("growth", alias, errno),
    })?;
    info(on, alias)
}

/// Deletes an lvol. A snapshot's clusters go to its one child; one with more children is refused, and so is an
/// lvol that is open.
pub async fn delete(on: OnControl, alias: &LvolAlias) -> Result<(), SpdkError> {
    base::settled(on).await?;
    let (lvs, lvol) = c_names(alias);
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the names are read during the call only.
        unsafe { sys::cs_lvol_delete(lvs.as_ptr(), lvol.as_ptr(), cb, arg) }
    })
    .await
    .map_err(|errno| match errno {
        Errno::ENOTEMPTY => {
            SpdkError::refused(object(alias), "it has more than one child; delete all but one of them first")
        }
        errno => failed("deletion", alias, errno),
    })
}

/// As [`delete`], but only of an lvol that nothing is based on: what is based on one is named in the refusal. Nothing
/// that is made of it at the same time comes in between.
pub async fn delete_leaf(on: OnControl, alias: &LvolAlias) -> Result<(), SpdkError> {
    base::settled(on).await?;
    let children = info(on, alias)?.children;
    if !children.is_empty() {
        let names: Vec<_> = children.iter().map(LvolName::as_str).collect();
        return Err(SpdkError::refused(object(alias), format!("{} are based on it", names.join(", "))));
    }
    delete(on, alias).await
}

/// Copies all that the lvol's parents hold into it. It has no parent then, and all its clusters are its own.
pub async fn inflate(on: OnControl, alias: &LvolAlias) -> Result<LvolInfo, SpdkError> {
    let (lvs, lvol) = c_names(alias);
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the names are read during the call only.
        unsafe { sys::cs_lvol_inflate(lvs.as_ptr(), lvol.as_ptr(), cb, arg) }
    })
    .await
    .map_err(|errno| copy_failed("inflation", alias, errno))?;
    info(on, alias)
}

/// Copies what the lvol's parent itself holds into it; the grandparent, if any, is its parent then.
pub async fn decouple(on: OnControl, alias: &LvolAlias) -> Result<LvolInfo, SpdkError> {
    let (lvs, lvol) = c_names(alias);
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; the names are read during the call only.
        unsafe { sys::cs_lvol_decouple(lvs.as_ptr(), lvol.as_ptr(), cb, arg) }
    })
    .await
    .map_err(|errno| copy_failed("decoupling", alias, errno))?;
    info(on, alias)
}

/// Describes an lvol. Counts its clusters, which takes about a millisecond a tebibyte.
pub fn info(on: OnControl, alias: &LvolAlias) -> Result<LvolInfo, SpdkError> {
    find(on, alias)?.ok_or_else(|| SpdkError::no_such("lvol", alias.bdev()))
}

/// Describes an lvol, if there is one of this name.
pub fn find(_on: OnControl, alias: &LvolAlias) -> Result<Option<LvolInfo>, SpdkError> {
    let (lvs, lvol) = c_names(alias);
    let mut found = Found::of(&alias.lvs);
    // SAFETY: on the control thread; the callback fits the argument and is called only during the call.
    let rc = unsafe { sys::cs_lvol_info(lvs.as_ptr(), lvol.as_ptr(), Some(add), (&raw mut found).cast()) };
    if Errno::check(rc).is_err() {
        return Ok(None);
    }
    let Some(mut info) = found.lvols.pop().transpose()? else { return Ok(None) };
    let mut children = Children { of: object(alias), names: Vec::new() };
    // SAFETY: as above.
    let rc = unsafe { sys::cs_lvol_children(lvs.as_ptr(), lvol.as_ptr(), Some(add_child), (&raw mut children).cast()) };
    Errno::check(rc).map_err(|errno| failed("list of children", alias, errno))?;
    info.children = children.names.into_iter().collect::<Result<_, _>>()?;
    Ok(Some(info))
}

/// Describes all lvols of a store, snapshots included.
pub fn list(_on: OnControl, lvs: &LvsName) -> Result<Vec<LvolInfo>, SpdkError> {
    let c_lvs = text::to_c(lvs.as_str());
    let mut found = Found::of(lvs);
    // SAFETY: on the control thread; the callback fits the argument and is called only during the call.
    let rc = unsafe { sys::cs_lvol_list(c_lvs.as_ptr(), Some(add), (&raw mut found).cast()) };
    Errno::check(rc).map_err(|_| SpdkError::no_such("lvstore", lvs))?;
    let mut lvols = found.lvols.into_iter().collect::<Result<Vec<_>, _>>()?;
    let relations: Vec<_> =
        lvols.iter().filter_map(|lvol| Some((lvol.parent.clone()?, lvol.alias.lvol.clone()))).collect();
    let places: std::collections::HashMap<_, _> =
        lvols.iter().enumerate().map(|(place, lvol)| (lvol.alias.lvol.clone(), place)).collect();
    for (parent, child) in relations {
        if let Some(place) = places.get(&parent) {
            lvols[*place].children.push(child);
        }
    }
    Ok(lvols)
}

/// The clusters of the lvol itself, without its parents'.
pub fn cluster_map(on: OnControl, alias: &LvolAlias) -> Result<ClusterMap, SpdkError> {
    let (lvs, lvol) = c_names(alias);
    let mut map = ClusterMap::empty(info(on, alias)?.clusters);
    let bytes = map.bytes_mut();
    // SAFETY: on the control thread, where the lvol's size cannot change in between; `bytes` is as long as is said.
    let rc = unsafe { sys::cs_lvol_cluster_map(lvs.as_ptr(), lvol.as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
    Errno::check(rc).map_err(|errno| failed("cluster map", alias, errno))?;
    Ok(map)
}

/// The value of an xattr, if the lvol has it.
pub fn xattr(_on: OnControl, alias: &LvolAlias, name: &XattrName) -> Result<Option<XattrValue>, SpdkError> {
    let (lvs, lvol) = c_names(alias);
    let c_name = text::to_c(name.as_str());
    let mut buffer = [0u8; XATTR_VALUE_LIMIT];
    let mut length = 0usize;
    // SAFETY: on the control thread; the buffer is as long as is said, `length` is written on success.
    let rc = unsafe {
        sys::cs_lvol_xattr_get(
            lvs.as_ptr(),
            lvol.as_ptr(),
            c_name.as_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            &mut length,
        )
    };
    match Errno::check(rc) {
        Ok(()) => XattrValue::new(&buffer[..length])
            .map(Some)
            .map_err(|error| SpdkError::answer("xattr", object(alias), format!("the value of {name} {error}"))),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(failed("xattr", alias, errno)),
    }
}

/// The names of the lvol's xattrs, without the lvol module's own.
pub fn xattr_names(_on: OnControl, alias: &LvolAlias) -> Result<Vec<XattrName>, SpdkError> {
    unsafe extern "C" fn add_name(arg: *mut c_void, name: *const std::ffi::c_char) {
        // SAFETY: `arg` is the vector below, used by nobody else during the call; `name` lives for this callback.
        let (found, name) = unsafe { (&mut *arg.cast::<Vec<XattrName>>(), text::from_c(name)) };
        found.extend(XattrName::parse(&name));
    }
    let (lvs, lvol) = c_names(alias);
    let mut found: Vec<XattrName> = Vec::new();
    // SAFETY: on the control thread; the callback fits the argument and is called only during the call.
    let rc = unsafe { sys::cs_lvol_xattr_names(lvs.as_ptr(), lvol.as_ptr(), Some(add_name), (&raw mut found).cast()) };
    Errno::check(rc).map_err(|errno| failed("list of xattrs", alias, errno))?;
    Ok(found)
}

/// Sets and removes xattrs, all in one write of the lvol's metadata, which is on disk when this returns. Works on
/// snapshots. After an error the store holds either the old values or the new.
pub async fn apply_xattrs(_on: OnControl, alias: &LvolAlias, changes: &[XattrChange]) -> Result<(), SpdkError> {
    if changes.is_empty() {
        return Ok(());
    }
    let (lvs, lvol) = c_names(alias);
    let names: Vec<_> = changes.iter().map(|change| text::to_c(change.name.as_str())).collect();
    let items: Vec<_> = changes
        .iter()
        .zip(&names)
        .map(|(change, name)| {
            let bytes = change.value.as_ref().map(XattrValue::as_bytes);
            sys::cs_xattr {
                name: name.as_ptr(),
                value: bytes.map_or(std::ptr::null(), |bytes| bytes.as_ptr().cast()),
                // At most XATTR_VALUE_LIMIT.
                length: bytes.map_or(0, <[u8]>::len) as u16,
            }
        })
        .collect();
    completion::done(|cb, arg| {
        // SAFETY: on the control thread; names and values are copied during the call.
        unsafe { sys::cs_lvol_xattr_apply(lvs.as_ptr(), lvol.as_ptr(), items.as_ptr(), items.len(), cb, arg) }
    })
    .await
    .map_err(|errno| failed("change of xattrs", alias, errno))
}

struct Found {
    lvs: LvsName,
    lvols: Vec<Result<LvolInfo, SpdkError>>,
}

impl Found {
    fn of(lvs: &LvsName) -> Self {
        Self { lvs: lvs.clone(), lvols: Vec::new() }
    }
}

unsafe extern "C" fn add(arg: *mut c_void, raw: *const sys::cs_lvol_info) {
    // SAFETY: `arg` is the `Found` of `find` or `list`, used by nobody else during the call; `raw` and its strings
    // live for this callback.
    unsafe {
        let (found, raw) = (&mut *arg.cast::<Found>(), &*raw);
        let parent = (!raw.parent.is_null()).then(|| text::from_c(raw.parent));
        let described = describe(&found.lvs, raw, &text::from_c(raw.name), &text::from_c(raw.bdev), parent.as_deref());
        found.lvols.push(described);
    }
}

fn describe(
    lvs: &LvsName,
    raw: &sys::cs_lvol_info,
    name: &str,
    bdev: &str,
    parent: Option<&str>,
) -> Result<LvolInfo, SpdkError> {
    let of = || format!("lvol {lvs}/{name}");
    Ok(LvolInfo {
        alias: LvolAlias { lvs: lvs.clone(), lvol: text::parse("description", of(), name, LvolName::parse)? },
        uuid: Uuid::from_bytes(raw.uuid),
        bdev: text::parse("description", of(), bdev, BdevName::parse)?,
        size: raw.size,
        clusters: raw.clusters,
        allocated_clusters: raw.allocated_clusters,
        parent: parent.map(|parent| text::parse("parent", of(), parent, LvolName::parse)).transpose()?,
        children: Vec::new(),
        thin: raw.thin,
        is_snapshot: raw.read_only,
        open: raw.open,
    })
}

struct Children {
    of: String,
    names: Vec<Result<LvolName, SpdkError>>,
}

unsafe extern "C" fn add_child(arg: *mut c_void, name: *const std::ffi::c_char) {
    // SAFETY: `arg` is the `Children` of `find`, used by nobody else during the call; `name` lives for this callback.
    let (children, name) = unsafe { (&mut *arg.cast::<Children>(), text::from_c(name)) };
    children.names.push(text::parse("child", &children.of, &name, LvolName::parse));
}

fn c_names(alias: &LvolAlias) -> (std::ffi::CString, std::ffi::CString) {
    (text::to_c(alias.lvs.as_str()), text::to_c(alias.lvol.as_str()))
}

fn object(alias: &LvolAlias) -> String {
    format!("lvol {}", alias.bdev())
}

fn failed(what: &'static str, alias: &LvolAlias, errno: Errno) -> SpdkError {
    match errno {
        Errno::ENODEV => SpdkError::no_such("lvol", alias.bdev()),
        Errno::EBUSY => SpdkError::refused(
            object(alias),
            format!("{what} is not possible while it is open or being changed; try again when that is over"),
        ),
        errno => SpdkError::failed(what, object(alias), errno),
    }
}

/// For operations that make `made` of `alias`.
fn relation_failed(what: &'static str, alias: &LvolAlias, made: &LvolAlias, errno: Errno) -> SpdkError {
    match errno {
        Errno::EEXIST => SpdkError::failed(what, object(made), errno),
        Errno::EPERM => SpdkError::refused(object(alias), format!("a {what} of a snapshot cannot be made")),
        errno => failed(what, alias, errno),
    }
}

fn copy_failed(what: &'static str, alias: &LvolAlias, errno: Errno) -> SpdkError {
    match errno {
        Errno::EPERM => SpdkError::refused(object(alias), "a snapshot's data cannot change"),
        Errno::EINVAL => SpdkError::refused(object(alias), "it has no parent to take data from"),
        errno => failed(what, alias, errno),
    }
}
