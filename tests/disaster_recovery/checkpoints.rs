//! What corriente.v1 tells of restore checkpoints: before, during and after restores, over a kill, and of a replica that
//! cannot be asked.

use corriente::faults::{Action, Point};
use corriente::wire::corriente::v1 as own;
use tonic::Code;

use crate::cluster::refused;
use crate::scene::{BOTH, Scene, VOLUME, replica};

async fn checkpoints(scene: &Scene) -> Vec<own::RestoreCheckpoint> {
    let request = own::RestoreCheckpointsRequest { engine_name: format!("{VOLUME}-e-0") };
    let answer = scene.cluster.nodes[0].corriente().restore_checkpoints(request).await.expect("an answer").into_inner();
    let names: Vec<_> = answer.checkpoints.iter().map(|checkpoint| checkpoint.replica_name.clone()).collect();
    assert_eq!(names, BOTH.map(replica));
    answer.checkpoints
}

/// The backup and the snapshot of a replica's last complete restore, and the backup that is under way.
fn told(checkpoint: &own::RestoreCheckpoint) -> [&str; 3] {
    assert_eq!(checkpoint.error, "", "{checkpoint:?}");
    let (backup, snapshot) = match &checkpoint.restored {
        Some(point) => (point.backup_name.as_str(), point.snapshot_name.as_str()),
        None => ("", ""),
    };
    let unfinished = checkpoint.unfinished.as_ref().map_or("", |begun| {
        assert!(begun.base_intact, "{checkpoint:?}");
        begun.backup_name.as_str()
    });
    [backup, snapshot, unfinished]
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_tell_the_point_a_volume_goes_back_to_and_what_is_under_way() {
    let mut scene = Scene::start("vol-trim").await;
    let nothing = own::RestoreCheckpointsRequest { engine_name: "nobody".into() };
    refused(scene.cluster.nodes[0].corriente().restore_checkpoints(nothing).await, Code::NotFound, "nobody");
    for checkpoint in checkpoints(&scene).await {
        assert_eq!(told(&checkpoint), ["", "", ""]);
    }
    scene.restore(0).await;
    let point = (scene.points[0].backup.clone(), scene.points[0].snapshot.clone());
    for checkpoint in checkpoints(&scene).await {
        assert_eq!(told(&checkpoint), [&*point.0, &point.1, ""]);
    }

    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_corriente"));
    let server = scene.cluster.nodes[0].grpc_address().to_string();
    command.args(["restore", "checkpoints", &format!("{VOLUME}-e-0"), "--server", &server]).env_clear();
    let shown = command.kill_on_drop(true).output().await.expect("the program starts");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&replica(1)) && shown.contains(&point.0) && shown.contains(&point.1), "{shown}");

    // In the middle of the next one, on which the node ends.
    let faults = scene.cluster.nodes[0].faults();
    faults.once(Point::RestoreStepDone, Action::Block);
    scene.start_restore(1).await.expect("the restore starts");
    faults.blocked(Point::RestoreStepDone).await;
    let next = scene.points[1].backup.clone();
    for checkpoint in checkpoints(&scene).await {
        assert_eq!(told(&checkpoint), [&*point.0, &point.1, &next]);
    }
    scene.cluster.nodes[0].kill9();
    scene.come_up().await;
    assert_eq!(scene.create("").await.state, "running");
    for checkpoint in checkpoints(&scene).await {
        assert_eq!(told(&checkpoint), [&*point.0, &point.1, ""], "it has gone back");
    }

    scene.cluster.nodes[1].kill9();
    let after = checkpoints(&scene).await;
    assert_eq!(told(&after[0]), [&*point.0, &point.1, ""]);
    assert!(!after[1].error.is_empty() && after[1].restored.is_none(), "{:?}", after[1]);
}
