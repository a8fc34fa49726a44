//! `corriente frontend`: how a host reaches volumes.

use clap::{Subcommand, ValueEnum};
use comfy_table::Table;

use super::Context;
use super::arguments::{Frontend, frontend_text};
use super::connect::Node;
use super::exit::{Exit, Failure};
use super::output::{fields, size, table};
use crate::config::ByteSize;
use crate::name::{EngineName, FrontendName, HostPort, VolumeName};
use crate::wire::spdkrpc::{
    EngineFrontend, EngineFrontendCreateRequest, EngineFrontendDeleteRequest, EngineFrontendExpandRequest,
    EngineFrontendGetRequest, EngineFrontendResumeRequest, EngineFrontendSuspendRequest,
    EngineFrontendSwitchOverRequest,
};

/// Verbs for frontends.
#[derive(Debug, Subcommand)]
pub enum FrontendCommand {
    /// Reach a volume through an engine of this node or of another
    #[command(after_help = "Examples:\n  corriente frontend create v1-ef --volume v1 --engine v1-e-0 --size 10GiB\n  \
                            corriente frontend create v1-ef --volume v1 --engine v1-e-0 --size 10GiB --type \
                            spdk-tcp-blockdev \\\n    --target 10.0.0.8:20011")]
    Create {
        /// The frontend's name
        name: FrontendName,
        /// The volume to reach
        #[arg(long)]
        volume: VolumeName,
        /// The engine that serves it
        #[arg(long)]
        engine: EngineName,
        /// The volume's size, as 10GiB
        #[arg(long)]
        size: ByteSize,
        /// How the volume is reached
        #[arg(long = "type", default_value = "spdk-tcp-nvmf")]
        kind: Frontend,
        /// Where the engine's target answers; the engine is on the node itself when this is not given
        #[arg(long, value_name = "IP:PORT")]
        target: Option<HostPort>,
        /// I/O queues of the kernel's connection; 0 leaves it to the kernel
        #[arg(long, default_value_t = 0)]
        io_queues: u16,
    },
    /// Show a frontend
    Get {
        /// The frontend
        name: FrontendName,
    },
    /// Show all frontends of the node
    List,
    /// Delete a frontend; its engine stays
    Delete {
        /// The frontend
        name: FrontendName,
    },
    /// Hold the volume's client I/O until the resume, or the node's limit
    Suspend {
        /// The frontend
        name: FrontendName,
    },
    /// Let client I/O go on
    Resume {
        /// The frontend
        name: FrontendName,
    },
    /// Make the volume larger, and have this host see it
    Expand {
        /// The frontend
        name: FrontendName,
        /// The new size, as 20GiB
        size: ByteSize,
    },
    /// Go over to another engine of the volume
    SwitchOver {
        /// The frontend
        name: FrontendName,
        /// The engine to go to
        #[arg(long)]
        engine: EngineName,
        /// Where its target answers
        #[arg(long, value_name = "IP:PORT")]
        target: HostPort,
        /// How far to go
        #[arg(long, default_value = "all")]
        phase: Phase,
    },
}

/// How far a switch-over goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// The path to the new engine is made
    Preparing,
    /// The old engine takes no more I/O
    Switching,
    /// The new engine is in use
    Promoting,
    /// All three
    All,
}

impl Phase {
    fn wire(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Switching => "switching",
            Self::Promoting => "promoting",
            Self::All => "",
        }
    }
}

