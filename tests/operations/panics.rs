//! What a bug in a handler costs: its own call, and nothing of a volume.

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{Cluster, create_replica, refused};
use crate::support::client::Client;
use crate::support::node::NodeOptions;

const SIZE: u64 = 16 << 20;
const REPLICA: &str = "vol-r-00000000";

fn snapshot(name: &str) -> wire::SnapshotRequest {
    let (name, snapshot_name) = ("vol-e-0".into(), name.into());
    wire::SnapshotRequest { name, snapshot_name, user_created: true, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_handler_is_an_internal_error_of_its_call_and_costs_the_volume_nothing() {
    let cluster = Cluster::start_with(NodeOptions::faulty).await;
    let first = create_replica(&cluster.nodes[0], REPLICA, SIZE).await;
    let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", [(REPLICA.into(), first)].into()).await;
    let mut client = Client::of(&engine, SIZE).await;
    client.work().await;

    let faults = cluster.nodes[0].faults();
    // The first with client I/O paused, the second with a snapshot taken that nobody was told of.
    for (round, point) in [Point::SnapshotBegins, Point::SnapshotTaken].into_iter().enumerate() {
        faults.once(point, Action::Panic);
        let answer = cluster.nodes[0].spdk().engine_snapshot_create(snapshot(&format!("lost{round}"))).await;
        refused(answer, Code::Internal, "bug");
        assert!(faults.is_spent(point));
        client.work().await;
        let name = format!("kept{round}");
        cluster.nodes[0].spdk().engine_snapshot_create(snapshot(&name)).await.expect("the next one is taken");
        assert!(cluster.get("vol").await.snapshots.contains_key(&name));
    }
    client.work().await;
}
