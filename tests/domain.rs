//! Disks and replicas on a real SPDK with ordinary pages: their whole life, over NVMe/TCP where that is their face.
//!
//! A process can start SPDK once, so all tests of a process share one environment and keep to disks of their own.

#[path = "domain/letting_go.rs"]
mod letting_go;

use std::io::{Seek, SeekFrom, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use corriente::Error;
use corriente::config::value::Value;
use corriente::config::{NodeConfig, PortRange};
use corriente::disk::{BlockSize, DiskDriver, DiskInfo, DiskPath, DiskRequest, DiskState, Disks};
use corriente::initiator::{Initiator, Options};
use corriente::mirror::core::{Generation, GenerationRecord, Incarnation};
use corriente::name::{DiskName, LvolAlias, LvolName, LvsName, Nqn, ReplicaName, SnapshotName};
use corriente::peer::{PeerLimits, Peers};
use corriente::ports::Ports;
use corriente::replica::{Child, DiskChoice, ReplicaRequest, ReplicaState, ReplicaView, Replicas, SnapshotOptions};
use corriente::spdk::client::BdevClient;
use corriente::spdk::lvol;
use corriente::spdk::nvmf::{self, TransportOptions};
use corriente::spdk::reactor::PollMode;
use corriente::spdk::xattr::{XattrChange, XattrName, XattrValue};
use corriente::spdk::{DmaBuffer, Environment, EnvironmentConfig, Memory, SpdkError};
use corriente::telemetry::Telemetry;
use corriente::{rpc, wire::spdkrpc as wire};

const MIB: u64 = 1 << 20;
const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// One runtime for all tests of the process: tasks of disks outlive the test that made them.
fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().unwrap())
}

fn environment() -> &'static Arc<Environment> {
    static ENVIRONMENT: OnceLock<Arc<Environment>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let environment = Environment::start(EnvironmentConfig {
            cores: vec![0, 1],
            poll: PollMode::Adaptive,
            memory: Memory::Ordinary { mib: 640 },
            pci: false,
            bdev_io_pool_size: 16 * 1024,
            bdev_io_cache_size: 64,
            max_exports: 64,
        })
        .expect("SPDK starts on ordinary pages");
        let control = environment.control();
        runtime().block_on(async move {
            let started = control.run(async move |on| nvmf::start_tcp(on, &TransportOptions::default()).await);
            let started: Result<(), SpdkError> = started.await;
            started.unwrap();
        });
        environment
    })
}

/// Runs a test to its end, or fails it after two minutes.
fn run(test: impl Future<Output = ()> + Send + 'static) {
    let _ = tracing_subscriber::fmt().with_env_filter("info").with_test_writer().try_init();
    environment();
    runtime().block_on(async { tokio::time::timeout(Duration::from_secs(120), test).await.expect("two minutes") });
}

/// A node's disks and replicas, over a state directory that outlives them.
struct Node {
    disks: Disks,
    replicas: Replicas,
}

impl Node {
    /// `ports` are of this node alone.
    fn start(state: &Path, ports: &str) -> Self {
        let control = environment().control();
        let telemetry = Telemetry::new(64);
        let disks = Disks::new(control.clone(), state, None, telemetry.events.clone());
        let ports = Ports::new(PortRange::parse(ports).unwrap(), IP);
        let config = NodeConfig { data_ip: IP, state_dir: state.to_owned(), ..NodeConfig::default() };
        let limits = PeerLimits { connect: Duration::from_secs(1), call: Duration::from_secs(1) };
        let peers = Peers::new(8504, limits, None);
        let replicas = Replicas::new(control, disks.clone(), ports, peers, &config, telemetry);
        disks.observe(vec![Arc::new(replicas.clone())]);
        Self { disks, replicas }
    }

