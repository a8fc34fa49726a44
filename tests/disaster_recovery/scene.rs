//! A disaster-recovery volume on two nodes that obey faults, the backups it is brought to, and what must be true of it.

use std::collections::BTreeMap;

use corriente::wire::spdkrpc as wire;

use crate::cluster::{Cluster, create_replica, read_replica, ready};
use crate::support::node::NodeOptions;

/// The volume. Its replica 0 is on the engine's node, 1 on the other.
pub const VOLUME: &str = "dr";
pub const BOTH: [usize; 2] = [0, 1];

/// A backup and what it restores to.
pub struct Point {
    pub backup: String,
    pub snapshot: String,
    pub image: Vec<u8>,
}

pub struct Scene {
    pub cluster: Cluster,
    pub points: Vec<Point>,
    pub size: u64,
    pub replicas: BTreeMap<String, String>,
    source: String,
}

pub fn replica(index: usize) -> String {
    format!("{VOLUME}-r-0000000{index}")
}

impl Scene {
    /// Two nodes and an engine without a frontend over a replica on each.
    pub async fn start(fixture: &str) -> Self {
        Self::start_with(fixture, |options| options).await
    }

    /// The same with settings of the nodes.
    pub async fn start_with(fixture: &str, set: impl Fn(NodeOptions) -> NodeOptions) -> Self {
        let cluster = Cluster::start_with(|options| set(options.faulty())).await;
        assert!(cluster.nodes.iter().all(|node| node.log().contains("TEST FAULTS ARE ON")), "it is not told");
        let source = cluster.fixtures.volume(fixture);
        let point = |backup: &crate::support::fixtures::Backup| Point {
            backup: backup.name.clone(),
            snapshot: format!("restore-{}", backup.snapshot),
            image: source.image(&backup.name),
        };
        let points = source.backups.iter().map(point).collect();
        let (size, source) = (source.restore_size, source.name.clone());
        let replicas = cluster.replicas(VOLUME, size).await;
        cluster.engine(VOLUME, size, "", replicas.clone()).await;
        Self { cluster, points, size, replicas, source }
    }

    pub async fn start_restore(&self, point: usize) -> Result<(), tonic::Status> {
        self.cluster.start_restore(VOLUME, self.url(point)).await
    }

    pub fn url(&self, point: usize) -> String {
        self.cluster.url(&self.source, &self.points[point].backup)
    }

    /// Restores a point into all replicas.
    pub async fn restore(&self, point: usize) {
        self.start_restore(point).await.expect("the restore starts");
        self.proven(point, &BOTH).await;
    }

    /// At the first poll that shows the restore's end: it is complete on exactly these replicas, and they, the engine and
    /// its mirror have the point and nothing else.
    pub async fn proven(&self, point: usize, on: &[usize]) {
        for entry in self.cluster.restored(VOLUME).await {
            if on.iter().any(|index| entry.replica_name == replica(*index)) {
                assert_eq!((entry.state.as_str(), entry.error.as_str(), entry.progress), ("complete", "", 100));
            }
        }
        self.stands_at(point, on).await;
    }

    /// The volume is at a point on exactly these replicas: what the engine says, what the replicas have, and their bytes.
    pub async fn stands_at(&self, point: usize, on: &[usize]) {
        let engine = self.cluster.get(VOLUME).await;
        let expected = &self.points[point];
        assert_eq!((engine.state.as_str(), engine.error_msg.as_str()), ("running", ""));
        for entry in self.cluster.status(VOLUME).await {
            let counts = on.iter().any(|index| entry.replica_name == replica(*index));
            assert_eq!(entry.last_restored, if counts { expected.backup.as_str() } else { "" }, "{entry:?}");
            assert!(!entry.is_restoring, "{entry:?}");
        }
        let names: Vec<_> = engine.snapshots.keys().collect();
        assert!(matches!(names[..], [name] if self.is_of(name, point)), "{names:?}");
        assert_eq!(engine.snapshots[names[0]].children.keys().collect::<Vec<_>>(), ["volume-head"]);
        assert_eq!(&engine.head.expect("a head").parent, names[0]);
        self.are_members(on).await;
        for index in on {
            assert_eq!(self.snapshots_of(*index).await, [names[0].clone()], "of replica {index}");
            self.holds(*index, point).await;
        }
    }

