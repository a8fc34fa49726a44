//! Full copies: between nodes under a client's I/O, cut short on either side, cancelled, refused.

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{create_replica, ready, refused};
use crate::scene::{BOTH, LIMIT, SIZE, SNAPSHOT, Scene, engine, replica};
use crate::support::wait::wait_until;

pub fn request(scene: &Scene, volume: &str) -> wire::EngineSnapshotCloneRequest {
    wire::EngineSnapshotCloneRequest {
        clone_mode: wire::CloneMode::FullCopy.into(),
        dst_replica_src_replica_pair_map: Default::default(),
        ..scene.request(volume, &[])
    }
}

pub async fn status(scene: &Scene, volume: &str, node: usize) -> wire::ReplicaSnapshotCloneDstStatusCheckResponse {
    let request = wire::ReplicaSnapshotCloneDstStatusCheckRequest { name: replica(volume, node) };
    let status = scene.cluster.nodes[node].spdk().replica_snapshot_clone_dst_status_check(request).await;
    status.expect("a status").into_inner()
}

/// Limits how fast a copy into the replica is written; 0 not at all.
pub async fn limit(scene: &Scene, volume: &str, node: usize, mib_per_second: i64) {
    let request =
        wire::ReplicaRebuildingDstSetQosLimitRequest { name: replica(volume, node), qos_limit_mbps: mib_per_second };
    scene.cluster.nodes[node].spdk().replica_rebuilding_dst_set_qos_limit(request).await.expect("a limit");
}

pub async fn copied(scene: &Scene, volume: &str, node: usize) {
    let mut last = 0;
    wait_until(LIMIT, "the copy is complete", async || {
        let now = status(scene, volume, node).await;
        assert!(now.progress >= last, "{now:?} after {last}");
        last = now.progress;
        match now.state.as_str() {
            "complete" => {
                assert_eq!((now.progress, now.is_cloning, now.error.as_str()), (100, false, ""));
                Ok(())
            }
            "starting" | "in_progress" => Err(format!("{now:?}")),
            other => panic!("the state {other:?}: {}", now.error),
        }
    })
    .await;
    wait_until(LIMIT, "the volume is served", async || {
        let found = scene.cluster.get(volume).await;
        let mirror = wire_mirror(scene, volume).await;
        if found.state == "running" && mirror { Ok(()) } else { Err(format!("{} {}", found.state, found.error_msg)) }
    })
    .await;
}

async fn wire_mirror(scene: &Scene, volume: &str) -> bool {
    let request = corriente::wire::corriente::v1::MirrorGetRequest { engine_name: engine(volume) };
    scene.cluster.nodes[0].corriente().mirror_get(request).await.is_ok()
}

