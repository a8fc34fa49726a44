//! The safe layer over lvol stores, lvols, initiator and target, on a real SPDK with ordinary pages.
//!
//! A process can start SPDK once, so all tests of a process share one environment and keep to names of their own.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use corriente::disk::health::HealthLog;
use corriente::name::{BdevName, HostPort, LvolAlias, LvolName, LvsName, Nguid, Nqn, ReplicaName};
use corriente::spdk::bdev::{AdminRead, BdevEvent, Geometry, IoChannel, OpenBdev};
use corriente::spdk::lvol::{self, Provision};
use corriente::spdk::lvstore::{self, ClearMethod};
use corriente::spdk::nvme::{self, AttachFault, Peer, TcpTarget};
use corriente::spdk::nvmf::{self, Export, ExportState, Hosts};
use corriente::spdk::reactor::PollMode;
use corriente::spdk::xattr::{XATTR_NAME_LIMIT, XATTR_VALUE_LIMIT, XattrChange, XattrName, XattrValue};
use corriente::spdk::{DmaBuffer, Environment, EnvironmentConfig, Memory, OnControl, OnThread, SpdkError, base};
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(10);

fn environment() -> &'static Arc<Environment> {
    static ENVIRONMENT: OnceLock<Arc<Environment>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        // SPDK's own words, when RUST_LOG asks for them.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
        Environment::start(EnvironmentConfig {
            cores: vec![0, 1],
            poll: PollMode::Adaptive,
            memory: Memory::Ordinary { mib: 640 },
            pci: false,
            bdev_io_pool_size: 16 * 1024,
            bdev_io_cache_size: 64,
            max_exports: 64,
        })
        .expect("SPDK starts on ordinary pages")
    })
}

/// Runs `work` on the control thread and waits for it.
fn control<T, F, Fut>(work: F) -> T
where
    T: Send + 'static,
    F: FnOnce(OnControl) -> Fut + Send + 'static,
    Fut: Future<Output = Result<T, SpdkError>> + 'static,
{
    let control = environment().control();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(120), control.run(work)).await })
        .expect("the control thread answers in two minutes")
        .unwrap_or_else(|error: SpdkError| panic!("{error}"))
}

fn bdev(text: &str) -> BdevName {
    BdevName::parse(text).expect("a bdev's name")
}

fn lvs(text: &str) -> LvsName {
    LvsName::parse(text).expect("an lvstore's name")
}

fn alias(store: &LvsName, name: &str) -> LvolAlias {
    LvolAlias { lvs: store.clone(), lvol: LvolName::parse(name).expect("an lvol's name") }
}

fn lvol_name(text: &str) -> LvolName {
    LvolName::parse(text).expect("an lvol's name")
}

fn xattr(name: &str, value: &str) -> (XattrName, XattrValue) {
    (XattrName::parse(name).expect("a name"), XattrValue::new(value.as_bytes()).expect("a value"))
}

/// A sparse file that is a disk.
struct Disk {
    _folder: tempfile::TempDir,
    path: PathBuf,
    name: BdevName,
}

impl Disk {
    fn new(name: &str, mib: u64) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
        let path = folder.path().join("disk");
        let file = std::fs::File::create(&path).expect("a file");
        file.set_len(mib * MIB).expect("a sparse file");
        Self { _folder: folder, path, name: bdev(name) }
    }

    fn create(&self) {
        let (name, path) = (self.name.clone(), self.path.clone());
        control(async move |on| base::create_aio(on, &name, &path, 4096, Uuid::new_v4()).map(drop));
    }

    fn format(&self, store: &LvsName) {
        self.create();
        let (name, store) = (self.name.clone(), store.clone());
        control(async move |on| lvstore::create(on, &name, &store, MIB as u32, ClearMethod::None).await.map(drop));
    }

    /// What a restart does to a store.
    fn reload(&self, store: &LvsName) {
        let (name, store) = (self.name.clone(), store.clone());
        control({
            let name = name.clone();
            async move |on| {
                lvstore::unload(on, &store).await?;
                base::delete(on, &name).await
            }
        });
        self.create();
        let loaded = control(async move |on| lvstore::load(on, &name).await);
        assert!(loaded.is_some(), "the store is found again");
    }
}

