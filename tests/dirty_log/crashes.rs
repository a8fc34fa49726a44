//! Crashes with writes in flight, and at each durable step of the log.

use corriente::faults::{Action, Order, Point};

use crate::cluster::ready;
use crate::lab::{DIFFERS, Lab, REGION};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_with_a_write_in_flight_leaves_is_equal_before_it_is_read() {
    let mut lab = Lab::start(|options| options).await;
    let client = lab.connect().await;
    for region in [0, 5, 6, 31] {
        lab.write(&client, region * REGION).await;
    }
    drop(client);
    for offset in [5 * REGION, 31 * REGION + (64 << 10)] {
        lab.differ_at(offset).await;
        lab.come_back().await;
        lab.check().await;
    }
    let log = lab.cluster.nodes[0].log();
    assert_eq!(log.matches(DIFFERS).count(), 2, "the log:\n{log}");
    let client = lab.connect().await;
    lab.write(&client, 7 * REGION).await;
    lab.check().await;
}

fn kill(skip: u32) -> Order {
    Order { action: Action::Kill, skip, times: 1 }
}

/// The engine's node ends before, between and after the claims of its two members' replicas, which differ.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_while_its_mirror_wakes_finds_what_differs_at_its_next_start() {
    let mut lab = Lab::start(|options| options).await;
    for (point, skip) in [(Point::DirtyBegins, 1), (Point::DirtyStored, 0), (Point::DirtyStored, 1)] {
        println!("{point:?} after {skip}");
        lab.differ_at(9 * REGION).await;
        lab.come_back_asleep().await;
        let client = lab.connect().await;
        lab.cluster.nodes[0].faults().order(point, kill(skip));
        client.read(9 * REGION, &mut [0; 4096]).await.expect_err("the node ends");
        lab.cluster.nodes[0].killed().await;
        lab.come_back().await;
        lab.check().await;
    }
}

/// The engine's node ends before, between and after the stores with its two members, of a region that gets dirty.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_at_any_step_of_the_log_loses_nothing_and_leaves_nothing_different() {
    let mut lab = Lab::start(|options| options).await;
    let points = [Point::DirtyBegins, Point::DirtyStored];
    for (round, (point, skip)) in points.into_iter().flat_map(|point| [(point, 0), (point, 1)]).enumerate() {
        println!("{point:?} after {skip}");
        let client = lab.connect().await;
        lab.write(&client, 0).await;
        lab.cluster.nodes[0].faults().order(point, kill(skip));
        lab.write_in_vain(&client, (1 + round as u64) * REGION).await;
        lab.cluster.nodes[0].killed().await;
        lab.come_back().await;
        lab.check().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_orderly_stop_nothing_is_compared() {
    let mut lab = Lab::start(|options| options).await;
    let client = lab.connect().await;
    for region in 0..8 {
        lab.write(&client, region * REGION).await;
    }
    assert!(lab.mirror().await.dirty_regions >= 8, "{:?}", lab.mirror().await);
    drop(client);
    for node in &mut lab.cluster.nodes {
        node.stop().await;
    }
    lab.cluster.nodes[1].start_again().await;
    ready(&lab.cluster.nodes[1]).await;
    lab.come_back().await;
    let mirror = lab.mirror().await;
    assert_eq!((mirror.dirty_regions, mirror.unequal_bytes, mirror.region_bytes), (0, 0, REGION), "{mirror:?}");
    assert!(!lab.cluster.nodes[0].log().contains(DIFFERS), "something is compared after an orderly stop");
    lab.check().await;
}
