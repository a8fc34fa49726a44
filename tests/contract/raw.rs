//! A disk as another engine has left it: its lvols are made with SPDK in the test's own process, before a node has it.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use corriente::name::{BdevName, LvolAlias, LvolName, LvsName};
use corriente::spdk::bdev::OpenBdev;
use corriente::spdk::lvol::{self, Provision};
use corriente::spdk::lvstore::{self, ClearMethod};
use corriente::spdk::reactor::PollMode;
use corriente::spdk::xattr::{XattrName, XattrValue};
use corriente::spdk::{DmaBuffer, Environment, EnvironmentConfig, Memory, OnControl, SpdkError, base};
use uuid::Uuid;

use crate::cluster::MIB;

const BDEV: &str = "raw";

fn environment() -> &'static Arc<Environment> {
    static ENVIRONMENT: OnceLock<Arc<Environment>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        Environment::start(EnvironmentConfig {
            cores: vec![0],
            poll: PollMode::Adaptive,
            memory: Memory::Ordinary { mib: 512 },
            pci: false,
            bdev_io_pool_size: 4 * 1024,
            bdev_io_cache_size: 64,
            max_exports: 4,
        })
        .expect("SPDK starts on ordinary pages")
    })
}

/// An lvstore on a file, named after the disk.
pub struct Raw {
    lvs: LvsName,
}

impl Raw {
    /// Formats an empty file with clusters of 1 MiB.
    pub async fn format(path: &Path, disk: &str) -> Self {
        Self::format_with(path, disk, MIB as u32).await
    }

    /// The same with clusters of another size.
    pub async fn format_with(path: &Path, disk: &str, cluster_size: u32) -> Self {
        let (bdev, lvs, path) = (bdev(), LvsName::parse(disk).expect("a name"), path.to_owned());
        let made = Self { lvs: lvs.clone() };
        made.run(async move |on| {
            base::create_aio(on, &bdev, &path, 512, Uuid::new_v4())?;
            lvstore::create(on, &bdev, &lvs, cluster_size, ClearMethod::None).await.map(drop)
        })
        .await;
        made
    }

    /// Makes a thin lvol.
    pub async fn volume(&self, name: &str, size: u64) {
        let alias = self.alias(name);
        self.run(async move |on| {
            lvol::create(on, &alias, size, Provision::Thin, ClearMethod::WriteZeroes).await.map(drop)
        })
        .await;
    }

    /// Fills one cluster of an lvol.
    pub async fn fill(&self, name: &str, cluster: u64, byte: u8) {
        let alias = self.alias(name);
        self.run(async move |on| {
            let channel = OpenBdev::open(on, &alias.bdev(), true, |_| {})?.channel(on.into())?;
            let mut data = DmaBuffer::zeroed(MIB as usize)?;
            data.fill(byte);
            channel.write(cluster * MIB, data).await.map(drop)
        })
        .await;
    }

    /// Takes a snapshot with Longhorn's marks.
    pub async fn snapshot(&self, volume: &str, name: &str, user_created: bool, second: u32) {
        let (alias, name) = (self.alias(volume), LvolName::parse(name).expect("a name"));
        let text = |key: &str, value: String| {
            (XattrName::parse(key).expect("a key"), XattrValue::new(format!("{value}\0").as_bytes()).expect("a value"))
        };
        let marks = [
            text("user_created", user_created.to_string()),
            text("snapshot_timestamp", format!("2026-01-01T00:00:{second:02}Z")),
        ];
        self.run(async move |on| lvol::snapshot(on, &alias, &name, &marks).await.map(drop)).await;
    }

    /// Deletes an lvol.
    pub async fn delete(&self, name: &str) {
        let alias = self.alias(name);
        self.run(async move |on| lvol::delete(on, &alias).await).await;
    }

    /// Lets go of the file, for a node to take.
    pub async fn close(self) {
        let lvs = self.lvs.clone();
        self.run(async move |on| {
            lvstore::unload(on, &lvs).await?;
            base::delete(on, &bdev()).await
        })
        .await;
    }

    fn alias(&self, name: &str) -> LvolAlias {
        LvolAlias { lvs: self.lvs.clone(), lvol: LvolName::parse(name).expect("a name") }
    }

    async fn run<F, Fut>(&self, work: F)
    where
        F: FnOnce(OnControl) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), SpdkError>> + 'static,
    {
        environment().control().run(work).await.unwrap_or_else(|error: SpdkError| panic!("{error}"));
    }
}

fn bdev() -> BdevName {
    BdevName::parse(BDEV).expect("a name")
}
