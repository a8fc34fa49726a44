//! A replica that joins a running volume: through its frontend, without one, and what stands in its way.

use std::collections::BTreeMap;

use corriente::wire::spdkrpc as wire;
use corriente::wire::spdkrpc::ReplicaMode;
use tonic::{Code, Status};

use crate::cluster::{Cluster, LIMIT, NVMF, refused, request, snapshot, target_of};
use crate::support::wait::wait_until;
use crate::volume::{Imaged, get_replica};

const FIRST: &str = "vol-r-00000000";
const SECOND: &str = "vol-r-00000001";
const THIRD: &str = "vol-r-00000002";

/// Replicas on three nodes, of which the volume has the first.
struct Lab {
    cluster: Cluster,
    replicas: BTreeMap<String, String>,
    client: Imaged,
}

impl Lab {
    async fn start() -> Self {
        let cluster = Cluster::start(3).await;
        let replicas = cluster.replicas("vol").await;
        let first = BTreeMap::from([(FIRST.to_owned(), replicas[FIRST].clone())]);
        let engine = cluster.engine(0, ("vol", 0), NVMF, first).await;
        let mut client = Imaged::new();
        client.write(&engine, &[0, 1, 2]).await;
        Self { cluster, replicas, client }
    }

    async fn engine(&self) -> wire::Engine {
        self.cluster.engine_get(0, "vol-e-0").await.expect("the engine")
    }

    async fn through_frontend(&self, replica: &str, address: &str) -> Result<(), Status> {
        let request = wire::EngineFrontendReplicaAddRequest {
            engine_frontend_name: "vol-ef".into(),
            replica_name: replica.into(),
            replica_address: address.into(),
            ..Default::default()
        };
        self.cluster.nodes[0].spdk().engine_frontend_replica_add(request).await.map(drop)
    }

    async fn at_engine(&self, replica: &str, frontend: &str, frontend_address: &str) -> Result<(), Status> {
        let request = wire::EngineReplicaAddRequest {
            engine_name: "vol-e-0".into(),
            replica_name: replica.into(),
            replica_address: self.replicas[replica].clone(),
            engine_frontend_name: frontend.into(),
            engine_frontend_address: frontend_address.into(),
            ..Default::default()
        };
        self.cluster.nodes[0].spdk().engine_replica_add(request).await.map(drop)
    }

    async fn in_sync(&self, replica: &str) {
        wait_until(LIMIT, "the replica is in sync", async || {
            let mode = self.engine().await.replica_mode_map.get(replica).copied();
            if mode == Some(ReplicaMode::Rw as i32) { Ok(()) } else { Err(format!("{mode:?}")) }
        })
        .await;
    }