    async fn settled(&self, disk: &DiskName) -> DiskInfo {
        let mut changes = self.disks.changes().watch();
        loop {
            let info = self.disks.get(disk).await.unwrap();
            if info.state != DiskState::Creating {
                return info;
            }
            changes.changed().await.unwrap();
        }
    }

    async fn create_disk(&self, name: &str, path: &Path) -> DiskInfo {
        let request = request(name, path);
        let first = self.disks.create(request.clone()).await.unwrap();
        assert_eq!(first.state, DiskState::Creating, "the call does not wait");
        self.settled(&request.name).await
    }

    async fn ready_disk(&self, name: &str, path: &Path) -> DiskInfo {
        let info = self.create_disk(name, path).await;
        assert_eq!(info.state, DiskState::Ready, "{:?}", info.error);
        info
    }

    async fn create_replica(&self, replica: &str, disk: &str, mib: u64) -> Arc<ReplicaView> {
        let view = self.replicas.create(replica_request(replica, disk, mib)).await.unwrap();
        assert_eq!(view.state, ReplicaState::Running, "{}", view.error);
        view
    }
}

fn request(name: &str, path: &Path) -> DiskRequest {
    DiskRequest {
        name: DiskName::parse(name).unwrap(),
        uuid: None,
        path: DiskPath::File(path.to_owned()),
        driver: DiskDriver::Auto,
        block_size: BlockSize::B512,
    }
}

fn replica_request(replica: &str, disk: &str, mib: u64) -> ReplicaRequest {
    ReplicaRequest {
        backing_image: None,
        name: ReplicaName::parse(replica).unwrap(),
        disk: DiskChoice::Name(DiskName::parse(disk).unwrap()),
        spec_size: mib * MIB,
        port_count: NonZeroU16::new(2).unwrap(),
    }
}

fn replica_name(text: &str) -> ReplicaName {
    ReplicaName::parse(text).unwrap()
}

fn snapshot_name(text: &str) -> SnapshotName {
    SnapshotName::parse(text).unwrap()
}

fn options(user_created: bool, second: u32) -> SnapshotOptions {
    SnapshotOptions { user_created, timestamp: format!("2026-01-01T00:00:{second:02}Z"), labels: Default::default() }
}

/// A sparse file in a folder of its own.
fn file(mib: u64) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk.img");
    std::fs::File::create(&path).unwrap().set_len(mib * MIB).unwrap();
    (folder, path)
}

async fn connect(view: &ReplicaView) -> Initiator {
    let ports = view.ports.expect("a running replica has ports");
    let address = SocketAddr::new(ports.ip, ports.first);
    Initiator::connect(address, &Nqn::replica(&view.name), &Nqn::internal_host(), Options::default()).await.unwrap()
}

async fn fill(initiator: &Initiator, offset: u64, length: u64, byte: u8) {
    initiator.write(offset, &vec![byte; length as usize]).await.unwrap();
}

async fn holds(initiator: &Initiator, offset: u64, length: u64, byte: u8) -> bool {
    let mut read = vec![!byte; length as usize];
    initiator.read(offset, &mut read).await.unwrap();
    read.iter().all(|found| *found == byte)
}