fn open(on: OnControl, name: &BdevName, write: bool) -> Result<IoChannel, SpdkError> {
    OpenBdev::open(on, name, write, |_| {})?.channel(on.into())
}

async fn fill(channel: &IoChannel, offset: u64, length: usize, byte: u8) -> Result<(), SpdkError> {
    let mut buffer = DmaBuffer::zeroed(length)?;
    buffer.fill(byte);
    channel.write(offset, buffer).await.map(drop)
}

async fn holds(channel: &IoChannel, offset: u64, length: usize, byte: u8) -> Result<bool, SpdkError> {
    let buffer = channel.read(offset, DmaBuffer::zeroed(length)?).await?;
    Ok(buffer.iter().all(|found| *found == byte))
}

/// The first byte of each of the first clusters, which each are all one byte.
fn clusters(of: &LvolAlias, count: u64) -> Vec<u8> {
    let name = of.bdev();
    control(async move |on| {
        let channel = open(on, &name, false)?;
        let mut found = Vec::new();
        for cluster in 0..count {
            let buffer = channel.read(cluster * MIB, DmaBuffer::zeroed(MIB as usize)?).await?;
            assert!(buffer.iter().all(|byte| *byte == buffer[0]), "cluster {cluster} is of one byte");
            found.push(buffer[0]);
        }
        Ok(found)
    })
}

fn write_clusters(of: &LvolAlias, bytes: &'static [(u64, u8)]) {
    let name = of.bdev();
    control(async move |on| {
        let channel = open(on, &name, true)?;
        for (cluster, byte) in bytes {
            fill(&channel, cluster * MIB, MIB as usize, *byte).await?;
        }
        Ok(())
    });
}

fn snapshot(of: &LvolAlias, name: &str, xattrs: Vec<(XattrName, XattrValue)>) {
    let (of, name) = (of.clone(), lvol_name(name));
    control(async move |on| lvol::snapshot(on, &of, &name, &xattrs).await.map(drop));
}

fn delete(of: &LvolAlias) {
    let of = of.clone();
    control(async move |on| lvol::delete(on, &of).await);
}