    /// A replica alone holds all that the client has written.
    async fn alone(&self, replica: &str) {
        let request = wire::EngineDeleteRequest { name: "vol-e-0".into() };
        self.cluster.nodes[0].spdk().engine_delete(request).await.expect("the engine is deleted");
        let only = BTreeMap::from([(replica.to_owned(), self.replicas[replica].clone())]);
        let request = wire::EngineCreateRequest {
            name: "vol-e-0".into(),
            volume_name: "vol".into(),
            spec_size: crate::cluster::SIZE,
            replica_address_map: only,
            frontend: NVMF.into(),
            // The others are not asked.
            salvage_requested: true,
            ..Default::default()
        };
        let engine = self.cluster.nodes[0].spdk().engine_create(request).await.expect("an answer").into_inner();
        assert_eq!(engine.state, "running", "{}", engine.error_msg);
        self.client.check(&engine, replica).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_frontend_replica_add() {
    let mut lab = Lab::start().await;
    let engine = lab.engine().await;
    lab.cluster.frontend(0, request("vol", NVMF, &target_of(&engine))).await;
    let mut spdk = lab.cluster.nodes[0].spdk();
    spdk.engine_frontend_snapshot_create(snapshot("vol", "s1")).await.expect("a snapshot");
    lab.client.write(&engine, &[1, 3]).await;
    lab.through_frontend(SECOND, &lab.replicas[SECOND]).await.expect("the rebuild starts");
    lab.client.write(&engine, &[4]).await;
    lab.in_sync(SECOND).await;
    lab.client.write(&engine, &[5]).await;
    let (one, two) =
        (get_replica(&lab.cluster.nodes[0], FIRST).await, get_replica(&lab.cluster.nodes[1], SECOND).await);
    let names = |replica: Result<wire::Replica, Status>| {
        replica.expect("the replica").snapshots.into_keys().collect::<Vec<_>>()
    };
    let (one, two) = (names(one), names(two));
    assert_eq!(one, two);
    assert!(one.len() == 2 && one.contains(&"s1".to_owned()) && one.iter().any(|name| name.starts_with("rebuild-")));
    let frontend = lab.cluster.frontend_get(0, "vol").await.expect("the frontend");
    assert_eq!((frontend.state.as_str(), frontend.endpoint.is_empty()), ("running", false), "it never left");
    lab.cluster.frontend_delete(0, "vol").await;
    lab.alone(SECOND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_frontend_replica_add_error_handling() {
    let mut lab = Lab::start().await;
    let address = lab.replicas[SECOND].clone();
    refused(lab.through_frontend(SECOND, &address).await, Code::NotFound, "vol-ef");
    let engine = lab.engine().await;
    lab.cluster.frontend(0, request("vol", NVMF, &target_of(&engine))).await;
    for (replica, address, words) in [
        ("", address.as_str(), "replica_name"),
        (SECOND, "", "replica_address"),
        (SECOND, "nowhere", "replica_address"),
    ] {
        refused(lab.through_frontend(replica, address).await, Code::InvalidArgument, words);
    }
    refused(lab.through_frontend(FIRST, &lab.replicas[FIRST]).await, Code::FailedPrecondition, "already exists");
    let nobody = lab.through_frontend("none-r-00000000", &address).await.expect_err("there is no such replica");
    assert!(nobody.message().contains("none-r-00000000"), "{nobody}");

    // Not while it is suspended, nor while another one is being added.
    lab.cluster.suspend(0, "vol").await.expect("suspended");
    refused(lab.through_frontend(SECOND, &address).await, Code::FailedPrecondition, "suspended");
    lab.cluster.resume(0, "vol").await.expect("resumed");
    assert_eq!(lab.engine().await.replica_mode_map.keys().collect::<Vec<_>>(), [FIRST], "nothing has changed");
    assert!(lab.engine().await.snapshots.is_empty(), "no snapshot was left");
    lab.client.write(&engine, &[6]).await;

    let slowly = wire::ReplicaRebuildingDstSetQosLimitRequest { name: SECOND.into(), qos_limit_mbps: 1 };
    lab.cluster.nodes[1].spdk().replica_rebuilding_dst_set_qos_limit(slowly).await.expect("a limit");
    lab.through_frontend(SECOND, &address).await.expect("the rebuild starts");
    refused(
        lab.through_frontend(SECOND, &address).await,
        Code::FailedPrecondition,
        "replica add is already in progress",
    );
    refused(lab.through_frontend(THIRD, &lab.replicas[THIRD]).await, Code::FailedPrecondition, "must wait for it");

    // The destination dies: the addition fails, is shown as failed, and the volume goes on.
    lab.cluster.nodes[1].kill9();
    wait_until(LIMIT, "the addition has failed", async || {
        let mode = lab.engine().await.replica_mode_map.get(SECOND).copied();
        if mode == Some(ReplicaMode::Err as i32) { Ok(()) } else { Err(format!("{mode:?}")) }
    })
    .await;
    lab.client.write(&engine, &[7]).await;
    refused(lab.through_frontend(SECOND, &address).await, Code::FailedPrecondition, "remove it first");
    lab.through_frontend(THIRD, &lab.replicas[THIRD].clone()).await.expect("another one can join");
    lab.in_sync(THIRD).await;
    lab.cluster.frontend_delete(0, "vol").await;
    lab.alone(THIRD).await;
}

/// The contract suspends the frontend for the snapshot of a rebuild; one that cannot be reached must not keep a replica
/// out, and must not cost a write (hazard O7). Here the mirror pauses by itself, whoever the frontend is.
#[tokio::test(flavor = "multi_thread")]
async fn engine_replica_add_without_engine_frontend_info() {
    let mut lab = Lab::start().await;
    let engine = lab.engine().await;
    lab.at_engine(SECOND, "", "").await.expect("the rebuild starts");
    lab.client.write(&engine, &[3, 4]).await;
    lab.in_sync(SECOND).await;
    lab.at_engine(THIRD, "gone-ef", "127.0.0.1:1").await.expect("the rebuild starts");
    lab.client.write(&engine, &[0, 5]).await;
    lab.in_sync(THIRD).await;
    lab.client.write(&engine, &[6]).await;
    lab.alone(THIRD).await;
}
