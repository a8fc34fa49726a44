//! Disks without space: what a caller is told of a snapshot, a write, a copy and a restore that do not fit.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use corriente::initiator::{Initiator, Options};
use corriente::name::{Nqn, ReplicaName};
use corriente::wire::corriente::v1 as own;
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{LIMIT, create_replica, refused};
use crate::limits::{MIB, REPLICA, create, fill, get, lab, request};
use crate::support::client::connect;
use crate::support::disk::Disk;
use crate::support::fixtures::Fixtures;
use crate::support::node::{Node, NodeOptions};
use crate::support::wait::wait_until;

/// A second disk of the node, and a replica on it.
async fn replica_on_second_disk(node: &Node, disk_mib: u64, name: &str, mib: u64) -> (Disk, String) {
    let disk = Disk::create(node.directory(), "second.img", disk_mib * MIB);
    let request = wire::DiskCreateRequest {
        disk_name: "second".into(),
        disk_path: disk.path().to_str().expect("UTF-8").into(),
        block_size: 512,
        disk_driver: "aio".into(),
        ..Default::default()
    };
    node.spdk().disk_create(request).await.expect("the disk is taken");
    let request = wire::ReplicaCreateRequest {
        name: name.into(),
        lvs_name: "second".into(),
        spec_size: mib * MIB,
        port_count: 5,
        ..Default::default()
    };
    let created = wait_until(LIMIT, "the second disk is ready", async || {
        node.spdk().replica_create(request.clone()).await.map_err(|status| status.to_string())
    });
    let replica = created.await.into_inner();
    assert_eq!((replica.state.as_str(), replica.error_msg.as_str()), ("running", ""));
    (disk, format!("{}:{}", replica.ip, replica.port_start))
}

/// Writes to a replica, past every engine, until its disk is full.
async fn fill_disk_of(name: &str, address: &str) {
    let address: SocketAddr = address.parse().expect("an address");
    let nqn = Nqn::replica(&ReplicaName::parse(name).expect("a name"));
    let ballast = Initiator::connect(address, &nqn, &Nqn::internal_host(), Options::default()).await.expect("a host");
    assert!(fill(&ballast, 0, 9).await > 0);
    ballast.disconnect().await.expect("an orderly end");
}

