//! Rebuilds that come to their end: every snapshot with every byte, wherever the two replicas are.

use std::time::Instant;

use corriente::wire::corriente::v1 as own;
use tonic::Code;

use crate::cluster::{Cluster, refused};
use crate::director::{Director, LIMIT, free};
use crate::source::{CLUSTER, NEWEST, Replica, Source};
use crate::support::wait::wait_until;

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_with_a_branch_is_copied_to_another_node_byte_for_byte() {
    let cluster = Cluster::start().await;
    let source = Source::create(&cluster, 0).await;
    let copy = Replica::create(&cluster, 1, "vol-r-00000001").await;
    let director = Director::of(&cluster, &source.replica, &copy, NEWEST);

    let order = director.begin().await;
    let shown = copy.get(&cluster).await;
    assert_eq!((shown.state.as_str(), shown.rebuilding, shown.head), ("running", true, None));
    for lvol in &order {
        let list = copy.node(&cluster).spdk().replica_list(()).await.expect("a list").into_inner();
        assert!(list.replicas[&copy.name].rebuilding);
        director.copy(lvol).await;
        director.make(lvol).await.expect("made already is fine");
        director.copy_start(&lvol.name).await.expect("copied already is fine");
    }
    director.finish().await.expect("the destination finishes");
    director.finish().await.expect("finished already is fine");
    director.source_finish().await.expect("the source finishes");
    director.source_finish().await.expect("finished already is fine");
    director.check_whole().await;

    // What the client wrote since the newest snapshot is told by the map of the source's head, and only that.
    let map = async |replica: &Replica| {
        let request = own::ReplicaHeadMapRequest { replica_name: replica.name.clone() };
        replica.node(&cluster).corriente().replica_head_map(request).await.expect("a map").into_inner()
    };
    let head = map(&source.replica).await;
    assert_eq!((head.cluster_size, head.cluster_count, head.bitmap), (CLUSTER as u64, 24, vec![1 << 7, 0, 0]));
    assert_eq!(map(&copy).await.bitmap, vec![0, 0, 0]);

    copy.check_snapshots(&cluster, &source.images).await;
    source.replica.check_snapshots(&cluster, &source.images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_rebuilt_from_one_of_the_same_node() {
    let cluster = Cluster::start().await;
    let source = Source::create(&cluster, 1).await;
    let copy = Replica::create(&cluster, 1, "vol-r-00000001").await;
    Director::of(&cluster, &source.replica, &copy, NEWEST).run().await;
    copy.check_snapshots(&cluster, &source.images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn o15_the_old_copy_is_kept_until_the_new_one_is_complete() {
    let cluster = Cluster::start().await;
    let mut source = Source::create(&cluster, 0).await;
    let empty = free(&cluster, 1).await;
    let copy = Replica::create(&cluster, 1, "vol-r-00000001").await;
    let mut old = vec![0; source.images[NEWEST].len()];
    copy.write(&cluster, &[0, 1, 2, 3], &mut source.random, &mut old).await;
    copy.snapshot(&cluster, "s1", true).await;
    copy.write(&cluster, &[2, 8], &mut source.random, &mut old).await;
    let before = free(&cluster, 1).await;
    assert_eq!(empty - before, 6 * CLUSTER as i64);

    let director = Director::of(&cluster, &source.replica, &copy, NEWEST);
    let mut copied = 0;
    for lvol in director.begin().await {
        director.copy(&lvol).await;
        copied += lvol.actual_size as i64;
        assert_eq!(before - free(&cluster, 1).await, copied, "old and new are there");
    }
    director.finish().await.expect("the destination finishes");
    director.source_finish().await.expect("the source finishes");
    director.check_whole().await;
    wait_until(LIMIT, "the old copy is gone", async || {
        let used = empty - free(&cluster, 1).await;
        if used == copied { Ok(()) } else { Err(format!("{used} bytes are used, {copied} were copied")) }
    })
    .await;
    copy.check_snapshots(&cluster, &source.images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_with_an_equal_checksum_are_used_again_and_others_copied() {
    let cluster = Cluster::start().await;
    let mut source = Source::create(&cluster, 0).await;
    for snapshot in ["s1", "s2"] {
        crate::refusals::hashed(&cluster, &source.replica, snapshot).await;
    }
    let copy = Replica::create(&cluster, 1, "vol-r-00000001").await;
    let mut director = Director::of(&cluster, &source.replica, &copy, NEWEST);
    director.run().await;
    assert!(!copy.get(&cluster).await.snapshots["s1"].snapshot_checksum.is_empty());

    // The copy misses a snapshot, and has become another in its head.
    let mut junk = source.images[NEWEST].clone();
    copy.write(&cluster, &[0, 11], &mut source.random, &mut junk).await;
    source.write(&cluster, &[12, 3]).await;
    source.snapshot(&cluster, "s4", true).await;
    let replica = source.replica.clone();
    director = Director::of(&cluster, &replica, &copy, "s4");
    director.fast_sync = true;
    director.run().await;
    let log = copy.node(&cluster).log();
    let again = |snapshot: &str| {
        let line = |line: &&str| line.contains("used again") && line.contains(&format!("snapshot={snapshot}"));
        log.lines().filter(line).count()
    };
    assert_eq!((again("s1"), again("s2"), again("s3"), again("s4")), (1, 1, 0, 0));
    copy.check_snapshots(&cluster, &source.images).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_while_it_is_set_and_no_longer() {
    let cluster = Cluster::start().await;
    let mut source = Source::create(&cluster, 0).await;
    source.write(&cluster, &(0..24).collect::<Vec<_>>()).await;
    source.snapshot(&cluster, "full", true).await;
    let copy = Replica::create(&cluster, 1, "vol-r-00000001").await;
    let director = Director::of(&cluster, &source.replica, &copy, "full");
    director.set_limit(4).await.expect("a limit before the rebuild");
    refused(director.set_limit(-1).await, Code::InvalidArgument, "qos_limit_mbps");
    let order = director.begin().await;
    let (last, others) = order.split_last().expect("snapshots");
    assert_eq!(last.name, "full");
    for lvol in others {
        let since = Instant::now();
        director.copy(lvol).await;
        // A burst and the first pieces are not counted.
        let least = (lvol.actual_size as f64 / f64::from(4 << 20) - 0.3).max(0.0);
        assert!(since.elapsed().as_secs_f64() >= least, "{} took {:?}", lvol.name, since.elapsed());
    }
    director.set_limit(1).await.expect("a lower limit");
    director.copy_start("full").await.expect("the copy begins");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let slow = director.check().await.expect("its progress");
    assert_eq!(slow.state, "in_progress", "24 MiB in 2 s are more than 1 MiB/s: {slow:?}");
    assert!(slow.progress < 50, "{slow:?}");
    director.set_limit(0).await.expect("no limit");
    director.copied("full").await;
    director.make(last).await.expect("the snapshot is made");
    director.finish().await.expect("the destination finishes");
    director.source_finish().await.expect("the source finishes");
    director.check_whole().await;
}
