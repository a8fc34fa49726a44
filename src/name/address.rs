//! Where a replica's data answers (`ip:port`), and the node that its address implies.

use std::net::{IpAddr, SocketAddr};

use super::NameError;

/// The gRPC port every node of a cluster answers on; callers derive it from any data address they
/// hold (`spdkrpc-wire`, transport facts).
pub const SERVICE_PORT: u16 = 8504;

/// An IP address and a port, both real: not unspecified, not port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort(SocketAddr);

/// Where a replica's head is exported.
pub type ReplicaAddress = HostPort;

impl HostPort {
    /// Parses `ip:port`, with or without Longhorn's `tcp://` in front.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        super::check_text(text, 128)?;
        let bare = text.strip_prefix("tcp://").unwrap_or(text);
        let address: SocketAddr = bare
            .parse()
            .map_err(|_| NameError::Form { problem: format!("{text:?} is not an address of the form ip:port") })?;
        Self::new(address.ip(), address.port())
    }

    /// From parts that are already typed.
    pub fn new(ip: IpAddr, port: u16) -> Result<Self, NameError> {
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(NameError::Form { problem: format!("{ip} is not the address of one host") });
        }
        if port == 0 {
            return Err(NameError::Form { problem: "port 0 is not a port".into() });
        }
        Ok(Self(SocketAddr::new(ip, port)))
    }

    /// The host's address.
    pub fn ip(&self) -> IpAddr {
        self.0.ip()
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.0.port()
    }

    /// As the standard library's type.
    pub fn socket(&self) -> SocketAddr {
        self.0
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl serde::Serialize for HostPort {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for HostPort {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl std::str::FromStr for HostPort {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}
