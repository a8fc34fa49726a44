//! What a node has, to compare before and after.

use std::fs;

use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::Cluster;

/// All lists of a node.
#[derive(Debug, PartialEq)]
pub struct State {
    disk: wire::Disk,
    replicas: wire::ReplicaListResponse,
    engines: wire::EngineListResponse,
}

fn disk_request() -> wire::DiskGetRequest {
    wire::DiskGetRequest { disk_name: "disk".into(), ..Default::default() }
}

impl State {
    pub async fn of(cluster: &Cluster) -> Self {
        let mut spdk = cluster.nodes[0].spdk();
        let mut state = Self {
            disk: spdk.disk_get(disk_request()).await.expect("the disk").into_inner(),
            replicas: spdk.replica_list(()).await.expect("the replicas").into_inner(),
            engines: spdk.engine_list(()).await.expect("the engines").into_inner(),
        };
        state.forget_sizes();
        state
    }

    /// What is allocated is told a moment late; the disk's free space tells it too.
    fn forget_sizes(&mut self) {
        for replica in self.replicas.replicas.values_mut() {
            replica.actual_size = 0;
            replica.head.iter_mut().for_each(|head| head.actual_size = 0);
        }
        for engine in self.engines.engines.values_mut() {
            engine.actual_size = 0;
            engine.head.iter_mut().for_each(|head| head.actual_size = 0);
        }
    }
}

/// Bytes of the disk that are free.
pub async fn free_bytes(cluster: &Cluster) -> i64 {
    let disk = cluster.nodes[0].spdk().disk_get(disk_request()).await.expect("the disk");
    disk.into_inner().free_size
}

/// Deletes every frontend, engine and replica, whatever state a storm has left them in.
pub async fn delete_everything(cluster: &Cluster) {
    let mut spdk = cluster.nodes[0].spdk();
    let frontends = spdk.engine_frontend_list(()).await.expect("the frontends").into_inner().engine_frontends;
    for name in frontends.into_keys() {
        let request = wire::EngineFrontendDeleteRequest { name };
        spdk.engine_frontend_delete(request).await.expect("the frontend is deleted");
    }
    for name in spdk.engine_list(()).await.expect("the engines").into_inner().engines.into_keys() {
        let request = wire::EngineDeleteRequest { name };
        spdk.engine_delete(request).await.expect("the engine is deleted");
    }
    for name in spdk.replica_list(()).await.expect("the replicas").into_inner().replicas.into_keys() {
        let request = wire::ReplicaDeleteRequest { name: name.clone(), cleanup_required: true };
        spdk.replica_delete(request).await.expect("the replica is deleted");
        let gone = spdk.replica_get(wire::ReplicaGetRequest { name }).await;
        assert_eq!(gone.expect_err("it is deleted").code(), Code::NotFound);
    }
}

/// Memory of a process that is no hugepage and no file.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line of its memory");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}
