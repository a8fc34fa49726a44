//! Outages after which a replica does not come back by itself.

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;

use crate::lab::{LIMIT, Lab, SECOND};
use crate::support::wait::wait_until;

async fn snapshot(lab: &Lab, name: &str) {
    let request = wire::SnapshotRequest {
        name: "vol-e-0".into(),
        snapshot_name: name.into(),
        user_created: true,
        ..Default::default()
    };
    lab.cluster.nodes[0].spdk().engine_snapshot_create(request).await.expect("the snapshot is taken");
}

/// It is out for good, and the reason is told.
async fn is_given_up(lab: &mut Lab, because: &str) {
    let (cluster, client) = (&lab.cluster, &mut lab.client);
    wait_until(LIMIT, "the replica is given up", async || {
        client.work().await;
        let members = cluster.mirror("vol").await;
        let member = members.iter().find(|member| member.replica_name == SECOND).expect("it is listed");
        let is_out = !member.awaited && member.mode == wire::ReplicaMode::Err as i32;
        match is_out && member.last_error.contains("cannot come back by itself") {
            true if member.last_error.contains(because) => Ok(()),
            _ => Err(format!("{member:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_meanwhile_leaves_it_out_until_it_is_rebuilt() {
    let mut lab = Lab::start().await;
    lab.kill_second().await;
    snapshot(&lab, "one").await;
    lab.start_second().await;
    is_given_up(&mut lab, "snapshots").await;
    lab.rebuild_second().await;
    lab.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_while_it_gets_what_it_missed_takes_it_out_again() {
    let mut lab = Lab::start().await;
    lab.cluster.nodes[0].faults().once(Point::ReturnFilled, Action::Block);
    lab.kill_second().await;
    lab.start_second().await;
    lab.works_until_blocked(Point::ReturnFilled).await;
    snapshot(&lab, "one").await;
    is_given_up(&mut lab, "a snapshot was taken").await;
    lab.cluster.nodes[0].faults().clear();
    lab.rebuild_second().await;
    lab.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_removal_wins_over_its_return() {
    let mut lab = Lab::start().await;
    lab.cluster.nodes[0].faults().once(Point::ReturnJoined, Action::Block);
    lab.kill_second().await;
    lab.start_second().await;
    lab.works_until_blocked(Point::ReturnJoined).await;
    lab.remove_second().await;
    assert_eq!(lab.mode().await, None);
    lab.client.work().await;
    wait_until(LIMIT, "it has left the mirror", async || match lab.cluster.mirror("vol").await.len() {
        1 => Ok(()),
        members => Err(format!("{members} members")),
    })
    .await;
    lab.cluster.nodes[0].faults().clear();
    lab.client.check(usize::MAX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_not_back_in_time_is_not_waited_for() {
    let mut lab = Lab::start_with(|options| options.set("timeouts.return_window", "2s")).await;
    lab.kill_second().await;
    is_given_up(&mut lab, "within 2s").await;
    lab.start_second().await;
    lab.rebuild_second().await;
    lab.check().await;
}
