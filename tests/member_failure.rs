//! A replica that fails under a client's I/O, from outside: the client sees no error and no longer pause than the member's
//! deadline, other volumes see nothing, and the replica that missed writes is not believed any more.

#![allow(dead_code)]

mod support;

#[path = "disaster_recovery/cluster.rs"]
mod cluster;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cluster::{Cluster, create_replica};
use corriente::wire::spdkrpc as wire;
use support::client::Client;
use support::wait::wait_until;

const SIZE: u64 = 32 << 20;
const DEADLINE: Duration = Duration::from_secs(2);
/// Far beyond the deadline: only a hang reaches it.
const LIMIT: Duration = Duration::from_secs(25);

/// A mirrored volume over both nodes and one of the first node alone, each with its client.
async fn lab() -> (Cluster, BTreeMap<String, String>, Client, Client) {
    let deadline = format!("{}s", DEADLINE.as_secs());
    let cluster = Cluster::start_with(|options| options.set("timeouts.member_deadline", deadline.as_str())).await;
    let replicas = cluster.replicas("vol", SIZE).await;
    let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", replicas.clone()).await;
    let alone = create_replica(&cluster.nodes[0], "other-r-00000000", SIZE).await;
    let other = cluster.engine("other", SIZE, "spdk-tcp-nvmf", [("other-r-00000000".into(), alone)].into()).await;
    let (mut client, mut bystander) = (Client::of(&engine, SIZE).await, Client::of(&other, SIZE).await);
    client.work().await;
    bystander.work().await;
    (cluster, replicas, client, bystander)
}

/// Both clients work on until the remote member is out; the bystander does not wait for it.
async fn ride_out(cluster: &Cluster, client: &mut Client, bystander: &mut Client) {
    let since = Instant::now();
    while since.elapsed() < 2 * DEADLINE {
        let (rode, _) = tokio::join!(tokio::time::timeout(LIMIT, client.work()), async {
            bystander.work().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        });
        rode.expect("the client's I/O goes on after the member's deadline");
    }
    wait_until(LIMIT, "the failed replica is out", async || {
        let modes = cluster.get("vol").await.replica_mode_map;
        let out = modes.get("vol-r-00000001") == Some(&(wire::ReplicaMode::Err as i32));
        let kept = modes.get("vol-r-00000000") == Some(&(wire::ReplicaMode::Rw as i32));
        if out && kept { Ok(()) } else { Err(format!("{modes:?}")) }
    })
    .await;
    println!("slowest I/O: {:?} of the mirrored volume, {:?} of the other", client.slowest, bystander.slowest);
    assert!(
        bystander.slowest < DEADLINE,
        "the other volume waited {:?} for a member that it has not",
        bystander.slowest
    );
    client.check(usize::MAX).await;
}

/// The engine made again over both replicas takes only the one that has every acknowledged write.
async fn stale_is_refused(cluster: &Cluster, replicas: BTreeMap<String, String>, client: &Client) {
    cluster.delete_engine("vol").await;
    let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", replicas).await;
    let mode = |replica: &str| engine.replica_mode_map.get(replica).copied();
    assert_eq!(mode("vol-r-00000000"), Some(wire::ReplicaMode::Rw as i32));
    assert_eq!(mode("vol-r-00000001"), Some(wire::ReplicaMode::Err as i32), "a stale replica takes part");
    let image = cluster.read(&engine).await;
    client.compare(&image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_peer_is_out_after_its_deadline_and_stale_when_it_comes_back() {
    let (mut cluster, replicas, mut client, mut bystander) = lab().await;
    cluster.nodes[1].freeze();
    ride_out(&cluster, &mut client, &mut bystander).await;
    cluster.nodes[1].thaw();
    stale_is_refused(&cluster, replicas, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_peer_is_out_and_stale_when_it_comes_back() {
    let (mut cluster, mut replicas, mut client, mut bystander) = lab().await;
    cluster.nodes[1].kill9();
    ride_out(&cluster, &mut client, &mut bystander).await;
    cluster.nodes[1].start_again().await;
    cluster::ready(&cluster.nodes[1]).await;
    let address = create_replica(&cluster.nodes[1], "vol-r-00000001", SIZE).await;
    replicas.insert("vol-r-00000001".into(), address);
    stale_is_refused(&cluster, replicas, &client).await;
}

/// No I/O is under way that could fail: the device itself says that it goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_local_replica_deleted_under_an_idle_volume_is_let_go_and_the_volume_goes_on() {
    let (cluster, _, mut client, _) = lab().await;
    let delete = async |name: &str| {
        let request = wire::ReplicaDeleteRequest { name: name.into(), cleanup_required: true };
        cluster.nodes[0].spdk().replica_delete(request).await
    };
    delete("vol-r-00000000").await.expect("nobody holds it any more");
    wait_until(LIMIT, "the deleted replica is out", async || {
        let modes = cluster.get("vol").await.replica_mode_map;
        match modes.get("vol-r-00000000") {
            Some(mode) if *mode == wire::ReplicaMode::Err as i32 => Ok(()),
            mode => Err(format!("{mode:?}")),
        }
    })
    .await;
    client.work().await;
    client.check(usize::MAX).await;

    // The only one that a volume has: its data is gone by request, and the engine says so and can be deleted.
    delete("other-r-00000000").await.expect("nobody holds it any more");
    wait_until(LIMIT, "the engine without a replica is in state error", async || match cluster.get("other").await {
        engine if engine.state == "error" && !engine.error_msg.is_empty() => Ok(()),
        engine => Err(engine.state),
    })
    .await;
    cluster.delete_engine("other").await;
    client.work().await;
}

/// There is nothing better to go on with: its I/O waits, and no client sees an error.
#[tokio::test(flavor = "multi_thread")]
async fn the_only_replica_of_a_volume_is_waited_for_beyond_its_deadline() {
    let (mut cluster, _, _, mut bystander) = lab().await;
    let only = create_replica(&cluster.nodes[1], "far-r-00000000", SIZE).await;
    let engine = cluster.engine("far", SIZE, "spdk-tcp-nvmf", [("far-r-00000000".into(), only)].into()).await;
    let mut client = Client::of(&engine, SIZE).await;
    client.work().await;
    cluster.nodes[1].freeze();
    let (_, ()) = tokio::join!(client.work(), async {
        tokio::time::sleep(2 * DEADLINE).await;
        bystander.work().await;
        cluster.nodes[1].thaw();
    });
    client.work().await;
    client.check(usize::MAX).await;
    let engine = cluster.get("far").await;
    assert_eq!(engine.replica_mode_map["far-r-00000000"], wire::ReplicaMode::Rw as i32);
    assert!(client.slowest > DEADLINE, "the replica was not frozen under an I/O, which took {:?}", client.slowest);
}
