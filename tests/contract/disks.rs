//! Disks: what a deletion tells, who is asked for its health, and a device that has another name after a restart.

use std::path::{Path, PathBuf};
use std::process::Command;

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;
use tonic::{Code, Status};

use crate::cluster::{Cluster, MIB, refused};
use crate::support::node::{Node, NodeOptions};
use crate::volume::{connect_replica, create_replica, disk, get_replica, ready_disk, take_disk};

async fn create(node: &Node, name: &str, path: &str, driver: &str) -> Result<wire::Disk, Status> {
    let request = wire::DiskCreateRequest {
        disk_name: name.into(),
        disk_path: path.into(),
        disk_driver: driver.into(),
        block_size: 512,
        ..Default::default()
    };
    node.spdk().disk_create(request).await.map(tonic::Response::into_inner)
}

async fn delete(node: &Node) -> Result<(), Status> {
    let request = wire::DiskDeleteRequest { disk_name: "disk".into(), ..Default::default() };
    node.spdk().disk_delete(request).await.map(drop)
}

/// Longhorn ignores a failed detach, and the device is lost until the node is started again.
#[tokio::test(flavor = "multi_thread")]
async fn o12_a_device_that_cannot_be_let_go_of_is_an_error_of_the_deletion_and_the_next_one_ends_it() {
    let cluster = Cluster::start_with(1, NodeOptions::faulty).await;
    let node = &cluster.nodes[0];
    let before = disk(node).await;
    node.faults().once(Point::DiskLetGo, Action::Fail);
    refused(delete(node).await, Code::Internal, "disk-let-go");
    assert!(node.faults().is_spent(Point::DiskLetGo));
    assert_eq!(disk(node).await.state, "error", "it is neither gone nor usable");
    refused(create_on(node).await, Code::FailedPrecondition, "not ready");
    delete(node).await.expect("the second time it goes");
    delete(node).await.expect("an unknown disk is fine");
    let again = take_disk(node, &before.path).await;
    assert_eq!((again.uuid, again.total_size), (before.uuid, before.total_size), "what was on it stayed");
}

async fn create_on(node: &Node) -> Result<wire::Replica, Status> {
    crate::volume::try_create_replica(node, "vol-r-00000001").await
}

/// SPDK 20.07 counts the last cluster of its metadata as free after a crash, and would give it to an lvol.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_the_space_of_a_disk_as_it_was_also_after_an_orderly_stop_later() {
    let mut cluster = Cluster::start(1).await;
    let node = &mut cluster.nodes[0];
    create_replica(node, "vol-r-00000001").await;
    let before = disk(node).await.free_size;
    node.kill9();
    node.start_again().await;
    assert_eq!(ready_disk(node).await.free_size, before, "after a crash");
    node.restart().await;
    assert_eq!(ready_disk(node).await.free_size, before, "after an orderly stop");
    crate::volume::delete_replica(node, "vol-r-00000001", true).await;
    let emptied = disk(node).await;
    assert_eq!(emptied.free_size, emptied.total_size, "all but the metadata is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_that_do_not_fit_are_refused_and_only_nvme_tells_its_health() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let health = async |name: &str| {
        let request = wire::DiskHealthGetRequest { disk_name: name.into(), ..Default::default() };
        node.spdk().disk_health_get(request).await
    };
    refused(health("disk").await, Code::Unimplemented, "smartctl");
    refused(health("none").await, Code::NotFound, "none");
    refused(health("").await, Code::InvalidArgument, "disk_name");

    let file = node.directory().join("other.img");
    std::fs::File::create(&file).expect("a file").set_len(64 * MIB).expect("a size");
    let file = file.to_str().expect("UTF-8");
    refused(create(node, "other", file, "uring").await, Code::InvalidArgument, "disk_driver");
    refused(create(node, "other", "/no/such/disk", "aio").await, Code::InvalidArgument, "disk_path");
    // What only the bring-up finds leaves a disk in state error, which is deleted before another attempt.
    for (path, driver) in [
        (file, "nvme"),
        (file, "virtio-blk"),
        ("ffff:ff:1f.7", "auto"),
        ("ffff:ff:1f.7", "nvme"),
        ("ffff:ff:1f.7", "virtio-pci"),
        ("ffff:ff:1f.7", "aio"),
    ] {
        let created = create(node, "other", path, driver).await.expect("it is begun");
        assert_eq!((created.state.as_str(), created.driver.as_str()), ("creating", driver));
        crate::support::wait::wait_until(crate::cluster::LIMIT, "the bring-up fails", async || {
            let request = wire::DiskGetRequest { disk_name: "other".into(), ..Default::default() };
            match node.spdk().disk_get(request).await.expect("the disk").into_inner().state.as_str() {
                "error" => Ok(()),
                state => Err(format!("{driver} on {path}: {state}")),
            }
        })
        .await;
        let request = wire::DiskDeleteRequest { disk_name: "other".into(), ..Default::default() };
        node.spdk().disk_delete(request).await.expect("it is deleted");
    }
    assert_eq!(disk(node).await.state, "ready");
}

/// A loop device on a file, given back when it is dropped.
struct Loop(PathBuf);

impl Loop {
    /// The first that is free, or `None` where the kernel has none for us.
    fn attach(file: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        let device = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| Self(device.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // It may be busy still while a test fails; the node's end frees it.
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_device_with_another_name_after_a_restart_is_found_by_its_lvstore() {
    let mut node = Node::start(NodeOptions::named("moved")).await;
    let file = |name: &str| {
        let path = node.directory().join(name);
        std::fs::File::create(&path).expect("a file").set_len(128 * MIB).expect("a size");
        path
    };
    let (ours, other) = (file("ours.img"), file("other.img"));
    let Some(first) = Loop::attach(&ours) else {
        println!("skipped: losetup has no loop device for us");
        return;
    };
    let old = first.0.clone();
    let made = take_disk(&node, old.to_str().expect("UTF-8")).await;
    let replica = create_replica(&node, "vol-r-00000001").await;
    let host = connect_replica(&replica).await;
    host.write(0, &vec![0x6E; MIB as usize]).await.expect("written");
    host.flush().await.expect("flushed");
    host.disconnect().await.expect("an orderly end");
    node.stop().await;

    // The kernel meets the two in another order: what was ours is another disk's name now.
    drop(first);
    let second = Loop::attach(&other).expect("a loop device");
    let third = Loop::attach(&ours).expect("a loop device");
    assert_eq!(second.0, old, "the name is another device's");
    assert_ne!(third.0, old);
    node.start_again().await;
    let found = ready_disk(&node).await;
    assert_eq!((&found.uuid, &found.path), (&made.uuid, &made.path), "the same disk, as its owner calls it");
    assert_ne!(found.id, made.id, "on another device");
    assert!(node.log().contains("found by its lvstore under another path"));
    let replica = get_replica(&node, "vol-r-00000001").await.expect("its replica is there");
    assert_eq!(replica.state, "running", "{}", replica.error_msg);
    let host = connect_replica(&replica).await;
    let mut data = vec![0; MIB as usize];
    host.read(0, &mut data).await.expect("read");
    assert!(data.iter().all(|byte| *byte == 0x6E));
    host.disconnect().await.expect("an orderly end");

    // With its device gone altogether the disk is in error, and no other device is taken for it.
    node.stop().await;
    drop(third);
    node.start_again().await;
    assert_eq!(disk(&node).await.state, "error");
    let start = std::fs::read(&other).expect("the other file");
    assert!(start[..MIB as usize].iter().all(|byte| *byte == 0), "the other device is as it was");
    node.stop().await;
    drop(second);
}
