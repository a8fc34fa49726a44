//! What a node is told: one typed value, made from flags, environment, a TOML file and defaults, in this order.
//!
//! [`settings`] is the one table of all keys: the file's keys, the environment's variables and the flags derive from it,
//! so none of them can know a key that the others don't. Unknown keys are refused everywhere, and an error names the
//! key and where its value came from.
//!
//! - [`value`], [`size`], [`cores`], [`choice`], [`bounded`]: how the text of a value becomes a type.
//! - [`settings`]: the table. [`file`], [`environment`]: two of its sources. [`load`]: merging and the checks that
//!   span keys. [`show`]: the effective configuration as text.

pub mod bounded;
pub mod choice;
pub mod cores;
pub mod environment;
pub mod file;
pub mod load;
pub mod settings;
pub mod show;
pub mod size;
pub mod value;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use bounded::Bounded;
pub use choice::{AdvertiseIp, Listen, LogFormat, MemoryMode, Poll, ReadPolicy};
pub use cores::CoreList;
pub use load::{ConfigError, Loaded, load};
pub use size::ByteSize;
pub use value::{HostName, OptionalPath, PortRange, Window};

use crate::name::address::SERVICE_PORT;
use crate::tls::{Files, LONGHORN_NAME};
use value::Value;

/// The most members a mirror can have (DESIGN §5).
pub const MAX_REPLICAS: u64 = 8;

/// The whole configuration of a node. Made by [`load`]; every value is checked.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeConfig {
    /// Where gRPC listens.
    pub listen: SocketAddr,
    /// A Unix socket that gRPC also listens on.
    pub unix_socket: OptionalPath,
    /// What was asked for as the data address; [`NodeConfig::data_ip`] is what it came to.
    pub advertise_ip: AdvertiseIp,
    /// Where this node's replicas and engines answer; one host's address, found by [`load`].
    pub data_ip: IpAddr,
    /// The ports that replicas and engines are exported on.
    pub data_ports: PortRange,
    /// The port on which the gRPC of every other node answers.
    pub peer_port: Bounded<1, 65535>,
    /// What must survive a restart of the process.
    pub state_dir: PathBuf,
    /// What is put in front of the path of a file or block device that becomes a disk.
    pub host_prefix: OptionalPath,
    /// Where the reads of a new mirror go.
    pub read_policy: ReadPolicy,
    /// TLS of gRPC.
    pub tls: TlsConfig,
    /// Where backing images come from.
    pub backing_image: BackingImageConfig,
    /// The threads of the data path.
    pub reactor: ReactorConfig,
    /// The memory of the data path.
    pub memory: MemoryConfig,
    /// The HTTP endpoint.
    pub metrics: MetricsConfig,
    /// What is logged and how.
    pub log: LogConfig,
    /// How much of everything.
    pub limits: LimitsConfig,
    /// How long every wait may take.
    pub timeouts: TimeoutsConfig,
}

/// TLS of gRPC: off unless a directory or all three files are given.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsConfig {
    /// Has the files by Longhorn's names.
    pub directory: OptionalPath,
    /// In place of the directory's `ca.crt`.
    pub ca: OptionalPath,
    /// In place of the directory's `tls.crt`.
    pub certificate: OptionalPath,
    /// In place of the directory's `tls.key`.
    pub key: OptionalPath,
    /// Who the certificates of other nodes are made out to.
    pub server_name: HostName,
}

/// Backing images.
#[derive(Debug, Clone, PartialEq)]
pub struct BackingImageConfig {
    /// Certificates of authorities that servers may be certified by, besides the system's.
    pub ca: OptionalPath,
}

impl TlsConfig {
    /// Where the files are; `None` without TLS, and the key of a file that is missing when there are only some.
    pub fn files(&self) -> std::result::Result<Option<Files>, &'static str> {
        if let Some(directory) = &self.directory.0 {
            let Files { ca, certificate, key } = Files::in_directory(directory);
            let or = |given: &OptionalPath, path| given.0.clone().unwrap_or(path);
            let (certificate, key) = (or(&self.certificate, certificate), or(&self.key, key));
            return Ok(Some(Files { ca: or(&self.ca, ca), certificate, key }));
        }
        match (&self.ca.0, &self.certificate.0, &self.key.0) {
            (None, None, None) => Ok(None),
            (None, ..) => Err("tls.ca"),
            (_, None, _) => Err("tls.certificate"),
            (_, _, None) => Err("tls.key"),
            (Some(ca), Some(certificate), Some(key)) => {
                Ok(Some(Files { ca: ca.clone(), certificate: certificate.clone(), key: key.clone() }))
            }
        }
    }
}

/// The threads of the data path.
#[derive(Debug, Clone, PartialEq)]
pub struct ReactorConfig {
    /// The cores that reactors are pinned to, one each.
    pub cores: CoreList,
    /// Whether an idle reactor naps.
    pub poll: Poll,
}

/// The memory of the data path.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryConfig {
    /// Hugepages, or ordinary memory.
    pub mode: MemoryMode,
    /// How much SPDK takes at start.
    pub size: ByteSize,
    /// Where hugepages are mounted; found in `/proc/mounts` when not given.
    pub hugepage_dir: OptionalPath,
}

/// The HTTP endpoint for metrics and health.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsConfig {
    /// Where it listens.
    pub listen: Listen,
}

/// Logging.
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    /// A level or a list of `target=level` directives.
    pub filter: String,
    /// Text for people or JSON for machines.
    pub format: LogFormat,
}