#[test]
fn a_disk_is_made_found_again_and_taken_away() {
    run(async {
        let (folder, path) = file(64);
        let node = Node::start(folder.path(), "21000-21019");
        let made = node.ready_disk("life", &path).await.store.unwrap();
        assert_eq!((made.cluster_size, made.block_size), (1 << 20, 512));
        assert!(made.free_size > 50 * MIB && made.free_size <= made.total_size);
        let again = node.disks.create(request("life", &path)).await.unwrap();
        assert_eq!(again.store.unwrap().uuid, made.uuid, "the same request is answered by the disk");
        let other = node.create_disk("second", &path).await;
        assert!(other.error.unwrap().to_string().contains("lock"), "one device is one disk");

        node.disks.delete(&DiskName::parse("second").unwrap(), None).await.unwrap();
        node.disks.delete(&DiskName::parse("life").unwrap(), Some(made.uuid)).await.unwrap();
        node.disks.delete(&DiskName::parse("life").unwrap(), None).await.unwrap();
        assert!(matches!(node.disks.get(&DiskName::parse("life").unwrap()).await, Err(Error::NotFound { .. })));
        let renamed = node.ready_disk("renamed", &path).await.store.unwrap();
        assert_eq!(renamed.uuid, made.uuid, "the store on it is reused under its new name");

        let wrong = DiskRequest { uuid: Some(uuid::Uuid::new_v4()), ..request("wrong", &path) };
        node.disks.delete(&DiskName::parse("renamed").unwrap(), None).await.unwrap();
        node.disks.create(wrong.clone()).await.unwrap();
        let refused = node.settled(&wrong.name).await.error.unwrap();
        assert!(matches!(refused, Error::NotFound { .. }), "{refused}");
        let right = DiskRequest { uuid: Some(made.uuid), ..request("right", &path) };
        node.disks.create(right.clone()).await.unwrap();
        assert_eq!(node.settled(&right.name).await.state, DiskState::Ready);
        node.disks.delete(&right.name, None).await.unwrap();
    });
}

#[test]
fn what_carries_foreign_data_is_not_formatted() {
    run(async {
        let (folder, path) = file(64);
        let node = Node::start(folder.path(), "21020-21039");
        let mut image = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        image.seek(SeekFrom::Start(1024 + 56)).unwrap();
        image.write_all(b"\x53\xef").unwrap();
        let refused = node.create_disk("foreign", &path).await.error.unwrap();
        assert!(refused.to_string().contains("ext4"), "{refused}");
        let empty = DiskRequest { uuid: Some(uuid::Uuid::new_v4()), ..request("none", &path) };
        node.disks.create(empty.clone()).await.unwrap();
        assert!(matches!(node.settled(&empty.name).await.error, Some(Error::NotFound { .. })));
        let missing = node.disks.create(request("missing", Path::new("/no/such/disk"))).await;
        assert!(matches!(missing, Err(Error::InvalidArgument { field: "disk_path", .. })), "{missing:?}");
    });
}

#[test]
fn a_replica_lives_through_stop_restart_and_deletion() {
    run(async {
        let (folder, path) = file(128);
        let node = Node::start(folder.path(), "21040-21059");
        node.ready_disk("cycle", &path).await;
        let name = replica_name("vol-cycle-r-00000001");
        let view = node.create_replica(name.as_str(), "cycle", 16).await;
        assert_eq!((view.spec_size, view.head.as_ref().unwrap().actual_size), (16 * MIB, 0));
        let again = node.replicas.create(replica_request(name.as_str(), "cycle", 16)).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
        let busy = node.disks.delete(&DiskName::parse("cycle").unwrap(), None).await;
        assert!(busy.unwrap_err().to_string().contains(name.as_str()), "the user of the disk is named");

        let initiator = connect(&view).await;
        fill(&initiator, 0, 2 * MIB, 0xA1).await;
        initiator.flush().await.unwrap();
        initiator.disconnect().await.unwrap();
        node.replicas.delete(&name, false).await.unwrap();
        let stopped = node.replicas.get(&name).await.unwrap();
        assert_eq!((stopped.state, stopped.ports), (ReplicaState::Stopped, None));
        assert_eq!(stopped.head.as_ref().unwrap().actual_size, 2 * MIB);

        // A restart: the disk goes and comes back by its record, and the replica with it.
        let disk = DiskName::parse("cycle").unwrap();
        let record = std::fs::read(folder.path().join("disks/cycle.json")).unwrap();
        node.disks.delete(&disk, None).await.unwrap();
        assert!(matches!(node.replicas.get(&name).await, Err(Error::NotFound { .. })), "gone with its disk");
        std::fs::write(folder.path().join("disks/cycle.json"), record).unwrap();
        let node = Node::start(folder.path(), "21040-21059");
        node.disks.load_all().await.unwrap();
        assert_eq!(node.replicas.get(&name).await.unwrap().state, ReplicaState::Stopped);
        let smaller = node.replicas.create(replica_request(name.as_str(), "cycle", 8)).await;
        assert!(matches!(smaller, Err(Error::Precondition { .. })), "{smaller:?}");
        let view = node.create_replica(name.as_str(), "cycle", 24).await;
        assert_eq!(view.spec_size, 24 * MIB, "it grew");
        let initiator = connect(&view).await;
        assert!(holds(&initiator, 0, 2 * MIB, 0xA1).await);
        assert!(holds(&initiator, 20 * MIB, 4 * MIB, 0).await);
        initiator.disconnect().await.unwrap();

        node.replicas.delete(&name, true).await.unwrap();
        node.replicas.delete(&name, true).await.unwrap();
        assert!(matches!(node.replicas.get(&name).await, Err(Error::NotFound { .. })));
        node.disks.delete(&disk, None).await.unwrap();
    });
}

