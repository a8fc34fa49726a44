//! Replicas that joined, left or failed while the engine ran, and what an engine that comes back by itself makes of them.

use std::collections::BTreeMap;

use corriente::wire::spdkrpc as wire;
use corriente::wire::spdkrpc::ReplicaMode;
use tonic::{Code, Status};

use crate::cluster::{Cluster, LIMIT, MIB, NVMF, connect, fill, holds, refused, request, target_of};
use crate::support::wait::wait_until;

const FIRST: &str = "v1-r-00000000";
const SECOND: &str = "v1-r-00000001";

/// A volume on the first node's replica alone, with its frontend on `frontend`'s node; and the replica that can join.
struct Lab {
    cluster: Cluster,
    frontend: usize,
    replicas: BTreeMap<String, String>,
    endpoint: String,
}

impl Lab {
    async fn start(frontend: usize) -> Self {
        let cluster = Cluster::start(2).await;
        let replicas = cluster.replicas("v1").await;
        let first = BTreeMap::from([(FIRST.to_owned(), replicas[FIRST].clone())]);
        let engine = cluster.engine(0, ("v1", 0), NVMF, first).await;
        let endpoint = cluster.frontend(frontend, request("v1", NVMF, &target_of(&engine))).await.endpoint;
        Self { cluster, frontend, replicas, endpoint }
    }

    async fn add(&self) -> Result<(), Status> {
        let request = wire::EngineFrontendReplicaAddRequest {
            engine_frontend_name: "v1-ef".into(),
            replica_name: SECOND.into(),
            replica_address: self.replicas[SECOND].clone(),
            ..Default::default()
        };
        self.cluster.nodes[self.frontend].spdk().engine_frontend_replica_add(request).await.map(drop)
    }

    async fn remove(&self, replica: &str) {
        let request = wire::EngineReplicaDeleteRequest {
            engine_name: "v1-e-0".into(),
            replica_name: replica.into(),
            ..Default::default()
        };
        self.cluster.nodes[0].spdk().engine_replica_delete(request).await.expect("the replica is removed");
    }

    /// Waits until the engine runs with exactly these members, and its frontend with it.
    async fn runs_with(&self, members: &[(&str, ReplicaMode)]) -> wire::Engine {
        let wanted: BTreeMap<_, _> = members.iter().map(|(name, mode)| ((*name).to_owned(), *mode as i32)).collect();
        wait_until(LIMIT, &format!("the engine runs with {members:?}"), async || {
            let engine = self.cluster.engine_get(0, "v1-e-0").await.map_err(|status| status.to_string())?;
            let frontend = self.cluster.frontend_get(self.frontend, "v1").await.map_err(|status| status.to_string())?;
            let found: BTreeMap<_, _> = engine.replica_mode_map.clone().into_iter().collect();
            if (engine.state.as_str(), frontend.state.as_str()) == ("running", "running") && found == wanted {
                Ok(engine)
            } else {
                Err(format!("{} with {found:?}, {}: {}", engine.state, frontend.state, engine.error_msg))
            }
        })
        .await
    }

    /// The node of the engine and of the first replica ends, and is started again.
    async fn crash(&mut self) {
        self.cluster.nodes[0].kill9();
        self.cluster.nodes[0].start_again().await;
    }

    async fn write(&self, offset: u64, byte: u8) {
        let volume = connect(&self.endpoint).await;
        fill(&volume, offset, MIB, byte).await;
        volume.flush().await.expect("a flush");
    }

    async fn reads(&self, expected: &[(u64, u8)]) {
        let volume = connect(&self.endpoint).await;
        for (offset, byte) in expected {
            assert!(holds(&volume, *offset, MIB, *byte).await, "not what was written last at {offset}");
        }
    }
}

