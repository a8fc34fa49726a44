//! Replicas that are found on a disk, and what is not one (`engine-behaviour` §1.2). Only a node has its disks open, so a
//! disk's lvols can change behind its back only before it takes the disk.

use corriente::wire::corriente::v1 as own;

use crate::cluster::{MIB, SIZE};
use crate::volume::{Prepared, connect_replica, create_replica};

fn name(index: u8) -> String {
    format!("vol-r-abcdef0{index}")
}

#[tokio::test(flavor = "multi_thread")]
async fn runtime_monitoring_verify_multiple_replicas_reconstruction() {
    let prepared = Prepared::start(async |raw| {
        for index in 0..3 {
            raw.volume(&name(index), SIZE).await;
            raw.fill(&name(index), 0, 0x10 + index).await;
            raw.snapshot(&name(index), &format!("{}-snap-s1", name(index)), true, 1).await;
            raw.fill(&name(index), 1, 0x20 + index).await;
            raw.snapshot(&name(index), &format!("{}-snap-s2", name(index)), false, 2).await;
            raw.fill(&name(index), 1, 0x30 + index).await;
        }
    })
    .await;
    let found = prepared.replicas().await;
    assert_eq!(found.keys().cloned().collect::<Vec<_>>(), (0..3).map(name).collect::<Vec<_>>());
    for (index, replica) in (0u8..).zip(found.values()) {
        assert_eq!((replica.state.as_str(), replica.error_msg.as_str(), replica.spec_size), ("stopped", "", SIZE));
        assert_eq!(replica.snapshots.keys().collect::<Vec<_>>(), ["s1", "s2"]);
        let (s1, s2) = (&replica.snapshots["s1"], &replica.snapshots["s2"]);
        assert_eq!((s1.parent.as_str(), s2.parent.as_str()), ("", "s1"));
        assert_eq!((s1.user_created, s2.user_created), (true, false));
        assert_eq!(s2.snapshot_timestamp, "2026-01-01T00:00:02Z");
        assert_eq!(s1.children.keys().collect::<Vec<_>>(), ["s2"]);
        assert_eq!(s2.children.keys().collect::<Vec<_>>(), ["volume-head"]);
        assert_eq!(replica.head.as_ref().expect("a head").parent, "s2");

        let running = create_replica(&prepared.node, &replica.name).await;
        assert_eq!(running.state, "running", "{}", running.error_msg);
        let host = connect_replica(&running).await;
        let mut data = vec![0; 3 * MIB as usize];
        host.read(0, &mut data).await.expect("read");
        host.disconnect().await.expect("an orderly end");
        for (cluster, byte) in [(0, 0x10 + index), (1, 0x30 + index), (2, 0)] {
            assert!(data[cluster * MIB as usize..][..MIB as usize].iter().all(|found| *found == byte), "{cluster}");
        }
    }
}

async fn orphan_names(prepared: &Prepared) -> Vec<String> {
    let listed = prepared.node.corriente().orphan_list(own::OrphanListRequest::default()).await.expect("a list");
    listed.into_inner().orphans.into_iter().map(|orphan| orphan.lvol_name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn runtime_monitoring_verify_mixed_valid_and_invalid_lvol_names() {
    const INVALID: [&str; 6] =
        ["-r-1234abcd", "plain", "vol-r-1234abc", "vol-r-1234abc_", "vol-r-1234abcde", "vol-s-1234abcd"];
    let prepared = Prepared::start(async |raw| {
        raw.volume("vol-r-1234abcd", SIZE).await;
        raw.volume("other-vol-r-ZZ99zz00", SIZE).await;
        for invalid in INVALID {
            raw.volume(invalid, SIZE).await;
        }
    })
    .await;
    let found = prepared.replicas().await;
    assert_eq!(found.keys().collect::<Vec<_>>(), ["other-vol-r-ZZ99zz00", "vol-r-1234abcd"]);
    assert!(found.values().all(|replica| replica.state == "stopped"));
    assert_eq!(orphan_names(&prepared).await, INVALID, "what is not a replica's is left alone, and told");
}

#[tokio::test(flavor = "multi_thread")]
async fn runtime_monitoring_verify_skip_rebuilding_and_cloning_lvol() {
    let prepared = Prepared::start(async |raw| {
        raw.volume("vol-r-1234abcd", SIZE).await;
        for made in ["rebuilding", "cloning", "expired-0000000a", "clone-ep-s1"] {
            raw.volume(&format!("lost-r-1234abcd-{made}"), SIZE).await;
        }
        raw.snapshot("lost-r-1234abcd-clone-ep-s1", "lost-r-1234abcd-cloning-tmp", false, 1).await;
    })
    .await;
    assert_eq!(prepared.replicas().await.keys().collect::<Vec<_>>(), ["vol-r-1234abcd"]);
    // Clones look after their own.
    assert_eq!(orphan_names(&prepared).await, ["lost-r-1234abcd-expired-0000000a", "lost-r-1234abcd-rebuilding"]);
}
