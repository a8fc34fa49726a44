//! The marker of restores that each replica carries, damaged: what it hides is not guessed.

use corriente::wire::corriente::v1 as own;
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::refused;
use crate::scene::{BOTH, Scene, VOLUME, replica};

const KEY: &str = "corriente.restore";

async fn marker(scene: &Scene, index: usize) -> Vec<u8> {
    let request = own::ReplicaXattrGetRequest { replica_name: replica(index), key: KEY.into() };
    let answer = scene.cluster.nodes[index].corriente().replica_xattr_get(request).await;
    answer.expect("the replica answers").into_inner().value
}

async fn set_marker(scene: &Scene, index: usize, value: &[u8]) {
    let request = own::ReplicaXattrSetRequest { replica_name: replica(index), key: KEY.into(), value: value.to_vec() };
    scene.cluster.nodes[index].corriente().replica_xattr_set(request).await.expect("the marker is stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_an_unreadable_marker_is_kept_out_and_with_all_of_them_so_is_the_volume() {
    let scene = Scene::start("vol-legacy").await;
    scene.restore(0).await;
    let good = [marker(&scene, 0).await, marker(&scene, 1).await];
    scene.cluster.delete_engine(VOLUME).await;

    for index in BOTH {
        set_marker(&scene, index, b"{\"restored\":").await;
    }
    for frontend in ["", "spdk-tcp-nvmf"] {
        let engine = scene.create(frontend).await;
        assert_eq!(engine.state, "error");
        for word in ["is corrupt", "restore marker", &replica(0), &replica(1)] {
            assert!(engine.error_msg.contains(word), "{word:?} is not in {:?}", engine.error_msg);
        }
        assert!(engine.endpoint.is_empty());
        scene.cluster.delete_engine(VOLUME).await;
    }

    // Mended on both, nothing was lost by the attempts.
    for index in BOTH {
        set_marker(&scene, index, &good[index]).await;
    }
    assert_eq!(scene.create("").await.state, "running");
    scene.stands_at(0, &BOTH).await;

    // Damaged under a running engine: the next restore does not guess either.
    set_marker(&scene, 1, b"garbage").await;
    scene.start_restore(1).await.expect("the restore starts");
    scene.fails("restore marker", 0).await;

    assert_eq!(scene.recreate("").await.state, "running");
    scene.stands_at(0, &[0]).await;
    assert_eq!(scene.mode(&replica(1)).await, wire::ReplicaMode::Err as i32);
    let entries = scene.cluster.status(VOLUME).await;
    let out = entries.iter().find(|entry| entry.replica_name == replica(1)).expect("it is listed");
    assert!(out.error.contains("restore marker") && out.error.contains("corrupt"), "{out:?}");
    refused(scene.start_restore(1).await, Code::FailedPrecondition, &replica(1));
    scene.remove(1).await;
    scene.start_restore(1).await.expect("the restore starts");
    scene.proven(1, &[0]).await;
}
