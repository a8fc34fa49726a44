//! Client I/O held and let go on.

use std::sync::Arc;
use std::time::Duration;

use corriente::initiator::Initiator;
use corriente::wire::corriente::v1 as own;
use tokio::task::JoinSet;
use tonic::Code;

use crate::cluster::{Cluster, LIMIT, MIB, NVMF, connect, fill, holds, refused, request, snapshot, target_of};
use crate::support::wait::wait_until;

/// Long enough for an I/O that is not held to be over, on a slow machine too; a held one is not over however long it is.
const HELD: Duration = Duration::from_millis(700);

/// Writers that keep the volume busy until they are stopped; each has its own part and leaves it with its last byte.
struct Writers {
    running: JoinSet<(u64, u8)>,
    stop: Arc<std::sync::atomic::AtomicBool>,
    rounds: Arc<std::sync::atomic::AtomicU64>,
}

const PART: u64 = MIB;
const WRITERS: u64 = 4;

impl Writers {
    fn start(volume: &Arc<Initiator>, count: u64) -> Self {
        use std::sync::atomic::Ordering::Relaxed;
        let (stop, rounds) =
            (Arc::<std::sync::atomic::AtomicBool>::default(), Arc::<std::sync::atomic::AtomicU64>::default());
        let mut running = JoinSet::new();
        for writer in 0..count {
            let (volume, stop, rounds) = (volume.clone(), stop.clone(), rounds.clone());
            running.spawn(async move {
                let mut byte = 0;
                while !stop.load(Relaxed) {
                    byte = byte % 250 + 1;
                    fill(&volume, writer * PART, PART, byte).await;
                    rounds.fetch_add(1, Relaxed);
                }
                (writer * PART, byte)
            });
        }
        Self { running, stop, rounds }
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(std::sync::atomic::Ordering::Relaxed)
    }