#[test]
fn a_snapshot_chain_survives_reloads_and_merges() {
    let (disk, store) = (Disk::new("chain-disk", 256), lvs("chain"));
    disk.format(&store);
    let (head, s1, s2) = (alias(&store, "head"), alias(&store, "s1"), alias(&store, "s2"));
    control({
        let head = head.clone();
        async move |on| lvol::create(on, &head, 64 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await.map(drop)
    });
    write_clusters(&head, &[(0, b'a'), (1, b'a')]);
    control({
        let (head, (name, value)) = (head.clone(), xattr("generation", "7"));
        async move |on| lvol::apply_xattrs(on, &head, &[XattrChange::set(name, value)]).await
    });
    snapshot(&head, "s1", vec![xattr("user_created", "true"), xattr("snapshot_timestamp", "2026-11-22T00:00:00Z")]);
    write_clusters(&head, &[(1, b'b'), (2, b'b')]);
    snapshot(&head, "s2", vec![xattr("user_created", "false")]);

    let maps = |name: &LvolAlias| {
        let name = name.clone();
        control(async move |on| Ok(lvol::cluster_map(on, &name)?.iter().collect::<Vec<_>>()))
    };
    assert_eq!((maps(&s1), maps(&s2), maps(&head)), (vec![0, 1], vec![1, 2], vec![]));

    // The head has no cluster of its own now, which is when 20.07 opens its parent twice at load.
    disk.reload(&store);
    let value = |of: &LvolAlias, name: &str| {
        let (of, name) = (of.clone(), XattrName::parse(name).expect("a name"));
        control(async move |on| Ok(lvol::xattr(on, &of, &name)?.and_then(|value| value.as_text().map(str::to_owned))))
    };
    assert_eq!(value(&head, "generation").as_deref(), Some("7"), "the head keeps its xattrs over a snapshot");
    assert_eq!(value(&s1, "generation"), None, "a snapshot inherits none");
    assert_eq!(value(&s1, "user_created").as_deref(), Some("true"));
    control({
        let (s2, (name, text)) = (s2.clone(), xattr("checksum", "42"));
        async move |on| {
            let gone = XattrName::parse("user_created").expect("a name");
            lvol::apply_xattrs(on, &s2, &[XattrChange::set(name, text), XattrChange::remove(gone)]).await
        }
    });
    write_clusters(&head, &[(3, b'c')]);
    assert_eq!(clusters(&head, 5), [b'a', b'b', b'b', b'c', 0]);

    let infos = control({
        let store = store.clone();
        async move |on| lvol::list(on, &store)
    });
    let of = |name: &str| infos.iter().find(|info| info.alias.lvol.as_str() == name).expect("listed");
    assert_eq!(of("s1").children, [lvol_name("s2")]);
    assert_eq!(of("s2").parent, Some(lvol_name("s1")));
    assert!(of("s1").is_snapshot && !of("head").is_snapshot);

    // Merges in both places of the chain, and what is left must be on the disk, not only in memory.
    delete(&s1);
    assert_eq!(maps(&s2), [0, 1, 2]);
    delete(&s2);
    assert_eq!(maps(&head), [0, 1, 2, 3]);
    assert_eq!(clusters(&head, 5), [b'a', b'b', b'b', b'c', 0]);
    disk.reload(&store);
    assert_eq!(clusters(&head, 5), [b'a', b'b', b'b', b'c', 0]);
    assert_eq!(maps(&head), [0, 1, 2, 3]);
    assert_eq!(value(&head, "generation").as_deref(), Some("7"));
}

#[test]
fn a_snapshots_xattr_survives_a_reload() {
    let (disk, store) = (Disk::new("xattr-disk", 64), lvs("xattr"));
    disk.format(&store);
    let (head, snap) = (alias(&store, "head"), alias(&store, "snap"));
    control({
        let head = head.clone();
        async move |on| lvol::create(on, &head, 4 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await.map(drop)
    });
    snapshot(&head, "snap", Vec::new());
    let renamed = alias(&store, "renamed");
    control({
        let (snap, renamed, (name, value)) = (snap.clone(), renamed.clone(), xattr("checksum", "42"));
        async move |on| {
            lvol::apply_xattrs(on, &snap, &[XattrChange::set(name, value)]).await?;
            lvol::rename(on, &snap, &renamed.lvol).await.map(drop)
        }
    });
    disk.reload(&store);
    let (gone, info, value) = control(async move |on| {
        let checksum = XattrName::parse("checksum").expect("a name");
        Ok((lvol::find(on, &snap)?, lvol::info(on, &renamed)?, lvol::xattr(on, &renamed, &checksum)?))
    });
    assert!(gone.is_none());
    assert!(info.is_snapshot, "setting an xattr leaves a snapshot read-only");
    assert_eq!(value.and_then(|value| value.as_text().map(str::to_owned)).as_deref(), Some("42"));
}

#[test]
fn the_longest_xattrs_survive_reloads_changes_and_a_crash() {
    let (mut disk, store) = (Disk::new("long-xattr-disk", 64), lvs("long-xattr"));
    disk.format(&store);
    let head = alias(&store, "head");
    control({
        let head = head.clone();
        async move |on| lvol::create(on, &head, 4 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await.map(drop)
    });
    let names = ["a".repeat(XATTR_NAME_LIMIT), "second".to_owned(), "small".to_owned()];
    let set = |byte: u8| {
        let lengths = [XATTR_VALUE_LIMIT, XATTR_VALUE_LIMIT, 10];
        let changes = names.iter().zip(lengths).map(|(name, length)| {
            let value = XattrValue::new(&vec![byte; length]).expect("within the limit");
            XattrChange::set(XattrName::parse(name).expect("a name"), value)
        });
        let (head, changes) = (head.clone(), changes.collect::<Vec<_>>());
        control(async move |on| lvol::apply_xattrs(on, &head, &changes).await);
    };
    let found = || {
        let (head, names) = (head.clone(), names.clone());
        control(async move |on| {
            let values = names.iter().map(|name| lvol::xattr(on, &head, &XattrName::parse(name).expect("a name")));
            values.collect::<Result<Vec<_>, _>>()
        })
    };
    let all_are = |byte: u8| {
        let values = found();
        let lengths: Vec<_> = values.iter().flatten().map(|value| value.as_bytes().len()).collect();
        assert_eq!(lengths, [XATTR_VALUE_LIMIT, XATTR_VALUE_LIMIT, 10]);
        assert!(values.iter().flatten().all(|value| value.as_bytes().iter().all(|found| *found == byte)));
    };
    write_clusters(&head, &[(0, b'x'), (3, b'y')]);
    set(1);
    all_are(1);
    snapshot(&head, "snap", Vec::new());
    for byte in 2..6 {
        disk.reload(&store);
        all_are(byte - 1);
        set(byte);
        all_are(byte);
    }
    // The store is open, so a copy of its disk is what a power failure would leave.
    let copy = disk.path.with_extension("copy");
    std::fs::copy(&disk.path, &copy).expect("a copy of the disk");
    set(9);
    disk.path = copy;
    disk.reload(&store);
    all_are(5);
    assert_eq!(clusters(&head, 4), [b'x', 0, 0, b'y']);
}

#[test]
fn none_means_that_there_is_no_store() {
    let disk = Disk::new("blank-disk", 64);
    disk.create();
    let name = disk.name.clone();
    assert!(control(async move |on| lvstore::load(on, &name).await).is_none());

    let (damaged, store) = (Disk::new("damaged-disk", 64), lvs("damaged"));
    damaged.format(&store);
    let name = damaged.name.clone();
    control(async move |on| {
        lvstore::unload(on, &store).await?;
        base::delete(on, &name).await
    });
    let mut bytes = std::fs::read(&damaged.path).expect("the disk");
    bytes[8..4096].fill(0x5a);
    std::fs::write(&damaged.path, bytes).expect("the disk");
    damaged.create();
    let name = damaged.name.clone();
    let refused = control(async move |on| Ok(lvstore::load(on, &name).await));
    assert!(refused.is_err(), "a store that cannot be read is not taken for an empty disk: {refused:?}");
}

#[test]
fn a_grown_clone_reads_zeroes_beyond_its_parent() {
    let (disk, store) = (Disk::new("grown-disk", 64), lvs("grown"));
    disk.format(&store);
    let head = alias(&store, "head");
    control({
        let head = head.clone();
        async move |on| lvol::create(on, &head, 2 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await.map(drop)
    });
    write_clusters(&head, &[(0, b'a'), (1, b'a')]);
    snapshot(&head, "snap", Vec::new());
    let size = control({
        let head = head.clone();
        async move |on| Ok(lvol::grow(on, &head, 4 * MIB).await?.size)
    });
    assert_eq!(size, 4 * MIB);
    for reloaded in [false, true] {
        if reloaded {
            disk.reload(&store);
        }
        assert_eq!(clusters(&head, 4), [b'a', b'a', 0, 0], "reloaded: {reloaded}");
    }
    let name = head.bdev();
    control(async move |on| {
        let channel = open(on, &name, true)?;
        fill(&channel, 3 * MIB + 4096, 4096, b'x').await?;
        assert!(holds(&channel, 3 * MIB, 4096, 0).await?);
        assert!(holds(&channel, 3 * MIB + 4096, 4096, b'x').await?);
        assert!(holds(&channel, 3 * MIB + 8192, 4096, 0).await?);
        Ok(())
    });
}

#[test]
fn what_would_lose_data_or_hang_is_refused() {
    let (disk, store) = (Disk::new("refusal-disk", 64), lvs("refusal"));
    disk.format(&store);
    let (head, snap) = (alias(&store, "head"), alias(&store, "snap"));
    let name = disk.name.clone();
    control(async move |on| {
        lvol::create(on, &head, 4 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await?;
        lvol::snapshot(on, &head, &snap.lvol, &[]).await?;
        lvol::clone(on, &snap, &lvol_name("other")).await?;
        let refused = |what: &str, result: Result<(), SpdkError>| match result {
            Err(SpdkError::Refused { problem, .. }) => problem,
            other => panic!("{what} is refused: {other:?}"),
        };
        let problem = refused("deletion of a snapshot with two children", lvol::delete(on, &snap).await);
        assert!(problem.contains("more than one child"), "{problem}");
        refused("shrinking", lvol::grow(on, &head, MIB).await.map(drop));
        refused("a snapshot of a snapshot", lvol::snapshot(on, &snap, &lvol_name("x"), &[]).await.map(drop));
        refused("a clone of a head", lvol::clone(on, &head, &lvol_name("x")).await.map(drop));
        refused(
            "a volume of nothing",
            lvol::create(on, &alias(&store, "x"), 0, Provision::Thin, ClearMethod::None).await.map(drop),
        );
        let channel = open(on, &head.bdev(), false)?;
        assert!(lvol::info(on, &head)?.open);
        refused("deletion while open", lvol::delete(on, &head).await);
        refused("unload while open", lvstore::unload(on, &store).await);
        refused("deletion of the disk below", base::delete(on, &name).await);
        drop(channel);
        assert!(matches!(lvol::delete(on, &alias(&store, "none")).await, Err(SpdkError::NoSuch { .. })));
        let taken = lvol::rename(on, &head, &snap.lvol).await;
        assert!(taken.is_err(), "a rename to a name that is taken");
        assert_eq!(base::aliases(on, &lvol::info(on, &head)?.bdev), [head.bdev()], "and the alias stays");
        lvol::delete(on, &alias(&store, "other")).await?;
        lvol::delete(on, &snap).await?;
        lvol::delete(on, &head).await?;
        assert_eq!(lvol::list(on, &store)?, []);
        let info = lvstore::info(on, &store)?;
        assert_eq!(info.free_clusters, lvstore::on_base(on, &name)?.expect("loaded").free_clusters);
        Ok(())
    });
}

#[test]
fn a_reverted_volumes_data_is_not_readable_by_the_next() {
    let (disk, store) = (Disk::new("revert-disk", 64), lvs("revert"));
    disk.format(&store);
    let (head, snap) = (alias(&store, "head"), alias(&store, "snap"));
    let leaked = control(async move |on| {
        lvol::create(on, &head, 8 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await?;
        lvol::snapshot(on, &head, &snap.lvol, &[]).await?;
        lvol::delete(on, &head).await?;
        lvol::clone(on, &snap, &head.lvol).await?;
        let channel = open(on, &head.bdev(), true)?;
        for cluster in 0..8 {
            fill(&channel, cluster * MIB, MIB as usize, b's').await?;
        }
        drop(channel);
        lvol::delete(on, &head).await?;
        lvol::delete(on, &snap).await?;
        let next = alias(&store, "next");
        lvol::create(on, &next, 8 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await?;
        let channel = open(on, &next.bdev(), true)?;
        let mut leaked = 0;
        for cluster in 0..8 {
            fill(&channel, cluster * MIB, 4096, b'n').await?;
            let rest = MIB as usize - 4096;
            let found = channel.read(cluster * MIB + 4096, DmaBuffer::zeroed(rest)?).await?;
            leaked += found.iter().filter(|byte| **byte != 0).count();
        }
        Ok(leaked)
    });
    assert_eq!(leaked, 0);
}

/// Writes every second block of the volume from one thread, in an order of its own.
async fn interleave(on: OnThread, bdev: Arc<OpenBdev>, parity: u64, blocks: u64) -> Result<(), SpdkError> {
    use futures::stream::{StreamExt, TryStreamExt};
    let channel = bdev.channel(on)?;
    let writes = (0..blocks / 2).map(|index| {
        // Neighbours in time are in the same cluster, so both threads take it at once.
        let block = index * 2 + parity;
        let channel = channel.clone();
        async move {
            fill(&channel, block * 4096, 4096, (block % 251) as u8).await?;
            match holds(&channel, block * 4096, 4096, (block % 251) as u8).await? {
                true => Ok(()),
                false => Err(SpdkError::answer("read", "the volume", format!("block {block} is not what was written"))),
            }
        }
    });
    futures::stream::iter(writes).buffer_unordered(32).try_collect().await
}

#[test]
fn two_threads_may_allocate_the_same_clusters() {
    let (disk, store) = (Disk::new("race-disk", 256), lvs("race"));
    disk.format(&store);
    let head = alias(&store, "head");
    let size = 64 * MIB;
    let opened = control({
        let head = head.clone();
        async move |on| {
            lvol::create(on, &head, size, Provision::Thin, ClearMethod::WriteZeroes).await?;
            OpenBdev::open(on, &head.bdev(), true, |_| {})
        }
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let [first, second] = [0u64, 1].map(|parity| {
        let (reactor, opened) = (environment().reactors()[parity as usize].clone(), opened.clone());
        runtime.spawn(async move {
            reactor.run(move |on| async move { interleave(on, opened, parity, size / 4096).await }).await
        })
    });
    runtime.block_on(async {
        first.await.expect("no panic").unwrap_or_else(|error: SpdkError| panic!("{error}"));
        second.await.expect("no panic").unwrap_or_else(|error: SpdkError| panic!("{error}"));
    });
    // The tasks' ends of it, and the close on the control thread, take a moment more.
    drop(opened);
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        let head = head.clone();
        if !control(async move |on| Ok(lvol::info(on, &head)?.open)) {
            break;
        }
    }
    disk.reload(&store);
    let name = head.bdev();
    control(async move |on| {
        let channel = open(on, &name, false)?;
        for block in 0..size / 4096 {
            assert!(holds(&channel, block * 4096, 4096, (block % 251) as u8).await?, "block {block}");
        }
        Ok(())
    });
}

// ------------------------------------------------------------------ initiator and target, in two processes

/// The other node: this test binary once more, running [`other_node`].
struct OtherNode {
    child: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

const PORT_VARIABLE: &str = "CORRIENTE_TEST_TARGET_PORT";

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

impl OtherNode {
    fn start(port: u16) -> Self {
        use std::io::BufRead;
        // A test that crashes cannot clean up, so the kernel kills the child with it.
        let mut child = std::process::Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(std::env::current_exe().expect("this binary"))
            .args(["--exact", "other_node", "--nocapture", "--include-ignored"])
            .env(PORT_VARIABLE, port.to_string())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the other node starts");
        let lines = std::io::BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut node = Self { child, lines };
        node.wait_for("ready");
        node
    }

    fn wait_for(&mut self, word: &str) {
        let found = self.lines.by_ref().map_while(Result::ok).any(|line| line.ends_with(word));
        assert!(found, "the other node says {word}");
    }

    fn ask(&mut self, word: &str) {
        use std::io::Write;
        writeln!(self.child.stdin.as_mut().expect("piped"), "{word}").expect("the other node listens");
        self.wait_for(&format!("done {word}"));
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(id, signal).expect("our child");
    }
}

impl Drop for OtherNode {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn replica() -> ReplicaName {
    ReplicaName::parse("vol-r-12345678").expect("a replica's name")
}

fn export(bdev: BdevName, port: u16) -> Export {
    Export {
        nqn: Nqn::replica(&replica()),
        bdev,
        nguid: Nguid::replica(&replica()),
        uuid: Uuid::from_u128(7),
        listen: HostPort::parse(&format!("127.0.0.1:{port}")).expect("an address"),
        hosts: Hosts::Only(vec![Nqn::internal_host()]),
        controller_ids: None,
        ana: false,
    }
}

#[test]
#[ignore = "the other half of the tests below, which start it"]
fn other_node() {
    use std::io::BufRead;
    let Ok(port) = std::env::var(PORT_VARIABLE) else { return };
    let (disk, store) = (Disk::new("target-disk", 64), lvs("target"));
    disk.format(&store);
    let head = alias(&store, "head");
    let what = export(head.bdev(), port.parse().expect("a port"));
    control({
        let (head, what) = (head.clone(), what.clone());
        async move |on| {
            lvol::create(on, &head, 8 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await?;
            nvmf::start_tcp(on, &nvmf::TransportOptions::default()).await?;
            let info = nvmf::export(on, &what).await?;
            assert_eq!((info.state, info.listen, info.connected), (ExportState::Active, Some(what.listen), 0));
            Ok(())
        }
    });
    println!("ready");
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let (head, what, word) = (head.clone(), what.clone(), line.clone());
        control(async move |on| match word.as_str() {
            "grow" => lvol::grow(on, &head, 16 * MIB).await.map(drop),
            "pause" => nvmf::pause(on, &what.nqn, LIMIT).await,
            "resume" => nvmf::resume(on, &what.nqn).await,
            "connected" => {
                assert!(nvmf::info(on, &what.nqn)?.connected > 0);
                Ok(())
            }
            "again" => {
                nvmf::unexport(on, &what.nqn).await?;
                assert_eq!(nvmf::list(on)?, []);
                nvmf::export(on, &what).await.map(drop)
            }
            other => panic!("{other:?} is no request"),
        });
        println!("done {line}");
    }
}

/// Once in a process, and before its first attach.
fn configure_initiator() {
    static CONFIGURED: OnceLock<()> = OnceLock::new();
    CONFIGURED.get_or_init(|| control(async |on| nvme::configure(on, &nvme::NvmeOptions::default())));
}

#[test]
fn an_export_claims_its_volume_but_leaves_it_to_who_has_it() {
    let (disk, store) = (Disk::new("claim-disk", 64), lvs("claim"));
    disk.format(&store);
    let head = alias(&store, "head");
    let mut what = export(head.bdev(), free_port());
    what.nqn = Nqn::parse("nqn.2026-11.test:claim").expect("an NQN");
    control(async move |on| {
        lvol::create(on, &head, 4 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await?;
        nvmf::start_tcp(on, &nvmf::TransportOptions::default()).await?;
        let mine = open(on, &head.bdev(), true)?;
        nvmf::export(on, &what).await?;
        assert!(nvmf::export(on, &what).await.is_err(), "the same export twice");
        fill(&mine, 0, 4096, b'm').await?;
        assert!(open(on, &head.bdev(), true).is_err(), "nobody else can open it for writing");
        assert!(holds(&open(on, &head.bdev(), false)?, 0, 4096, b'm').await?, "but for reading");
        let mut second = what.clone();
        second.nqn = Nqn::parse("nqn.2026-11.test:claim-twice").expect("an NQN");
        second.listen = HostPort::parse(&format!("127.0.0.1:{}", free_port())).expect("an address");
        assert!(matches!(nvmf::export(on, &second).await, Err(SpdkError::Refused { .. })));
        assert!(nvmf::info(on, &second.nqn).is_err(), "nothing is left of an export that failed");
        second.bdev = bdev("no-such-bdev");
        assert!(matches!(nvmf::export(on, &second).await, Err(SpdkError::NoSuchBdev(_))));
        nvmf::pause(on, &what.nqn, LIMIT).await?;
        assert_eq!(nvmf::info(on, &what.nqn)?.state, ExportState::Paused);
        nvmf::unexport(on, &what.nqn).await?;
        open(on, &head.bdev(), true).map(drop)
    });
}

fn target(port: u16, host: Nqn) -> TcpTarget {
    TcpTarget {
        address: HostPort::parse(&format!("127.0.0.1:{port}")).expect("an address"),
        subsystem: Nqn::replica(&replica()),
        host,
        io_queues: 0,
    }
}

#[test]
fn a_volume_of_another_node_is_a_bdev_here() {
    let port = free_port();
    let mut node = OtherNode::start(port);
    let name = bdev("remote");
    let here = target(port, Nqn::internal_host());
    configure_initiator();

    // A wrong answer is an error that names the controller, leaves nothing, and can be repeated.
    for fault in [AttachFault::NoName, AttachFault::TwoNames, AttachFault::EmptyName] {
        let (name, here) = (name.clone(), here.clone());
        let error = control(async move |on| {
            nvme::inject_fault(on, fault);
            let error = nvme::attach_tcp(on, &name, &here, LIMIT).await.expect_err("a spoilt answer");
            assert!(!nvme::is_attached(on, &name));
            Ok(error.to_string())
        });
        assert!(error.contains("NVMe controller remote"), "{fault:?}: {error}");
    }
    control({
        let (name, here) = (name.clone(), target(port, Nqn::parse("nqn.2026-11.test:stranger").expect("an NQN")));
        async move |on| {
            assert!(nvme::attach_tcp(on, &name, &here, LIMIT).await.is_err(), "a stranger is not admitted");
            Ok(())
        }
    });

    let (events, received) = std::sync::mpsc::channel();
    let opened = control({
        let (name, here) = (name.clone(), here.clone());
        async move |on| {
            let names = nvme::attach_tcp(on, &name, &here, LIMIT).await?;
            let only = nvme::only(on, &name, names, LIMIT).await?;
            assert_eq!(only, bdev("remoten1"));
            assert_eq!(base::info(on, &only)?.geometry, Geometry { block_size: 4096, block_count: 2048 });
            let opened = OpenBdev::open(on, &only, true, move |event| {
                let _ = events.send(event);
            })?;
            let channel = opened.channel(on.into())?;
            fill(&channel, MIB, MIB as usize, b'r').await?;
            channel.flush().await?;
            assert!(holds(&channel, MIB, MIB as usize, b'r').await?);
            // What the other side says of itself, and of its health: SPDK's target tells nothing of the latter.
            let identify = AdminRead { opcode: 0x06, namespace: 0, dword_10: 1 };
            let identity = channel.nvme_admin_read(identify, DmaBuffer::zeroed(4096)?).await?;
            assert!(identity[24..64].starts_with(b"Corriente volume "), "{:?}", &identity[..72]);
            let health = AdminRead { opcode: 0x02, namespace: u32::MAX, dword_10: 0x02 | (127 << 16) };
            let page = channel.nvme_admin_read(health, DmaBuffer::zeroed(512)?).await?;
            assert_eq!(HealthLog::parse(&page).temperature, None, "no temperature at all is none that can be");
            let unknown = AdminRead { dword_10: 0xee | (127 << 16), ..health };
            let refused = channel.nvme_admin_read(unknown, DmaBuffer::zeroed(512)?).await;
            assert!(matches!(refused, Err(SpdkError::Answer { .. })), "{refused:?}");
            Ok(opened)
        }
    });
    node.ask("connected");

    node.ask("grow");
    let start = Instant::now();
    control({
        let (name, opened) = (name.clone(), opened.clone());
        async move |on| {
            assert_eq!(nvme::read_size(on, &name, &bdev("remoten1")).await?.size(), 16 * MIB);
            println!("a resize was seen after {:?}", start.elapsed());
            assert_eq!(opened.current_geometry(on.into()).size(), 16 * MIB);
            let nobody = nvme::read_size(on, &bdev("nobody"), &bdev("nobodyn1")).await;
            assert!(matches!(nobody, Err(SpdkError::NoSuch { .. })), "{nobody:?}");
            Ok(())
        }
    });
    assert_eq!(received.recv_timeout(LIMIT), Ok(BdevEvent::Resized));
    node.ask("pause");
    node.ask("resume");
    drop(opened);
    control({
        let name = name.clone();
        async move |on| nvme::detach(on, &name, Peer::Alive, LIMIT).await
    });
    node.ask("again");
    control(async move |on| {
        let names = nvme::attach_tcp(on, &name, &here, LIMIT).await?;
        let channel = open(on, names.first(), false)?;
        assert!(holds(&channel, MIB, MIB as usize, b'r').await?);
        drop(channel);
        nvme::detach(on, &name, Peer::Alive, LIMIT).await
    });
}

#[test]
fn a_frozen_peer_is_let_go_at_once() {
    let port = free_port();
    let node = OtherNode::start(port);
    let name = bdev("frozen");
    configure_initiator();
    let here = target(port, Nqn::internal_host());
    let opened = control({
        let name = name.clone();
        async move |on| {
            let names = nvme::attach_tcp(on, &name, &here, LIMIT).await?;
            OpenBdev::open(on, names.first(), true, |_| {})
        }
    });
    // Writers on both reactors, so that some I/O is in flight whenever the peer stops to answer.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let writing: Vec<_> = environment()
        .reactors()
        .iter()
        .map(|reactor| {
            let (reactor, opened) = (reactor.clone(), opened.clone());
            runtime.spawn(async move {
                reactor
                    .run(move |on| async move {
                        let channel = opened.channel(on)?;
                        drop(opened);
                        let mut written = 0u64;
                        while fill(&channel, 0, 4096, b'f').await.is_ok() {
                            written += 1;
                        }
                        Ok::<_, SpdkError>(written)
                    })
                    .await
            })
        })
        .collect();
    drop(opened);
    std::thread::sleep(Duration::from_millis(500));
    node.signal(nix::sys::signal::Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    control(async move |on| {
        nvme::detach(on, &name, Peer::Lost, LIMIT).await?;
        assert!(!nvme::is_attached(on, &name));
        Ok(())
    });
    let took = start.elapsed();
    for one in writing {
        let written = runtime.block_on(one).expect("no panic").unwrap_or_else(|error| panic!("{error}"));
        assert!(written > 0, "it wrote until the peer was lost");
    }
    assert!(took < Duration::from_secs(3), "letting go of a frozen peer took {took:?}");
}
