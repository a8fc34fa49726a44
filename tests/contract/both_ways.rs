//! Two nodes that connect to each other at the same moment, each with one reactor, which also serves the other's connection.

use std::collections::BTreeMap;

use corriente::wire::spdkrpc as wire;

use crate::cluster::{Cluster, LIMIT, NVMF, SIZE};
use crate::support::wait::wait_until;

/// How often. At each a few milliseconds decide whether the two meet.
const ROUNDS: usize = 12;

/// An engine of a node whose only replica is on the other, made again until it runs.
async fn running_engine(cluster: &Cluster, node: usize, volume: &str, replicas: BTreeMap<String, String>) {
    let request = wire::EngineCreateRequest {
        name: format!("{volume}-e-0"),
        volume_name: volume.into(),
        spec_size: SIZE,
        replica_address_map: replicas,
        frontend: NVMF.into(),
        ..Default::default()
    };
    wait_until(LIMIT, &format!("volume {volume} is served"), async || {
        let engine = cluster.nodes[node].spdk().engine_create(request.clone()).await.expect("an answer").into_inner();
        if engine.state == "running" { Ok(()) } else { Err(engine.error_msg) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_connect_to_each_other_at_once_do_not_wait_for_each_other_for_ever() {
    let cluster = Cluster::start(2).await;
    let mut maps: Vec<BTreeMap<String, String>> = Vec::new();
    for (volume, elsewhere) in [("here", 1), ("there", 0)] {
        let mut map = cluster.replicas(volume).await;
        map.retain(|name, _| name.ends_with(&elsewhere.to_string()));
        maps.push(map);
    }
    for _ in 0..ROUNDS {
        tokio::join!(
            running_engine(&cluster, 0, "here", maps[0].clone()),
            running_engine(&cluster, 1, "there", maps[1].clone()),
        );
        for (node, volume) in ["here", "there"].into_iter().enumerate() {
            let request = wire::EngineDeleteRequest { name: format!("{volume}-e-0") };
            cluster.nodes[node].spdk().engine_delete(request).await.expect("the engine is deleted");
        }
    }
}
