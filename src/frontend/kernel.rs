//! A volume as a block device of this host's kernel: its NVMe/TCP initiator is told to connect, watched, and told to let go.
//!
//! - [`options`]: what the kernel is asked, as text. [`identity`]: who asks. [`sysfs`]: what the kernel shows.
//! - [`node`]: the device node, `/dev/longhorn/<volume>`.
//!
//! Nothing is remembered here: what is connected is read from the kernel each time, so a node that was started again takes
//! over what the one before has left.

pub mod identity;
pub mod node;
pub mod options;
pub mod sysfs;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::initiator::{self, InitiatorError};
use crate::name::{HostPort, Nguid, Nqn, VolumeName};
use identity::HostIdentity;
use node::Nodes;
use options::Connect;
use sysfs::{Controller, Device, Sysfs};

/// How often the kernel is looked at while it is waited for.
const POLL: Duration = Duration::from_millis(50);

/// Takes connect requests, as `/dev/nvme-fabrics` does.
pub trait Fabrics: Send + Sync + 'static {
    /// Whether it is there.
    fn is_present(&self) -> bool;
    /// Asks for a connection; returns when the kernel has made or refused it.
    fn connect(&self, options: &str) -> io::Result<()>;
}

/// The kernel's own.
struct FabricsDevice(PathBuf);

impl Fabrics for FabricsDevice {
    fn is_present(&self) -> bool {
        self.0.exists()
    }

    fn connect(&self, options: &str) -> io::Result<()> {
        let mut device = std::fs::OpenOptions::new().read(true).write(true).open(&self.0)?;
        device.write_all(options.as_bytes())?;
        // The answer, `instance=…,cntlid=…`, is there once the controller is; sysfs tells more.
        device.read(&mut [0; 256]).map(drop)
    }
}

/// Where the host's kernel is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPaths {
    /// Sysfs.
    pub sysfs: PathBuf,
    /// Device nodes.
    pub dev: PathBuf,
    /// The host's NVMe identity.
    pub etc_nvme: PathBuf,
}

impl HostPaths {
    /// Those of this host, whose root is mounted at `prefix` when the node runs in a container.
    pub fn below(prefix: Option<&Path>) -> Self {
        let root = prefix.unwrap_or(Path::new("/"));
        Self { sysfs: "/sys".into(), dev: root.join("dev"), etc_nvme: root.join("etc/nvme") }
    }
}

/// This host's kernel as an initiator. Cheap to clone.
#[derive(Clone)]
pub struct KernelInitiator {
    paths: HostPaths,
    sysfs: Sysfs,
    nodes: Nodes,
    fabrics: Arc<dyn Fabrics>,
    /// On one connection coming up, changing or going.
    limit: Duration,
}

/// What the volume must turn out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The volume.
    pub volume: VolumeName,
    /// Bytes it has.
    pub size: u64,
}

impl KernelInitiator {
    /// The kernel of this host; `limit` bounds each wait for it.
    pub fn new(paths: HostPaths, limit: Duration) -> Self {
        let fabrics = Arc::new(FabricsDevice(paths.dev.join("nvme-fabrics")));
        Self::with_fabrics(paths, limit, fabrics)
    }

    fn with_fabrics(paths: HostPaths, limit: Duration, fabrics: Arc<dyn Fabrics>) -> Self {
        let (sysfs, nodes) = (Sysfs::at(&paths.sysfs), Nodes::at(&paths.dev));
        Self { paths, sysfs, nodes, fabrics, limit }
    }

    /// Says what is missing when the kernel cannot speak NVMe over TCP.
    pub fn require(&self) -> Result<()> {
        let missing = match (self.sysfs.has_nvme_tcp(), self.fabrics.is_present()) {
            (true, true) => return Ok(()),
            (false, _) => format!("{} is not there", self.paths.sysfs.join("module/nvme_tcp").display()),
            (true, false) => format!("{} is not there", self.paths.dev.join("nvme-fabrics").display()),
        };
        let problem = format!("the kernel module nvme-tcp is not loaded ({missing}); load it with: modprobe nvme-tcp");
        Err(Error::precondition("frontend spdk-tcp-blockdev", problem))
    }

    /// Connects to a target, or takes over the connection that there is, and waits until it serves I/O.
    pub async fn connect(&self, connect: &Connect) -> Result<()> {
        if self.path_to(connect).await?.is_none() {
            self.discover(connect).await?;
            let this = self.clone();
            let (asked, target) = (connect.clone(), describe(connect));
            blocking(move || {
                let host = HostIdentity::find(&this.paths.etc_nvme, &this.paths.sysfs);
                let options = asked.options(host.as_ref());
                this.fabrics.connect(&options).map_err(|error| refusal(&target, &options, &error))
            })
            .await?;
        }
        self.wait(format!("{} being live", describe(connect)), || async {
            Ok(self.path_to(connect).await?.filter(Controller::is_live))
        })
        .await
        .map(drop)
    }

    /// Gives the connected volume its device node once the kernel shows it as what it should be.
    pub async fn publish(&self, connect: &Connect, expected: &Expected) -> Result<()> {
        let device = self.device(connect, expected).await?;
        let (nodes, volume) = (self.nodes.clone(), expected.volume.clone());
        let path = nodes.path(&volume);
        blocking(move || nodes.place(&volume, &device).map_err(|error| failed(&path, "made", &error))).await
    }