#[test]
fn snapshots_make_a_tree_that_delete_revert_and_purge_change() {
    run(async {
        let (folder, path) = file(128);
        let node = Node::start(folder.path(), "21060-21079");
        node.ready_disk("tree", &path).await;
        let name = replica_name("vol-tree-r-00000001");
        let view = node.create_replica(name.as_str(), "tree", 16).await;
        let initiator = connect(&view).await;
        let [s1, s2, s3] = ["s1", "s2", "s3"].map(snapshot_name);
        for (second, (snapshot, byte)) in [(&s1, 0x11), (&s2, 0x22), (&s3, 0x33)].into_iter().enumerate() {
            fill(&initiator, 0, MIB, byte).await;
            fill(&initiator, u64::from(byte) % 8 * MIB + MIB, MIB, byte).await;
            node.replicas.snapshot_create(&name, snapshot, options(snapshot != &s2, second as u32)).await.unwrap();
        }
        let twice = node.replicas.snapshot_create(&name, &s1, options(true, 9)).await;
        assert!(matches!(twice, Err(Error::AlreadyExists { .. })), "{twice:?}");
        let view = node.replicas.get(&name).await.unwrap();
        assert_eq!(view.snapshots[&s2].parent, Some(s1.clone()));
        assert_eq!(view.snapshots[&s3].children.iter().collect::<Vec<_>>(), [&Child::Head]);
        assert_eq!(view.snapshots[&s3].snapshot_timestamp, "2026-01-01T00:00:02Z");
        assert!(!view.snapshots[&s2].user_created && view.snapshots[&s3].user_created);
        assert_eq!(view.snapshots[&s3].actual_size, 2 * MIB);

        // The middle one, which the system made, merges into its child.
        node.replicas.snapshot_purge(&name).await.unwrap();
        let view = node.replicas.get(&name).await.unwrap();
        assert_eq!(view.snapshots.keys().collect::<Vec<_>>(), [&s1, &s3]);
        assert_eq!(view.snapshots[&s3].parent, Some(s1.clone()));
        assert!(holds(&initiator, 0, MIB, 0x33).await && holds(&initiator, 3 * MIB, MIB, 0x22).await);

        node.replicas.xattr_set(&name, "corriente.restore", b"marker").await.unwrap();
        let port = view.ports.unwrap().first;
        node.replicas.snapshot_revert(&name, &s1).await.unwrap();
        let view = node.replicas.get(&name).await.unwrap();
        assert_eq!(view.ports.unwrap().first, port, "the same port as before");
        assert_eq!(view.snapshots[&s1].children.len(), 2, "s3 is a branch now");
        assert_eq!(node.replicas.xattr_get(&name, "corriente.restore").await.unwrap().as_deref(), Some(&b"marker"[..]));
        let refused = node.replicas.snapshot_delete(&name, &s1).await;
        assert!(matches!(refused, Err(Error::Precondition { .. })), "{refused:?}");
        let initiator = connect(&view).await;
        assert!(holds(&initiator, 0, MIB, 0x11).await && holds(&initiator, 3 * MIB, MIB, 0).await);

        node.replicas.snapshot_delete(&name, &s3).await.unwrap();
        node.replicas.snapshot_delete(&name, &snapshot_name("missing")).await.unwrap();
        node.replicas.snapshot_delete(&name, &s1).await.unwrap();
        assert!(holds(&initiator, 0, MIB, 0x11).await, "merged into the head");
        initiator.disconnect().await.unwrap();
        node.replicas.delete(&name, true).await.unwrap();
        let store = node.disks.get(&DiskName::parse("tree").unwrap()).await.unwrap().store.unwrap();
        assert_eq!(store.free_size, store.total_size, "every cluster was given back");
        node.disks.delete(&DiskName::parse("tree").unwrap(), None).await.unwrap();
    });
}