async fn a_replica_joins(frontend: usize) {
    let mut lab = Lab::start(frontend).await;
    lab.write(0, 0x11).await;
    lab.add().await.expect("the rebuild starts");
    let both = [(FIRST, ReplicaMode::Rw), (SECOND, ReplicaMode::Rw)];
    let joined = lab.runs_with(&both).await;
    refused(lab.add().await, Code::FailedPrecondition, "already exists");
    lab.write(MIB, 0x22).await;

    // The restarted node knows the replica that joined, and where it is.
    lab.crash().await;
    let back = lab.runs_with(&both).await;
    assert_eq!((&back.replica_address_map, back.port), (&lab.replicas, joined.port));
    lab.reads(&[(0, 0x11), (MIB, 0x22)]).await;

    // And the one that left stays away: what it has is old from now on.
    lab.remove(FIRST).await;
    lab.write(0, 0x33).await;
    lab.crash().await;
    let alone = lab.runs_with(&[(SECOND, ReplicaMode::Rw)]).await;
    assert_eq!(alone.replica_address_map.keys().collect::<Vec<_>>(), [SECOND]);
    lab.reads(&[(0, 0x33), (MIB, 0x22)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_joined_through_a_frontend_comes_back_with_its_engine_and_one_that_left_does_not() {
    a_replica_joins(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_joins_through_a_frontend_of_another_node_than_its_engines() {
    a_replica_joins(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_the_engines_crash_cut_short_leaves_a_replica_that_is_not_read_and_can_join_again() {
    let mut lab = Lab::start(0).await;
    for piece in 0..8 {
        lab.write(piece * MIB, 0x40 + piece as u8).await;
    }
    // Eight seconds at least: it is not over when the node ends.
    let slowly = wire::ReplicaRebuildingDstSetQosLimitRequest { name: SECOND.into(), qos_limit_mbps: 1 };
    lab.cluster.nodes[1].spdk().replica_rebuilding_dst_set_qos_limit(slowly).await.expect("a limit");
    lab.add().await.expect("the rebuild starts");
    refused(lab.add().await, Code::FailedPrecondition, "replica add is already in progress");
    lab.crash().await;
    lab.runs_with(&[(FIRST, ReplicaMode::Rw), (SECOND, ReplicaMode::Err)]).await;
    lab.write(0, 0x77).await;

    lab.remove(SECOND).await;
    lab.crash().await;
    lab.runs_with(&[(FIRST, ReplicaMode::Rw)]).await;
    let fast = wire::ReplicaRebuildingDstSetQosLimitRequest { name: SECOND.into(), qos_limit_mbps: 0 };
    lab.cluster.nodes[1].spdk().replica_rebuilding_dst_set_qos_limit(fast).await.expect("no limit");
    lab.add().await.expect("the next rebuild starts");
    lab.runs_with(&[(FIRST, ReplicaMode::Rw), (SECOND, ReplicaMode::Rw)]).await;
    lab.remove(FIRST).await;
    lab.reads(&[(0, 0x77), (MIB, 0x41), (7 * MIB, 0x47)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_failed_is_not_read_by_the_engine_that_comes_back() {
    let mut lab = Lab::start(0).await;
    lab.add().await.expect("the rebuild starts");
    lab.runs_with(&[(FIRST, ReplicaMode::Rw), (SECOND, ReplicaMode::Rw)]).await;
    lab.write(0, 0x11).await;
    lab.cluster.nodes[1].kill9();
    lab.write(0, 0x22).await;
    let one_out = [(FIRST, ReplicaMode::Rw), (SECOND, ReplicaMode::Err)];
    lab.runs_with(&one_out).await;

    // Its node starts it again by itself. It is as old as it is.
    lab.cluster.nodes[1].start_again().await;
    lab.crash().await;
    lab.runs_with(&one_out).await;
    lab.reads(&[(0, 0x22)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_who_creates_what_comes_back_at_the_same_time_gets_it_as_it_was() {
    let mut lab = Lab::start(0).await;
    lab.add().await.expect("the rebuild starts");
    let both = [(FIRST, ReplicaMode::Rw), (SECOND, ReplicaMode::Rw)];
    let before = lab.runs_with(&both).await;
    lab.write(0, 0x11).await;
    lab.crash().await;
    let replica = wire::ReplicaCreateRequest {
        name: FIRST.into(),
        lvs_name: "disk".into(),
        spec_size: crate::cluster::SIZE,
        port_count: 5,
        ..Default::default()
    };
    refused(lab.cluster.nodes[0].spdk().replica_create(replica).await, Code::AlreadyExists, FIRST);
    let engine = lab.cluster.engine(0, ("v1", 0), NVMF, lab.replicas.clone()).await;
    assert_eq!((engine.port, &engine.replica_address_map), (before.port, &lab.replicas));
    lab.cluster.frontend(0, request("v1", NVMF, &target_of(&engine))).await;
    lab.runs_with(&both).await;
    lab.reads(&[(0, 0x11)]).await;
    // What differs is said.
    let other = wire::EngineCreateRequest {
        name: "v1-e-0".into(),
        volume_name: "v1".into(),
        spec_size: crate::cluster::SIZE,
        replica_address_map: BTreeMap::from([(FIRST.to_owned(), lab.replicas[FIRST].clone())]),
        frontend: NVMF.into(),
        ..Default::default()
    };
    refused(lab.cluster.nodes[0].spdk().engine_create(other).await, Code::AlreadyExists, "other replicas");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expansion_that_the_crash_cut_short_between_two_replicas_is_finished() {
    let mut lab = Lab::start(0).await;
    lab.add().await.expect("the rebuild starts");
    let both = [(FIRST, ReplicaMode::Rw), (SECOND, ReplicaMode::Rw)];
    lab.runs_with(&both).await;
    lab.write(0, 0x11).await;
    let size = 2 * crate::cluster::SIZE;
    let expand = wire::ReplicaExpandRequest { name: SECOND.into(), size };
    lab.cluster.nodes[1].spdk().replica_expand(expand).await.expect("one of them grows");
    lab.crash().await;
    assert_eq!(lab.runs_with(&both).await.spec_size, size);
    lab.write(size - MIB, 0x22).await;
    lab.reads(&[(0, 0x11), (size - MIB, 0x22)]).await;
}
