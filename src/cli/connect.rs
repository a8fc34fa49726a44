//! The gRPC of a node.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint, Uri};

use super::exit::{Exit, Failure};
use crate::name::address::SERVICE_PORT;
use crate::rpc::wire::corriente::v1::corriente_service_client::CorrienteServiceClient;
use crate::rpc::wire::spdkrpc::spdk_service_client::SpdkServiceClient;

/// Connecting is quick or hopeless; the limit of a call may be minutes.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Lists of many replicas with many snapshots grow past gRPC's default of 4 MiB.
const MESSAGE_BYTES: usize = 64 << 20;

/// Where a node's gRPC answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress(Uri);

impl FromStr for NodeAddress {
    type Err = String;

    /// An address or a host name, with a port or with the service's usual one; or `unix:/path`.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is not a node's address of the form ip, ip:port or unix:/path");
        let uri = match (text.parse::<IpAddr>(), text.rsplit_once(':')) {
            (Ok(ip), _) => return Ok(Self::of(ip, SERVICE_PORT)),
            _ if text.starts_with("unix:/") => text.to_owned(),
            (_, Some((_, port))) if port.parse::<u16>().is_ok_and(|port| port > 0) => format!("http://{text}"),
            (_, None) => format!("http://{text}:{SERVICE_PORT}"),
            _ => return Err(form()),
        };
        let parsed: Uri = uri.parse().map_err(|_| form())?;
        let host_is_fine = uri.starts_with("unix:") || parsed.host().is_some_and(|host| !host.is_empty());
        if host_is_fine && matches!(parsed.path(), "/" | "") || uri.starts_with("unix:") {
            Ok(Self(parsed))
        } else {
            Err(form())
        }
    }
}

impl NodeAddress {
    /// Of parts that are typed already.
    pub fn of(ip: IpAddr, port: u16) -> Self {
        let authority = match ip {
            IpAddr::V4(ip) => format!("{ip}:{port}"),
            IpAddr::V6(ip) => format!("[{ip}]:{port}"),
        };
        Self(Uri::from_str(&format!("http://{authority}/")).expect("an IP address and a port always make a URI"))
    }

    /// The port, or the usual one for a Unix socket.
    pub fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(SERVICE_PORT)
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.authority() {
            Some(authority) => write!(f, "{authority}"),
            None => write!(f, "{}", self.0),
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
    /// Connects; each call then has the limit `timeout`.
    pub async fn connect(address: &NodeAddress, timeout: Duration) -> Result<Self, Failure> {
        let endpoint = Endpoint::from(address.0.clone()).connect_timeout(CONNECT_LIMIT).timeout(timeout);
        let channel = endpoint.connect().await.map_err(|error| {
            let reason = root_cause(&error);
            Failure::new(Exit::Unavailable, format!("no node answers at {address}: {reason}"))
        })?;
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

/// The innermost reason: the outer ones only say "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
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
        assert!("unix:/run/corriente.sock".parse::<NodeAddress>().is_ok());
        for wrong in ["", ":8504", "a:0", "a:x", "http://a", "a/b", "a b", "a:1/b"] {
            assert!(wrong.parse::<NodeAddress>().is_err(), "{wrong}");
        }
    }
}
