//! Members that do not grow: they are out, the others go on, and the client notices nothing.

use std::net::SocketAddr;

use corriente::faults::{Action, Point};
use corriente::initiator::{Initiator, Options};
use corriente::name::{Nqn, ReplicaName};
use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::{MIB, SIZE, refused};
use crate::lab::{Lab, Work, replica, works_in};

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_cannot_grow_is_out_with_the_reason_and_when_none_can_the_volume_stays_as_it_is() {
    let lab = Lab::start(3).await;
    let work = Work::begin(lab.client().await);
    for node in &lab.cluster.nodes {
        node.faults().once(Point::ReplicaGrows, Action::Fail);
    }
    let none = lab.expand(2 * SIZE).await;
    refused(none, Code::Internal, "the volume keeps its");
    let after = lab.runs_with(&[0, 1, 2]).await;
    assert_eq!((after.spec_size, after.is_expanding), (SIZE, false));
    assert!(after.last_expansion_error.contains("replica-grows"), "{}", after.last_expansion_error);
    assert!(!after.last_expansion_failed_at.is_empty());

    lab.cluster.nodes[1].faults().once(Point::ReplicaGrows, Action::Fail);
    lab.expand(2 * SIZE).await.expect("the volume grows without one");
    let after = lab.runs_with(&[0, 2]).await;
    assert_eq!(after.spec_size, 2 * SIZE);
    let reason = after.last_expansion_error;
    assert!(reason.contains(&replica(1)) && reason.contains("replica-grows"), "{reason}");

    let mut client = work.end().await;
    works_in(&mut client, 2 * SIZE).await;
    lab.mirrored(&client, &[0, 2]).await;
    // It is not believed any more, whatever it can do now.
    lab.expand(3 * SIZE).await.expect("the volume grows");
    assert_eq!(lab.replica_size(1).await, SIZE);
    assert_eq!(lab.runs_with(&[0, 2]).await.last_expansion_error, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_ends_or_stands_still_while_its_replica_grows_is_out_and_its_replica_is_not_believed() {
    let mut lab = Lab::start_with(3, |options| options.set("timeouts.member_deadline", "5s")).await;
    let mut client = lab.client().await;
    let mut size = SIZE;
    // Node 2 ends in the middle; node 1 afterwards stops where it stands, and only its silence tells.
    lab.cluster.nodes[2].faults().once(Point::ReplicaGrown, Action::Kill);
    for round in 0..2 {
        let work = Work::begin(client);
        size += SIZE;
        if round == 1 {
            lab.cluster.nodes[1].freeze();
        }
        lab.expand(size).await.expect("the volume grows with the rest");
        client = work.end().await;
        works_in(&mut client, size).await;
        if round == 0 {
            lab.runs_with(&[0, 1]).await;
            lab.cluster.nodes[2].killed().await;
            lab.cluster.nodes[2].start_again().await;
            lab.mirrored(&client, &[0, 1]).await;
        }
    }
    let after = lab.runs_with(&[0]).await;
    assert_eq!(after.spec_size, size);
    lab.cluster.nodes[1].thaw();
    lab.cluster.nodes[0].kill9();
    lab.cluster.nodes[0].start_again().await;
    let back = lab.runs_with(&[0]).await;
    assert_eq!((back.spec_size, back.port), (size, lab.engine.port));
    lab.mirrored(&client, &[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_space_for_the_new_range_costs_its_replica_and_not_the_volume() {
    let lab = Lab::start(2).await;
    let mut client = lab.client().await;
    // All of the volume is allocated, and then the second disk is filled by another replica.
    client.initiator().write(0, &vec![0; SIZE as usize]).await.expect("a write");
    fill(&lab).await;
    let work = Work::begin(client);
    lab.expand(2 * SIZE).await.expect("the volume grows: its space is taken when it is written");
    client = work.end().await;
    works_in(&mut client, 2 * SIZE).await;
    let engine = lab.runs_with(&[0]).await;
    assert_eq!(engine.spec_size, 2 * SIZE);
    lab.mirrored(&client, &[0]).await;
}

/// Fills the second node's disk.
async fn fill(lab: &Lab) {
    let request = wire::ReplicaCreateRequest {
        name: "filler-r-00000000".into(),
        lvs_name: "disk".into(),
        spec_size: 256 * MIB,
        port_count: 1,
        ..Default::default()
    };
    let filler = lab.cluster.nodes[1].spdk().replica_create(request).await.expect("a replica").into_inner();
    let address: SocketAddr = format!("{}:{}", filler.ip, filler.port_start).parse().expect("an address");
    let nqn = Nqn::replica(&ReplicaName::parse(&filler.name).expect("a name"));
    let initiator = Initiator::connect(address, &nqn, &Nqn::internal_host(), Options::default()).await;
    let initiator = initiator.expect("the replica answers");
    for piece in 0..256 {
        if initiator.write(piece * MIB, &vec![1; MIB as usize]).await.is_err() {
            return;
        }
    }
    panic!("a disk of 256 MiB took 256 MiB beside what it had");
}