    /// Whether a snapshot is a point's: named after it, with five characters more when the point was there already.
    fn is_of(&self, snapshot: &str, point: usize) -> bool {
        let more = snapshot.strip_prefix(&self.points[point].snapshot);
        more.is_some_and(|more| more.is_empty() || (more.starts_with('-') && more.len() == 6))
    }

    /// Exactly these replicas are in sync, each by an open bdev with a name.
    pub async fn are_members(&self, on: &[usize]) {
        let members = self.cluster.mirror(VOLUME).await;
        let in_sync = members.iter().filter(|member| member.mode == wire::ReplicaMode::Rw as i32);
        let mut names: Vec<_> = in_sync.clone().map(|member| member.replica_name.clone()).collect();
        names.sort();
        assert_eq!(names, on.iter().map(|index| replica(*index)).collect::<Vec<_>>());
        assert!(in_sync.clone().all(|member| !member.bdev_name.is_empty()));
    }

    /// A replica's bytes are those of a point.
    pub async fn holds(&self, index: usize, point: usize) {
        let name = replica(index);
        let bytes = read_replica(&name, &self.replicas[&name]).await;
        assert!(bytes == self.points[point].image, "replica {index} does not hold the image of point {point}");
    }

    pub async fn snapshots_of(&self, index: usize) -> Vec<String> {
        self.cluster.replica_snapshots(VOLUME).await.swap_remove(index)
    }

    /// The restore ends as an error with these words, and what was restored before still is what is told.
    pub async fn fails(&self, words: &str, still: usize) {
        for entry in self.cluster.restored(VOLUME).await {
            assert_eq!(entry.state, "error");
            if self.mode(&entry.replica_name).await == wire::ReplicaMode::Rw as i32 {
                assert!(entry.error.contains(words), "{words:?} is not in {:?}", entry.error);
                assert_eq!(entry.last_restored, self.points[still].backup);
            }
            assert!(entry.progress < 100 && entry.current_restoring_backup.is_empty(), "{entry:?}");
        }
    }

    pub async fn mode(&self, replica: &str) -> i32 {
        self.cluster.get(VOLUME).await.replica_mode_map[replica]
    }

    /// Deletes the engine and creates it again over all replicas.
    pub async fn recreate(&self, frontend: &str) -> wire::Engine {
        self.cluster.delete_engine(VOLUME).await;
        self.create(frontend).await
    }

    pub async fn create(&self, frontend: &str) -> wire::Engine {
        self.cluster.try_engine(VOLUME, self.size, frontend, self.replicas.clone()).await
    }

    /// After the engine's node has killed itself: it starts without faults; replica and engine come back by themselves.
    pub async fn come_back(&mut self) {
        self.cluster.nodes[0].killed().await;
        self.come_up().await;
    }

    /// The same of one that has ended.
    pub async fn come_up(&mut self) {
        let node = &mut self.cluster.nodes[0];
        node.faults().clear();
        node.start_again().await;
        ready(node).await;
        let address = create_replica(node, &replica(0), self.size).await;
        self.replicas.insert(replica(0), address);
    }

    /// Deletes both replicas with their data and starts over with new ones.
    pub async fn replace_both(&mut self) {
        self.cluster.delete_engine(VOLUME).await;
        for (index, node) in self.cluster.nodes.iter().enumerate() {
            let request = wire::ReplicaDeleteRequest { name: replica(index), cleanup_required: true };
            node.spdk().replica_delete(request).await.expect("the replica is deleted");
            let address = create_replica(node, &replica(index), self.size).await;
            self.replicas.insert(replica(index), address);
        }
        assert_eq!(self.create("").await.state, "running");
    }

    /// Takes a replica that is out off the engine's list.
    pub async fn remove(&self, index: usize) {
        let request = wire::EngineReplicaDeleteRequest {
            engine_name: format!("{VOLUME}-e-0"),
            replica_name: replica(index),
            ..Default::default()
        };
        self.cluster.nodes[0].spdk().engine_replica_delete(request).await.expect("the replica is taken off the list");
    }
}
