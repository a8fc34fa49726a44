//! The gRPC of a node.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use tonic::codegen::http::uri::Authority;
use tonic::transport::{Channel, Endpoint};

use super::exit::{Exit, Failure};
use crate::error::root_cause;
use crate::name::address::SERVICE_PORT;
use crate::tls::{self, Credentials};
use crate::wire::corriente::v1::corriente_service_client::CorrienteServiceClient;
use crate::wire::spdkrpc::spdk_service_client::SpdkServiceClient;

/// Connecting is quick or hopeless; the limit of a call may be minutes.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Lists of many replicas with many snapshots grow past gRPC's default of 4 MiB.
const MESSAGE_BYTES: usize = 64 << 20;

/// Where a node's gRPC answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeAddress {
    /// Host and port.
    Tcp(Authority),
    /// The absolute path of a socket.
    Unix(String),
}

impl FromStr for NodeAddress {
    type Err = String;

    /// An address or a host name, with a port or with the service's usual one; or `unix:/path`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
            return Ok(Self::Unix(path.to_owned()));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::of(ip, SERVICE_PORT));
        }
        let with_port = if text.contains(':') { text.to_owned() } else { format!("{text}:{SERVICE_PORT}") };
        let parsed = Authority::from_str(&with_port).ok();
        let is_whole = |found: &Authority| {
            let port = found.port_u16().is_some_and(|port| port > 0);
            port && !found.host().is_empty() && !with_port.contains('@')
        };
        parsed
            .filter(is_whole)
            .map(Self::Tcp)
            .ok_or_else(|| format!("{text:?} is not a node's address of the form ip, ip:port or unix:/path"))
    }
}

impl NodeAddress {
    /// Of parts that are typed already.
    pub fn of(ip: IpAddr, port: u16) -> Self {
        let authority = SocketAddr::new(ip, port).to_string();
        Self::Tcp(Authority::from_str(&authority).expect("an IP address and a port always make an authority"))
    }

    /// The port, or the usual one for a Unix socket.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(authority) => authority.port_u16().unwrap_or(SERVICE_PORT),
            Self::Unix(_) => SERVICE_PORT,
        }
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => authority.fmt(f),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// A connection to a node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where.
    pub address: NodeAddress,
    channel: Channel,
}

impl Node {
    /// Connects; each call then has the limit `timeout`. A Unix socket speaks in the clear.
    pub async fn connect(
        address: &NodeAddress,
        timeout: Duration,
        credentials: Option<&Credentials>,
    ) -> Result<Self, Failure> {
        let endpoint = match address {
            NodeAddress::Tcp(authority) => tls::endpoint(authority.as_str(), credentials),
            NodeAddress::Unix(path) => Endpoint::from_shared(format!("unix:{path}")),
        };
        let failed = |error: tonic::transport::Error| {
            let reason = root_cause(&error);
            Failure::new(Exit::Unavailable, format!("no node answers at {address}: {reason}"))
        };
        let endpoint = endpoint.map_err(failed)?;
        let channel = endpoint.connect_timeout(CONNECT_LIMIT).timeout(timeout).connect().await.map_err(failed)?;
        Ok(Self { address: address.clone(), channel })
    }

    /// The client of Longhorn's service.
    pub fn spdk(&self) -> SpdkServiceClient<Channel> {
        SpdkServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    /// The client of our own service.
    pub fn corriente(&self) -> CorrienteServiceClient<Channel> {
        CorrienteServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_leave_the_port_out() {
        for (text, shown) in [
            ("10.0.0.7", "10.0.0.7:8504"),
            ("10.0.0.7:9000", "10.0.0.7:9000"),
            ("node-a", "node-a:8504"),
            ("::1", "[::1]:8504"),
            ("[::1]:9000", "[::1]:9000"),
        ] {
            assert_eq!(text.parse::<NodeAddress>().expect(text).to_string(), shown);
        }
        let unix = "unix:/run/corriente.sock";
        assert_eq!(unix.parse::<NodeAddress>().expect(unix).to_string(), unix);
        for wrong in ["", ":8504", "a:0", "a:x", "http://a", "a/b", "a b", "a:1/b", "unix:", "unix:a", "a@b"] {
            assert!(wrong.parse::<NodeAddress>().is_err(), "{wrong}");
        }
    }
}
