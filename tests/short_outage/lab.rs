//! A volume over two nodes that is full of data, and a client that writes to a small part of it.

use std::collections::BTreeMap;
use std::time::Duration;

use corriente::faults::Point;
use corriente::wire::corriente::v1 as own;
use corriente::wire::spdkrpc as wire;

use crate::cluster::{Cluster, create_replica, read_replica, ready};
use crate::support::client::{Client, connect};
use crate::support::node::NodeOptions;
use crate::support::random::Random;
use crate::support::wait::wait_until;

/// 32 regions of 1 MiB.
pub const SIZE: u64 = 32 << 20;
/// What the client writes to: four regions.
pub const WRITTEN: u64 = 4 << 20;
pub const LIMIT: Duration = Duration::from_secs(90);
pub const FIRST: &str = "vol-r-00000000";
pub const SECOND: &str = "vol-r-00000001";
pub const THIRD: &str = "vol-r-00000002";

pub struct Lab {
    pub cluster: Cluster,
    pub addresses: BTreeMap<String, String>,
    pub client: Client,
}

impl Lab {
    pub async fn start() -> Self {
        Self::start_with(|options| options).await
    }

    /// Both replicas hold a whole image, and nothing is dirty.
    pub async fn start_with(set: impl Fn(NodeOptions) -> NodeOptions) -> Self {
        Self::start_of(false, set).await
    }

    /// The same with a third replica, beside the first.
    pub async fn start_with_third() -> Self {
        Self::start_of(true, |options| options).await
    }

    async fn start_of(third: bool, set: impl Fn(NodeOptions) -> NodeOptions) -> Self {
        let cluster = Cluster::start_with(|options| {
            let options = options.faulty().set("timeouts.return_window", "10m");
            set(options.set("timeouts.member_deadline", "5s").set("timeouts.dirty_quiet", "200ms"))
        })
        .await;
        let mut addresses = cluster.replicas("vol", SIZE).await;
        if third {
            addresses.insert(THIRD.into(), create_replica(&cluster.nodes[0], THIRD, SIZE).await);
        }
        let engine = cluster.engine("vol", SIZE, "spdk-tcp-nvmf", addresses.clone()).await;
        let image = Random::from_clock().bytes(SIZE as usize);
        let writer = connect(&engine).await;
        for (piece, data) in image.chunks(1 << 20).enumerate() {
            writer.write((piece << 20) as u64, data).await.expect("the image is written");
        }
        writer.disconnect().await.expect("an orderly end");
        let mut client = Client::with_image(&engine, image).await;
        client.resize(WRITTEN);
        let lab = Self { cluster, addresses, client };
        lab.until_quiet().await;
        lab
    }

    /// Nothing is dirty any more.
    pub async fn until_quiet(&self) {
        wait_until(LIMIT, "nothing is dirty", async || match self.mirror().await.dirty_regions {
            0 => Ok(()),
            left => Err(format!("{left} regions")),
        })
        .await;
    }

    pub async fn mirror(&self) -> own::MirrorGetResponse {
        let request = own::MirrorGetRequest { engine_name: "vol-e-0".into() };
        self.cluster.nodes[0].corriente().mirror_get(request).await.expect("a mirror").into_inner()
    }

    /// The second replica in the mirror.
    pub async fn member(&self) -> own::MirrorMember {
        let members = self.mirror().await.members;
        members.into_iter().find(|member| member.replica_name == SECOND).expect("the second replica is a member")
    }

    pub async fn mode(&self) -> Option<wire::ReplicaMode> {
        let modes = self.cluster.get("vol").await.replica_mode_map;
        modes.get(SECOND).map(|mode| wire::ReplicaMode::try_from(*mode).expect("a known mode"))
    }

    /// The client works until the second replica has the mode.
    pub async fn works_until(&mut self, wanted: wire::ReplicaMode) {
        let (cluster, client) = (&self.cluster, &mut self.client);
        wait_until(LIMIT, &format!("the replica is {wanted:?}"), async || {
            client.work().await;
            let modes = cluster.get("vol").await.replica_mode_map;
            match modes.get(SECOND) {
                Some(mode) if *mode == wanted as i32 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// The client works until the engine is blocked there.
    pub async fn works_until_blocked(&mut self, point: Point) {
        let reached = self.cluster.nodes[0].faults().directory().join(point.reached_name());
        let client = &mut self.client;
        wait_until(LIMIT, point.file_name(), async || {
            client.work().await;
            if reached.exists() { Ok(()) } else { Err("not reached".into()) }
        })
        .await;
    }

    /// The second replica's node is killed, and the client works on without it.
    pub async fn kill_second(&mut self) {
        self.cluster.nodes[1].kill9();
        self.works_until(wire::ReplicaMode::Err).await;
    }

    pub async fn start_second(&mut self) {
        self.cluster.nodes[1].start_again().await;
        ready(&self.cluster.nodes[1]).await;
    }

    /// Both replicas alone hold what the volume is: what was acknowledged, and nothing else.
    pub async fn check(&mut self) {
        self.client.work().await;
        self.client.check(usize::MAX).await;
        self.cluster.delete_engine("vol").await;
        for (replica, address) in &self.addresses {
            self.client.compare(&read_replica(replica, address).await);
        }
    }

    /// The engine's node is started again after a crash, and its engine has come back by itself.
    pub async fn start_first(&mut self) {
        self.cluster.nodes[0].start_again().await;
        wait_until(LIMIT, "the engine runs again", async || {
            let engine = self.cluster.get("vol").await;
            match engine.state.as_str() {
                "running" => Ok(()),
                state => Err(format!("{state} {}", engine.error_msg)),
            }
        })
        .await;
    }

    /// Takes the second replica out of the engine.
    pub async fn remove_second(&self) {
        let request = wire::EngineReplicaDeleteRequest {
            engine_name: "vol-e-0".into(),
            replica_name: SECOND.into(),
            ..Default::default()
        };
        self.cluster.nodes[0].spdk().engine_replica_delete(request).await.expect("the replica is removed");
    }

    /// Makes the second replica anew, by a rebuild.
    pub async fn rebuild_second(&mut self) {
        self.remove_second().await;
        let request = wire::ReplicaDeleteRequest { name: SECOND.into(), cleanup_required: true };
        self.cluster.nodes[1].spdk().replica_delete(request).await.expect("what it holds is deleted");
        let address = create_replica(&self.cluster.nodes[1], SECOND, SIZE).await;
        let request = wire::EngineReplicaAddRequest {
            engine_name: "vol-e-0".into(),
            replica_name: SECOND.into(),
            replica_address: address.clone(),
            ..Default::default()
        };
        self.cluster.nodes[0].spdk().engine_replica_add(request).await.expect("the rebuild starts");
        self.addresses.insert(SECOND.into(), address);
        self.works_until(wire::ReplicaMode::Rw).await;
    }
}