    /// Waits for the volume's block device, of that size; one of another identity is refused.
    pub async fn device(&self, connect: &Connect, expected: &Expected) -> Result<Device> {
        let nguid = Nguid::volume(&expected.volume);
        let found = self.wait(format!("the block device of {}", describe(connect)), || async {
            let Some(controller) = self.path_to(connect).await? else { return Ok(None) };
            let sysfs = self.sysfs.clone();
            let device = blocking(move || sysfs.device(&controller).map_err(unreadable)).await?;
            Ok(device.filter(|device| device.nguid.is_none_or(|found| found != nguid) || device.size == expected.size))
        });
        let device = found.await?;
        match device.nguid {
            Some(found) if found == nguid => Ok(device),
            other => {
                let other = other.map_or("none".to_owned(), |nguid| nguid.to_string());
                let problem = format!("it has the NGUID {other}, volume {} has {nguid}", expected.volume);
                Err(Error::precondition(format!("block device {}", device.name), problem))
            }
        }
    }

    /// Waits until the kernel sees a path's access state; a kernel or target without such states has nothing to see.
    pub async fn await_ana(&self, connect: &Connect, state: &str) -> Result<()> {
        self.wait(format!("the path to {} being {state}", describe(connect)), || async {
            let Some(controller) = self.path_to(connect).await? else { return Ok(None) };
            let sysfs = self.sysfs.clone();
            let seen = blocking(move || sysfs.ana_state(&controller).map_err(unreadable)).await?;
            Ok(seen.is_none_or(|seen| seen == state).then_some(()))
        })
        .await
    }

    /// Writes what the kernel has buffered for the device to the volume.
    pub async fn flush(&self, volume: &VolumeName) -> Result<()> {
        let path = self.nodes.path(volume);
        let flushed = blocking(move || {
            let synced = std::fs::File::open(&path).and_then(|device| device.sync_all());
            synced.map_err(|error| failed(&path, "flushed", &error))
        });
        let what = || format!("flushing the block device of volume {volume}");
        let late = || Error::Timeout { what: what(), limit: self.limit };
        tokio::time::timeout(self.limit, flushed).await.unwrap_or_else(|_| Err(late()))
    }

    /// Lets go of every path to a volume, and removes its node.
    pub async fn disconnect(&self, volume: &VolumeName) -> Result<()> {
        let (nodes, gone) = (self.nodes.clone(), volume.clone());
        let path = nodes.path(volume);
        blocking(move || nodes.remove(&gone).map_err(|error| failed(&path, "removed", &error))).await?;
        let nqn = Nqn::volume(volume);
        self.wait(format!("the end of the connections to {nqn}"), || async {
            let controllers = self.controllers(&nqn).await?;
            let leaving = controllers.is_empty();
            let sysfs = self.sysfs.clone();
            blocking(move || {
                let staying = controllers.iter().filter(|controller| !controller.is_leaving());
                staying.into_iter().try_for_each(|controller| {
                    let refused =
                        |error| Error::medium(&controller.name, format!("it cannot be disconnected: {error}"));
                    sysfs.delete(controller).map_err(refused)
                })
            })
            .await?;
            Ok(leaving.then_some(()))
        })
        .await
    }

    async fn controllers(&self, nqn: &Nqn) -> Result<Vec<Controller>> {
        let (sysfs, nqn) = (self.sysfs.clone(), nqn.clone());
        blocking(move || sysfs.controllers(&nqn).map_err(unreadable)).await
    }

    /// The controller of a connection, unless it is on its way out.
    async fn path_to(&self, connect: &Connect) -> Result<Option<Controller>> {
        let controllers = self.controllers(&connect.nqn).await?;
        Ok(controllers.into_iter().find(|one| one.target == connect.target && !one.is_leaving()))
    }

    /// Asks the target what it offers: a plainer answer than the kernel's errno. A target that does not answer discovery is
    /// left to the kernel.
    async fn discover(&self, connect: &Connect) -> Result<()> {
        let host = HostIdentity::find(&self.paths.etc_nvme, &self.paths.sysfs).map(|host| host.nqn);
        let host = host.unwrap_or_else(Nqn::internal_host);
        let options = initiator::Options { connect_timeout: self.limit, ..Default::default() };
        match initiator::discover(connect.target.socket(), &host, &options).await {
            Ok(entries) if entries.iter().any(|entry| entry.nqn == connect.nqn.as_str()) => Ok(()),
            Ok(_) => Err(Error::peer(describe(connect), "the target does not offer this volume")),
            Err(error @ InitiatorError::Refused { .. }) => {
                tracing::debug!(target = %connect.target, %error, "a target does not answer discovery");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn wait<T, F>(&self, what: String, look: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        let end = tokio::time::Instant::now() + self.limit;
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            if tokio::time::Instant::now() >= end {
                return Err(Error::Timeout { what: format!("the kernel's wait for {what}"), limit: self.limit });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn describe(connect: &Connect) -> String {
    format!("{} at {}", connect.nqn, HostPort::to_string(&connect.target))
}

/// What the network or the target answered is the peer's fault; all else is between this kernel and us.
fn refusal(target: &str, options: &str, error: &io::Error) -> Error {
    let object = format!("connection to {target}");
    let problem = format!("the kernel refused it ({options}): {error}");
    match error.raw_os_error() {
        Some(
            libc::ECONNREFUSED
            | libc::ECONNRESET
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::ETIMEDOUT
            | libc::EIO,
        ) => Error::peer(object, problem),
        _ => Error::medium(object, problem),
    }
}

fn unreadable(error: io::Error) -> Error {
    Error::medium("sysfs", format!("the kernel's NVMe controllers cannot be read: {error}"))
}

fn failed(path: &Path, what: &str, error: &io::Error) -> Error {
    Error::medium(path.display(), format!("the device node cannot be {what}: {error}"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::internal("a call to the kernel", error.to_string())))
}

#[cfg(test)]
mod tests;
