//! Replicas on an image, on one node.

use corriente::wire::spdkrpc as wire;
use tonic::Code;

use super::cluster::refused;
use super::scene::*;
use crate::support::node::{Node, NodeOptions};

const REPLICA: &str = "vol-r-00000000";

async fn snapshot(node: &Node, name: &str) {
    node.spdk().replica_snapshot_create(snapshot_request(name)).await.expect("the snapshot is taken");
}

fn snapshot_request(name: &str) -> wire::SnapshotRequest {
    wire::SnapshotRequest { name: REPLICA.into(), snapshot_name: name.into(), user_created: true, ..Default::default() }
}

/// The replica reads as it must.
async fn holds(address: &str, expected: &[u8]) {
    let device = connect_replica(REPLICA, address).await;
    assert!(read_all(&device).await == expected, "the replica reads otherwise");
    device.disconnect().await.expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_shows_its_image_until_it_is_written_and_again_after_a_revert() {
    let mut node = Node::start(NodeOptions::named("a")).await;
    let (_disk, lvs) = add_disk(&node, "disk").await;
    let image = image();
    ready_image(&node, &lvs, &image).await;
    let size = SIZE + 4 * MIB;
    let address = create_replica(&node, REPLICA, size).await;
    let mut expected = image.clone();
    expected.resize(size as usize, 0);
    holds(&address, &expected).await;
    let fresh = get_replica(&node, REPLICA).await;
    assert_eq!((fresh.actual_size, fresh.head.expect("a head").parent.as_str()), (0, ""));

    snapshot(&node, "empty").await;
    let device = connect_replica(REPLICA, &address).await;
    for (offset, length) in [(MIB - 4096, 8192_u64), (3 * MIB, 4096), (SIZE + MIB, 4096)] {
        device.write(offset, &vec![0xa5; length as usize]).await.expect("it can be written");
        expected[offset as usize..][..length as usize].fill(0xa5);
    }
    // What is trimmed or zeroed reads as zeroes, not as the image again.
    device.write_zeroes(7 * MIB, 65536).await.expect("it can be zeroed");
    device.deallocate(0, 256 << 10).await.expect("it can be trimmed");
    expected[7 * MIB as usize..][..65536].fill(0);
    expected[..256 << 10].fill(0);
    assert!(read_all(&device).await == expected, "the replica reads otherwise");
    device.disconnect().await.expect("an orderly end");
    snapshot(&node, "written").await;
    let chain = get_replica(&node, REPLICA).await;
    assert_eq!((chain.snapshots["empty"].parent.as_str(), chain.snapshots["empty"].actual_size), ("", 0));
    assert_eq!((chain.snapshots["written"].parent.as_str(), chain.backing_image_name.as_str()), ("empty", NAME));

    node.kill9();
    node.start_again().await;
    ready_disk(&node, "disk").await;
    let found = get_replica(&node, REPLICA).await;
    assert_eq!((found.state.as_str(), found.backing_image_name.as_str()), ("running", NAME));
    holds(&address, &expected).await;

    // The oldest snapshot merges into its child, which stands on the image then.
    node.spdk().replica_snapshot_delete(snapshot_request("empty")).await.expect("it is deleted");
    holds(&address, &expected).await;
    node.spdk().replica_snapshot_revert(snapshot_request("written")).await.expect("it is reverted");
    holds(&address, &expected).await;
    let expand = wire::ReplicaExpandRequest { name: REPLICA.into(), size: size + 4 * MIB };
    node.spdk().replica_expand(expand).await.expect("it is expanded");
    expected.resize((size + 4 * MIB) as usize, 0);
    holds(&address, &expected).await;
    let last = get_replica(&node, REPLICA).await;
    assert_eq!((last.backing_image_name.as_str(), last.snapshots.len()), (NAME, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_replicas_stand_on_is_kept_and_goes_with_the_last() {
    let node = Node::start(NodeOptions::named("a")).await;
    let (_disk, lvs) = add_disk(&node, "disk").await;
    let image = image();
    refused(node.spdk().replica_create(replica_order(REPLICA, SIZE)).await, Code::NotFound, NAME);
    ready_image(&node, &lvs, &image).await;
    refused(node.spdk().replica_create(replica_order(REPLICA, SIZE - MIB)).await, Code::InvalidArgument, "spec_size");
    let replicas = node.spdk().replica_list(()).await.expect("a list").into_inner().replicas;
    assert!(replicas.is_empty(), "a refused creation leaves nothing: {replicas:?}");

    let address = create_replica(&node, REPLICA, SIZE).await;
    create_replica(&node, "other-r-00000000", SIZE).await;
    let before = get(&node, &lvs).await.expect("it is there");
    for _ in 0..2 {
        let status = delete(&node, &lvs).await.expect_err("it is refused");
        assert_eq!(status.code(), Code::FailedPrecondition);
        for replica in [REPLICA, "other-r-00000000"] {
            assert!(status.message().contains(&format!("replica {replica}")), "{status}");
        }
        assert_eq!(get(&node, &lvs).await.expect("it is kept"), before);
    }
    // Another making would have to delete this one first.
    let mut anew = order(&lvs, &image, "http://127.0.0.1:1/");
    anew.backing_image_uuid = "another".into();
    refused(create(&node, anew).await, Code::FailedPrecondition, REPLICA);
    assert_eq!(get(&node, &lvs).await.expect("it is kept"), before);
    holds(&address, &image).await;

    // A replica stays on what it stands on.
    let stop = |cleanup| wire::ReplicaDeleteRequest { name: REPLICA.into(), cleanup_required: cleanup };
    node.spdk().replica_delete(stop(false)).await.expect("it is stopped");
    let mut other = replica_order(REPLICA, SIZE);
    other.backing_image_name = "cockatoo".into();
    refused(node.spdk().replica_create(other).await, Code::FailedPrecondition, "cockatoo");
    let mut unsaid = replica_order(REPLICA, SIZE);
    unsaid.backing_image_name.clear();
    let started = node.spdk().replica_create(unsaid).await.expect("it is started").into_inner();
    assert_eq!((started.state.as_str(), started.backing_image_name.as_str()), ("running", NAME));

    node.spdk().replica_delete(stop(true)).await.expect("it is deleted");
    refused(delete(&node, &lvs).await, Code::FailedPrecondition, "replica other-r-00000000 stand");
    let last = wire::ReplicaDeleteRequest { name: "other-r-00000000".into(), cleanup_required: true };
    node.spdk().replica_delete(last).await.expect("it is deleted");
    assert_eq!(get(&node, &lvs).await.expect("it is kept").state, "ready");
    delete(&node, &lvs).await.expect("nothing stands on it");
}
