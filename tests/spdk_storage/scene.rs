//! One SPDK for all tests of a process, disks of sparse files, and what is written to their lvols.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use corriente::name::{BdevName, LvolAlias, LvolName, LvsName};
use corriente::spdk::bdev::{IoChannel, OpenBdev};
use corriente::spdk::lvol;
use corriente::spdk::lvstore::{self, ClearMethod};
use corriente::spdk::reactor::PollMode;
use corriente::spdk::xattr::{XattrName, XattrValue};
use corriente::spdk::{DmaBuffer, Environment, EnvironmentConfig, Memory, OnControl, SpdkError, base};
use uuid::Uuid;

pub const MIB: u64 = 1 << 20;
pub const LIMIT: Duration = Duration::from_secs(10);

pub fn environment() -> &'static Arc<Environment> {
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
pub fn control<T, F, Fut>(work: F) -> T
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

pub fn bdev(text: &str) -> BdevName {
    BdevName::parse(text).expect("a bdev's name")
}

pub fn lvs(text: &str) -> LvsName {
    LvsName::parse(text).expect("an lvstore's name")
}

pub fn alias(store: &LvsName, name: &str) -> LvolAlias {
    LvolAlias { lvs: store.clone(), lvol: LvolName::parse(name).expect("an lvol's name") }
}

pub fn lvol_name(text: &str) -> LvolName {
    LvolName::parse(text).expect("an lvol's name")
}

pub fn xattr(name: &str, value: &str) -> (XattrName, XattrValue) {
    (XattrName::parse(name).expect("a name"), XattrValue::new(value.as_bytes()).expect("a value"))
}

/// A sparse file that is a disk.
pub struct Disk {
    _folder: tempfile::TempDir,
    pub path: PathBuf,
    pub name: BdevName,
}

impl Disk {
    pub fn new(name: &str, mib: u64) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
        let path = folder.path().join("disk");
        let file = std::fs::File::create(&path).expect("a file");
        file.set_len(mib * MIB).expect("a sparse file");
        Self { _folder: folder, path, name: bdev(name) }
    }

    pub fn create(&self) {
        let (name, path) = (self.name.clone(), self.path.clone());
        control(async move |on| base::create_aio(on, &name, &path, 4096, Uuid::new_v4()).map(drop));
    }

    pub fn format(&self, store: &LvsName) {
        self.create();
        let (name, store) = (self.name.clone(), store.clone());
        control(async move |on| lvstore::create(on, &name, &store, MIB as u32, ClearMethod::None).await.map(drop));
    }

    /// What a restart does to a store.
    pub fn reload(&self, store: &LvsName) {
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

pub fn open(on: OnControl, name: &BdevName, write: bool) -> Result<IoChannel, SpdkError> {
    OpenBdev::open(on, name, write, |_| {})?.channel(on.into())
}

pub async fn fill(channel: &IoChannel, offset: u64, length: usize, byte: u8) -> Result<(), SpdkError> {
    let mut buffer = DmaBuffer::zeroed(length)?;
    buffer.fill(byte);
    channel.write(offset, buffer).await.map(drop)
}

pub async fn holds(channel: &IoChannel, offset: u64, length: usize, byte: u8) -> Result<bool, SpdkError> {
    let buffer = channel.read(offset, DmaBuffer::zeroed(length)?).await?;
    Ok(buffer.iter().all(|found| *found == byte))
}

/// The first byte of each of the first clusters, which each are all one byte.
pub fn clusters(of: &LvolAlias, count: u64) -> Vec<u8> {
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

pub fn write_clusters(of: &LvolAlias, bytes: &'static [(u64, u8)]) {
    let name = of.bdev();
    control(async move |on| {
        let channel = open(on, &name, true)?;
        for (cluster, byte) in bytes {
            fill(&channel, cluster * MIB, MIB as usize, *byte).await?;
        }
        Ok(())
    });
}

pub fn snapshot(of: &LvolAlias, name: &str, xattrs: Vec<(XattrName, XattrValue)>) {
    let (of, name) = (of.clone(), lvol_name(name));
    control(async move |on| lvol::snapshot(on, &of, &name, &xattrs).await.map(drop));
}

pub fn delete(of: &LvolAlias) {
    let of = of.clone();
    control(async move |on| lvol::delete(on, &of).await);
}