/// Does it.
pub async fn run(command: FrontendCommand, context: &Context) -> Result<(), Failure> {
    let node = context.server().await?;
    let printer = &context.printer;
    match command {
        FrontendCommand::Create { name, volume, engine, size, kind, target, io_queues } => {
            let request = EngineFrontendCreateRequest {
                name: name.to_string(),
                volume_name: volume.to_string(),
                engine_name: engine.to_string(),
                spec_size: size.bytes(),
                target_address: target.map(|target| target.to_string()).unwrap_or_default(),
                frontend: kind.wire().into(),
                nvme_tcp_nr_io_queues: io_queues.into(),
                ..Default::default()
            };
            printer.show(&create(&node, request).await?, frontend_table)
        }
        FrontendCommand::Get { name } => printer.show(&get(&node, &name).await?, frontend_table),
        FrontendCommand::List => {
            let listed = node.spdk().engine_frontend_list(()).await?.into_inner().engine_frontends;
            printer.show(&listed.into_values().collect::<Vec<_>>(), |frontends| list_table(frontends))
        }
        FrontendCommand::Delete { name } => {
            node.spdk().engine_frontend_delete(EngineFrontendDeleteRequest { name: name.to_string() }).await?;
            printer.done(&format!("frontend {name} is deleted"))
        }
        FrontendCommand::Suspend { name } => {
            node.spdk().engine_frontend_suspend(EngineFrontendSuspendRequest { name: name.to_string() }).await?;
            printer.done(&format!("frontend {name} is suspended"))
        }
        FrontendCommand::Resume { name } => {
            node.spdk().engine_frontend_resume(EngineFrontendResumeRequest { name: name.to_string() }).await?;
            printer.done(&format!("frontend {name} goes on"))
        }
        FrontendCommand::Expand { name, size } => {
            let request = EngineFrontendExpandRequest { name: name.to_string(), size: size.bytes() };
            node.spdk().engine_frontend_expand(request).await?;
            printer.done(&format!("the volume of frontend {name} has {size}"))
        }
        FrontendCommand::SwitchOver { name, engine, target, phase } => {
            let request = EngineFrontendSwitchOverRequest {
                name: name.to_string(),
                engine_name: engine.to_string(),
                target_address: target.to_string(),
                switchover_phase: phase.wire().into(),
            };
            node.spdk().engine_frontend_switch_over(request).await?;
            printer.show(&get(&node, &name).await?, frontend_table)
        }
    }
}

/// Creates a frontend; a frontend in state `error` is a failure, and is still there.
async fn create(node: &Node, request: EngineFrontendCreateRequest) -> Result<EngineFrontend, Failure> {
    let frontend = node.spdk().engine_frontend_create(request).await?.into_inner();
    if frontend.state == "error" {
        return Err(Failure::new(Exit::Failed, format!("frontend {}: {}", frontend.name, frontend.error_msg)));
    }
    Ok(frontend)
}

async fn get(node: &Node, name: &FrontendName) -> Result<EngineFrontend, Failure> {
    let request = EngineFrontendGetRequest { name: name.to_string() };
    Ok(node.spdk().engine_frontend_get(request).await?.into_inner())
}

fn frontend_table(frontend: &EngineFrontend) -> Table {
    let path = |path: &crate::wire::spdkrpc::EngineFrontendNvmeTcpPath| {
        format!("{} {}:{} {}", path.engine_name, path.target_ip, path.target_port, path.ana_state)
    };
    fields([
        ("name", frontend.name.clone()),
        ("volume", frontend.volume_name.clone()),
        ("engine", frontend.engine_name.clone()),
        ("state", frontend.state.clone()),
        ("error", frontend.error_msg.clone()),
        ("size", size(frontend.spec_size)),
        ("type", frontend_text(&frontend.frontend)),
        ("endpoint", frontend.endpoint.clone()),
        ("paths", frontend.paths.iter().map(path).collect::<Vec<_>>().join("\n")),
        ("last expansion error", frontend.last_expansion_error.clone()),
    ])
}

fn list_table(frontends: &[EngineFrontend]) -> Table {
    let mut table = table(["NAME", "VOLUME", "ENGINE", "STATE", "SIZE", "TYPE", "ENDPOINT", "ERROR"]);
    for frontend in frontends {
        table.add_row([
            frontend.name.clone(),
            frontend.volume_name.clone(),
            frontend.engine_name.clone(),
            frontend.state.clone(),
            size(frontend.spec_size),
            frontend_text(&frontend.frontend),
            frontend.endpoint.clone(),
            frontend.error_msg.clone(),
        ]);
    }
    table
}
