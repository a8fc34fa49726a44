//! Calls that cannot be: each is refused by field or by state, and changes nothing.

use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{Cluster, refused};
use crate::director::{Director, LIMIT};
use crate::source::{NEWEST, Replica, Source};
use crate::support::wait::wait_until;

/// Hashes a snapshot and returns its checksum.
pub async fn hashed(cluster: &Cluster, replica: &Replica, snapshot: &str) -> String {
    let (name, snapshot_name) = (replica.name.clone(), snapshot.to_owned());
    let request = wire::SnapshotHashRequest { name: name.clone(), snapshot_name: snapshot_name.clone(), rehash: false };
    replica.node(cluster).spdk().replica_snapshot_hash(request).await.expect("hashing begins");
    wait_until(LIMIT, "the snapshot is hashed", async || {
        let request = wire::SnapshotHashStatusRequest { name: name.clone(), snapshot_name: snapshot_name.clone() };
        let status = replica.node(cluster).spdk().replica_snapshot_hash_status(request).await;
        let status = status.expect("a status").into_inner();
        if status.state == "complete" { Ok(status.checksum) } else { Err(format!("{status:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_names_and_wrong_states_are_refused_and_change_nothing() {
    let cluster = Cluster::start().await;
    let source = Source::create(&cluster, 0).await;
    let copy = Replica::create(&cluster, 1, "vol-r-00000001").await;
    let unknown = Replica { name: "vol-r-99999999".into(), ..copy.clone() };
    let director = Director::of(&cluster, &source.replica, &copy, NEWEST);
    let before = (source.replica.get(&cluster).await, copy.get(&cluster).await);

    // No such replica, no such snapshot.
    let stranger = Director::of(&cluster, &source.replica, &unknown, NEWEST);
    refused(stranger.start(stranger.order("10.0.0.1:1").await).await, Code::NotFound, "vol-r-99999999");
    refused(stranger.copy_start("s1").await, Code::NotFound, "vol-r-99999999");
    refused(stranger.check().await, Code::NotFound, "vol-r-99999999");
    refused(stranger.finish().await, Code::NotFound, "vol-r-99999999");
    refused(stranger.set_limit(1).await, Code::NotFound, "vol-r-99999999");
    let no_source = Director::of(&cluster, &unknown, &copy, NEWEST);
    refused(no_source.source_start().await, Code::NotFound, "vol-r-99999999");
    refused(Director::of(&cluster, &source.replica, &copy, "none").source_start().await, Code::NotFound, "none");
    refused(
        Director::of(&cluster, &source.replica, &source.replica, NEWEST).source_start().await,
        Code::InvalidArgument,
        "dst_replica_name",
    );

    // Nothing has begun.
    refused(director.copy_start("s1").await, Code::FailedPrecondition, "no rebuild");
    refused(director.check().await, Code::FailedPrecondition, "no rebuild");
    refused(director.finish().await, Code::FailedPrecondition, "no rebuild");
    let lvol = wire::Lvol { name: "s1".into(), ..Default::default() };
    refused(director.make(&lvol).await, Code::FailedPrecondition, "no rebuild");
    let request = wire::ReplicaRebuildingSrcShallowCopyStartRequest {
        name: source.replica.name.clone(),
        snapshot_name: "s1".into(),
        dst_rebuilding_lvol_address: copy.address.clone(),
    };
    let mut spdk = source.replica.node(&cluster).spdk();
    refused(spdk.replica_rebuilding_src_shallow_copy_start(request.clone()).await, Code::FailedPrecondition, "source");
    let check = wire::ReplicaRebuildingSrcShallowCopyCheckRequest {
        name: source.replica.name.clone(),
        dst_replica_name: copy.name.clone(),
        snapshot_name: "s1".into(),
    };
    refused(spdk.replica_rebuilding_src_shallow_copy_check(check).await, Code::FailedPrecondition, "no copy");
    let bad = wire::ReplicaRebuildingSrcShallowCopyStartRequest {
        dst_rebuilding_lvol_address: ":0".into(),
        ..request.clone()
    };
    refused(
        spdk.replica_rebuilding_src_shallow_copy_start(bad).await,
        Code::InvalidArgument,
        "dst_rebuilding_lvol_address",
    );

    // Orders that cannot be carried out.
    let order = director.order("10.0.0.1:1").await;
    let changed = |change: fn(&mut wire::ReplicaRebuildingDstStartRequest)| {
        let mut order = order.clone();
        change(&mut order);
        order
    };
    for (order, field) in [
        (changed(|order| order.name = " ".into()), "name"),
        (changed(|order| order.src_replica_name = "a/b".into()), "src_replica_name"),
        (changed(|order| order.src_replica_name = order.name.clone()), "src_replica_name"),
        (changed(|order| order.src_replica_address.clear()), "src_replica_address"),
        (changed(|order| order.external_snapshot_name = "none".into()), "external_snapshot_name"),
        (changed(|order| order.external_snapshot_address = "0.0.0.0:1".into()), "external_snapshot_address"),
        (changed(|order| order.rebuilding_snapshot_list.reverse()), "rebuilding_snapshot_list"),
        (changed(|order| order.rebuilding_snapshot_list[0].spec_size *= 2), "rebuilding_snapshot_list"),
        (changed(|order| order.rebuilding_snapshot_list[0].name.clear()), "rebuilding_snapshot_list"),
    ] {
        refused(director.start(order).await, Code::InvalidArgument, field);
    }
    assert_eq!(copy.get(&cluster).await, before.1, "the replica to be rebuilt is as it was");

    // One after the other, in the tree's order.
    let order = director.begin().await;
    refused(director.copy_start("none").await, Code::NotFound, "none");
    refused(director.copy_start(NEWEST).await, Code::FailedPrecondition, "s3 is to be made before");
    refused(director.make(&order[0]).await, Code::FailedPrecondition, "not begun");
    director.copy_start(&order[0].name).await.expect("the copy begins");
    refused(director.copy_start(&order[1].name).await, Code::FailedPrecondition, "is to be made before");
    director.copied(&order[0].name).await;
    director.make(&order[0]).await.expect("the snapshot is made");

    // One destination at a time.
    director.set_limit(1).await.expect("a limit");
    director.copy_start(&order[1].name).await.expect("the copy begins");
    wait_until(LIMIT, "the copy runs", async || {
        let now = director.check().await.expect("its progress");
        if now.state == "in_progress" { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    let other = Replica::create(&cluster, 1, "vol-r-00000002").await;
    let second = Director::of(&cluster, &source.replica, &other, NEWEST);
    refused(second.source_start().await, Code::FailedPrecondition, "one at a time");
    refused(second.source_finish().await, Code::FailedPrecondition, "vol-r-00000001");
    refused(
        Director::of(&cluster, &copy, &other, "s1").source_start().await,
        Code::FailedPrecondition,
        "a rebuild of it is in progress",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn o5_a_list_of_no_clusters_copies_nothing_and_a_copy_that_lacks_some_is_no_snapshot() {
    let cluster = Cluster::start().await;
    let source = Source::create(&cluster, 0).await;
    let copy = Replica::create(&cluster, 1, "vol-r-00000001").await;
    let director = Director::of(&cluster, &source.replica, &copy, NEWEST);
    let order = director.begin().await;
    director.set_limit(1).await.expect("a limit");
    director.copy_start(&order[0].name).await.expect("the copy begins");
    let head: std::net::SocketAddr = copy.address.parse().expect("an address");
    let range = |clusters: Vec<u64>| wire::ReplicaRebuildingSrcRangeShallowCopyStartRequest {
        name: source.replica.name.clone(),
        snapshot_name: order[0].name.clone(),
        dst_rebuilding_lvol_address: format!("{}:{}", head.ip(), head.port() + 1),
        mismatching_cluster_list: clusters,
    };
    let mut spdk = source.replica.node(&cluster).spdk();
    refused(
        spdk.replica_rebuilding_src_range_shallow_copy_start(range(vec![24])).await,
        Code::InvalidArgument,
        "mismatching_cluster_list",
    );
    spdk.replica_rebuilding_src_range_shallow_copy_start(range(vec![])).await.expect("an empty list is fine");
    let done = wait_until(LIMIT, "the empty copy is complete", async || {
        let request = wire::ReplicaRebuildingSrcShallowCopyCheckRequest {
            name: source.replica.name.clone(),
            dst_replica_name: copy.name.clone(),
            snapshot_name: order[0].name.clone(),
        };
        let now = source.replica.node(&cluster).spdk().replica_rebuilding_src_shallow_copy_check(request).await;
        let now = now.expect("its progress").into_inner();
        if now.state == "complete" { Ok(now) } else { Err(format!("{now:?}")) }
    })
    .await;
    assert_eq!((done.copied_clusters, done.total_clusters, done.handled_clusters), (0, 0, 0));
    director.copied(&order[0].name).await;
    refused(director.make(&order[0]).await, Code::DataLoss, "bytes in clusters");
    let shown = copy.get(&cluster).await;
    assert_eq!((shown.state.as_str(), shown.rebuilding), ("error", true));
}
