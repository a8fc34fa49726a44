//! Disk calls: every field parsed before anything is done, the domain called, its answer put on the wire.

use super::convert;
use crate::disk::{BlockSize, DiskDriver, DiskPath, DiskRequest, Disks};
use crate::name::DiskName;
use crate::wire::field::uuid;
use crate::wire::spdkrpc as wire;
use crate::{Error, Result};

/// DiskCreate.
pub async fn create(disks: &Disks, request: wire::DiskCreateRequest) -> Result<wire::Disk> {
    let request = DiskRequest {
        name: name(&request.disk_name)?,
        uuid: uuid("disk_uuid", &request.disk_uuid)?,
        path: DiskPath::parse(&request.disk_path)?,
        driver: DiskDriver::parse(&request.disk_driver)?,
        block_size: BlockSize::parse(request.block_size)?,
    };
    Ok(convert::disk(&disks.create(request).await?))
}

/// DiskDelete. Path and driver are the caller's memory of the disk; its name tells which.
pub async fn delete(disks: &Disks, request: wire::DiskDeleteRequest) -> Result<()> {
    let (name, uuid) = (name(&request.disk_name)?, uuid("disk_uuid", &request.disk_uuid)?);
    disks.delete(&name, uuid).await
}

/// DiskGet.
pub async fn get(disks: &Disks, request: wire::DiskGetRequest) -> Result<wire::Disk> {
    Ok(convert::disk(&disks.get(&name(&request.disk_name)?).await?))
}

/// DiskHealthGet: offered by NVMe disks alone (`engine-behaviour` §2).
pub async fn health_get(disks: &Disks, request: wire::DiskHealthGetRequest) -> Result<wire::DiskHealthGetResponse> {
    let health = disks.ready(&name(&request.disk_name)?)?.health().await?;
    Ok(convert::disk_health(health))
}

/// All disks, for DiskList.
pub async fn list(disks: &Disks) -> Result<Vec<wire::Disk>> {
    Ok(disks.list().await?.iter().map(convert::disk).collect())
}

fn name(text: &str) -> Result<DiskName> {
    DiskName::parse(text).map_err(|error| Error::name("disk_name", error))
}
