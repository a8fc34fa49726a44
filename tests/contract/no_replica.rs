//! A volume that has lost its only replica: it says so, and nothing is asked of nobody.

use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{Cluster, LIMIT, NVMF, SIZE, refused};
use crate::hazards::{FIRST, create_engine};
use crate::support::wait::wait_until;
use crate::volume::{Imaged, address_of, create_replica, delete_replica};

#[tokio::test(flavor = "multi_thread")]
async fn h10_h14_without_a_replica_in_sync_a_backup_is_refused_and_old_snapshots_are_not_passed_off_as_of_now() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let address = address_of(&create_replica(node, FIRST).await);
    let engine = create_engine(node, &[(FIRST, &address)], |request| request.frontend = NVMF.into()).await;
    Imaged::new().write(&engine.expect("the engine is created"), &[0]).await;
    let snapshot = |name: &str| wire::SnapshotRequest {
        name: "vol-e-0".into(),
        snapshot_name: name.into(),
        user_created: true,
        ..Default::default()
    };
    node.spdk().engine_snapshot_create(snapshot("s1")).await.expect("a snapshot");
    delete_replica(node, FIRST, true).await;
    let lost = wait_until(LIMIT, "the engine knows", async || {
        let engine = cluster.engine_get(0, "vol-e-0").await.expect("the engine");
        if engine.state == "error" { Ok(engine) } else { Err(engine.state) }
    })
    .await;
    assert!(lost.error_msg.contains("no replica is in sync"), "{}", lost.error_msg);

    let backup = wire::BackupCreateRequest {
        engine_name: "vol-e-0".into(),
        snapshot_name: "s1".into(),
        backup_target: format!("vfs://{}", node.directory().display()),
        volume_name: "vol".into(),
        backup_name: "b1".into(),
        compression_method: "lz4".into(),
        ..Default::default()
    };
    refused(node.spdk().engine_backup_create(backup).await, Code::FailedPrecondition, "no replica is in sync");
    refused(
        node.spdk().engine_snapshot_create(snapshot("s2")).await,
        Code::FailedPrecondition,
        "no replica is in sync",
    );
    let expansion = wire::EngineExpandRequest { name: "vol-e-0".into(), size: 2 * SIZE };
    assert!(node.spdk().engine_expand(expansion).await.is_err(), "a volume without a replica grew");
    assert!(!cluster.engine_get(0, "vol-e-0").await.expect("the engine").snapshots.contains_key("s2"));
}
