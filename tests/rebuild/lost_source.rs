//! A rebuild whose source fails while snapshots are taken: the rebuild goes on from another replica, with all of them.

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;

use crate::alike::{Points, hashed};
use crate::cluster::{Cluster, create_replica};
use crate::support::client::Client;
use crate::support::wait::wait_until;
use crate::{FIRST, LIMIT, SECOND, SIZE, add, lab, tree, works_until};

const THIRD: &str = "vol-r-00000002";

/// Takes in a replica of the other node, as the first node's own is preferred as a source.
async fn third_taken_in(cluster: &Cluster, client: &mut Client) {
    let request = wire::EngineReplicaAddRequest {
        engine_name: "vol-e-0".into(),
        replica_name: THIRD.into(),
        replica_address: create_replica(&cluster.nodes[1], THIRD, SIZE).await,
        ..Default::default()
    };
    cluster.nodes[0].spdk().engine_replica_add(request).await.expect("the rebuild starts");
    wait_until(LIMIT, "two replicas are in sync", async || {
        client.work().await;
        let modes = cluster.get("vol").await.replica_mode_map;
        if modes[THIRD] == wire::ReplicaMode::Rw as i32 { Ok(()) } else { Err(format!("{modes:?}")) }
    })
    .await;
}

/// The rebuild is held at a point; there the source fails between two snapshots.
async fn source_fails_at(point: Point) {
    let (cluster, mut client) = lab().await;
    third_taken_in(&cluster, &mut client).await;
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    let faults = cluster.nodes[0].faults();
    let mut points = Points::default();
    faults.once(point, Action::Block);
    add(&cluster, &second).await.expect("the rebuild starts");
    faults.blocked(point).await;
    client.work().await;
    points.take(&cluster, &client, "three").await;
    faults.once(Point::ReplicaWrite, Action::Fail);
    client.work().await;
    let modes = cluster.get("vol").await.replica_mode_map;
    assert_eq!(modes[FIRST], wire::ReplicaMode::Err as i32, "the source is out: {modes:?}");
    client.work().await;
    points.take(&cluster, &client, "four").await;
    client.work().await;
    faults.lift(point);
    works_until(&cluster, &mut client, wire::ReplicaMode::Rw).await;
    points.take(&cluster, &client, "five").await;
    client.work().await;

    // The two that are in sync are the same.
    let (second_has, third_has) = (tree(&cluster, 1, SECOND).await, tree(&cluster, 1, THIRD).await);
    assert_eq!(second_has, third_has);
    let names: Vec<_> = second_has.keys().filter(|name| !name.starts_with("rebuild-")).collect();
    assert_eq!(names, ["five", "four", "one", "three", "two"]);
    for name in second_has.keys() {
        let sums = (hashed(&cluster, 1, SECOND, name).await, hashed(&cluster, 1, THIRD, name).await);
        assert_eq!(sums.0, sums.1, "snapshot {name} differs");
    }
    points.are_held_alone(&cluster, &client, &second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_lost_between_snapshots_while_older_ones_are_copied_costs_none_of_them() {
    source_fails_at(Point::RebuildCopies).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_lost_between_snapshots_while_the_head_is_filled_costs_none_of_them() {
    source_fails_at(Point::RebuildFilled).await;
}