#[test]
fn trimmed_ranges_read_as_zeroes_and_take_no_space_where_nothing_was() {
    run(async {
        let (folder, path) = file(128);
        let node = Node::start(folder.path(), "21080-21099");
        node.ready_disk("trim", &path).await;
        let name = replica_name("vol-trim-r-00000001");
        let view = node.create_replica(name.as_str(), "trim", 64).await;
        let initiator = connect(&view).await;
        fill(&initiator, 0, 4 * MIB, 0x5A).await;
        node.replicas.snapshot_create(&name, &snapshot_name("s1"), options(true, 0)).await.unwrap();
        fill(&initiator, 4 * MIB, 2 * MIB, 0x5B).await;
        // Over data of the snapshot, data of the head, and a lot of nothing.
        initiator.deallocate(MIB + 4096, 63 * MIB - 4096).await.unwrap();
        assert!(holds(&initiator, 0, MIB + 4096, 0x5A).await);
        assert!(holds(&initiator, MIB + 4096, 15 * MIB - 4096, 0).await);
        initiator.write_zeroes(0, MIB + 4096).await.unwrap();
        assert!(holds(&initiator, 0, 8 * MIB, 0).await);
        initiator.write_zeroes(32 * MIB, 16 * MIB).await.unwrap();
        let view = node.replicas.get(&name).await.unwrap();
        let taken = node.replicas.get(&name).await.unwrap().head.as_ref().unwrap().actual_size;
        assert!(taken <= 6 * MIB, "{taken} bytes for zeroes");
        assert_eq!(view.snapshots[&snapshot_name("s1")].actual_size, 4 * MIB, "the snapshot is as it was");
        initiator.disconnect().await.unwrap();
        node.replicas.delete(&name, true).await.unwrap();
        node.disks.delete(&DiskName::parse("trim").unwrap(), None).await.unwrap();
    });
}

