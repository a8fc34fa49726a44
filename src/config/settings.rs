//! The one table of settings. The file's keys, the environment's variables and the flags of `corriente serve` derive
//! from it; docs/configuration.md is checked against it.

use super::NodeConfig;
use super::value::Value;

/// What every variable of the environment starts with.
pub const VARIABLE_PREFIX: &str = "CORRIENTE_";

/// One key of the configuration.
#[derive(Debug)]
pub struct Setting {
    /// The key in the file, `section.name`, or the bare name at the top.
    pub key: &'static str,
    /// What it means, for help and documentation: one sentence, no full stop.
    pub help: &'static str,
    /// What stands for a value in help texts.
    pub form: fn() -> &'static str,
    /// Reads a value into the configuration.
    pub apply: fn(&mut NodeConfig, &str) -> Result<(), String>,
    /// The value in a configuration, as a user would write it.
    pub show: fn(&NodeConfig) -> String,
}

impl Setting {
    /// The flag without its dashes: `limits-replicas`.
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// The environment's variable: `CORRIENTE_LIMITS_REPLICAS`.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.key.replace('.', "_").to_ascii_uppercase())
    }

    /// The default, as a user would write it.
    pub fn default_text(&self) -> String {
        (self.show)(&NodeConfig::default())
    }
}

/// The setting of that key.
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

fn form_of<T: Value>(_field: impl Fn(&NodeConfig) -> &T) -> &'static str {
    T::FORM
}

macro_rules! setting {
    ($key:literal, $($field:ident).+, $help:literal) => {
        Setting {
            key: $key,
            help: $help,
            form: || form_of(|config| &config.$($field).+),
            apply: |config, text| {
                config.$($field).+ = Value::parse(text)?;
                Ok(())
            },
            show: |config| config.$($field).+.show(),
        }
    };
}

