//! Volumes with a tree of snapshots that are reverted along it and rebuilt, with the digest of each point checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use corriente::wire::spdkrpc as wire;
use corriente::wire::spdkrpc::ReplicaMode;
use sha2::{Digest, Sha512};

use crate::cluster::{Cluster, LIMIT, MIB, NVMF, SIZE};
use crate::support::node::Node;
use crate::support::random::Random;
use crate::support::wait::wait_until;
use crate::volume::{Imaged, address_of, delete_replica, disk, get_replica};

/// The backing image of the volumes that have one, smaller than they are.
const IMAGE: &str = "parrot";
const IMAGE_BYTES: u64 = 8 * MIB;

/// One volume on all nodes, its engine on the first.
struct Volume {
    cluster: Arc<Cluster>,
    name: String,
    replicas: BTreeMap<String, String>,
    client: Imaged,
    /// The backing image that its replicas stand on, or empty.
    image: &'static str,
    /// What the volume held at each snapshot.
    points: BTreeMap<String, Vec<u8>>,
}

impl Volume {
    async fn start(cluster: Arc<Cluster>, name: String) -> Self {
        Self::start_on(cluster, name, "", &[]).await
    }

    /// A volume that shows `content` from its beginning, which is a backing image's.
    async fn start_on(cluster: Arc<Cluster>, name: String, image: &'static str, content: &[u8]) -> Self {
        let mut client = Imaged::new();
        client.image[..content.len()].copy_from_slice(content);
        let mut volume = Self { cluster, name, replicas: BTreeMap::new(), client, image, points: BTreeMap::new() };
        for node in 0..volume.cluster.nodes.len() {
            let there = volume.create_replica(node).await;
            volume.replicas.insert(there.name.clone(), address_of(&there));
        }
        let engine = volume.create(NVMF).await;
        volume.client.check(&engine, "a new volume").await;
        volume
    }

    async fn create_replica(&self, node: usize) -> wire::Replica {
        let request = wire::ReplicaCreateRequest {
            name: format!("{}-r-0000000{node}", self.name),
            lvs_name: "disk".into(),
            spec_size: SIZE,
            port_count: 5,
            backing_image_name: self.image.into(),
            ..Default::default()
        };
        let made = self.cluster.nodes[node].spdk().replica_create(request).await.expect("the replica is created");
        let made = made.into_inner();
        assert_eq!(
            (made.state.as_str(), made.backing_image_name.as_str()),
            ("running", self.image),
            "{}",
            made.error_msg
        );
        made
    }

