//! Settings that are one word of a few, and those that are a word or an address.

use std::net::{IpAddr, SocketAddr};

use super::value::Value;

/// Declares an enum whose variants are words of the configuration.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// The word for it in the configuration and in messages.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl Value for $name {
            const FORM: &'static str = "WORD";

            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("{text:?} is not one of {}", [$($word),+].join(", "))),
                }
            }

            fn show(&self) -> String {
                self.as_str().into()
            }
        }
    };
}

choice!(
    /// How a reactor waits for work (DESIGN §3).
    Poll {
        /// An idle reactor naps and is woken by work.
        Adaptive = "adaptive",
        /// A reactor never sleeps.
        Busy = "busy",
    }
);
choice!(
    /// What memory the data path uses.
    MemoryMode {
        /// Hugepages: needed for PCIe devices, and the fastest.
        Hugepages = "hugepages",
        /// Ordinary memory: for tests and small machines, not for PCIe devices.
        NoHuge = "no-huge",
    }
);
choice!(
    /// How a log line looks.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
);
choice!(
    /// Which member of a mirror answers a read (DESIGN §5).
    ReadPolicy {
        /// The replica of this node when there is one, else in turn.
        LocalFirst = "local-first",
        /// Each in turn.
        RoundRobin = "round-robin",
        /// The one with the fewest unanswered requests.
        LeastPending = "least-pending",
    }
);

/// The address that other nodes reach this node's data at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdvertiseIp {
    /// To be found at start.
    Auto,
    /// Given.
    Ip(IpAddr),
}

impl Value for AdvertiseIp {
    const FORM: &'static str = "IP";

    fn parse(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        host_ip(text).map(Self::Ip).map_err(|problem| format!("{problem}, nor \"auto\""))
    }

    fn show(&self) -> String {
        match self {
            Self::Auto => "auto".into(),
            Self::Ip(ip) => ip.to_string(),
        }
    }
}

/// The address of one host.
pub(super) fn host_ip(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(ip) if !ip.is_unspecified() && !ip.is_multicast() => Ok(ip),
        _ => Err(format!("{text:?} is not the IP address of one host")),
    }
}

/// An endpoint that can be off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// No endpoint.
    Off,
    /// Where it listens.
    On(SocketAddr),
}

impl Value for Listen {
    const FORM: &'static str = "IP:PORT";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => SocketAddr::parse(text).map(Self::On).map_err(|problem| format!("{problem}, nor \"off\"")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Off => "off".into(),
            Self::On(address) => address.show(),
        }
    }
}
