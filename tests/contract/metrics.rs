//! Longhorn's metrics call (`engine-behaviour` §1.8).

use std::time::Instant;

use corriente::wire::spdkrpc as wire;
use tonic::{Code, Status};

use crate::cluster::{Cluster, LIMIT, MIB, NVMF, refused};
use crate::support::client::connect;
use crate::support::wait::wait_until;

async fn metrics(cluster: &Cluster, name: &str) -> Result<wire::Metrics, Status> {
    let request = wire::MetricsRequest { name: name.into() };
    cluster.nodes[0].spdk().metrics_get(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_of_the_last_seconds_and_there_is_none_before_two_looks() {
    let cluster = Cluster::start(1).await;
    refused(metrics(&cluster, "vol-e-0").await, Code::NotFound, "vol-e-0");
    refused(metrics(&cluster, "").await, Code::InvalidArgument, "name");
    let engine = cluster.volume("vol", NVMF).await;
    refused(metrics(&cluster, "vol-e-0").await, Code::NotFound, "two looks");
    let idle = wait_until(LIMIT, "two looks", async || {
        metrics(&cluster, "vol-e-0").await.map_err(|status| status.to_string())
    })
    .await;
    assert_eq!(idle, wire::Metrics::default(), "nobody has used it");

    let host = connect(&engine).await;
    let since = Instant::now();
    let mut written = 0u64;
    let seen = wait_until(LIMIT, "writes are seen", async || {
        for _ in 0..4 {
            host.write(0, &vec![0x42; MIB as usize]).await.expect("written");
            written += MIB;
        }
        match metrics(&cluster, "vol-e-0").await.expect("metrics") {
            metrics if metrics.write_iops > 0 => Ok(metrics),
            metrics => Err(format!("{metrics:?}")),
        }
    })
    .await;
    assert!(seen.write_latency > 0 && seen.write_throughput >= seen.write_iops * 512, "{seen:?}");
    assert!(seen.write_throughput <= written, "no more in a second than in {:?}: {seen:?}", since.elapsed());
    assert_eq!((seen.read_iops, seen.read_throughput, seen.read_latency), (0, 0, 0));
    wait_until(LIMIT, "reads are seen and the writes are over", async || {
        host.read(0, &mut vec![0; MIB as usize]).await.expect("read");
        match metrics(&cluster, "vol-e-0").await.expect("metrics") {
            metrics if metrics.read_iops > 0 && metrics.write_iops == 0 => Ok(()),
            metrics => Err(format!("{metrics:?}")),
        }
    })
    .await;
    host.disconnect().await.expect("an orderly end");
    let request = wire::EngineDeleteRequest { name: "vol-e-0".into() };
    cluster.nodes[0].spdk().engine_delete(request).await.expect("the engine is deleted");
    wait_until(LIMIT, "they are gone with the engine", async || match metrics(&cluster, "vol-e-0").await {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
