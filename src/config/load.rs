//! Merging the sources by rank, and the checks that span more than one setting.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use super::choice::{AdvertiseIp, Listen};
use super::settings::Setting;
use super::size::ByteSize;
use super::{MemoryMode, NodeConfig, choice, environment, file};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of the file, counted from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A flag of the command line.
    Flag {
        /// With its dashes.
        flag: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment { variable } => write!(f, "environment variable {variable}"),
            Self::Flag { flag } => write!(f, "flag {flag}"),
        }
    }
}

/// A value that a source gives for a setting.
#[derive(Debug)]
pub struct Given {
    /// Which setting.
    pub setting: &'static Setting,
    /// The value as it was written.
    pub text: String,
    /// Where.
    pub origin: Origin,
}

/// A configuration that cannot be used: where, which key, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where the value stands.
    pub origin: Origin,
    /// Its key, when there is one.
    pub key: Option<String>,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        match &self.key {
            Some(key) => write!(f, "{key}: {}", self.problem),
            None => f.write_str(&self.problem),
        }
    }
}

impl std::error::Error for ConfigError {}

/// What a configuration is made from, besides the defaults.
#[derive(Debug, Default)]
pub struct Sources {
    /// The highest rank.
    pub flags: Vec<Given>,
    /// All variables of the process; those without our prefix are left alone.
    pub environment: Vec<(OsString, OsString)>,
    /// The file, when one was named.
    pub file: Option<PathBuf>,
}

/// A configuration, and where each of its values came from.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: NodeConfig,
    /// By key; a key that is missing has its default.
    pub origins: BTreeMap<&'static str, Origin>,
}

impl Loaded {
    /// Where the value of a setting came from.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }
}

/// Reads all sources, a flag before a variable before the file before the default.
pub fn load(sources: Sources) -> Result<Loaded, ConfigError> {
    let text = sources.file.as_deref().map(read).transpose()?;
    let mut given = match (&sources.file, &text) {
        (Some(path), Some(text)) => file::parse(path, text)?,
        _ => Vec::new(),
    };
    let pod_ip = variable(&sources.environment, "POD_IP");
    given.extend(environment::parse(sources.environment)?);
    given.extend(sources.flags);

    let mut config = NodeConfig::default();
    let mut origins = BTreeMap::new();
    // In ascending rank: a later value replaces an earlier one. All are parsed, so that a wrong one never hides.
    for Given { setting, text, origin } in given {
        (setting.apply)(&mut config, &text).map_err(|problem| ConfigError {
            origin: origin.clone(),
            key: Some(setting.key.into()),
            problem,
        })?;
        origins.insert(setting.key, origin);
    }
    let mut loaded = Loaded { config, origins };
    loaded.config.data_ip = data_ip(&loaded, pod_ip.as_deref(), first_ipv4())?;
    check(&loaded)?;
    Ok(loaded)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|error| ConfigError {
        origin: Origin::File { path: path.to_owned(), line: 1 },
        key: None,
        problem: format!("cannot be read: {error}"),
    })
}

fn variable(environment: &[(OsString, OsString)], name: &str) -> Option<String> {
    let (_, value) = environment.iter().find(|(variable, _)| variable == name)?;
    value.to_str().filter(|value| !value.is_empty()).map(str::to_owned)
}

/// The data address: given, or `POD_IP`, or the one that gRPC listens on, or the machine's first. A machine that has
/// only loopback serves itself.
fn data_ip(loaded: &Loaded, pod_ip: Option<&str>, first: Option<Ipv4Addr>) -> Result<IpAddr, ConfigError> {
    let listen = loaded.config.listen.ip();
    match (loaded.config.advertise_ip, pod_ip) {
        (AdvertiseIp::Ip(ip), _) => Ok(ip),
        (AdvertiseIp::Auto, Some(text)) => choice::host_ip(text).map_err(|problem| ConfigError {
            origin: Origin::Environment { variable: "POD_IP".into() },
            key: Some("advertise_ip".into()),
            problem,
        }),
        (AdvertiseIp::Auto, None) if !listen.is_unspecified() => Ok(listen),
        (AdvertiseIp::Auto, None) => Ok(first.unwrap_or(Ipv4Addr::LOCALHOST).into()),
    }
}

/// The first IPv4 address of the machine that is not loopback, in the kernel's order.
fn first_ipv4() -> Option<Ipv4Addr> {
    let mut interfaces = nix::ifaddrs::getifaddrs().ok()?;
    interfaces.find_map(|interface| {
        let ip = interface.address?.as_sockaddr_in()?.ip();
        (!ip.is_loopback()).then_some(ip)
    })
}

/// SPDK's own pools do not fit in less.
const LEAST_MEMORY: ByteSize = ByteSize::mib(64);
/// The default of gRPC implementations; peers expect at least that.
const LEAST_MESSAGE: ByteSize = ByteSize::mib(4);
const LARGEST_MESSAGE: ByteSize = ByteSize::mib(256);
const HUGEPAGE_BYTES: u64 = 2 << 20;

fn check(loaded: &Loaded) -> Result<(), ConfigError> {
    let config = &loaded.config;
    let refuse =
        |key: &str, problem: String| Err(ConfigError { origin: loaded.origin(key), key: Some(key.into()), problem });
    let listen = config.listen;
    if config.data_ports.contains(listen.port()) {
        return refuse("data_ports", format!("has the port of listen, {}", listen.port()));
    }
    if let Listen::On(metrics) = config.metrics.listen {
        let same_host = metrics.ip() == listen.ip() || metrics.ip().is_unspecified() || listen.ip().is_unspecified();
        if same_host && metrics.port() == listen.port() {
            return refuse("metrics.listen", format!("has the port of listen, {}", listen.port()));
        }
        if config.data_ports.contains(metrics.port()) {
            return refuse("data_ports", format!("has the port of metrics.listen, {}", metrics.port()));
        }
    }
    if let Err(missing) = config.tls.files() {
        return refuse(
            missing,
            "is missing: without tls.directory all three of tls.ca, tls.certificate and tls.key are needed".into(),
        );
    }
    let memory = config.memory.size;
    if memory < LEAST_MEMORY {
        return refuse("memory.size", format!("{memory} is less than {LEAST_MEMORY}"));
    }
    if config.memory.mode == MemoryMode::Hugepages && !memory.bytes().is_multiple_of(HUGEPAGE_BYTES) {
        return refuse("memory.size", format!("{memory} is not a whole number of hugepages of 2MiB"));
    }
    let message = config.limits.message_size;
    if !(LEAST_MESSAGE..=LARGEST_MESSAGE).contains(&message) {
        return refuse("limits.message_size", format!("{message} is not from {LEAST_MESSAGE} to {LARGEST_MESSAGE}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
