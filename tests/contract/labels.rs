//! Labels of snapshots: kept with each replica's snapshot, on whatever way it was asked for, and copied by a rebuild.

use std::collections::BTreeMap;

use corriente::wire::corriente::v1 as own;
use corriente::wire::spdkrpc as wire;
use corriente::wire::spdkrpc::ReplicaMode;
use tonic::{Code, Status};

use crate::cluster::{Cluster, LIMIT, NVMF, refused, request, snapshot, target_of};
use crate::support::wait::wait_until;
use crate::volume::ready_disk;

type Labels = BTreeMap<String, String>;

fn labels(all: &[(&str, &str)]) -> Labels {
    all.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn plain(answer: Result<tonic::Response<own::SnapshotLabelsResponse>, Status>) -> BTreeMap<String, Labels> {
    let snapshots = answer.expect("an answer").into_inner().snapshots;
    snapshots.into_iter().map(|(name, labels)| (name, labels.labels)).collect()
}

async fn of_replica(cluster: &Cluster, index: usize) -> BTreeMap<String, Labels> {
    let request = own::ReplicaSnapshotLabelsRequest { replica_name: format!("vol-r-0000000{index}") };
    plain(cluster.nodes[index].corriente().replica_snapshot_labels(request).await)
}

async fn of_engine(cluster: &Cluster) -> BTreeMap<String, Labels> {
    let request = own::EngineSnapshotLabelsRequest { engine_name: "vol-e-0".into() };
    plain(cluster.nodes[0].corriente().engine_snapshot_labels(request).await)
}

/// The snapshots with labels as the command line lists them.
async fn listed(cluster: &Cluster, arguments: &[&str]) -> BTreeMap<String, Labels> {
    let server = cluster.nodes[0].grpc_address().to_string();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_corriente"));
    command.args(["snapshot", "list", "--server", &server, "-o", "json"]).args(arguments);
    let output = command.env_clear().kill_on_drop(true).output().await.expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let entries: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("a list");
    let entry = |entry: &serde_json::Value| {
        let labels: Labels = serde_json::from_value(entry["labels"].clone()).expect("labels");
        (entry["snapshot"].as_str().expect("a name").to_owned(), labels)
    };
    entries.iter().map(entry).filter(|(_, labels)| !labels.is_empty()).collect()
}

async fn in_sync(cluster: &Cluster, replica: &str) {
    wait_until(LIMIT, "the replica is in sync", async || {
        let engine = cluster.engine_get(0, "vol-e-0").await.expect("the engine");
        let mode = engine.replica_mode_map.get(replica).copied();
        if mode == Some(ReplicaMode::Rw as i32) { Ok(()) } else { Err(format!("{mode:?} {}", engine.error_msg)) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_snapshots_are_kept_by_every_replica_over_restarts_and_copied_by_rebuilds() {
    let mut cluster = Cluster::start(2).await;
    let replicas = cluster.replicas("vol").await;
    let (first, second) = ("vol-r-00000000", "vol-r-00000001");
    let one = BTreeMap::from([(first.to_owned(), replicas[first].clone())]);
    let engine = cluster.engine(0, ("vol", 0), NVMF, one).await;
    // Through the engine and through a frontend on another node.
    let given = labels(&[("app", "db=1, \"x\""), ("recurring.longhorn.io/job", ""), ("ключ", "значение")]);
    let order = |name: &str, labels: &Labels| wire::SnapshotRequest {
        name: "vol-e-0".into(),
        snapshot_name: name.into(),
        user_created: true,
        labels: labels.clone(),
        ..Default::default()
    };
    let mut spdk = cluster.nodes[0].spdk();
    spdk.engine_snapshot_create(order("one", &given)).await.expect("a snapshot");
    spdk.engine_snapshot_create(order("two", &Labels::new())).await.expect("a snapshot without labels");
    cluster.frontend(1, request("vol", NVMF, &target_of(&engine))).await;
    let through = wire::SnapshotRequest { labels: labels(&[("by", "frontend")]), ..snapshot("vol", "three") };
    cluster.nodes[1].spdk().engine_frontend_snapshot_create(through).await.expect("a snapshot");
    let expected = BTreeMap::from([("one".to_owned(), given), ("three".to_owned(), labels(&[("by", "frontend")]))]);
    assert_eq!(of_engine(&cluster).await, expected);
    assert_eq!(of_replica(&cluster, 0).await, expected);
    for arguments in [&["vol-e-0"][..], &["vol-r-00000000", "--replica"]] {
        assert_eq!(listed(&cluster, arguments).await, expected, "{arguments:?}");
    }

    // What cannot be kept is refused and takes no snapshot.
    for wrong in [labels(&[("", "x")]), labels(&[("a", "\n")]), labels(&[("a", &"x".repeat(4096))])] {
        refused(spdk.engine_snapshot_create(order("no", &wrong)).await, Code::InvalidArgument, "labels");
        let through = wire::SnapshotRequest { labels: wrong, ..snapshot("vol", "no") };
        let answer = cluster.nodes[1].spdk().engine_frontend_snapshot_create(through).await;
        refused(answer, Code::InvalidArgument, "labels");
    }
    assert_eq!(cluster.engine_get(0, "vol-e-0").await.expect("the engine").snapshots.len(), 3);

    let add = wire::EngineReplicaAddRequest {
        engine_name: "vol-e-0".into(),
        replica_name: second.into(),
        replica_address: replicas[second].clone(),
        ..Default::default()
    };
    spdk.engine_replica_add(add).await.expect("the rebuild starts");
    in_sync(&cluster, second).await;
    assert_eq!(of_replica(&cluster, 1).await, expected, "a rebuilt snapshot has its labels");

    for node in &mut cluster.nodes {
        node.kill9();
    }
    for node in &mut cluster.nodes {
        node.start_again().await;
        ready_disk(node).await;
    }
    in_sync(&cluster, first).await;
    in_sync(&cluster, second).await;
    assert_eq!((of_replica(&cluster, 0).await, of_replica(&cluster, 1).await), (expected.clone(), expected.clone()));
    // A label goes with its snapshot, and only with it.
    let mut spdk = cluster.nodes[0].spdk();
    spdk.engine_snapshot_delete(order("one", &Labels::new())).await.expect("deleted");
    spdk.engine_snapshot_create(order("one", &Labels::new())).await.expect("another one of that name");
    assert_eq!(of_engine(&cluster).await, labels_of(&expected, "three"));
    assert_eq!(of_replica(&cluster, 1).await, labels_of(&expected, "three"));
}

fn labels_of(all: &BTreeMap<String, Labels>, snapshot: &str) -> BTreeMap<String, Labels> {
    BTreeMap::from([(snapshot.to_owned(), all[snapshot].clone())])
}
