//! Values that several commands take, as types that clap parses.

use std::net::SocketAddr;
use std::str::FromStr;

use clap::ValueEnum;

use crate::name::{HostPort, ReplicaName};

/// A replica and where it answers: `NAME=IP:PORT`.
#[derive(Debug, Clone)]
pub struct ReplicaAt {
    /// The replica.
    pub name: ReplicaName,
    /// Where its data answers.
    pub address: SocketAddr,
}

impl FromStr for ReplicaAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text.split_once('=').ok_or("must have the form NAME=IP:PORT")?;
        let name = ReplicaName::parse(name).map_err(|error| error.to_string())?;
        let address = HostPort::parse(address).map_err(|error| error.to_string())?.socket();
        Ok(Self { name, address })
    }
}

/// A label: `KEY=VALUE`.
#[derive(Debug, Clone)]
pub struct Label {
    /// Not empty.
    pub key: String,
    /// May be empty.
    pub value: String,
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self { key: key.into(), value: value.into() }),
            _ => Err("must have the form KEY=VALUE".into()),
        }
    }
}

/// How a host reaches a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Frontend {
    /// Not at all: the volume is only restored into
    None,
    /// An NVMe/TCP target
    SpdkTcpNvmf,
    /// An NVMe/TCP target that the node's own kernel connects to
    SpdkTcpBlockdev,
    /// A ublk device
    Ublk,
}

impl Frontend {
    /// The word of the wire.
    pub fn wire(self) -> &'static str {
        match self {
            Self::None => "",
            Self::SpdkTcpNvmf => "spdk-tcp-nvmf",
            Self::SpdkTcpBlockdev => "spdk-tcp-blockdev",
            Self::Ublk => "ublk",
        }
    }
}

/// The word of the wire for people.
pub fn frontend_text(wire: &str) -> String {
    if wire.is_empty() { "none".into() } else { wire.into() }
}
