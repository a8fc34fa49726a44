//! Many snapshots made and deleted, most of them in the middle of the chain, while a client works.

use corriente::wire::spdkrpc as wire;
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::support::client::Client;
use crate::support::random::Random;

const SIZE: u64 = 32 << 20;
const DELETIONS: u64 = 40;
/// How long the chain is kept, besides the snapshot that stays.
const KEPT: usize = 6;

fn request(snapshot: &str) -> wire::SnapshotRequest {
    wire::SnapshotRequest {
        name: "vol-e-0".into(),
        snapshot_name: snapshot.into(),
        user_created: true,
        ..Default::default()
    }
}

async fn create(cluster: &Cluster, snapshot: &str) {
    cluster.nodes[0].spdk().engine_snapshot_create(request(snapshot)).await.expect("the snapshot is taken");
}

async fn delete(cluster: &Cluster, snapshot: &str) {
    cluster.nodes[0].spdk().engine_snapshot_delete(request(snapshot)).await.expect("the snapshot is deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_in_the_middle_of_a_chain_are_deleted_under_io() {
    let cluster = Cluster::start().await;
    let replicas = cluster.replicas("vol", SIZE).await;
    let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", replicas.clone()).await;
    let mut client = Client::of(&engine, SIZE).await;
    client.work().await;
    create(&cluster, "before").await;
    client.work().await;
    create(&cluster, "stays").await;
    let image = client.image();

    let (stop, stopped) = watch::channel(false);
    let working = tokio::spawn(async move {
        let mut rounds = 0u64;
        while !*stopped.borrow() {
            client.work().await;
            rounds += 1;
        }
        (client, rounds)
    });
    let mut random = Random::from_clock();
    let mut chain = Vec::new();
    for number in 0..DELETIONS {
        let name = format!("s{number}");
        create(&cluster, &name).await;
        chain.push(name);
        if chain.len() > KEPT {
            // Never the newest, so there is always one above it whose data it becomes.
            delete(&cluster, &chain.remove(random.below(chain.len() as u64 - 1) as usize)).await;
        }
        if number == DELETIONS / 2 {
            // What "stays" is based on.
            delete(&cluster, "before").await;
        }
    }
    for name in chain.drain(1..) {
        delete(&cluster, &name).await;
    }
    stop.send_replace(true);
    let (client, rounds) = working.await.expect("no I/O failed");
    assert!(rounds > 0, "the client did not work meanwhile");
    println!("{rounds} rounds of the client, slowest I/O: {:?}", client.slowest);

    let after = cluster.get("vol").await;
    assert!(after.replica_mode_map.values().all(|mode| *mode == wire::ReplicaMode::Rw as i32), "{after:?}");
    let mut left: Vec<_> = after.snapshots.keys().cloned().collect();
    left.sort();
    let mut expected = vec![chain[0].clone(), "stays".to_owned()];
    expected.sort();
    assert_eq!(left, expected);
    for mut found in cluster.replica_snapshots("vol").await {
        found.sort();
        assert_eq!(found, expected, "the replicas differ in their snapshots");
    }
    client.compare(&cluster.read(&engine).await);

    // The data of what was deleted went to its neighbours and not into "stays".
    cluster.delete_engine("vol").await;
    cluster.engine("vol", SIZE, "", replicas.clone()).await;
    cluster.nodes[0].spdk().engine_snapshot_revert(request("stays")).await.expect("it is reverted");
    cluster.delete_engine("vol").await;
    let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", replicas).await;
    assert!(cluster.read(&engine).await == image, "the snapshot is not what the volume was");
}
