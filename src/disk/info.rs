//! A disk as it is shown.

use uuid::Uuid;

use super::handle::Disk;
use super::request::DiskRequest;
use crate::name::DiskName;
use crate::{Error, Result};

/// Where a disk is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskState {
    /// It is being opened, and its lvstore found or made.
    Creating,
    /// It can be used.
    Ready,
    /// It could not be created; it stays so until it is deleted.
    Error,
}

impl DiskState {
    /// The wire's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Error => "error",
        }
    }
}

/// A disk as it is shown. Without [`Self::store`] the disk is not ready.
#[derive(Debug, Clone)]
pub struct DiskInfo {
    /// Its name.
    pub name: DiskName,
    /// Its path as given.
    pub path: String,
    /// Its driver: the one in use, or the one asked for when the disk is not ready.
    pub driver: &'static str,
    /// Where it is in its life.
    pub state: DiskState,
    /// Why it is in state error.
    pub error: Option<Error>,
    /// What a ready disk has.
    pub store: Option<StoreInfo>,
}

/// Identity and capacity of a ready disk.
#[derive(Debug, Clone)]
pub struct StoreInfo {
    /// `<major>-<minor>` of a block device, with `-<inode>` of a file, or the PCI address.
    pub id: String,
    /// The lvstore's identity.
    pub uuid: Uuid,
    /// Bytes in a logical block.
    pub block_size: u32,
    /// Bytes in a cluster.
    pub cluster_size: u32,
    /// Bytes for data in all.
    pub total_size: u64,
    /// Bytes for data that no volume has taken.
    pub free_size: u64,
}

impl DiskInfo {
    pub(super) fn creating(request: &DiskRequest) -> Self {
        Self {
            name: request.name.clone(),
            path: request.path.to_string(),
            driver: request.driver.as_str(),
            state: DiskState::Creating,
            error: None,
            store: None,
        }
    }

    pub(super) fn failed(request: &DiskRequest, error: &Error) -> Self {
        Self { state: DiskState::Error, error: Some(error.clone()), ..Self::creating(request) }
    }

    pub(super) async fn ready(disk: &Disk) -> Result<Self> {
        let lvs = disk.capacity().await?;
        let inner = disk.inner();
        let cluster_size = u64::from(lvs.cluster_size);
        let store = StoreInfo {
            id: inner.id.clone(),
            uuid: lvs.uuid,
            block_size: lvs.block_size,
            cluster_size: lvs.cluster_size,
            total_size: lvs.total_clusters * cluster_size,
            free_size: lvs.free_clusters * cluster_size,
        };
        Ok(Self {
            state: DiskState::Ready,
            driver: inner.driver.as_str(),
            store: Some(store),
            ..Self::creating(&inner.request)
        })
    }
}
