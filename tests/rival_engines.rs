//! Two engines of one volume on two nodes. One has chosen its replicas, and another goes on with some of them before the first
//! has claimed them: the first must leave them alone, and what it leaves behind must not win over what the other acknowledged.

#![allow(dead_code)]

mod support;

#[path = "frontend/cluster.rs"]
mod cluster;

use std::collections::BTreeMap;

use cluster::{Cluster, LIMIT, NVMF, SIZE};
use corriente::faults::{Action, Point};
use corriente::mirror::core::{
    DirtyOrder, DirtyRecord, GenerationOrder, GenerationRecord, Incarnation, RegionSet, Regions, Replaces,
};
use corriente::name::ReplicaName;
use corriente::wire::corriente::v1 as own;
use corriente::wire::spdkrpc as wire;
use corriente::wire::spdkrpc::ReplicaMode;
use support::client::{Client, connect};
use support::node::NodeOptions;
use support::wait::wait_until;
use tokio::task::JoinHandle;
use tonic::Status;

const FIRST: &str = "vol-r-00000000";
const SECOND: &str = "vol-r-00000001";
const GENERATION: &str = "corriente.generation";
const DIRTY: &str = "corriente.dirty";

type Creation = JoinHandle<Result<wire::Engine, Status>>;

/// A volume that has been written to, with a replica on each node and no engine.
struct Lab {
    cluster: Cluster,
    replicas: BTreeMap<String, String>,
    image: Vec<u8>,
}

impl Lab {
    async fn start() -> Self {
        // What is held at a fault point must not be given up meanwhile.
        let cluster =
            Cluster::start_with(2, |options: NodeOptions| options.faulty().set("timeouts.member_deadline", "60s"))
                .await;
        let replicas = cluster.replicas("vol").await;
        let engine = cluster.engine(0, ("vol", 0), NVMF, replicas.clone()).await;
        let mut client = Client::of(&engine, SIZE).await;
        client.work().await;
        let image = client.image();
        let lab = Self { cluster, replicas, image };
        lab.delete(0, 0).await;
        lab
    }

    /// An engine of the first node over both replicas that has chosen them, and claims none yet.
    async fn held_engine(&self) -> Creation {
        let node = &self.cluster.nodes[0];
        node.faults().always(Point::DirtyBegins, Action::Block);
        let request = wire::EngineCreateRequest {
            name: "vol-e-0".into(),
            volume_name: "vol".into(),
            spec_size: SIZE,
            replica_address_map: self.replicas.clone(),
            frontend: NVMF.into(),
            ..Default::default()
        };
        let mut spdk = node.spdk();
        let creation = tokio::spawn(async move { spdk.engine_create(request).await.map(tonic::Response::into_inner) });
        node.faults().blocked(Point::DirtyBegins).await;
        creation
    }

    /// Lets it go on, and demands that it sleeps then, as another is quicker.
    async fn sleeps_then(&self, creation: Creation) {
        let node = &self.cluster.nodes[0];
        node.faults().lift(Point::DirtyBegins);
        let engine = creation.await.expect("no panic").expect("an answer");
        assert_eq!((engine.state.as_str(), engine.error_msg.as_str()), ("running", ""));
        let request = own::MirrorGetRequest { engine_name: engine.name };
        let mirror = node.corriente().mirror_get(request).await.expect("an answer").into_inner();
        assert!(mirror.asleep, "it goes on with what another engine serves: {mirror:?}");
    }

    async fn delete(&self, node: usize, ordinal: u32) {
        let request = wire::EngineDeleteRequest { name: format!("vol-e-{ordinal}") };
        self.cluster.nodes[node].spdk().engine_delete(request).await.expect("the engine is deleted");
    }

    /// A third engine, of both replicas: it runs, with exactly these in sync, and holds the image.
    async fn holds_with(&self, in_sync: &[&str], salvage: bool, image: &[u8]) {
        let request = wire::EngineCreateRequest {
            name: "vol-e-2".into(),
            volume_name: "vol".into(),
            spec_size: SIZE,
            replica_address_map: self.replicas.clone(),
            frontend: NVMF.into(),
            salvage_requested: salvage,
            ..Default::default()
        };
        let engine = self.cluster.nodes[0].spdk().engine_create(request).await.expect("an answer").into_inner();
        assert_eq!((engine.state.as_str(), engine.error_msg.as_str()), ("running", ""));
        let modes = engine.replica_mode_map.iter().filter(|(_, mode)| **mode == ReplicaMode::Rw as i32);
        let mut found: Vec<_> = modes.map(|(name, _)| name.as_str()).collect();
        found.sort_unstable();
        assert_eq!(found, in_sync);
        let host = connect(&engine).await;
        let mut read = vec![0; SIZE as usize];
        host.read(0, &mut read).await.expect("a read");
        host.disconnect().await.expect("an orderly end");
        assert!(read == image, "the volume is not what was acknowledged");
    }