/// Limits on what there may be at once.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitsConfig {
    /// Members of one mirror.
    pub replicas: Bounded<1, MAX_REPLICAS>,
    /// Restores that run at once; more are refused.
    pub restores: Bounded<1, 64>,
    /// Backups that run at once; more are refused.
    pub backups: Bounded<1, 64>,
    /// Threads that fetch and decompress for one restore or backup.
    pub restore_workers: Bounded<1, 64>,
    /// Writes that one restore has under way at once.
    pub restore_queue_depth: Bounded<1, 1024>,
    /// Copies of snapshots for rebuilds that run at once with this node as the source; more wait.
    pub rebuilds: Bounded<1, 64>,
    /// Pieces that one such copy has under way at once.
    pub rebuild_queue_depth: Bounded<1, 64>,
    /// Snapshots that are hashed at once; more wait.
    pub hashes: Bounded<1, 64>,
    /// Backing images that are made or verified at once; more wait.
    pub backing_images: Bounded<1, 64>,
    /// Events kept for slow watchers before they lose the oldest; rounded up to a power of two.
    pub watch_queue_depth: Bounded<1, 65536>,
    /// gRPC calls of one connection that are served at once.
    pub calls_per_connection: Bounded<1, 4096>,
    /// The largest gRPC message.
    pub message_size: ByteSize,
}

/// Limits on how long things may take.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeoutsConfig {
    /// A member of a mirror that has not answered an I/O for this long is out.
    pub member_deadline: Duration,
    /// Connecting to a replica or opening a disk.
    pub attach: Duration,
    /// I/O is paused this long at most, for a snapshot or a change of members.
    pub pause: Duration,
    /// I/O is suspended on request this long at most.
    pub suspend: Duration,
    /// Engines and frontends of the last run are tried again for this long.
    pub recovery: Duration,
    /// A call to another node.
    pub peer_call: Duration,
    /// Reaching another node before that.
    pub peer_connect: Duration,
    /// From the signal to the exit.
    pub shutdown: Duration,
    /// A restore or backup that makes no progress for this long has failed.
    pub restore_stall: Duration,
    /// A copy of a rebuild that makes no progress for this long has failed.
    pub rebuild_stall: Duration,
    /// A region of a mirror that nothing was written to for this long is taken off the dirty log.
    pub dirty_quiet: Duration,
    /// A replica that failed may come back for what it missed this long.
    pub return_window: Window,
    /// A snapshot waits this long at most for a step of a rebuild that must be alone.
    pub rebuild_step: Duration,
    /// A backing image whose source gives nothing for this long has failed.
    pub backing_image_stall: Duration,
}

impl Default for NodeConfig {
    /// The defaults of all keys, before an address was looked for.
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), SERVICE_PORT),
            unix_socket: OptionalPath::default(),
            advertise_ip: AdvertiseIp::Auto,
            data_ip: Ipv4Addr::LOCALHOST.into(),
            data_ports: PortRange::DEFAULT,
            peer_port: Bounded::of::<{ SERVICE_PORT as u64 }>(),
            state_dir: PathBuf::from("/var/lib/corriente"),
            host_prefix: OptionalPath::default(),
            read_policy: ReadPolicy::LocalFirst,
            backing_image: BackingImageConfig { ca: OptionalPath(None) },
            tls: TlsConfig {
                directory: OptionalPath::default(),
                ca: OptionalPath::default(),
                certificate: OptionalPath::default(),
                key: OptionalPath::default(),
                server_name: HostName::parse(LONGHORN_NAME).expect("a host's name"),
            },
            reactor: ReactorConfig { cores: CoreList::one(0), poll: Poll::Adaptive },
            memory: MemoryConfig {
                mode: MemoryMode::Hugepages,
                size: ByteSize::mib(512),
                hugepage_dir: OptionalPath::default(),
            },
            metrics: MetricsConfig { listen: Listen::On(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9504)) },
            log: LogConfig { filter: "info".into(), format: LogFormat::Text },
            limits: LimitsConfig::default(),
            timeouts: TimeoutsConfig::default(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            replicas: Bounded::of::<MAX_REPLICAS>(),
            restores: Bounded::of::<4>(),
            backups: Bounded::of::<4>(),
            restore_workers: Bounded::of::<4>(),
            restore_queue_depth: Bounded::of::<32>(),
            rebuilds: Bounded::of::<4>(),
            rebuild_queue_depth: Bounded::of::<8>(),
            hashes: Bounded::of::<2>(),
            backing_images: Bounded::of::<2>(),
            watch_queue_depth: Bounded::of::<256>(),
            calls_per_connection: Bounded::of::<256>(),
            message_size: ByteSize::mib(16),
        }
    }
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            // With the survivors' generation stored, client I/O goes on within five seconds.
            member_deadline: Duration::from_secs(4),
            attach: Duration::from_secs(10),
            pause: Duration::from_secs(5),
            suspend: Duration::from_secs(20),
            recovery: Duration::from_secs(600),
            // The deadline that Longhorn's clients put on nearly every call (`spdkrpc-wire`, transport facts).
            peer_call: Duration::from_secs(180),
            peer_connect: Duration::from_secs(5),
            shutdown: Duration::from_secs(20),
            restore_stall: Duration::from_secs(120),
            rebuild_stall: Duration::from_secs(60),
            dirty_quiet: Duration::from_secs(10),
            return_window: Window(Some(Duration::from_secs(600))),
            // Less than callers usually wait for an answer.
            rebuild_step: Duration::from_secs(30),
            backing_image_stall: Duration::from_secs(60),
        }
    }
}
