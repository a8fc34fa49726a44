//! The node for people.

use super::Node;
use crate::config::MemoryMode;
use crate::spdk::Capabilities;
use crate::spdk::control::Reactor;
use crate::spdk::env::version_text;
use crate::wire::corriente::v1 as own;

/// What a node is: versions, what its SPDK can do, its reactors and its memory.
pub fn info(node: &Node) -> own::NodeInfoResponse {
    own::NodeInfoResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        spdk_version: version_text().into(),
        capabilities: Capabilities::linked().words().map(str::to_owned).collect(),
        reactors: node.environment.reactors().iter().map(reactor).collect(),
        memory: Some(memory(node)),
        data_ip: node.config.data_ip.to_string(),
        service_address: node.config.listen.to_string(),
        poll: node.config.reactor.poll.as_str().into(),
        uptime_ms: u64::try_from(node.started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

fn reactor(reactor: &Reactor) -> own::Reactor {
    let load = reactor.load();
    own::Reactor {
        core: reactor.core(),
        busy_ns: load.busy_ns,
        idle_ns: load.idle_ns,
        nap_ns: load.nap_ns,
        spdk_threads: reactor.thread_count(),
    }
}

fn memory(node: &Node) -> own::Memory {
    let dma = node.environment.memory();
    own::Memory {
        hugepages: node.config.memory.mode == MemoryMode::Hugepages,
        dma_total_bytes: dma.total_bytes,
        dma_free_bytes: dma.free_bytes,
        resident_bytes: resident_bytes(),
    }
}

/// What the process has in RAM. The kernel counts hugepages elsewhere. 0 when it cannot be read.
pub(super) fn resident_bytes() -> u64 {
    // The second field counts pages (proc(5)), which are 4 KiB on x86-64.
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}