#[test]
fn expansion_is_seen_by_who_is_connected_and_attributes_stay() {
    run(async {
        let (folder, path) = file(128);
        let node = Node::start(folder.path(), "21100-21119");
        node.ready_disk("grow", &path).await;
        let name = replica_name("vol-grow-r-00000001");
        let view = node.create_replica(name.as_str(), "grow", 8).await;
        let initiator = connect(&view).await;
        fill(&initiator, 0, MIB, 0x77).await;
        node.replicas.snapshot_create(&name, &snapshot_name("small"), options(true, 0)).await.unwrap();
        assert!(matches!(node.replicas.expand(&name, 4 * MIB).await, Err(Error::InvalidArgument { .. })));
        assert!(matches!(node.replicas.expand(&name, 9 * MIB + 512).await, Err(Error::InvalidArgument { .. })));
        let view = node.replicas.expand(&name, 32 * MIB).await.unwrap();
        assert_eq!((view.spec_size, view.snapshots[&snapshot_name("small")].spec_size), (32 * MIB, 8 * MIB));
        assert!(holds(&initiator, 0, MIB, 0x77).await, "who was connected still is");
        initiator.disconnect().await.unwrap();
        let initiator = connect(&view).await;
        assert_eq!(initiator.namespace().size_bytes(), 32 * MIB);
        assert!(holds(&initiator, 8 * MIB, 24 * MIB, 0).await);
        initiator.disconnect().await.unwrap();

        let record = |generation: Generation| {
            GenerationRecord { generation, base: Generation::NONE, in_sync: vec![name.clone()] }.encode()
        };
        let first = Generation::NONE.next(Incarnation(1));
        let second = first.next(Incarnation(1));
        let key = "corriente.generation";
        node.replicas.xattr_set(&name, key, record(second).as_bytes()).await.unwrap();
        let stale = node.replicas.xattr_set(&name, key, record(first).as_bytes()).await;
        assert!(matches!(stale, Err(Error::Overtaken { .. })), "{stale:?}");
        assert!(node.replicas.xattr_set(&name, key, b"nonsense").await.is_err());
        let head = node.replicas.local_head(&name).await.unwrap().unwrap();
        head.flush.flush().await.unwrap();
        node.replicas.delete(&name, false).await.unwrap();
        let stored = node.replicas.xattr_get(&name, key).await.unwrap().unwrap();
        assert_eq!(String::from_utf8(stored).unwrap(), record(second));
        assert!(node.replicas.local_head(&name).await.is_err(), "it is stopped");
        node.replicas.delete(&name, true).await.unwrap();
        node.disks.delete(&DiskName::parse("grow").unwrap(), None).await.unwrap();
    });
}

