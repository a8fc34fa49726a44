//! The copies that make members equal: who waits for them, and crashes in the middle.

use std::time::Duration;

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::refused;
use crate::lab::{Lab, PIECE, REGION};

/// A copy that fails is tried again, so that the piece stays unequal as long as all fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_is_not_equal_is_waited_for_and_nothing_else_is() {
    let mut lab = Lab::start(|options| options.set("timeouts.pause", "1s")).await;
    let client = lab.connect().await;
    lab.write(&client, 3 * REGION).await;
    drop(client);
    lab.differ_at(9 * REGION).await;
    lab.cluster.nodes[0].faults().always(Point::EqualizeBegins, Action::Fail);
    lab.come_back().await;
    // Both regions were dirty; only one differs.
    assert_eq!(lab.mirror().await.unequal_bytes, 2 * REGION);

    let (reader, writer) = (lab.connect().await, lab.connect().await);
    lab.write(&writer, 20 * REGION).await;
    let waits = tokio::spawn(async move {
        let mut found = vec![0; PIECE];
        reader.read(9 * REGION + (512 << 10), &mut found).await.map(|()| found)
    });
    let mut elsewhere = vec![0; PIECE];
    writer.read(21 * REGION, &mut elsewhere).await.expect("what is equal is served");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!waits.is_finished(), "a piece is read that may differ");
    let request = wire::SnapshotRequest {
        name: "vol-e-0".into(),
        snapshot_name: "early".into(),
        user_created: true,
        ..Default::default()
    };
    let snapshot = lab.cluster.nodes[0].spdk().engine_snapshot_create(request.clone()).await;
    refused(snapshot, Code::FailedPrecondition, "being made equal");

    lab.cluster.nodes[0].faults().lift(Point::EqualizeBegins);
    waits.await.expect("no panic").expect("it is read once it is equal");
    lab.check().await;
    lab.cluster.nodes[0].spdk().engine_snapshot_create(request).await.expect("the snapshot is taken");
    lab.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_while_members_are_made_equal_goes_on_at_its_next_start() {
    let mut lab = Lab::start(|options| options).await;
    for point in [Point::EqualizeBegins, Point::EqualizeDone] {
        println!("{point:?}");
        lab.differ_at(9 * REGION).await;
        let faults = lab.cluster.nodes[0].faults();
        faults.always(Point::EqualizeBegins, Action::Fail);
        lab.come_back().await;
        // Not while it starts: a node that ends then is a failed test.
        let faults = lab.cluster.nodes[0].faults();
        faults.once(point, Action::Kill);
        if point != Point::EqualizeBegins {
            faults.lift(Point::EqualizeBegins);
        }
        lab.cluster.nodes[0].killed().await;
        lab.come_back().await;
        lab.check().await;
    }
}

/// The other node is gone for good before the copy: what is left of it was seen by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_lost_while_members_are_made_equal_takes_nothing_with_it() {
    let mut lab = Lab::start(|options| options.set("timeouts.member_deadline", "2s")).await;
    // Frozen for less than the deadline until both are killed.
    lab.differ_at(9 * REGION).await;
    lab.cluster.nodes[0].faults().always(Point::EqualizeBegins, Action::Fail);
    lab.come_back().await;
    let client = lab.connect().await;
    lab.cluster.nodes[1].kill9();
    let mut found = vec![0; PIECE];
    let read = tokio::spawn(async move { client.read(9 * REGION, &mut found).await });
    // Something must be sent to the member for its end to be noticed.
    let writer = lab.connect().await;
    lab.write(&writer, 25 * REGION).await;
    read.await.expect("no panic").expect("the one that is left is read");
    let mirror = lab.mirror().await;
    assert_eq!((mirror.dirty_regions, mirror.unequal_bytes), (0, 0), "{mirror:?}");
}
