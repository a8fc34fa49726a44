//! Which replicas an engine starts from that is told to salvage. Longhorn keeps those whose heads are largest; ours are told
//! apart by their generations, which say who has every acknowledged write.

use std::collections::BTreeMap;

use corriente::wire::spdkrpc as wire;
use corriente::wire::spdkrpc::ReplicaMode;

use crate::cluster::{Cluster, LIMIT, MIB, NVMF, SIZE, fill, holds};
use crate::support::client::connect;
use crate::support::wait::wait_until;

const FIRST: &str = "vol-r-00000000";
const SECOND: &str = "vol-r-00000001";

struct Lab {
    cluster: Cluster,
    replicas: BTreeMap<String, String>,
}

impl Lab {
    /// An engine on a node, which may be in state error.
    async fn engine(&self, node: usize, replicas: &[&str], salvage: bool) -> wire::Engine {
        let addresses = replicas.iter().map(|name| ((*name).to_owned(), self.replicas[*name].clone()));
        let request = wire::EngineCreateRequest {
            name: "vol-e-0".into(),
            volume_name: "vol".into(),
            spec_size: SIZE,
            replica_address_map: addresses.collect(),
            frontend: NVMF.into(),
            salvage_requested: salvage,
            ..Default::default()
        };
        self.cluster.nodes[node].spdk().engine_create(request).await.expect("an answer").into_inner()
    }

    async fn delete(&self, node: usize) {
        let request = wire::EngineDeleteRequest { name: "vol-e-0".into() };
        self.cluster.nodes[node].spdk().engine_delete(request).await.expect("the engine is deleted");
    }

    async fn write(&self, engine: &wire::Engine, byte: u8) {
        let host = connect(engine).await;
        fill(&host, 0, MIB, byte).await;
        host.flush().await.expect("flushed");
        host.disconnect().await.expect("an orderly end");
    }

    async fn reads(&self, engine: &wire::Engine, byte: u8) {
        let host = connect(engine).await;
        assert!(holds(&host, 0, MIB, byte).await, "the volume does not hold {byte:#x}");
        host.disconnect().await.expect("an orderly end");
    }

    async fn replica_runs(&self, node: usize, replica: &str) {
        wait_until(LIMIT, "the replica runs", async || {
            let request = wire::ReplicaGetRequest { name: replica.into() };
            match self.cluster.nodes[node].spdk().replica_get(request).await {
                Ok(replica) if replica.get_ref().state == "running" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

fn in_sync(engine: &wire::Engine) -> Vec<&str> {
    let modes = engine.replica_mode_map.iter();
    modes.filter(|(_, mode)| **mode == ReplicaMode::Rw as i32).map(|(name, _)| name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_create_with_salvage_requested() {
    let cluster = Cluster::start(2).await;
    let replicas = cluster.replicas("vol").await;
    let mut lab = Lab { cluster, replicas };
    let engine = lab.engine(0, &[FIRST, SECOND], false).await;
    assert_eq!(in_sync(&engine), [FIRST, SECOND], "{}", engine.error_msg);
    lab.write(&engine, 0x11).await;

    // The second one misses what comes now.
    lab.cluster.nodes[1].kill9();
    lab.write(&engine, 0x22).await;
    lab.delete(0).await;
    lab.cluster.nodes[1].start_again().await;
    lab.replica_runs(1, SECOND).await;
    let engine = lab.engine(0, &[FIRST, SECOND], true).await;
    assert_eq!((engine.state.as_str(), in_sync(&engine)), ("running", vec![FIRST]), "{}", engine.error_msg);
    lab.reads(&engine, 0x22).await;
}
