//! Rebuilds that are cut short: nothing half-built is taken for a replica, and the next try goes on from what is complete.

use std::collections::BTreeMap;

use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{Cluster, ready, refused};
use crate::director::{Director, LIMIT, free};
use crate::source::{NEWEST, Replica, SIZE, Source};
use crate::support::wait::wait_until;

/// Begins, makes the first two snapshots, and is in the middle of the third.
async fn half_way(director: &Director<'_>) -> Vec<wire::Lvol> {
    let order = director.begin().await;
    for lvol in &order[..2] {
        director.copy(lvol).await;
    }
    director.set_limit(1).await.expect("a limit");
    director.copy_start(&order[2].name).await.expect("the copy begins");
    wait_until(LIMIT, "the copy runs", async || {
        let now = director.check().await.expect("its progress");
        if now.state == "in_progress" { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    order
}

/// No engine takes it, and nothing of its chain is a head.
async fn is_no_replica(cluster: &Cluster, replica: &Replica) {
    let shown = replica.get(cluster).await;
    assert!(shown.rebuilding && shown.head.is_none(), "{shown:?}");
    let request = wire::EngineCreateRequest {
        name: "bad-e-0".into(),
        volume_name: "bad".into(),
        spec_size: SIZE,
        replica_address_map: BTreeMap::from([(replica.name.clone(), replica.address.clone())]),
        frontend: "spdk-tcp-nvmf".into(),
        ..Default::default()
    };
    for node in &cluster.nodes {
        if let Ok(engine) = node.spdk().engine_create(request.clone()).await {
            assert_ne!(engine.into_inner().state, "running", "an engine runs on a part of a copy");
            let name = request.name.clone();
            node.spdk().engine_delete(wire::EngineDeleteRequest { name }).await.expect("the engine is deleted");
        }
    }
    let snapshot = |name: &str| wire::SnapshotRequest {
        name: replica.name.clone(),
        snapshot_name: name.into(),
        ..Default::default()
    };
    let mut spdk = replica.node(cluster).spdk();
    refused(spdk.replica_snapshot_create(snapshot("x")).await, Code::FailedPrecondition, "");
    refused(spdk.replica_snapshot_revert(snapshot("s1")).await, Code::FailedPrecondition, "");
    refused(spdk.replica_snapshot_delete(snapshot("s1")).await, Code::FailedPrecondition, "");
    refused(spdk.replica_snapshot_purge(snapshot("")).await, Code::FailedPrecondition, "");
}

/// Its ports again, without a head.
async fn create_again(cluster: &Cluster, replica: &mut Replica) {
    let request = wire::ReplicaCreateRequest {
        name: replica.name.clone(),
        lvs_name: "disk".into(),
        spec_size: SIZE,
        port_count: 5,
        ..Default::default()
    };
    let shown = replica.node(cluster).spdk().replica_create(request).await.expect("it is created").into_inner();
    assert_eq!((shown.state.as_str(), shown.rebuilding, &shown.head), ("running", true, &None));
    assert!(shown.error_msg.contains("interrupted"), "{}", shown.error_msg);
    replica.address = format!("{}:{}", shown.ip, shown.port_start);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_destination_is_no_replica_until_it_is_rebuilt_from_where_it_was() {
    let mut cluster = Cluster::start().await;
    let source = Source::create(&cluster, 0).await;
    let mut copy = Replica::create(&cluster, 1, "vol-r-00000001").await;
    let order = half_way(&Director::of(&cluster, &source.replica, &copy, NEWEST)).await;
    cluster.nodes[1].kill9();
    cluster.nodes[1].start_again().await;
    ready(&cluster.nodes[1]).await;

    let shown = copy.get(&cluster).await;
    assert_eq!(shown.state, "error");
    assert!(shown.error_msg.contains("interrupted"), "{}", shown.error_msg);
    is_no_replica(&cluster, &copy).await;
    create_again(&cluster, &mut copy).await;
    is_no_replica(&cluster, &copy).await;

    let director = Director::of(&cluster, &source.replica, &copy, NEWEST);
    director.run().await;
    let log = copy.node(&cluster).log();
    for lvol in &order[..2] {
        let again = |line: &str| line.contains("used again") && line.contains(&format!("snapshot={}", lvol.name));
        assert!(log.lines().any(again), "snapshot {} was complete and is copied again", lvol.name);
    }
    copy.check_snapshots(&cluster, &source.images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_source_fails_the_rebuild_and_the_next_one_succeeds() {
    let mut cluster = Cluster::start().await;
    let mut source = Source::create(&cluster, 0).await;
    let copy = Replica::create(&cluster, 1, "vol-r-00000001").await;
    half_way(&Director::of(&cluster, &source.replica, &copy, NEWEST)).await;
    cluster.nodes[0].kill9();
    cluster.nodes[0].start_again().await;
    ready(&cluster.nodes[0]).await;
    let director = Director::of(&cluster, &source.replica, &copy, NEWEST);
    let problem = director.failed().await;
    assert!(problem.contains("vol-r-00000000"), "{problem}");
    // The copy's end is told before the replica has taken it in.
    wait_until(LIMIT, "the replica is in state error", async || {
        let shown = copy.get(&cluster).await;
        let both = (shown.state.as_str(), shown.rebuilding);
        if both == ("error", true) { Ok(()) } else { Err(format!("{both:?}")) }
    })
    .await;
    is_no_replica(&cluster, &copy).await;
    refused(director.copy_start("s1").await, Code::FailedPrecondition, "begun anew");
    director.set_limit(0).await.expect("no limit");

    source.replica.address = crate::cluster::create_replica(&cluster.nodes[0], "vol-r-00000000", SIZE).await;
    Director::of(&cluster, &source.replica, &copy, NEWEST).run().await;
    copy.check_snapshots(&cluster, &source.images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_let_go_when_a_rebuild_is_broken_off() {
    let cluster = Cluster::start().await;
    let source = Source::create(&cluster, 0).await;
    let empty = free(&cluster, 1).await;
    let copy = Replica::create(&cluster, 1, "vol-r-00000001").await;
    let director = Director::of(&cluster, &source.replica, &copy, NEWEST);

    // By the source's end.
    half_way(&director).await;
    director.source_finish().await.expect("the source finishes early");
    assert!(director.failed().await.contains("cancelled"), "the destination is told");
    // By the destination's end.
    director.set_limit(0).await.expect("no limit");
    half_way(&director).await;
    refused(director.finish().await, Code::FailedPrecondition, "2 of 4 snapshots");
    assert_eq!(copy.get(&cluster).await.state, "error");
    is_no_replica(&cluster, &copy).await;
    // By the replica's stop, and by its deletion.
    for cleanup_required in [false, true] {
        director.set_limit(0).await.expect("no limit");
        if cleanup_required {
            create_again(&cluster, &mut copy.clone()).await;
        }
        half_way(&Director::of(
            &cluster,
            &source.replica,
            &Replica { address: address(&cluster, &copy).await, ..copy.clone() },
            NEWEST,
        ))
        .await;
        let request = wire::ReplicaDeleteRequest { name: copy.name.clone(), cleanup_required };
        copy.node(&cluster).spdk().replica_delete(request).await.expect("it is stopped, or deleted");
    }
    assert_eq!(free(&cluster, 1).await, empty, "nothing is left on the disk");
    director.source_finish().await.expect("the source finishes");
    for port in 20001..20006 {
        let open = tokio::net::TcpStream::connect((cluster.nodes[1].ip(), port)).await.is_ok();
        assert!(!open, "port {port} of the destination is served still");
    }
    let head: std::net::SocketAddr = source.replica.address.parse().expect("an address");
    let second = (head.ip(), head.port() + 1);
    assert!(tokio::net::TcpStream::connect(second).await.is_err(), "the source exposes its snapshot still");
    // The source is as it was.
    source.replica.check_snapshots(&cluster, &source.images).await;
}

async fn address(cluster: &Cluster, replica: &Replica) -> String {
    let shown = replica.get(cluster).await;
    format!("{}:{}", shown.ip, shown.port_start)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_killed_at_its_last_step_is_whole_or_not_a_replica() {
    let mut cluster = Cluster::start().await;
    let source = Source::create(&cluster, 0).await;
    let mut copy = Replica::create(&cluster, 1, "vol-r-00000001").await;
    for pause_ms in [0, 3, 8, 20] {
        {
            let director = Director::of(&cluster, &source.replica, &copy, NEWEST);
            for lvol in director.begin().await {
                director.copy(&lvol).await;
            }
            let finish = director.finish();
            tokio::pin!(finish);
            // Some of these come before the end, some after.
            let _ = tokio::time::timeout(std::time::Duration::from_millis(pause_ms), &mut finish).await;
        }
        cluster.nodes[1].kill9();
        cluster.nodes[1].start_again().await;
        ready(&cluster.nodes[1]).await;
        let shown = copy.get(&cluster).await;
        println!("killed {pause_ms} ms into the last step: {}", shown.state);
        if shown.rebuilding {
            is_no_replica(&cluster, &copy).await;
            create_again(&cluster, &mut copy).await;
            Director::of(&cluster, &source.replica, &copy, NEWEST).run().await;
        } else {
            assert_eq!(shown.state, "running", "whole, it is started by its node: {}", shown.error_msg);
            copy.address = crate::cluster::create_replica(&cluster.nodes[1], &copy.name, SIZE).await;
            let director = Director::of(&cluster, &source.replica, &copy, NEWEST);
            director.source_finish().await.expect("the source finishes");
            director.check_whole().await;
        }
    }
    copy.check_snapshots(&cluster, &source.images).await;
}