    /// Has the second replica claimed as by another engine that ends in its start: with a generation above the one that is there, and
    /// below any other of the same height. It names these replicas.
    async fn claimed_on_second(&self, in_sync: &[&str]) {
        let mut corriente = self.cluster.nodes[1].corriente();
        let request = own::ReplicaXattrGetRequest { replica_name: SECOND.into(), key: GENERATION.into() };
        let stored = corriente.replica_xattr_get(request).await.expect("its generation").into_inner().value;
        let stored = String::from_utf8(stored).expect("text");
        let stored = GenerationRecord::parse(stored.trim_end_matches('\0')).expect("a record");
        let record = GenerationRecord {
            generation: stored.generation.next(Incarnation(1)),
            base: stored.generation,
            in_sync: in_sync.iter().map(|name| ReplicaName::parse(name).expect("a name")).collect(),
        };
        let (regions, dirty) = (Regions::of_volume(SIZE), RegionSet::EMPTY);
        let claim = DirtyRecord { regions, incarnation: Incarnation(1), sequence: 0, dirty, released: false };
        let order = GenerationOrder { record, replaces: Replaces::Only(Some(stored.generation)) };
        let (replica_name, key) = (SECOND.to_owned(), DIRTY.to_owned());
        let value = DirtyOrder::Claim(claim, order).encode();
        let request = own::ReplicaXattrSetRequest { replica_name, key, value };
        corriente.replica_xattr_set(request).await.expect("it may follow");
    }

    /// The image after an engine of the second node over its replica alone was written to, while the other is held and after
    /// that sleeps. Both engines are gone.
    async fn goes_on_with_second_alone(&self) -> Vec<u8> {
        let creation = self.held_engine().await;
        let second = BTreeMap::from([(SECOND.to_owned(), self.replicas[SECOND].clone())]);
        let engine = self.cluster.engine(1, ("vol", 1), NVMF, second).await;
        let mut client = Client::with_image(&engine, self.image.clone()).await;
        client.work().await;
        self.sleeps_then(creation).await;
        client.work().await;
        client.check(usize::MAX).await;
        let image = client.image();
        drop(client);
        self.delete(0, 0).await;
        self.delete(1, 1).await;
        image
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_another_was_quicker_than_costs_that_one_nothing() {
    let lab = Lab::start().await;
    let creation = lab.held_engine().await;
    let engine = lab.cluster.engine(1, ("vol", 1), NVMF, lab.replicas.clone()).await;
    let mut client = Client::with_image(&engine, lab.image.clone()).await;
    client.work().await;
    lab.sleeps_then(creation).await;
    client.work().await;
    client.check(usize::MAX).await;
    let modes = lab.cluster.engine_get(1, "vol-e-1").await.expect("it is there").replica_mode_map;
    assert!(modes.values().all(|mode| *mode == ReplicaMode::Rw as i32), "{modes:?}");
    let image = client.image();
    drop(client);
    lab.delete(0, 0).await;
    lab.delete(1, 1).await;
    lab.holds_with(&[FIRST, SECOND], false, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_part_of_the_replicas_does_not_win() {
    let lab = Lab::start().await;
    let image = lab.goes_on_with_second_alone().await;
    lab.holds_with(&[SECOND], false, &image).await;
}

/// Salvage takes the highest generation that there is; that of the claim may be it, and stands for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_part_of_the_replicas_is_not_what_salvage_takes() {
    let lab = Lab::start().await;
    let image = lab.goes_on_with_second_alone().await;
    lab.holds_with(&[SECOND], true, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_engines_that_each_claimed_a_part_of_the_replicas_leave_the_volume_as_it_was() {
    let lab = Lab::start().await;
    let creation = lab.held_engine().await;
    lab.claimed_on_second(&[FIRST, SECOND]).await;
    lab.sleeps_then(creation).await;
    lab.delete(0, 0).await;
    lab.holds_with(&[FIRST, SECOND], false, &lab.image).await;
}

/// Its own generation is the highest number, and still not what the volume has.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_another_was_quicker_than_does_not_come_back_by_itself() {
    let mut lab = Lab::start().await;
    let creation = lab.held_engine().await;
    lab.claimed_on_second(&[SECOND]).await;
    lab.sleeps_then(creation).await;
    lab.cluster.nodes[0].restart().await;
    let waits = "it waits for its owner";
    wait_until(LIMIT, waits, async || match lab.cluster.engine_get(0, "vol-e-0").await {
        Ok(engine) if engine.state == "running" => panic!("it has taken over what another engine served: {engine:?}"),
        Ok(engine) if engine.error_msg.contains("another engine has served its volume since") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