/// A copy that is slow, in its middle: into the replica of a node, from the source's replica of another.
pub async fn half_way(scene: &Scene, volume: &str, (node, source): (usize, usize), frontend: &str) {
    let name = replica(volume, node);
    let addresses = [(name.clone(), create_replica(&scene.cluster.nodes[node], &name, SIZE).await)];
    scene.cluster.engine(volume, SIZE, frontend, addresses.into()).await;
    limit(scene, volume, node, 1).await;
    scene.clone(request(scene, volume)).await.expect("the copy begins");
    wait_until(LIMIT, "the copy runs", async || {
        let now = status(scene, volume, node).await;
        assert_eq!((now.src_replica_name.as_str(), now.snapshot_name.as_str()), (&*replica("src", source), SNAPSHOT));
        if now.state == "in_progress" && now.is_cloning { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
}

/// A source with enough data that a slow copy takes a while.
pub async fn scene() -> Scene {
    let mut scene = Scene::start().await;
    let data = scene.client.image();
    let mut image = data;
    scene.write("src", 0, &vec![0xa5; 12 << 20], &mut image).await;
    scene.delete_snapshot("src", SNAPSHOT).await.expect("the first snapshot goes");
    scene.snapshot("src", SNAPSHOT).await;
    scene.image = image;
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_copy_on_another_node_is_whole_and_independent_while_the_source_is_written() {
    let mut scene = Scene::start().await;
    scene.client.work().await;
    scene.snapshot("src", "s2").await;
    scene.empty("one", &[1]).await;
    scene.clone(request(&scene, "one")).await.expect("the copy begins");
    for _ in 0..4 {
        scene.client.work().await;
    }
    copied(&scene, "one", 1).await;
    assert!(scene.read("one").await == scene.image, "the copy is not the snapshot");
    let found = scene.replica("one", 1).await;
    let head = found.head.expect("a head");
    assert_eq!((head.parent.as_str(), found.snapshots.len(), found.linked_clone_info), ("", 0, None));
    assert_eq!((found.rebuilding, scene.clones(0).await, scene.clones(1).await), (false, 0, 0));

    // On the source's own node, of a snapshot that is based on another.
    scene.empty("two", &[0]).await;
    let mut second = request(&scene, "two");
    second.snapshot_name = "s2".into();
    scene.clone(second).await.expect("the copy begins");
    copied(&scene, "two", 0).await;
    let at_s2 = scene.read("two").await;
    assert!(at_s2 != scene.image);

    let mut image = scene.image.clone();
    scene.write("one", 1 << 20, &vec![7; 1 << 20], &mut image).await;
    scene.snapshot("one", "c1").await;
    scene.delete_volume("src", &BOTH).await;
    assert!(scene.read("one").await == image, "the copy changed with its source");
    assert!(scene.read("two").await == at_s2, "the copy changed with its source");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_cancelled_by_deleting_what_it_goes_to_and_nothing_of_it_is_left() {
    let scene = scene().await;
    let free = free(&scene, 1).await;
    half_way(&scene, "one", (1, 0), "").await;
    refused(scene.clone(request(&scene, "one")).await, Code::FailedPrecondition, "");
    let found = scene.replica("one", 1).await;
    assert!(found.head.is_none() && found.rebuilding, "{found:?}");
    refused(
        scene.delete_snapshot("src", SNAPSHOT).await,
        Code::FailedPrecondition,
        "the copy to replica one-r-00000001",
    );
    scene.source_has(&[SNAPSHOT]).await;
    // To its manager the volume is up, and nothing else is done with it meanwhile.
    let engine = scene.cluster.get("one").await;
    assert_eq!((engine.state.as_str(), Scene::mode(&engine, &replica("one", 1))), ("running", wire::ReplicaMode::Rw));
    let restore = scene.cluster.start_restore("one", scene.cluster.url("src", "none")).await;
    refused(restore, Code::FailedPrecondition, "a clone is in progress");
    // The engine gives the copy up, the replica does not, until it is deleted.
    scene.cluster.delete_engine("one").await;
    assert!(status(&scene, "one", 1).await.is_cloning);
    scene.delete_replica("one", 1).await.expect("the replica is deleted");
    scene.delete_snapshot("src", SNAPSHOT).await.expect("nobody reads the snapshot any more");
    assert_eq!(self::free(&scene, 1).await, free);
    let request = wire::ReplicaSnapshotCloneSrcStatusCheckRequest {
        name: replica("src", 0),
        snapshot_name: SNAPSHOT.into(),
        dst_replica_name: replica("one", 1),
    };
    let check = scene.cluster.nodes[0].spdk().replica_snapshot_clone_src_status_check(request).await;
    refused(check, Code::FailedPrecondition, "no copy");
}

async fn free(scene: &Scene, node: usize) -> i64 {
    let request = wire::DiskGetRequest { disk_name: "disk".into(), ..Default::default() };
    scene.cluster.nodes[node].spdk().disk_get(request).await.expect("the disk").into_inner().free_size
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_in_the_middle_of_a_copy_into_it_shows_it_and_can_be_cloned_into_again() {
    let mut scene = scene().await;
    let before = free(&scene, 1).await;
    half_way(&scene, "one", (1, 0), "").await;
    scene.cluster.nodes[1].kill9();
    scene.cluster.nodes[1].start_again().await;
    ready(&scene.cluster.nodes[1]).await;
    let found = scene.replica("one", 1).await;
    assert_eq!((found.state.as_str(), found.head.is_none()), ("error", true));
    assert!(found.error_msg.contains("interrupted") && found.error_msg.contains(SNAPSHOT), "{}", found.error_msg);
    let shown = status(&scene, "one", 1).await;
    assert_eq!((shown.state.as_str(), shown.src_replica_name), ("error", replica("src", 0)));
    wait_until(LIMIT, "what was copied is gone", async || {
        let now = free(&scene, 1).await;
        if now == before { Ok(()) } else { Err(format!("{now} of {before} bytes are free")) }
    })
    .await;

    // Killed at the end of the copy: before the exchange it is no copy, in the midst of it the exchange is finished.
    scene.cluster.delete_engine("one").await;
    for (point, state) in [(Point::CloneCopied, "error"), (Point::CloneHeadExchanged, "running")] {
        let address = start(&scene, 1).await;
        scene.cluster.nodes[1].faults().once(point, Action::Kill);
        let order = wire::ReplicaSnapshotCloneDstStartRequest {
            name: replica("one", 1),
            snapshot_name: SNAPSHOT.into(),
            src_replica_name: replica("src", 0),
            src_replica_address: format!("{}:1", scene.cluster.nodes[0].ip()),
            clone_mode: wire::CloneMode::FullCopy.into(),
        };
        scene.cluster.nodes[1].spdk().replica_snapshot_clone_dst_start(order).await.expect("the copy begins");
        let node = &mut scene.cluster.nodes[1];
        node.killed().await;
        node.faults().clear();
        node.start_again().await;
        ready(node).await;
        assert_eq!(scene.replica("one", 1).await.state, state, "{point:?}");
        if state == "running" {
            assert_eq!(status(&scene, "one", 1).await.state, "complete");
            let read = crate::cluster::read_replica(&replica("one", 1), &address).await;
            assert!(read == scene.image, "the copy is not the snapshot");
        }
    }
}

/// The replica, in state error after a crash, has its ports again.
pub async fn start(scene: &Scene, node: usize) -> String {
    let request = wire::ReplicaCreateRequest {
        name: replica("one", node),
        lvs_name: "disk".into(),
        spec_size: SIZE,
        port_count: 5,
        ..Default::default()
    };
    let found = scene.cluster.nodes[node].spdk().replica_create(request).await.expect("it is created").into_inner();
    assert_eq!((found.state.as_str(), found.head.is_none()), ("running", true));
    format!("{}:{}", found.ip, found.port_start)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_source_fails_the_copy_which_is_told_and_deleted() {
    let mut scene = scene().await;
    // The engine of the copy is on the node that goes away, so the replica is asked alone.
    let address = create_replica(&scene.cluster.nodes[1], &replica("one", 1), SIZE).await;
    drop(address);
    limit(&scene, "one", 1, 1).await;
    let order = wire::ReplicaSnapshotCloneDstStartRequest {
        name: replica("one", 1),
        snapshot_name: SNAPSHOT.into(),
        src_replica_name: replica("src", 0),
        src_replica_address: format!("{}:1", scene.cluster.nodes[0].ip()),
        clone_mode: wire::CloneMode::FullCopy.into(),
    };
    scene.cluster.nodes[1].spdk().replica_snapshot_clone_dst_start(order.clone()).await.expect("the copy begins");
    wait_until(LIMIT, "the copy runs", async || {
        let now = status(&scene, "one", 1).await;
        if now.state == "in_progress" { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    scene.cluster.nodes[0].kill9();
    scene.cluster.nodes[0].start_again().await;
    ready(&scene.cluster.nodes[0]).await;
    wait_until(LIMIT, "the copy fails", async || {
        let now = status(&scene, "one", 1).await;
        match now.state.as_str() {
            "error" => {
                assert!(now.error.contains("src-r-00000000") && !now.is_cloning, "{now:?}");
                Ok(())
            }
            _ => Err(format!("{now:?}")),
        }
    })
    .await;
    // What failed is begun anew, from a source that is there again.
    limit(&scene, "one", 1, 0).await;
    scene.cluster.nodes[1].spdk().replica_snapshot_clone_dst_start(order).await.expect("the copy begins anew");
    wait_until(LIMIT, "the copy is complete", async || {
        let now = status(&scene, "one", 1).await;
        assert_ne!(now.state, "error", "{}", now.error);
        if now.state == "complete" { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    scene.delete_replica("one", 1).await.expect("the replica is deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_copy_that_cannot_be_is_refused_and_one_that_fails_at_once_leaves_the_volume_up() {
    let scene = Scene::start().await;
    scene.empty("two", &BOTH).await;
    let before = scene.cluster.get("two").await;
    refused(scene.clone(request(&scene, "two")).await, Code::FailedPrecondition, "exactly one");
    let mut unknown = request(&scene, "two");
    unknown.snapshot_name = "none".into();
    refused(scene.clone(unknown).await, Code::NotFound, "none");
    assert_eq!(scene.cluster.get("two").await, before);
    scene.empty("one", &[1]).await;
    let mut image = vec![0; SIZE as usize];
    scene.write("one", 0, &[1; 4096], &mut image).await;
    refused(scene.clone(request(&scene, "one")).await, Code::FailedPrecondition, "only an empty volume");
    assert!(scene.read("one").await == image, "a refused copy changed the volume");

    let start = |change: fn(&mut wire::ReplicaSnapshotCloneSrcStartRequest)| {
        let mut request = wire::ReplicaSnapshotCloneSrcStartRequest {
            name: replica("src", 0),
            snapshot_name: SNAPSHOT.into(),
            dst_replica_name: replica("one", 1),
            dst_cloning_lvol_address: format!("{}:1", scene.cluster.nodes[1].ip()),
            clone_mode: wire::CloneMode::FullCopy.into(),
        };
        change(&mut request);
        let mut spdk = scene.cluster.nodes[0].spdk();
        async move { spdk.replica_snapshot_clone_src_start(request).await }
    };
    refused(start(|request| request.name.clear()).await, Code::InvalidArgument, "name");
    refused(start(|request| request.name = "none".into()).await, Code::NotFound, "none");
    refused(start(|request| request.snapshot_name = "none".into()).await, Code::NotFound, "none");
    refused(start(|request| request.dst_replica_name.clear()).await, Code::InvalidArgument, "dst_replica_name");
    refused(
        start(|request| request.dst_cloning_lvol_address = ":0".into()).await,
        Code::InvalidArgument,
        "dst_cloning_lvol_address",
    );
    refused(start(|request| request.clone_mode = -1).await, Code::InvalidArgument, "clone_mode");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_clones_a_volume_both_ways() {
    let scene = Scene::start().await;
    let server = scene.cluster.nodes[0].grpc_address().to_string();
    let node = scene.cluster.nodes[1].grpc_address().to_string();
    let run = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_corriente"));
        command.args(["volume", "clone"]).args(arguments).args(["--server", &server]);
        command.env_clear().kill_on_drop(true).output().await.expect("the program starts")
    };
    for arguments in [&["src", SNAPSHOT, "linked"][..], &["src", SNAPSHOT, "full", "--full", "--node", &node, "--wait"]]
    {
        let output = run(arguments).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        wait_until(LIMIT, "the volume is served", async || match wire_mirror(&scene, arguments[2]).await {
            true => Ok(()),
            false => Err("not yet".into()),
        })
        .await;
        assert!(scene.read(arguments[2]).await == scene.image, "{} is not the snapshot", arguments[2]);
    }
    assert_eq!((scene.clones(0).await, scene.clones(1).await), (1, 1));
    let output = run(&["src", "none", "other"]).await;
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let output = run(&["src", SNAPSHOT, "linked"]).await;
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_cannot_begin_says_why_also_when_the_volume_does_not_come_up_again() {
    let scene = Scene::start().await;
    scene.empty("one", &[1]).await;
    // The replica's head is out then, so there is nothing that the volume could come up with.
    scene.cluster.nodes[1].faults().once(Point::CloneCopyBegun, Action::Fail);
    let status = scene.clone(request(&scene, "one")).await.expect_err("the copy does not begin");
    for words in ["clone-copy-begun", "the volume did not come up again", "vol-r"] {
        let words = words.replace("vol-r", &replica("one", 1));
        assert!(status.message().contains(&words), "{words:?} is not in {status}");
    }
    let found = scene.cluster.get("one").await;
    assert_eq!(found.state, "error");
    assert!(found.error_msg.contains("did not come up again"), "{}", found.error_msg);
}