    async fn stop(self) -> Vec<(u64, u8)> {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.running.join_all().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_issued_while_suspended_complete_after_the_resume_and_nothing_fails() {
    let cluster = Cluster::start(2).await;
    cluster.volume("v1", NVMF).await;
    let frontend = cluster.frontend(0, request("v1", NVMF, "")).await;
    let volume = Arc::new(connect(&frontend.endpoint).await);
    fill(&volume, 8 * MIB, MIB, 0x11).await;
    let writers = Writers::start(&volume, WRITERS);
    wait_until(LIMIT, "I/O flows", async || if writers.rounds() > 8 { Ok(()) } else { Err("not yet".into()) }).await;

    cluster.suspend(0, "v1").await.expect("it is suspended");
    assert_eq!(cluster.frontend_get(0, "v1").await.expect("it is there").state, "suspended");
    cluster.suspend(0, "v1").await.expect("suspended already is done");
    let before = writers.rounds();
    let held = {
        let volume = volume.clone();
        tokio::spawn(async move { fill(&volume, 9 * MIB, MIB, 0x22).await })
    };
    let read = {
        let volume = volume.clone();
        tokio::spawn(async move { holds(&volume, 8 * MIB, MIB, 0x11).await })
    };
    tokio::time::sleep(HELD).await;
    assert!(!held.is_finished() && !read.is_finished(), "I/O went through a suspended frontend");
    // What each writer had in flight was finished before the suspension; the client may have learned of it after.
    assert!(writers.rounds() <= before + WRITERS, "I/O went through a suspended frontend");

    // A snapshot relies on the suspension, and what waits for the resume is not in it.
    let taken = cluster.nodes[0].spdk().engine_frontend_snapshot_create(snapshot("v1", "s1")).await;
    taken.expect("a snapshot while suspended");
    assert!(!held.is_finished(), "the snapshot has let I/O through");
    cluster.resume(0, "v1").await.expect("it goes on");
    cluster.resume(0, "v1").await.expect("going on already is done");
    assert_eq!(cluster.frontend_get(0, "v1").await.expect("it is there").state, "running");
    held.await.expect("the held write ends well");
    assert!(read.await.expect("the held read ends well"));
    let last = writers.stop().await;
    for (offset, byte) in last {
        assert!(holds(&volume, offset, PART, byte).await, "the part at {offset} is not what was written last");
    }
    assert!(holds(&volume, 9 * MIB, MIB, 0x22).await);
    let engine = cluster.engine_get(0, "v1-e-0").await.expect("it is there");
    assert!(engine.replica_mode_map.values().all(|mode| *mode == 1), "{:?}", engine.replica_mode_map);
    assert_eq!(engine.snapshots.into_keys().collect::<Vec<_>>(), ["s1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_that_nobody_ends_is_ended_by_its_limit_and_the_resume_says_so_once() {
    let cluster = Cluster::start_with(1, |options| options.set("timeouts.suspend", "2s")).await;
    cluster.volume("v1", NVMF).await;
    let frontend = cluster.frontend(0, request("v1", NVMF, "")).await;
    let volume = connect(&frontend.endpoint).await;
    cluster.suspend(0, "v1").await.expect("it is suspended");
    // It ends by itself: the limit lets the write through.
    fill(&volume, 0, MIB, 0x33).await;
    wait_until(LIMIT, "the frontend shows the end", async || {
        let state = cluster.frontend_get(0, "v1").await.expect("it is there").state;
        if state == "running" { Ok(()) } else { Err(state) }
    })
    .await;
    refused(cluster.resume(0, "v1").await, Code::FailedPrecondition, "timeouts.suspend");
    cluster.resume(0, "v1").await.expect("it was told");
    assert!(holds(&volume, 0, MIB, 0x33).await);
    cluster.suspend(0, "v1").await.expect("it can be suspended again");
    cluster.resume(0, "v1").await.expect("and goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_wait_for_held_io_is_refused_or_lets_it_go_on() {
    let cluster = Cluster::start(1).await;
    cluster.volume("v1", NVMF).await;
    let frontend = cluster.frontend(0, request("v1", NVMF, "")).await;
    let volume = Arc::new(connect(&frontend.endpoint).await);
    cluster.suspend(0, "v1").await.expect("it is suspended");
    let held = {
        let volume = volume.clone();
        tokio::spawn(async move { fill(&volume, 0, MIB, 0x44).await })
    };
    let mut spdk = cluster.nodes[0].spdk();
    let expand = corriente::wire::spdkrpc::EngineFrontendExpandRequest { name: "v1-ef".into(), size: 32 * MIB };
    refused(spdk.engine_frontend_expand(expand).await, Code::FailedPrecondition, "resume it");
    let expand = corriente::wire::spdkrpc::EngineExpandRequest { name: "v1-e-0".into(), size: 32 * MIB };
    refused(spdk.engine_expand(expand).await, Code::FailedPrecondition, "resume it");
    assert!(!held.is_finished());
    cluster.frontend_delete(0, "v1").await;
    held.await.expect("the held write ends well");
    assert!(holds(&volume, 0, MIB, 0x44).await);

    // The empty frontend has no client I/O.
    cluster.frontend(0, request("v1", "", "")).await;
    refused(cluster.suspend(0, "v1").await, Code::Unimplemented, "empty frontend");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_engine_is_on_another_node_is_suspended_there() {
    let cluster = Cluster::start(2).await;
    let engine = cluster.volume("v1", NVMF).await;
    let frontend = cluster.frontend(1, request("v1", NVMF, &target_of(&engine))).await;
    let volume = Arc::new(connect(&frontend.endpoint).await);
    cluster.suspend(1, "v1").await.expect("it is suspended");
    let held = {
        let volume = volume.clone();
        tokio::spawn(async move { fill(&volume, 0, MIB, 0x55).await })
    };
    tokio::time::sleep(HELD).await;
    assert!(!held.is_finished(), "I/O went through a suspended frontend");
    // The node that holds the I/O has a call of its own for it; who resumes there ends the suspension.
    let resume = own::EngineResumeRequest { engine_name: "v1-e-0".into() };
    cluster.nodes[0].corriente().engine_resume(resume).await.expect("it goes on");
    held.await.expect("the held write ends well");
    cluster.resume(1, "v1").await.expect("nothing is held any more");
    assert_eq!(cluster.frontend_get(1, "v1").await.expect("it is there").state, "running");
}
