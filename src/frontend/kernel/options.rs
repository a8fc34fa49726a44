//! The text that asks the kernel to connect: `key=value` pairs, as `/dev/nvme-fabrics` takes them (Linux,
//! `drivers/nvme/host/fabrics.c`). Pure.

use std::num::NonZeroU16;

use super::identity::HostIdentity;
use crate::name::{HostPort, Nqn};

/// How long the kernel tries to get a lost controller back before it fails the device's I/O, in seconds.
const CONTROLLER_LOSS_S: u32 = 30;
/// How often it tells the target that it lives, in seconds.
const KEEP_ALIVE_S: u32 = 5;
/// How long it waits between two attempts to get a controller back, in seconds.
const RECONNECT_DELAY_S: u32 = 2;

/// What to connect to, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// The subsystem.
    pub nqn: Nqn,
    /// Where it listens.
    pub target: HostPort,
    /// I/O queues; the kernel takes one for each CPU when not given.
    pub io_queues: Option<NonZeroU16>,
}

impl Connect {
    /// The text. The times are those of Longhorn's own engine (`engine-behaviour` §7).
    pub fn options(&self, host: Option<&HostIdentity>) -> String {
        let mut text = format!(
            "nqn={},transport=tcp,traddr={},trsvcid={},ctrl_loss_tmo={CONTROLLER_LOSS_S},\
             keep_alive_tmo={KEEP_ALIVE_S},reconnect_delay={RECONNECT_DELAY_S}",
            self.nqn,
            self.target.ip(),
            self.target.port(),
        );
        if let Some(queues) = self.io_queues {
            text.push_str(&format!(",nr_io_queues={queues}"));
        }
        if let Some(host) = host {
            text.push_str(&format!(",hostnqn={},hostid={}", host.nqn, host.id));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_the_kernel_parses() {
        let mut connect = Connect {
            nqn: Nqn::parse("nqn.2023-01.io.longhorn.spdk:volume-v1").unwrap(),
            target: HostPort::parse("10.0.0.7:20011").unwrap(),
            io_queues: None,
        };
        assert_eq!(
            connect.options(None),
            "nqn=nqn.2023-01.io.longhorn.spdk:volume-v1,transport=tcp,traddr=10.0.0.7,trsvcid=20011,\
             ctrl_loss_tmo=30,keep_alive_tmo=5,reconnect_delay=2"
        );
        connect.io_queues = NonZeroU16::new(4);
        connect.target = HostPort::parse("[fd00::7]:20011").unwrap();
        let host = HostIdentity::of_uuid("a9d1f1cb-6f9a-4f9c-8d5b-0d6d3c7e2f10".parse().unwrap());
        let text = connect.options(Some(&host));
        assert!(text.contains(",traddr=fd00::7,trsvcid=20011,"), "{text}");
        assert!(
            text.ends_with(
                ",nr_io_queues=4,hostnqn=nqn.2014-08.org.nvmexpress:uuid:a9d1f1cb-6f9a-4f9c-8d5b-0d6d3c7e2f10,\
                 hostid=a9d1f1cb-6f9a-4f9c-8d5b-0d6d3c7e2f10"
            ),
            "{text}"
        );
    }
}