fn contains(text: &str, all: &[&str]) {
    for words in all {
        assert!(text.contains(words), "{words:?} is not in {text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_does_not_fit_names_the_disk_and_one_that_is_deleted_makes_room() {
    let (node, _disk, _engine) = lab(16, 8, 0).await;
    let mut taken = 0;
    let status = loop {
        match create(&node, &format!("s{taken}")).await {
            Ok(()) => taken += 1,
            Err(status) => break status,
        }
        assert!(taken < 200, "a disk of 16 MiB has room for every snapshot");
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let told = [
        &*format!("disk disk of replica {REPLICA} has no space left"),
        "delete snapshots or replicas, or use another disk",
    ];
    contains(status.message(), &told);
    let after = get(&node).await;
    assert_eq!((after.state.as_str(), after.snapshots.len()), ("running", taken), "{}", after.error_msg);
    assert!(
        after.replica_mode_map.values().all(|mode| *mode == wire::ReplicaMode::Rw as i32),
        "its only replica is out"
    );
    for name in ["s0", "s1"] {
        node.spdk().engine_snapshot_delete(request(name)).await.expect("a deletion takes no space");
    }
    create(&node, "again").await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_does_not_fit_is_told_with_the_disk_and_the_replica() {
    let (node, _disk, engine) = lab(64, 128, 0).await;
    let volume = connect(&engine).await;
    let fits = fill(&volume, 0, 1).await;
    // The host is told that it is the space, by a write as by zeroes that need a cluster, and what it has stays.
    is_capacity_exceeded(volume.write((fits + 1) * MIB, &vec![1; 4096]).await);
    is_capacity_exceeded(volume.write_zeroes((fits + 1) * MIB, 4096).await);
    volume.write(0, &vec![9; 4096]).await.expect("a write into a cluster that the volume has takes no space");
    let told = [
        &format!("disk disk of replica {REPLICA} at "),
        "has no space left",
        "give the volume a replica on another disk",
    ];
    let line = wait_until(LIMIT, "the log says why", async || {
        let log = node.log();
        match log.lines().find(|line| line.contains("a volume has no space for a write")) {
            Some(line) => Ok(line.to_owned()),
            None => Err("it does not".into()),
        }
    });
    contains(&line.await, &told);
    volume.disconnect().await.expect("an orderly end");

    // One of two replicas has no space: it is out, and listed with the reason; the volume goes on.
    let other = "two-r-00000001";
    let (_second, small) = replica_on_second_disk(&node, 16, other, 32).await;
    let delete = wire::EngineDeleteRequest { name: "vol-e-0".into() };
    node.spdk().engine_delete(delete).await.expect("the engine is deleted");
    let give_up = wire::ReplicaDeleteRequest { name: REPLICA.into(), cleanup_required: true };
    node.spdk().replica_delete(give_up).await.expect("the replica is deleted");
    let first = "two-r-00000000";
    let address = create_replica(&node, first, 32 * MIB).await;
    let request = wire::EngineCreateRequest {
        name: "two-e-0".into(),
        volume_name: "two".into(),
        spec_size: 32 * MIB,
        replica_address_map: BTreeMap::from([(first.to_owned(), address), (other.to_owned(), small)]),
        frontend: "spdk-tcp-nvmf".into(),
        ..Default::default()
    };
    let engine = node.spdk().engine_create(request).await.expect("the engine is created").into_inner();
    let volume = connect(&engine).await;
    for piece in 0..32 {
        volume.write(piece * MIB, &vec![2; MIB as usize]).await.expect("one replica has space");
    }
    let mirror = own::MirrorGetRequest { engine_name: "two-e-0".into() };
    wait_until(LIMIT, "the list says why", async || {
        let members = node.corriente().mirror_get(mirror.clone()).await.expect("a mirror").into_inner().members;
        let out = members.into_iter().find(|member| member.replica_name == other).expect("it is listed");
        let words = [&*format!("it failed a write: disk second of replica {other} at "), "has no space left"];
        match words.iter().all(|words| out.last_error.contains(words)) && out.mode == wire::ReplicaMode::Err as i32 {
            true => Ok(()),
            false => Err(format!("{out:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_does_not_fit_names_the_disk_it_goes_to() {
    let (node, _disk, engine) = lab(64, 32, 0).await;
    let volume = connect(&engine).await;
    for piece in 0..24 {
        volume.write(piece * MIB, &vec![3; MIB as usize]).await.expect("a write");
    }
    create(&node, "one").await.expect("a snapshot");
    let clone = "clone-r-00000000";
    let (_second, address) = replica_on_second_disk(&node, 16, clone, 32).await;
    let source = node.spdk().replica_get(wire::ReplicaGetRequest { name: REPLICA.into() }).await.expect("it is there");
    let source = format!("{}:{}", source.get_ref().ip, source.get_ref().port_start);
    let order = wire::ReplicaSnapshotCloneDstStartRequest {
        name: clone.into(),
        snapshot_name: "one".into(),
        src_replica_name: REPLICA.into(),
        src_replica_address: source,
        clone_mode: wire::CloneMode::FullCopy.into(),
    };
    node.spdk().replica_snapshot_clone_dst_start(order).await.expect("the copy begins");
    let ended = wait_until(LIMIT, "the copy has failed", async || {
        let request = wire::ReplicaSnapshotCloneDstStatusCheckRequest { name: clone.into() };
        let status = node.spdk().replica_snapshot_clone_dst_status_check(request).await.expect("a status").into_inner();
        if status.is_cloning { Err(format!("{status:?}")) } else { Ok(status) }
    })
    .await;
    assert_eq!(ended.state, "error");
    let copy = format!("the copy of snapshot one of replica {REPLICA} does not fit");
    contains(&ended.error, &["disk second has no space left", &copy, "use another disk"]);
    drop(address);

    // A rebuild is such a copy too.
    let delete = wire::ReplicaDeleteRequest { name: clone.into(), cleanup_required: true };
    node.spdk().replica_delete(delete).await.expect("the failed clone is deleted");
    let new = "vol-r-00000001";
    let request = wire::ReplicaCreateRequest {
        name: new.into(),
        lvs_name: "second".into(),
        spec_size: 32 * MIB,
        port_count: 5,
        ..Default::default()
    };
    let created = node.spdk().replica_create(request).await.expect("it is created").into_inner();
    let add = wire::EngineReplicaAddRequest {
        engine_name: "vol-e-0".into(),
        replica_name: new.into(),
        replica_address: format!("{}:{}", created.ip, created.port_start),
        ..Default::default()
    };
    node.spdk().engine_replica_add(add).await.expect("the rebuild starts");
    let failed = wait_until(LIMIT, "the rebuild has failed", async || {
        let modes = get(&node).await.replica_mode_map;
        if modes[new] != wire::ReplicaMode::Err as i32 {
            return Err(format!("{modes:?}"));
        }
        let request = wire::ReplicaRebuildingDstShallowCopyCheckRequest { name: new.into() };
        let check = node.spdk().replica_rebuilding_dst_shallow_copy_check(request).await.expect("its progress");
        Ok(check.into_inner().error)
    })
    .await;
    contains(&failed, &["disk second has no space left", "does not fit"]);
    volume.disconnect().await.expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_does_not_fit_names_the_disk_and_the_replica_in_its_status() {
    let fixtures = Fixtures::load();
    let source = fixtures.volume("vol-none");
    let (node, _disk, _engine) = lab(64, 128, 0).await;
    let store = fixtures.copy_store(node.directory());
    let name = "dr-r-00000000";
    let address = create_replica(&node, name, source.restore_size).await;
    let ballast = node.spdk().replica_get(wire::ReplicaGetRequest { name: REPLICA.into() }).await.expect("it is there");
    let delete = wire::EngineDeleteRequest { name: "vol-e-0".into() };
    node.spdk().engine_delete(delete).await.expect("the engine is deleted");
    fill_disk_of(REPLICA, &format!("{}:{}", ballast.get_ref().ip, ballast.get_ref().port_start)).await;
    let request = wire::EngineCreateRequest {
        name: "dr-e-0".into(),
        volume_name: "dr".into(),
        spec_size: source.restore_size,
        replica_address_map: [(name.to_owned(), address)].into(),
        ..Default::default()
    };
    let engine = node.spdk().engine_create(request).await.expect("the engine is created").into_inner();
    assert_eq!((engine.state.as_str(), engine.error_msg.as_str()), ("running", ""));
    let restore = wire::EngineBackupRestoreRequest {
        backup_url: format!("vfs://{}?backup={}&volume={}", store.display(), source.backups[0].name, source.name),
        engine_name: "dr-e-0".into(),
        ..Default::default()
    };
    node.spdk().engine_backup_restore(restore.clone()).await.expect("the restore starts");
    let ended = async || {
        wait_until(LIMIT, "the restore has ended", async || {
            let request = wire::RestoreStatusRequest { engine_name: "dr-e-0".into() };
            let status = node.spdk().engine_restore_status(request).await.expect("a status").into_inner().status;
            let status = status.into_values().next().expect("one replica");
            if status.is_restoring { Err(format!("{status:?}")) } else { Ok(status) }
        })
        .await
    };
    let failed = ended().await;
    assert_eq!((failed.state.as_str(), failed.last_restored.as_str()), ("error", ""));
    let told =
        [&*format!("disk disk of replica {name} at "), "has no space left", "delete snapshots or replicas there"];
    contains(&failed.error, &told);

    // As it says.
    let give_up = wire::ReplicaDeleteRequest { name: REPLICA.into(), cleanup_required: true };
    node.spdk().replica_delete(give_up).await.expect("the other replica is deleted");
    node.spdk().engine_backup_restore(restore.clone()).await.expect("the restore starts again");
    let restored = ended().await;
    assert_eq!((restored.state.as_str(), restored.error.as_str()), ("complete", ""));
    refused(node.spdk().engine_backup_restore(restore).await, Code::FailedPrecondition, "already restored");
}

/// What a host is told of an I/O that found no space.
fn is_capacity_exceeded(result: Result<(), corriente::initiator::InitiatorError>) {
    let error = result.expect_err("there is no space for it");
    assert_eq!(error.status().map(|status| (status.kind, status.code)), Some((0, 0x81)), "{error}");
}

async fn read(volume: &Initiator, offset: u64, length: u64) -> Vec<u8> {
    let mut data = vec![0; length as usize];
    volume.read(offset, &mut data).await.expect("a full disk can be read");
    data
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linked_clone_on_a_full_disk_keeps_what_it_has_says_so_and_goes_on_when_there_is_space() {
    const SIZE: u64 = 32 * MIB;
    let (node, _disk, source) = lab(64, SIZE / MIB, 0).await;
    let of_source = connect(&source).await;
    of_source.write(0, &vec![1; (16 * MIB) as usize]).await.expect("a write");
    create(&node, "one").await.expect("a snapshot");
    // Something to be given up later.
    let ballast = create_replica(&node, "ballast-r-00000000", 2 * SIZE).await;

    let name = "clone-r-00000000";
    let address = create_replica(&node, name, SIZE).await;
    let engine = wire::EngineCreateRequest {
        name: "clone-e-0".into(),
        volume_name: "clone".into(),
        spec_size: SIZE,
        replica_address_map: [(name.to_owned(), address)].into(),
        frontend: "spdk-tcp-nvmf".into(),
        ..Default::default()
    };
    node.spdk().engine_create(engine).await.expect("the engine is created");
    let clone = wire::EngineSnapshotCloneRequest {
        name: "clone-e-0".into(),
        snapshot_name: "one".into(),
        src_engine_name: "vol-e-0".into(),
        src_engine_address: node.grpc_address().to_string(),
        clone_mode: wire::CloneMode::LinkedClone.into(),
        dst_replica_src_replica_pair_map: [(name.to_owned(), REPLICA.to_owned())].into(),
    };
    node.spdk().engine_snapshot_clone(clone).await.expect("the clone is made");
    fill_disk_of("ballast-r-00000000", &ballast).await;

    let get = wire::EngineGetRequest { name: "clone-e-0".into() };
    let engine = node.spdk().engine_get(get.clone()).await.expect("the clone").into_inner();
    let of_clone = connect(&engine).await;
    // A part of a cluster that the source holds, zeroes over one, a trim of one, and a cluster that nobody has.
    is_capacity_exceeded(of_clone.write(2 * MIB + 8192, &vec![2; 4096]).await);
    is_capacity_exceeded(of_clone.write_zeroes(3 * MIB, MIB).await);
    is_capacity_exceeded(of_clone.deallocate(4 * MIB, MIB).await);
    is_capacity_exceeded(of_clone.write(20 * MIB, &vec![2; 4096]).await);
    is_capacity_exceeded(of_source.write(0, &vec![2; 4096]).await);
    for volume in [&of_clone, &of_source] {
        assert!(read(volume, 0, 16 * MIB).await.iter().all(|byte| *byte == 1), "a refused write has changed something");
        assert!(read(volume, 16 * MIB, 16 * MIB).await.iter().all(|byte| *byte == 0));
    }
    let snapshot = wire::SnapshotRequest { name: "clone-e-0".into(), snapshot_name: "c1".into(), ..Default::default() };
    if let Err(status) = node.spdk().engine_snapshot_create(snapshot).await {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        contains(status.message(), &[&format!("disk disk of replica {name} has no space left")]);
    }
    let engine = node.spdk().engine_get(get).await.expect("the clone").into_inner();
    assert_eq!((engine.state.as_str(), engine.error_msg.as_str()), ("running", ""));
    assert!(engine.replica_mode_map.values().all(|mode| *mode == wire::ReplicaMode::Rw as i32), "its replica is out");

    let give_up = wire::ReplicaDeleteRequest { name: "ballast-r-00000000".into(), cleanup_required: true };
    node.spdk().replica_delete(give_up).await.expect("the ballast is deleted");
    of_clone.write(2 * MIB + 8192, &vec![2; 4096]).await.expect("there is space again");
    of_clone.deallocate(4 * MIB, MIB).await.expect("there is space again");
    let mut expected = vec![1; (16 * MIB) as usize];
    expected[(2 * MIB + 8192) as usize..][..4096].fill(2);
    expected[(4 * MIB) as usize..][..MIB as usize].fill(0);
    assert!(read(&of_clone, 0, 16 * MIB).await == expected);
    assert!(read(&of_source, 0, 16 * MIB).await.iter().all(|byte| *byte == 1), "the source changed with its clone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_another_node_whose_disk_is_full_is_told_to_the_host_as_such() {
    let (node, _disk, engine) = lab(32, 64, 0).await;
    let delete = wire::EngineDeleteRequest { name: "vol-e-0".into() };
    node.spdk().engine_delete(delete).await.expect("the engine is deleted");
    let other = Node::start(NodeOptions::named("b")).await;
    let request = wire::EngineCreateRequest {
        name: "vol-e-1".into(),
        volume_name: "vol".into(),
        spec_size: 64 * MIB,
        replica_address_map: engine.replica_address_map,
        frontend: "spdk-tcp-nvmf".into(),
        ..Default::default()
    };
    let engine = other.spdk().engine_create(request).await.expect("the engine is created").into_inner();
    assert_eq!((engine.state.as_str(), engine.error_msg.as_str()), ("running", ""));
    let volume = connect(&engine).await;
    let fits = fill(&volume, 0, 1).await;
    is_capacity_exceeded(volume.write((fits + 1) * MIB, &vec![1; MIB as usize]).await);
    volume.write(0, &vec![2; MIB as usize]).await.expect("what has its space can be written");
    volume.disconnect().await.expect("an orderly end");
}
