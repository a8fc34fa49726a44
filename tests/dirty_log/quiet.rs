//! What is taken off the log, and members that cannot keep theirs.

use corriente::faults::{Action, Point};
use corriente::wire::spdkrpc as wire;

use crate::cluster::ready;
use crate::lab::{DIFFERS, LIMIT, Lab, REGION};
use crate::support::wait::wait_until;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_quiet_is_not_compared_after_a_crash() {
    let mut lab = Lab::start(|options| options.set("timeouts.dirty_quiet", "300ms")).await;
    let client = lab.connect().await;
    for round in 0..3 {
        for region in 0..8 {
            lab.write(&client, (region + round) * REGION).await;
        }
        wait_until(LIMIT, "nothing is dirty any more", async || match lab.mirror().await.dirty_regions {
            0 => Ok(()),
            left => Err(format!("{left} regions are")),
        })
        .await;
    }
    // What the record on the disk says is a store behind.
    wait_until(LIMIT, "the replicas' records are empty", async || {
        for (index, node) in lab.cluster.nodes.iter().enumerate() {
            let request = corriente::wire::corriente::v1::ReplicaXattrGetRequest {
                replica_name: format!("vol-r-0000000{index}"),
                key: "corriente.dirty".into(),
            };
            let record = node.corriente().replica_xattr_get(request).await.expect("a record").into_inner().value;
            // Without a bitmap: docs/formats.md.
            if record.len() != 24 {
                return Err(format!("{} has {} bytes", index, record.len()));
            }
        }
        Ok(())
    })
    .await;
    drop(client);
    lab.cluster.nodes.iter_mut().for_each(|node| node.kill9());
    lab.cluster.nodes[1].start_again().await;
    ready(&lab.cluster.nodes[1]).await;
    lab.come_back().await;
    assert!(!lab.cluster.nodes[0].log().contains(DIFFERS), "what is quiet is compared");
    lab.check().await;
}

/// It would not know, after a crash, that it may differ.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_cannot_store_what_is_dirty_is_out_and_the_client_sees_no_error() {
    let mut lab = Lab::start(|options| options.set("timeouts.member_deadline", "2s")).await;
    let client = lab.connect().await;
    lab.write(&client, 0).await;
    lab.cluster.nodes[1].faults().always(Point::DiskFlush, Action::Fail);
    lab.write(&client, 4 * REGION).await;
    wait_until(LIMIT, "the member is out", async || {
        let modes = lab.cluster.get("vol").await.replica_mode_map;
        let is = |replica: &str, mode: wire::ReplicaMode| modes.get(replica) == Some(&(mode as i32));
        match is("vol-r-00000001", wire::ReplicaMode::Err) && is("vol-r-00000000", wire::ReplicaMode::Rw) {
            true => Ok(()),
            false => Err(format!("{modes:?}")),
        }
    })
    .await;
    lab.write(&client, 5 * REGION).await;
    assert_eq!(lab.mirror().await.dirty_regions, 0, "a mirror of one keeps no log");
}
