//! The last round of a rebuild, which no snapshot may overtake: one that has waited for too long is refused.

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::alike::{Points, in_sync};
use crate::cluster::{create_replica, refused};
use crate::{SECOND, SIZE, add, lab_with, snapshot};

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_waits_too_long_for_the_last_round_is_refused_and_costs_the_rebuild_nothing() {
    let (cluster, mut client) = lab_with(|node| node.set("timeouts.rebuild_step", "300ms")).await;
    let second = create_replica(&cluster.nodes[1], SECOND, SIZE).await;
    let faults = cluster.nodes[0].faults();
    faults.once(Point::RebuildCopied, Action::Block);
    add(&cluster, &second).await.expect("the rebuild starts");
    for round in 1..8 {
        faults.blocked(Point::RebuildCopied).await;
        client.work().await;
        snapshot(&cluster, &format!("r{round}")).await;
        faults.once(Point::RebuildGoesOn, Action::Block);
        faults.lift(Point::RebuildCopied);
        faults.blocked(Point::RebuildGoesOn).await;
        faults.once(Point::RebuildCopied, Action::Block);
        faults.lift(Point::RebuildGoesOn);
    }
    faults.blocked(Point::RebuildCopied).await;
    let request = wire::SnapshotRequest { name: "vol-e-0".into(), snapshot_name: "late".into(), ..Default::default() };
    let engine = || cluster.nodes[0].spdk();
    for words in ["replica vol-r-00000001 is being rebuilt and is at its last step", "300ms; repeat it"] {
        refused(engine().engine_snapshot_create(request.clone()).await, Code::FailedPrecondition, words);
    }
    assert!(!cluster.get("vol").await.snapshots.contains_key("late"), "a refused snapshot is there");
    client.work().await;
    faults.lift(Point::RebuildCopied);
    in_sync(&cluster, &mut client).await;
    snapshot(&cluster, "late").await;
    client.work().await;
    // Nothing of a point is asked for but that it is the same on both: tests of rounds look at the bytes of each.
    Points::default().are_on_both(&cluster, &client, 11, &second).await;
}