/// Every setting, those of one section next to each other, the top level first.
pub static SETTINGS: &[Setting] = &[
    setting!("listen", listen, "Where gRPC listens"),
    setting!("unix_socket", unix_socket, "A Unix socket that gRPC listens on as well; empty for none"),
    setting!(
        "advertise_ip",
        advertise_ip,
        "Where the data of this node's replicas and engines answers; auto takes POD_IP, else the address of listen \
         when it is one host's, else the first IPv4 address that is not loopback"
    ),
    setting!("data_ports", data_ports, "The ports that replicas and engines are exported on"),
    setting!("peer_port", peer_port, "The port on which the gRPC of every other node answers"),
    setting!("state_dir", state_dir, "Where the node keeps what must survive its restart"),
    setting!(
        "host_prefix",
        host_prefix,
        "What is put in front of the path of a file or block device that becomes a disk, as /host in a container"
    ),
    setting!("read_policy", read_policy, "Which replica answers a read: local-first, round-robin or least-pending"),
    setting!(
        "tls.directory",
        tls.directory,
        "gRPC speaks TLS, both ways, with ca.crt, tls.crt and tls.key of this directory; empty for the next three, or for \
         gRPC in the clear"
    ),
    setting!("tls.ca", tls.ca, "The authorities that clients and other nodes must be certified by, PEM"),
    setting!("tls.certificate", tls.certificate, "The certificate of this node, PEM"),
    setting!("tls.key", tls.key, "The key of this node's certificate, PEM"),
    setting!("tls.server_name", tls.server_name, "Who the certificates of other nodes are made out to"),
    setting!(
        "backing_image.ca",
        backing_image.ca,
        "Authorities besides the system's that https servers of backing images may be certified by, PEM; empty for none"
    ),
    setting!("reactor.cores", reactor.cores, "The cores of the data path: a list like 0,2-3 or a mask like 0xd"),
    setting!("reactor.poll", reactor.poll, "adaptive: an idle reactor naps until there is work; busy: it never sleeps"),
    setting!("memory.mode", memory.mode, "hugepages, or no-huge for tests and small machines"),
    setting!("memory.size", memory.size, "How much memory SPDK takes at start"),
    setting!(
        "memory.hugepage_dir",
        memory.hugepage_dir,
        "Where hugepages are mounted; empty to take the first mount of the kernel's list"
    ),
    setting!("metrics.listen", metrics.listen, "Where /metrics, /healthz and /readyz answer over HTTP, or off"),
    setting!("log.filter", log.filter, "A level, or directives like info,corriente::mirror=debug"),
    setting!("log.format", log.format, "text or json, on standard error"),
    setting!("limits.replicas", limits.replicas, "Replicas of one volume"),
    setting!("limits.restores", limits.restores, "Restores that run at once; more are refused"),
    setting!("limits.backups", limits.backups, "Backups that run at once; more are refused"),
    setting!(
        "limits.restore_workers",
        limits.restore_workers,
        "Threads that fetch, verify and decompress for one restore, or compress for one backup"
    ),
    setting!("limits.restore_queue_depth", limits.restore_queue_depth, "Writes that one restore has under way at once"),
    setting!(
        "limits.rebuilds",
        limits.rebuilds,
        "Copies of snapshots for rebuilds that run at once with this node as the source; more wait"
    ),
    setting!(
        "limits.rebuild_queue_depth",
        limits.rebuild_queue_depth,
        "Pieces of at most 256 KiB that one such copy has under way at once"
    ),
    setting!("limits.hashes", limits.hashes, "Snapshots that are hashed at once; more wait"),
    setting!(
        "limits.backing_images",
        limits.backing_images,
        "Backing images that are made or verified at once; more wait"
    ),
    setting!(
        "limits.watch_queue_depth",
        limits.watch_queue_depth,
        "Events kept for a slow watcher of a node's events before it loses the oldest"
    ),
    setting!(
        "limits.calls_per_connection",
        limits.calls_per_connection,
        "gRPC calls of one connection that are served at once"
    ),
    setting!("limits.message_size", limits.message_size, "The largest gRPC message"),
    setting!(
        "timeouts.member_deadline",
        timeouts.member_deadline,
        "A replica that has not answered an I/O for this long leaves its mirror"
    ),
    setting!("timeouts.attach", timeouts.attach, "Connecting to a replica, or opening a disk"),
    setting!("timeouts.pause", timeouts.pause, "The longest pause of I/O, for a snapshot or a change of replicas"),
    setting!(
        "timeouts.suspend",
        timeouts.suspend,
        "The longest suspension of a volume's I/O; below the 30 seconds after which a kernel gives an I/O up"
    ),
    setting!(
        "timeouts.recovery",
        timeouts.recovery,
        "How long a node that was started again tries to bring its engines and frontends up"
    ),
    setting!("timeouts.peer_call", timeouts.peer_call, "A gRPC call to another node"),
    setting!("timeouts.peer_connect", timeouts.peer_connect, "Connecting to another node's gRPC"),
    setting!("timeouts.shutdown", timeouts.shutdown, "From the signal to the end of the process"),
    setting!(
        "timeouts.restore_stall",
        timeouts.restore_stall,
        "A restore or a backup without progress for this long has failed"
    ),
    setting!(
        "timeouts.rebuild_stall",
        timeouts.rebuild_stall,
        "A copy of a rebuild without progress for this long has failed"
    ),
    setting!(
        "timeouts.dirty_quiet",
        timeouts.dirty_quiet,
        "A region of a volume that nothing was written to for this long is no more compared after a crash"
    ),
    setting!(
        "timeouts.return_window",
        timeouts.return_window,
        "How long a replica that failed is waited for, to be brought up to date with what it missed only; 0s for not at all"
    ),
    setting!(
        "timeouts.rebuild_step",
        timeouts.rebuild_step,
        "How long a snapshot waits for a step of a rebuild that must be alone, as its last round is; it is refused then"
    ),
    setting!(
        "timeouts.backing_image_stall",
        timeouts.backing_image_stall,
        "A backing image whose source gives nothing for this long has failed"
    ),
];
