//! Nodes with disks, an image, and the calls that the tests make, as a Longhorn manager would.

use std::net::SocketAddr;
use std::time::Duration;

use corriente::initiator::{Initiator, Options};
use corriente::name::{LvolName, Nqn, ReplicaName};
use corriente::wire::spdkrpc as wire;
use sha2::{Digest, Sha512};
use tonic::Status;

use crate::support::disk::Disk;
use crate::support::node::Node;
use crate::support::random::Random;
use crate::support::wait::wait_until;

pub const MIB: u64 = 1 << 20;
pub const LIMIT: Duration = Duration::from_secs(60);
pub const DISK_BYTES: u64 = 256 * MIB;
/// Bytes of the image.
pub const SIZE: u64 = 8 * MIB;
pub const NAME: &str = "parrot";
pub const ID: &str = "a1b2c3d4";

/// Data, a hole, a cluster that is zero but for its end, and data again.
pub fn image() -> Vec<u8> {
    let mut image = vec![0; SIZE as usize];
    let mut random = Random::from_clock();
    for (offset, length) in [(0, 2 * MIB), (5 * MIB - 4096, 4096), (7 * MIB, MIB)] {
        let data = random.bytes(length as usize);
        image[offset as usize..][..length as usize].copy_from_slice(&data);
    }
    image
}

/// Clusters of one MiB with data in them.
pub const IMAGE_CLUSTERS: u64 = 4;

pub fn sha512(data: &[u8]) -> String {
    Sha512::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a file of the node a disk; its lvstore's UUID.
pub async fn add_disk(node: &Node, name: &str) -> (Disk, String) {
    let disk = Disk::create(node.directory(), &format!("{name}.img"), DISK_BYTES);
    let request = wire::DiskCreateRequest {
        disk_name: name.into(),
        disk_path: disk.path().to_str().expect("UTF-8").into(),
        block_size: 512,
        disk_driver: "aio".into(),
        ..Default::default()
    };
    node.spdk().disk_create(request).await.expect("the disk is taken");
    let uuid = ready_disk(node, name).await.uuid;
    (disk, uuid)
}

/// The disk, once it is ready.
pub async fn ready_disk(node: &Node, name: &str) -> wire::Disk {
    wait_until(LIMIT, "the disk is ready", async || {
        let request = wire::DiskGetRequest { disk_name: name.into(), ..Default::default() };
        match node.spdk().disk_get(request).await {
            Ok(disk) if disk.get_ref().state == "ready" => Ok(disk.into_inner()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// A request for the image from somewhere.
pub fn order(lvs: &str, image: &[u8], from: &str) -> wire::BackingImageCreateRequest {
    wire::BackingImageCreateRequest {
        name: NAME.into(),
        backing_image_uuid: ID.into(),
        lvs_uuid: lvs.into(),
        size: image.len() as u64,
        checksum: sha512(image),
        from_address: from.into(),
        src_lvs_uuid: String::new(),
    }
}

pub async fn create(node: &Node, order: wire::BackingImageCreateRequest) -> Result<wire::BackingImage, Status> {
    node.spdk().backing_image_create(order).await.map(tonic::Response::into_inner)
}

pub fn which(lvs: &str) -> wire::BackingImageGetRequest {
    wire::BackingImageGetRequest { name: NAME.into(), lvs_uuid: lvs.into() }
}

pub async fn get(node: &Node, lvs: &str) -> Result<wire::BackingImage, Status> {
    node.spdk().backing_image_get(which(lvs)).await.map(tonic::Response::into_inner)
}

pub async fn delete(node: &Node, lvs: &str) -> Result<(), Status> {
    let request = wire::BackingImageDeleteRequest { name: NAME.into(), lvs_uuid: lvs.into() };
    node.spdk().backing_image_delete(request).await.map(drop)
}

/// Waits until the making has ended; progress must not fall meanwhile.
pub async fn ended(node: &Node, lvs: &str) -> wire::BackingImage {
    let mut progress = 0;
    wait_until(LIMIT, "the making of the image ends", async || {
        let image = get(node, lvs).await.map_err(|status| status.to_string())?;
        assert!((progress..=100).contains(&image.progress), "{} after {progress}", image.progress);
        progress = image.progress;
        match image.state.as_str() {
            "ready" | "failed" => Ok(image),
            state => Err(state.to_owned()),
        }
    })
    .await
}

/// The image, made from a file of the node.
pub async fn ready_image(node: &Node, lvs: &str, image: &[u8]) -> wire::BackingImage {
    let path = node.directory().join("image.raw");
    std::fs::write(&path, image).expect("a file");
    create(node, order(lvs, image, &format!("file://{}", path.display()))).await.expect("the image is begun");
    let made = ended(node, lvs).await;
    assert_eq!((made.state.as_str(), made.error_msg.as_str()), ("ready", ""));
    made
}

/// Connects to an exposed image as any host.
pub async fn connect_image(address: &str, lvs: &str) -> Initiator {
    let lvol = LvolName::parse(&format!("bi-{NAME}-disk-{lvs}")).expect("an lvol's name");
    connect(address, &Nqn::lvol(&lvol), &Nqn::parse("nqn.2026-01.test:host").expect("an NQN")).await
}

/// Connects to a replica as a node does.
pub async fn connect_replica(name: &str, address: &str) -> Initiator {
    connect(address, &Nqn::replica(&ReplicaName::parse(name).expect("a name")), &Nqn::internal_host()).await
}

async fn connect(address: &str, nqn: &Nqn, host: &Nqn) -> Initiator {
    let address: SocketAddr = address.parse().expect("an address");
    Initiator::connect(address, nqn, host, Options::default()).await.expect("the target answers")
}

/// All bytes of a device.
pub async fn read_all(device: &Initiator) -> Vec<u8> {
    let mut found = vec![0; device.namespace().size_bytes() as usize];
    device.read(0, &mut found).await.expect("it can be read");
    found
}

/// A replica on the image.
pub fn replica_order(name: &str, size: u64) -> wire::ReplicaCreateRequest {
    wire::ReplicaCreateRequest {
        name: name.into(),
        lvs_name: "disk".into(),
        spec_size: size,
        port_count: 5,
        backing_image_name: NAME.into(),
        ..Default::default()
    }
}

/// Creates it; its address.
pub async fn create_replica(node: &Node, name: &str, size: u64) -> String {
    let replica =
        node.spdk().replica_create(replica_order(name, size)).await.expect("the replica is created").into_inner();
    assert_eq!((replica.state.as_str(), replica.error_msg.as_str()), ("running", ""));
    assert_eq!(replica.backing_image_name, NAME);
    format!("{}:{}", replica.ip, replica.port_start)
}

pub async fn get_replica(node: &Node, name: &str) -> wire::Replica {
    let request = wire::ReplicaGetRequest { name: name.into() };
    node.spdk().replica_get(request).await.expect("the replica exists").into_inner()
}
