//! Snapshots as the engine and every replica show them, on three nodes.

use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{Cluster, NVMF, refused};
use crate::volume::{Imaged, get_replica};

fn snapshot(name: &str) -> wire::SnapshotRequest {
    wire::SnapshotRequest {
        name: "vol-e-0".into(),
        snapshot_name: name.into(),
        user_created: true,
        ..Default::default()
    }
}

/// Name, parent and children of each snapshot, the same on the engine and on all replicas; and the head's parent.
async fn chain(cluster: &Cluster) -> Vec<(String, String, Vec<String>)> {
    let describe = |snapshots: &std::collections::BTreeMap<String, wire::Lvol>, head: Option<&wire::Lvol>| {
        let facts = |lvol: &wire::Lvol| {
            (lvol.name.clone(), lvol.parent.clone(), lvol.children.keys().cloned().collect::<Vec<_>>())
        };
        snapshots.values().chain(head).map(facts).collect::<Vec<_>>()
    };
    let engine = cluster.engine_get(0, "vol-e-0").await.expect("the engine");
    let expected = describe(&engine.snapshots, engine.head.as_ref());
    for (index, node) in cluster.nodes.iter().enumerate() {
        let replica = get_replica(node, &format!("vol-r-0000000{index}")).await.expect("the replica");
        assert_eq!(describe(&replica.snapshots, replica.head.as_ref()), expected, "replica {index}");
        let times = |snapshots: &std::collections::BTreeMap<String, wire::Lvol>| {
            snapshots.values().map(|lvol| lvol.snapshot_timestamp.clone()).collect::<Vec<_>>()
        };
        assert_eq!(times(&replica.snapshots), times(&engine.snapshots), "the same time on all");
    }
    expected
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_snapshot_create_and_delete() {
    let cluster = Cluster::start(3).await;
    let engine = cluster.volume("vol", NVMF).await;
    let mut client = Imaged::new();
    let mut spdk = cluster.nodes[0].spdk();
    for (index, name) in ["s1", "s2", "s3"].into_iter().enumerate() {
        client.write(&engine, &[0, index as u64 + 1]).await;
        let made = spdk.engine_snapshot_create(snapshot(name)).await.expect("a snapshot").into_inner();
        assert_eq!(made.snapshot_name, name);
    }
    client.write(&engine, &[0]).await;
    let link = |name: &str, parent: &str, child: &[&str]| {
        (name.to_owned(), parent.to_owned(), child.iter().map(|child| (*child).to_owned()).collect::<Vec<_>>())
    };
    let all = [
        link("s1", "", &["s2"]),
        link("s2", "s1", &["s3"]),
        link("s3", "s2", &["volume-head"]),
        link("volume-head", "s3", &[]),
    ];
    assert_eq!(chain(&cluster).await, all);
    refused(spdk.engine_snapshot_create(snapshot("s2")).await, Code::AlreadyExists, "s2");
    assert_eq!(chain(&cluster).await, all, "a refusal changes nothing");

    spdk.engine_snapshot_delete(snapshot("s2")).await.expect("from the middle");
    spdk.engine_snapshot_delete(snapshot("s2")).await.expect("missing is fine");
    let rest = [link("s1", "", &["s3"]), link("s3", "s1", &["volume-head"]), link("volume-head", "s3", &[])];
    assert_eq!(chain(&cluster).await, rest);
    client.check(&engine, "after a deletion in the middle").await;
    spdk.engine_snapshot_delete(snapshot("s1")).await.expect("the oldest");
    spdk.engine_snapshot_delete(snapshot("s3")).await.expect("the last");
    assert_eq!(chain(&cluster).await, [link("volume-head", "", &[])]);
    client.check(&engine, "after all deletions").await;
}
