//! Outages that end well.

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;

use crate::lab::{FIRST, LIMIT, Lab, WRITTEN};
use crate::support::wait::wait_until;

/// While it gets what it missed it is write-only, and that is no more than what the client writes to.
async fn comes_back_with_what_it_missed(lab: &mut Lab) {
    lab.works_until_blocked(Point::ReturnFilled).await;
    let member = lab.member().await;
    println!("missed {}, copied {}", member.missed_bytes, member.copied_bytes);
    assert_eq!(member.mode, wire::ReplicaMode::Wo as i32, "{member:?}");
    assert!(member.awaited && member.missed_bytes <= WRITTEN, "{member:?}");
    assert!(member.copied_bytes > 0 && member.copied_bytes <= WRITTEN, "{member:?}");
    assert_eq!(lab.mode().await, Some(wire::ReplicaMode::Wo));
    lab.client.work().await;
    lab.cluster.nodes[0].faults().lift(Point::ReturnFilled);
    lab.works_until(wire::ReplicaMode::Rw).await;
    let member = lab.member().await;
    assert!(!member.awaited && member.missed_bytes == 0 && member.copied_bytes == 0, "{member:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_that_is_started_again_gets_what_it_missed_and_nothing_else() {
    let mut lab = Lab::start().await;
    lab.cluster.nodes[0].faults().once(Point::ReturnFilled, Action::Block);
    lab.kill_second().await;
    let member = lab.member().await;
    assert!(member.awaited && member.missed_bytes > 0, "{member:?}");
    lab.start_second().await;
    comes_back_with_what_it_missed(&mut lab).await;
    lab.check().await;
}

/// Writes are under way when it stands still, and are carried out by it when it goes on: none may come after the copies.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_replica_that_thaws_gets_what_it_missed_and_what_it_was_sent_before_changes_nothing() {
    let mut lab = Lab::start().await;
    for round in 0..2 {
        lab.until_quiet().await;
        if round == 0 {
            lab.cluster.nodes[0].faults().once(Point::ReturnFilled, Action::Block);
        }
        lab.cluster.nodes[1].freeze();
        lab.works_until(wire::ReplicaMode::Err).await;
        println!("the slowest I/O took {:?}", lab.client.slowest);
        lab.client.work().await;
        lab.cluster.nodes[1].thaw();
        match round {
            0 => comes_back_with_what_it_missed(&mut lab).await,
            _ => lab.works_until(wire::ReplicaMode::Rw).await,
        }
    }
    lab.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_killed_again_on_its_way_back_comes_back_later() {
    let mut lab = Lab::start().await;
    lab.cluster.nodes[0].faults().once(Point::ReturnJoined, Action::Block);
    lab.kill_second().await;
    lab.start_second().await;
    lab.works_until_blocked(Point::ReturnJoined).await;
    lab.cluster.nodes[1].kill9();
    lab.client.work().await;
    lab.cluster.nodes[0].faults().lift(Point::ReturnJoined);
    lab.works_until(wire::ReplicaMode::Err).await;
    lab.start_second().await;
    lab.works_until(wire::ReplicaMode::Rw).await;
    lab.check().await;
}

/// The replica that it gets what it missed from fails a write on the way; it comes back by itself afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn one_whose_source_fails_gets_the_rest_from_another() {
    let mut lab = Lab::start_with_third().await;
    lab.cluster.nodes[0].faults().once(Point::ReturnJoined, Action::Block);
    lab.kill_second().await;
    lab.start_second().await;
    lab.works_until_blocked(Point::ReturnJoined).await;
    lab.cluster.nodes[0].faults().once(Point::ReplicaWrite, Action::Fail);
    lab.client.work().await;
    let modes = lab.cluster.get("vol").await.replica_mode_map;
    assert_eq!(modes[FIRST], wire::ReplicaMode::Err as i32, "the source is out: {modes:?}");
    lab.cluster.nodes[0].faults().lift(Point::ReturnJoined);
    lab.works_until(wire::ReplicaMode::Rw).await;
    let (cluster, client) = (&lab.cluster, &mut lab.client);
    wait_until(LIMIT, "all replicas are in sync", async || {
        client.work().await;
        let modes = cluster.get("vol").await.replica_mode_map;
        let in_sync = modes.values().filter(|mode| **mode == wire::ReplicaMode::Rw as i32).count();
        if in_sync == 3 { Ok(()) } else { Err(format!("{modes:?}")) }
    })
    .await;
    lab.check().await;
}