    fn engine_name(&self) -> String {
        format!("{}-e-0", self.name)
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    async fn create(&self, frontend: &str) -> wire::Engine {
        self.cluster.engine(0, (&self.name, 0), frontend, self.replicas.clone()).await
    }

    async fn delete(&self) {
        let request = wire::EngineDeleteRequest { name: self.engine_name() };
        self.node().spdk().engine_delete(request).await.expect("the engine is deleted");
    }

    async fn get(&self) -> wire::Engine {
        self.cluster.engine_get(0, &self.engine_name()).await.expect("the engine")
    }

    async fn write(&mut self, clusters: &[u64]) {
        let engine = self.get().await;
        self.client.write(&engine, clusters).await;
    }

    async fn snapshot(&mut self, name: &str) {
        let request = wire::SnapshotRequest {
            name: self.engine_name(),
            snapshot_name: name.into(),
            user_created: true,
            ..Default::default()
        };
        self.node().spdk().engine_snapshot_create(request).await.expect("a snapshot");
        self.points.insert(name.into(), self.client.image.clone());
    }

    /// Makes the volume what a snapshot is, which takes an engine without a frontend.
    async fn revert(&mut self, name: &str) {
        self.delete().await;
        self.create("").await;
        let request =
            wire::SnapshotRequest { name: self.engine_name(), snapshot_name: name.into(), ..Default::default() };
        self.node().spdk().engine_snapshot_revert(request).await.expect("reverted");
        self.client.image = self.points[name].clone();
        self.delete().await;
        let engine = self.create(NVMF).await;
        self.client.check(&engine, &format!("{} at {name}", self.name)).await;
        assert_eq!(engine.head.expect("a head").parent, name);
    }

    /// Replaces the replica of a node by a new one, under the client's I/O.
    async fn rebuild(&mut self, node: usize) {
        let replica = format!("{}-r-0000000{node}", self.name);
        self.remove(&replica).await;
        delete_replica(&self.cluster.nodes[node], &replica, true).await;
        self.add(node, false).await;
    }

    async fn remove(&self, replica: &str) {
        let request = wire::EngineReplicaDeleteRequest {
            engine_name: self.engine_name(),
            replica_name: replica.into(),
            ..Default::default()
        };
        self.node().spdk().engine_replica_delete(request).await.expect("the replica is removed");
    }

    /// Adds the replica of a node, new or as it is there, and waits until it is in sync.
    async fn add(&mut self, node: usize, fast_sync: bool) {
        let replica = format!("{}-r-0000000{node}", self.name);
        let there = match get_replica(&self.cluster.nodes[node], &replica).await {
            Ok(there) if there.state == "running" => there,
            _ => self.create_replica(node).await,
        };
        self.replicas.insert(replica.clone(), address_of(&there));
        let request = wire::EngineReplicaAddRequest {
            engine_name: self.engine_name(),
            replica_name: replica.clone(),
            replica_address: address_of(&there),
            fast_sync,
            ..Default::default()
        };
        self.node().spdk().engine_replica_add(request).await.expect("the rebuild starts");
        self.write(&[15]).await;
        wait_until(LIMIT, "the replica is in sync", async || {
            let engine = self.get().await;
            let mode = engine.replica_mode_map.get(&replica).copied();
            if mode == Some(ReplicaMode::Rw as i32) { Ok(()) } else { Err(format!("{mode:?}")) }
        })
        .await;
    }

    /// The snapshots that a rebuild took.
    async fn rebuild_snapshots(&self) -> usize {
        self.get().await.snapshots.keys().filter(|name| name.starts_with("rebuild-")).count()
    }

    /// All replicas have the same tree, and each alone holds the same volume.
    async fn all_alike(&self) {
        let tree = |replica: &wire::Replica| {
            let facts = |lvol: &wire::Lvol| {
                let children: Vec<_> = lvol.children.keys().cloned().collect();
                (lvol.parent.clone(), children, lvol.actual_size, lvol.user_created, lvol.snapshot_timestamp.clone())
            };
            replica.snapshots.iter().map(|(name, lvol)| (name.clone(), facts(lvol))).collect::<BTreeMap<_, _>>()
        };
        let mut trees = Vec::new();
        for (index, node) in self.cluster.nodes.iter().enumerate() {
            let replica = get_replica(node, &format!("{}-r-0000000{index}", self.name)).await.expect("the replica");
            trees.push(tree(&replica));
        }
        assert!(trees.iter().all(|tree| *tree == trees[0]), "{trees:#?}");
        let modes = self.get().await.replica_mode_map;
        assert!(modes.len() == trees.len() && modes.values().all(|mode| *mode == ReplicaMode::Rw as i32), "{modes:?}");
        self.digests().await;
    }

    /// What the volume serves and each replica alone has the same digest.
    async fn digests(&self) {
        use corriente::wire::corriente::v1 as own;
        let request =
            own::VolumeChecksumRequest { engine_name: self.engine_name(), members: true, ..Default::default() };
        let mut steps = self.node().corriente().volume_checksum(request).await.expect("a checksum").into_inner();
        while let Some(step) = steps.message().await.expect("no error") {
            if let Some(own::volume_checksum_response::Step::Result(result)) = step.step {
                assert!(result.equal && result.members.len() == self.cluster.nodes.len(), "{result:?}");
                return;
            }
        }
        panic!("the checksum has no result");
    }
}

/// Makes the image on every node; what it holds.
async fn make_images(cluster: &Cluster) -> Vec<u8> {
    let content = Random::from_clock().bytes(IMAGE_BYTES as usize);
    let digest = Sha512::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for node in &cluster.nodes {
        let path = node.directory().join("image.raw");
        std::fs::write(&path, &content).expect("a file");
        let lvs_uuid = disk(node).await.uuid;
        let order = wire::BackingImageCreateRequest {
            name: IMAGE.into(),
            backing_image_uuid: "a1b2c3d4".into(),
            lvs_uuid: lvs_uuid.clone(),
            size: IMAGE_BYTES,
            checksum: digest.clone(),
            from_address: format!("file://{}", path.display()),
            src_lvs_uuid: String::new(),
        };
        node.spdk().backing_image_create(order).await.expect("the image is begun");
        wait_until(LIMIT, "the image is ready", async || {
            let request = wire::BackingImageGetRequest { name: IMAGE.into(), lvs_uuid: lvs_uuid.clone() };
            let image = node.spdk().backing_image_get(request).await.expect("the image").into_inner();
            if image.state == "ready" { Ok(()) } else { Err(format!("{} {}", image.state, image.error_msg)) }
        })
        .await;
    }
    content
}

async fn snapshot_ops_and_rebuilding(mut volume: Volume) {
    // A tree: a1 - a2 - a3, and from a1 another way, b1 - b2.
    for (clusters, snapshot) in [(&[0, 1][..], "a1"), (&[1, 2], "a2"), (&[0, 3], "a3")] {
        volume.write(clusters).await;
        volume.snapshot(snapshot).await;
    }
    volume.write(&[4]).await;
    volume.revert("a1").await;
    for (clusters, snapshot) in [(&[1, 5][..], "b1"), (&[6], "b2")] {
        volume.write(clusters).await;
        volume.snapshot(snapshot).await;
    }
    volume.write(&[0, 7]).await;

    // Two rebuilds, of which each takes a snapshot of its own.
    for (count, node) in [(1, 2), (2, 1)] {
        volume.rebuild(node).await;
        assert_eq!(volume.rebuild_snapshots().await, count, "each rebuild takes one");
        volume.all_alike().await;
    }
    let engine = volume.get().await;
    volume.client.check(&engine, "after the rebuilds").await;

    // Along both ways, read from whichever replica serves.
    for snapshot in ["a3", "b2", "a2", "b1"] {
        volume.revert(snapshot).await;
    }
    volume.write(&[8]).await;
    let purge = wire::SnapshotRequest { name: volume.engine_name(), ..Default::default() };
    volume.node().spdk().engine_snapshot_purge(purge).await.expect("purged");
    assert_eq!(volume.rebuild_snapshots().await, 0, "the purge drops what rebuilds took");
    let names: Vec<_> = volume.get().await.snapshots.into_keys().collect();
    assert_eq!(names, ["a1", "a2", "a3", "b1", "b2"], "and nothing of a user's");
    volume.all_alike().await;
    volume.revert("a3").await;
    volume.revert("b2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn multiple_thread_snapshot_ops_and_rebuilding() {
    let cluster = Arc::new(Cluster::start(3).await);
    let content = make_images(&cluster).await;
    let plain = Volume::start(cluster.clone(), "plain".into()).await;
    let on_image = Volume::start_on(cluster.clone(), "imaged".into(), IMAGE, &content).await;
    futures::future::join(snapshot_ops_and_rebuilding(plain), snapshot_ops_and_rebuilding(on_image)).await;
}

/// A replica that comes back keeps the snapshots that are known to be intact, and gets the others anew.
#[tokio::test(flavor = "multi_thread")]
async fn multiple_thread_fast_rebuilding() {
    let cluster = Arc::new(Cluster::start(2).await);
    let mut volume = Volume::start(cluster.clone(), "vol".into()).await;
    for (clusters, snapshot) in [(&[0, 1, 2][..], "intact"), (&[3, 4], "damaged"), (&[5], "unhashed")] {
        volume.write(clusters).await;
        volume.snapshot(snapshot).await;
    }
    for snapshot in ["intact", "damaged"] {
        let request = wire::SnapshotHashRequest {
            name: volume.engine_name(),
            snapshot_name: snapshot.into(),
            ..Default::default()
        };
        volume.node().spdk().engine_snapshot_hash(request).await.expect("it is being hashed");
        for (index, node) in cluster.nodes.iter().enumerate() {
            wait_until(LIMIT, "the checksum is stored", async || {
                let replica = get_replica(node, &format!("vol-r-0000000{index}")).await.expect("the replica");
                match replica.snapshots[snapshot].snapshot_checksum.as_str() {
                    "" => Err("not yet".into()),
                    _ => Ok(()),
                }
            })
            .await;
        }
    }
    // The second replica is away while the volume goes on, and one of its snapshots is another one by then: as one of the
    // same name that was taken at another time.
    let away = "vol-r-00000001";
    volume.remove(away).await;
    volume.write(&[0, 6]).await;
    let request = |snapshot: &str| wire::SnapshotRequest {
        name: away.into(),
        snapshot_name: snapshot.into(),
        user_created: true,
        snapshot_timestamp: "2020-01-01T00:00:00Z".into(),
        ..Default::default()
    };
    let mut spdk = cluster.nodes[1].spdk();
    spdk.replica_snapshot_revert(request("intact")).await.expect("reverted");
    for snapshot in ["unhashed", "damaged"] {
        spdk.replica_snapshot_delete(request(snapshot)).await.expect("deleted");
    }
    spdk.replica_snapshot_create(request("damaged")).await.expect("another one of that name");
    volume.snapshot("later").await;

    let log_before = cluster.nodes[1].log().len();
    volume.add(1, true).await;
    let log = cluster.nodes[1].log();
    let again = |snapshot: &str| {
        let line = |line: &&str| line.contains("used again") && line.contains(&format!("snapshot={snapshot}"));
        log[log_before..].lines().filter(line).count()
    };
    assert_eq!(["intact", "damaged", "unhashed", "later"].map(again), [1, 0, 0, 0]);
    volume.all_alike().await;
    for snapshot in ["damaged", "later", "intact", "unhashed"] {
        volume.revert(snapshot).await;
    }
}
