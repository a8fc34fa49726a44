//! A replica's states.

use tonic::Code;

use crate::cluster::{Cluster, MIB, refused};
use crate::volume::{connect_replica, create_replica, delete_replica, get_replica, try_create_replica};

const REPLICA: &str = "vol-r-00000001";

#[tokio::test(flavor = "multi_thread")]
async fn replica_create_with_state_checks() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let created = create_replica(node, REPLICA).await;
    assert_eq!((created.state.as_str(), created.error_msg.as_str()), ("running", ""));
    assert_eq!(
        (created.port_end - created.port_start, created.head.as_ref().map(|head| head.name.as_str())),
        (4, Some("volume-head"))
    );
    let data = vec![0x5C; MIB as usize];
    let host = connect_replica(&created).await;
    host.write(MIB, &data).await.expect("written");
    host.flush().await.expect("flushed");
    host.disconnect().await.expect("an orderly end");
    refused(try_create_replica(node, REPLICA).await, Code::AlreadyExists, REPLICA);
    assert_eq!(get_replica(node, REPLICA).await.expect("it is there").state, "running", "a refusal changes nothing");

    delete_replica(node, REPLICA, false).await;
    let stopped = get_replica(node, REPLICA).await.expect("it is kept");
    assert_eq!((stopped.state.as_str(), stopped.port_start), ("stopped", 0));
    assert_eq!(stopped.head.expect("its head").actual_size, MIB);

    let again = create_replica(node, REPLICA).await;
    assert_eq!((again.state.as_str(), &again.uuid), ("running", &created.uuid), "the same head");
    let host = connect_replica(&again).await;
    let mut found = vec![0; MIB as usize];
    host.read(MIB, &mut found).await.expect("read");
    host.disconnect().await.expect("an orderly end");
    assert!(found == data, "the data is what it was");
    delete_replica(node, REPLICA, true).await;
    refused(get_replica(node, REPLICA).await, Code::NotFound, REPLICA);
}

/// A replica is pending only while its creation runs, so the deletions are sent into that.
#[tokio::test(flavor = "multi_thread")]
async fn replica_delete_pending_without_cleanup_is_noop() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let first = create_replica(node, REPLICA).await;
    let host = connect_replica(&first).await;
    host.write(0, &[0x77; 4096]).await.expect("written");
    host.disconnect().await.expect("an orderly end");
    delete_replica(node, REPLICA, false).await;
    for round in 0..8 {
        let (created, ()) = tokio::join!(try_create_replica(node, REPLICA), delete_replica(node, REPLICA, false));
        let created = created.expect("a deletion without cleanup does not fail the creation");
        assert_eq!((created.error_msg.as_str(), &created.uuid), ("", &first.uuid), "round {round}");
        let settled = get_replica(node, REPLICA).await.expect("nothing is lost");
        assert!(matches!(settled.state.as_str(), "running" | "stopped"), "round {round}: {}", settled.state);
        delete_replica(node, REPLICA, false).await;
        assert_eq!(get_replica(node, REPLICA).await.expect("it is kept").state, "stopped");
    }
    let last = create_replica(node, REPLICA).await;
    let host = connect_replica(&last).await;
    let mut found = [0; 4096];
    host.read(0, &mut found).await.expect("read");
    assert!(found.iter().all(|byte| *byte == 0x77));
    host.disconnect().await.expect("an orderly end");
}
