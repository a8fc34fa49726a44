//! A mirrored volume over two nodes, what was acknowledged to its client, and how its members are made to differ.

use std::collections::BTreeMap;
use std::time::Duration;

use corriente::initiator::Initiator;
use corriente::wire::corriente::v1 as own;
use corriente::wire::spdkrpc as wire;

use crate::cluster::{Cluster, read_replica, ready};
use crate::support::client::connect;
use crate::support::node::NodeOptions;
use crate::support::random::Random;
use crate::support::wait::wait_until;

/// 32 regions of 1 MiB.
pub const SIZE: u64 = 32 << 20;
pub const REGION: u64 = 1 << 20;
pub const PIECE: usize = 64 << 10;
const BLOCK: usize = 4096;
/// No test writes there.
const UNUSED: u64 = 30 * REGION;
pub const LIMIT: Duration = Duration::from_secs(60);
/// What a node logs when it finds that members may differ.
pub const DIFFERS: &str = "members may differ since the end of the last mirror";

pub struct Lab {
    pub cluster: Cluster,
    addresses: BTreeMap<String, String>,
    random: Random,
    acknowledged: BTreeMap<u64, Vec<u8>>,
    /// Writes without an answer: each block may have it or not, for good once it was read.
    open: BTreeMap<u64, Vec<u8>>,
}

impl Lab {
    /// Regions stay dirty unless `set` says otherwise.
    pub async fn start(set: impl Fn(NodeOptions) -> NodeOptions) -> Self {
        let options = |options: NodeOptions| set(options.faulty().set("timeouts.dirty_quiet", "1h"));
        let cluster = Cluster::start_with(options).await;
        let addresses = cluster.replicas("vol", SIZE).await;
        cluster.engine("vol", SIZE, "spdk-tcp-nvmf", addresses.clone()).await;
        let (acknowledged, open) = Default::default();
        Self { cluster, addresses, random: Random::from_clock(), acknowledged, open }
    }

    pub async fn connect(&self) -> Initiator {
        connect(&self.cluster.get("vol").await).await
    }

    /// Writes a piece and has its answer.
    pub async fn write(&mut self, client: &Initiator, offset: u64) {
        let data = self.random.bytes(PIECE);
        client.write(offset, &data).await.expect("the write is answered");
        self.open.remove(&offset);
        self.acknowledged.insert(offset, data);
    }

    /// Writes a piece, maybe without an answer.
    pub async fn write_in_vain(&mut self, client: &Initiator, offset: u64) {
        let data = self.random.bytes(PIECE);
        self.open.insert(offset, data.clone());
        if client.write(offset, &data).await.is_ok() {
            self.open.remove(&offset);
            self.acknowledged.insert(offset, data);
        }
    }

    /// Leaves the members different: a write to `offset`, where one was acknowledged before, reaches the first node's replica, the
    /// other's is frozen, and both nodes are killed.
    pub async fn differ_at(&mut self, offset: u64) {
        let client = self.connect().await;
        self.write(&client, offset).await;
        self.cluster.nodes[1].freeze();
        let data = self.random.bytes(PIECE);
        self.open.insert(offset, data.clone());
        let in_flight = {
            let data = data.clone();
            tokio::spawn(async move { client.write(offset, &data).await })
        };
        let replica = self.addresses["vol-r-00000000"].clone();
        let range = offset as usize..offset as usize + PIECE;
        wait_until(LIMIT, "the local replica has the write", async || {
            let image = read_replica("vol-r-00000000", &replica).await;
            if image[range.clone()] == data { Ok(()) } else { Err("not yet".into()) }
        })
        .await;
        assert!(!in_flight.is_finished(), "a write is answered that one member has not");
        self.cluster.nodes.iter_mut().for_each(|node| node.kill9());
        in_flight.await.expect("no panic").expect_err("the node is gone");
        self.cluster.nodes[1].start_again().await;
        ready(&self.cluster.nodes[1]).await;
        let other = read_replica("vol-r-00000001", &self.addresses["vol-r-00000001"]).await;
        assert!(
            other[range] == self.acknowledged[&offset],
            "the frozen replica has something else than the write before"
        );
    }

    /// Starts the engine's node again; its engine comes back by itself, and the first I/O wakes its mirror.
    pub async fn come_back(&mut self) {
        self.start_engine_again().await;
        self.connect().await.read(UNUSED, &mut vec![0; BLOCK]).await.expect("what is equal is served");
        assert!(!self.mirror().await.asleep);
    }

    /// Starts the engine's node again after a crash.
    pub async fn come_back_asleep(&mut self) {
        self.start_engine_again().await;
        assert!(self.mirror().await.asleep, "a mirror is awake before any I/O, and another might be in use");
    }

    async fn start_engine_again(&mut self) {
        self.cluster.nodes[0].start_again().await;
        self.running().await;
    }

    pub async fn running(&self) {
        wait_until(LIMIT, "the engine runs again", async || {
            let engine = self.cluster.get("vol").await;
            match engine.state.as_str() {
                "running" => Ok(()),
                state => Err(format!("{state} {}", engine.error_msg)),
            }
        })
        .await;
    }

    pub async fn mirror(&self) -> own::MirrorGetResponse {
        let request = own::MirrorGetRequest { engine_name: "vol-e-0".into() };
        self.cluster.nodes[0].corriente().mirror_get(request).await.expect("a mirror").into_inner()
    }

    pub async fn until_equal(&self) {
        wait_until(LIMIT, "the members are equal", async || match self.mirror().await.unequal_bytes {
            0 => Ok(()),
            left => Err(format!("{left} bytes are left")),
        })
        .await;
    }

    /// Both members are in sync and hold the same, which is what was acknowledged, and what was read stays.
    pub async fn check(&mut self) {
        let modes = self.cluster.get("vol").await.replica_mode_map;
        assert!(modes.len() == 2 && modes.values().all(|mode| *mode == wire::ReplicaMode::Rw as i32), "{modes:?}");
        let image = self.cluster.read(&self.cluster.get("vol").await).await;
        self.until_equal().await;
        for (replica, address) in &self.addresses {
            assert!(read_replica(replica, address).await == image, "{replica} is not what the volume is");
        }
        self.compare(&image);
        self.digests().await;
    }

    /// What the volume serves and each replica alone has the same digest, as an operator asks for it.
    async fn digests(&self) {
        let request = own::VolumeChecksumRequest { engine_name: "vol-e-0".into(), members: true, ..Default::default() };
        let answer = self.cluster.nodes[0].corriente().volume_checksum(request).await;
        let mut steps = answer.expect("a checksum").into_inner();
        while let Some(step) = steps.message().await.expect("no error") {
            if let Some(own::volume_checksum_response::Step::Result(result)) = step.step {
                assert!(result.equal && result.members.len() == 2, "{result:?}");
                return;
            }
        }
        panic!("the checksum has no result");
    }

    fn compare(&mut self, image: &[u8]) {
        for (offset, data) in std::mem::take(&mut self.open) {
            let found = &image[offset as usize..][..PIECE];
            let before = self.acknowledged.get(&offset).cloned().unwrap_or_else(|| vec![0; PIECE]);
            let blocks = found.chunks(BLOCK).zip(data.chunks(BLOCK).zip(before.chunks(BLOCK)));
            for (found, (new, old)) in blocks {
                assert!(found == new || found == old, "a block at {offset} is neither old nor new");
            }
            self.acknowledged.insert(offset, found.to_vec());
        }
        for (offset, data) in &self.acknowledged {
            assert!(image[*offset as usize..][..PIECE] == *data, "the bytes at {offset} are not those acknowledged");
        }
    }
}
