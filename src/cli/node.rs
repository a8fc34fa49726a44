//! `corriente node`: what a node is and what happens on it.

use clap::Subcommand;
use comfy_table::Table;

use super::Context;
use super::exit::Failure;
use super::output::{fields, size};
use crate::wire::corriente::v1::{Event, EventsRequest, NodeInfoResponse, Reactor};

/// Verbs for a node.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Versions, capabilities, reactors and memory
    Info,
    /// What happens from now on, a line each, until interrupted or the node stops
    #[command(after_help = "Example:\n  corriente node events --kind engine --kind member")]
    Events {
        /// Only these kinds of objects: node, disk, replica, engine, member, restore or backup
        #[arg(long = "kind", value_name = "KIND")]
        kinds: Vec<String>,
    },
}

/// Does it.
pub async fn run(command: NodeCommand, context: &Context) -> Result<(), Failure> {
    let mut client = context.server().await?.corriente();
    match command {
        NodeCommand::Info => {
            let info = client.node_info(()).await?.into_inner();
            context.printer.show(&info, info_table)
        }
        NodeCommand::Events { kinds } => {
            let mut events = client.events(EventsRequest { object_kinds: kinds }).await?.into_inner();
            while let Some(event) = events.message().await? {
                context.printer.show_line(&event, event_line)?;
            }
            Ok(())
        }
    }
}

fn info_table(info: &NodeInfoResponse) -> Table {
    let memory = info.memory.unwrap_or_default();
    let kind = if memory.hugepages { "hugepages" } else { "ordinary memory" };
    let reactors = info.reactors.iter().map(reactor_text).collect::<Vec<_>>().join("\n");
    fields([
        ("version", info.version.clone()),
        ("spdk version", info.spdk_version.clone()),
        ("capabilities", info.capabilities.join(", ")),
        ("service address", info.service_address.clone()),
        ("data ip", info.data_ip.clone()),
        ("uptime", format!("{} s", info.uptime_ms / 1000)),
        ("poll", info.poll.clone()),
        ("reactors", reactors),
        ("dma memory", format!("{} of {} free, {kind}", size(memory.dma_free_bytes), size(memory.dma_total_bytes))),
        ("resident", size(memory.resident_bytes)),
    ])
}

/// A reactor's share of time with work, in per cent.
fn reactor_text(reactor: &Reactor) -> String {
    let total = (reactor.busy_ns + reactor.idle_ns + reactor.nap_ns).max(1);
    let busy = 100.0 * reactor.busy_ns as f64 / total as f64;
    let nap = 100.0 * reactor.nap_ns as f64 / total as f64;
    format!("core {}: {busy:.1} % busy, {nap:.1} % asleep, {} threads", reactor.core, reactor.spdk_threads)
}

fn event_line(event: &Event) -> String {
    let time =
        jiff::Timestamp::from_millisecond(event.unix_time_ms).map_or_else(|_| "?".into(), |time| time.to_string());
    if event.lost_before > 0 {
        return format!("{time} {} events are lost: {}", event.lost_before, event.message);
    }
    format!("{time} {} {} {}: {}", event.object_kind, event.object_name, event.what, event.message)
}