#[test]
fn an_engine_of_this_node_uses_the_head_until_the_replica_stops() {
    run(async {
        let (folder, path) = file(64);
        let node = Node::start(folder.path(), "21120-21139");
        node.ready_disk("local", &path).await;
        let name = replica_name("vol-local-r-00000001");
        node.create_replica(name.as_str(), "local", 8).await;
        assert!(node.replicas.local_head(&replica_name("nobody-r-00000001")).await.unwrap().is_none());
        let head = node.replicas.local_head(&name).await.unwrap().unwrap();
        let control = environment().control();
        let client = BdevClient::open(&control, head.bdev.clone(), true).await.unwrap();
        let mut data = DmaBuffer::zeroed(MIB as usize).unwrap();
        data.fill(0x42);
        client.write(MIB, data).await.unwrap();
        client.flush().await.unwrap();
        let exported = connect(&node.replicas.get(&name).await.unwrap()).await;
        assert!(holds(&exported, MIB, MIB, 0x42).await, "both faces are of one head");
        exported.disconnect().await.unwrap();

        // Who has the head open learns of the stop by its I/O, closes it, and lets the stop end.
        let replicas = node.replicas.clone();
        let stopping = tokio::spawn(async move { replicas.delete(&replica_name("vol-local-r-00000001"), false).await });
        while client.read(0, DmaBuffer::zeroed(4096).unwrap()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(client);
        stopping.await.unwrap().unwrap();
        assert_eq!(node.replicas.get(&name).await.unwrap().state, ReplicaState::Stopped);
        node.replicas.delete(&name, true).await.unwrap();
        node.disks.delete(&DiskName::parse("local").unwrap(), None).await.unwrap();
    });
}

#[test]
fn an_interrupted_revert_is_undone_or_finished_when_the_disk_is_found_again() {
    run(async {
        let (folder, path) = file(64);
        let node = Node::start(folder.path(), "21140-21159");
        node.ready_disk("crash", &path).await;
        let name = replica_name("vol-crash-r-00000001");
        let view = node.create_replica(name.as_str(), "crash", 8).await;
        let initiator = connect(&view).await;
        fill(&initiator, 0, MIB, 0x01).await;
        node.replicas.snapshot_create(&name, &snapshot_name("s1"), options(true, 0)).await.unwrap();
        fill(&initiator, 0, MIB, 0x02).await;
        initiator.disconnect().await.unwrap();
        node.replicas.delete(&name, false).await.unwrap();

        for (with_old_head, expected) in [(true, 0x02), (false, 0x01)] {
            let lvs = LvsName::parse("crash").unwrap();
            let alias = move |text: &str| LvolAlias { lvs: lvs.clone(), lvol: LvolName::parse(text).unwrap() };
            let marked = name.clone();
            let prepared: Result<(), SpdkError> = environment()
                .control()
                .run(async move |on| {
                    let snapshot = alias(&format!("{marked}-snap-s1"));
                    let next = LvolName::parse("revert-0123456789abcdef").unwrap();
                    lvol::clone(on, &snapshot, &next).await?;
                    let owner = XattrValue::new(format!("{marked}\0").as_bytes()).unwrap();
                    let mark = XattrChange::set(XattrName::parse("corriente.replica").unwrap(), owner);
                    lvol::apply_xattrs(on, &alias(next.as_str()), &[mark]).await?;
                    match with_old_head {
                        true => Ok(()),
                        false => lvol::delete(on, &alias(marked.as_str())).await,
                    }
                })
                .await;
            prepared.unwrap();
            node.disks.unload_all().await;
            node.disks.load_all().await.unwrap();
            let view = node.create_replica(name.as_str(), "crash", 8).await;
            assert_eq!(view.snapshots[&snapshot_name("s1")].children.len(), 1);
            let initiator = connect(&view).await;
            assert!(holds(&initiator, 0, MIB, expected).await, "with the old head: {with_old_head}");
            initiator.disconnect().await.unwrap();
            node.replicas.delete(&name, false).await.unwrap();
        }
        node.replicas.delete(&name, true).await.unwrap();
        let store = node.disks.get(&DiskName::parse("crash").unwrap()).await.unwrap().store.unwrap();
        assert_eq!(store.free_size, store.total_size, "no leftover");
        node.disks.delete(&DiskName::parse("crash").unwrap(), None).await.unwrap();
    });
}

/// Nobody but a node itself can delete an lvol of a disk that it has; SPDK below it stands for whoever did.
#[test]
fn runtime_monitoring_verify_stale_cache_removal() {
    run(async {
        let (folder, path) = file(64);
        let node = Node::start(folder.path(), "21180-21199");
        node.ready_disk("stale", &path).await;
        let [gone, kept, running] =
            ["gone", "kept", "runs"].map(|name| replica_name(&format!("vol-{name}-r-00000001")));
        for name in [&gone, &kept, &running] {
            node.create_replica(name.as_str(), "stale", 8).await;
        }
        node.replicas.snapshot_create(&kept, &snapshot_name("s1"), options(true, 0)).await.unwrap();
        for name in [&gone, &kept] {
            node.replicas.delete(name, false).await.unwrap();
            delete_lvol("stale", name.as_str()).await;
        }
        // A survey may be a second old.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(matches!(node.replicas.get(&gone).await, Err(Error::NotFound { .. })), "nothing of it is left");
        let listed: Vec<_> = node.replicas.list().await.unwrap().iter().map(|view| view.name.clone()).collect();
        assert_eq!(
            listed,
            [kept.clone(), running.clone()],
            "one with a snapshot is there, one that runs is not touched"
        );
        assert_eq!(node.replicas.get(&kept).await.unwrap().head, None);
        node.create_replica(gone.as_str(), "stale", 8).await;
        for name in [&gone, &kept, &running] {
            node.replicas.delete(name, true).await.unwrap();
        }
        node.disks.delete(&DiskName::parse("stale").unwrap(), None).await.unwrap();
    });
}

async fn delete_lvol(lvs: &str, lvol: &str) {
    let alias = LvolAlias { lvs: LvsName::parse(lvs).unwrap(), lvol: LvolName::parse(lvol).unwrap() };
    let deleted: Result<(), SpdkError> =
        environment().control().run(async move |on| lvol::delete(on, &alias).await).await;
    deleted.unwrap();
}

async fn backed_up(node: &Node, request: &wire::BackupCreateRequest) -> (bool, wire::BackupStatusResponse) {
    let started = rpc::replica::backup_create(&node.replicas, request.clone()).await.unwrap();
    assert_eq!(started.backup, request.backup_name);
    loop {
        let status = wire::BackupStatusRequest { backup: started.backup.clone(), ..Default::default() };
        let status = rpc::replica::backup_status(&node.replicas, status).await.unwrap();
        match status.state.as_str() {
            "in_progress" => assert!(status.progress < 100 && status.backup_url.is_empty()),
            _ => return (started.is_incremental, status),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_backup_reads_what_changed_and_drops_what_vanished() {
    run(async {
        let (folder, path) = file(128);
        let store = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let node = Node::start(folder.path(), "21160-21179");
        node.ready_disk("backup", &path).await;
        let name = replica_name("vol-backup-r-00000001");
        let view = node.create_replica(name.as_str(), "backup", 16).await;
        let initiator = connect(&view).await;
        let request = |backup: &str, snapshot: &str| wire::BackupCreateRequest {
            snapshot_name: snapshot.into(),
            backup_target: format!("vfs://{}", store.path().display()),
            volume_name: "vol-backup".into(),
            replica_name: name.to_string(),
            backup_name: backup.into(),
            compression_method: "lz4".into(),
            ..Default::default()
        };
        fill(&initiator, 0, 3 * MIB, 0x11).await;
        fill(&initiator, 8 * MIB, MIB, 0x12).await;
        node.replicas.snapshot_create(&name, &snapshot_name("s1"), options(true, 1)).await.unwrap();
        fill(&initiator, 2 * MIB, MIB, 0x21).await;
        node.replicas.snapshot_create(&name, &snapshot_name("s2"), options(true, 2)).await.unwrap();

        let missing = rpc::replica::backup_create(&node.replicas, request("backup-0", "none")).await;
        assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
        let (incremental, first) = backed_up(&node, &request("backup-1", "s1")).await;
        assert_eq!((incremental, first.state.as_str(), first.progress), (false, "complete", 100), "{}", first.error);
        assert!(first.backup_url.contains("backup=backup-1"), "{}", first.backup_url);
        let again = rpc::replica::backup_create(&node.replicas, request("backup-1", "s1")).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
        let (incremental, second) = backed_up(&node, &request("backup-2", "s2")).await;
        assert_eq!((incremental, second.state.as_str()), (true, "complete"), "{}", second.error);
        let (incremental, _) = backed_up(&node, &request("backup-3", "s1")).await;
        assert!(!incremental, "s2 is no ancestor of s1");

        let offsets = |backup: &str| -> Vec<u64> {
            let folder = store.path().join("backupstore/volumes");
            let found = walk(&folder).into_iter().find(|path| path.ends_with(format!("backup_{backup}.cfg")));
            let text = std::fs::read(found.unwrap()).unwrap();
            let config: serde_json::Value = serde_json::from_slice(&text).unwrap();
            config["Blocks"].as_array().unwrap().iter().map(|block| block["Offset"].as_u64().unwrap()).collect()
        };
        assert_eq!(offsets("backup-1"), [0, 2 * MIB, 8 * MIB]);
        assert_eq!(offsets("backup-2"), [0, 2 * MIB, 8 * MIB]);
        initiator.disconnect().await.unwrap();
        node.replicas.delete(&name, true).await.unwrap();
        node.disks.delete(&DiskName::parse("backup").unwrap(), None).await.unwrap();
    });
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
