//! `corriente volume`: whole volumes, in the steps that a person would otherwise type.
//!
//! - [`create`], [`clone`], [`delete`], [`activate`]: replicas and engine together; each undoes what it began when it fails.
//! - [`transfer`], [`checksum`]: import, export and checksum through the volume's NVMe/TCP target. [`data`]: the moving of bytes,
//!   over any volume. [`image`]: raw and qcow2 files.

pub mod activate;
pub mod checksum;
pub mod clone;
pub mod create;
pub mod data;
pub mod delete;
pub mod image;
pub mod transfer;

use clap::Subcommand;
use comfy_table::Table;

use super::Context;
use super::arguments::frontend_text;
use super::connect::{Node, NodeAddress};
use super::engine;
use super::exit::{Exit, Failure};
use super::output::{size, table};
use crate::name::{HostPort, VolumeName};
use crate::wire::spdkrpc::Engine;

/// Verbs for volumes.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Make a volume: a replica on each node given, and an engine over them on the node of --server
    #[command(after_help = create::EXAMPLES)]
    Create(create::CreateOptions),
    /// Make a volume of another's snapshot: linked to it, or as a full copy
    #[command(after_help = clone::EXAMPLES)]
    Clone(clone::CloneOptions),
    /// Show the volumes that the node serves
    List,
    /// Delete a volume: its engine, and its replicas with all their data
    #[command(after_help = delete::EXAMPLES)]
    Delete(delete::DeleteOptions),
    /// Make a restored volume one that hosts can use: give it a frontend
    #[command(after_help = activate::EXAMPLES)]
    Activate(activate::ActivateOptions),
    /// Fill a volume with an image
    #[command(after_help = transfer::IMPORT_EXAMPLES)]
    Import(transfer::ImportOptions),
    /// Copy a volume into a file
    #[command(after_help = "Example:\n  corriente volume export v1 v1.qcow2 --format qcow2")]
    Export(transfer::ExportOptions),
    /// Digest a volume's contents
    #[command(after_help = checksum::EXAMPLES)]
    Checksum(checksum::ChecksumOptions),
}

/// Does it.
pub async fn run(command: VolumeCommand, context: &Context) -> Result<(), Failure> {
    match command {
        VolumeCommand::Create(options) => create::run(options, context).await,
        VolumeCommand::Clone(options) => clone::run(options, context).await,
        VolumeCommand::List => {
            let engines = engine::list(&context.server().await?).await?;
            context.printer.show(&engines, |engines| list_table(engines))
        }
        VolumeCommand::Delete(options) => delete::run(options, context).await,
        VolumeCommand::Activate(options) => activate::run(options, context).await,
        VolumeCommand::Import(options) => transfer::import(options, context).await,
        VolumeCommand::Export(options) => transfer::export(options, context).await,
        VolumeCommand::Checksum(options) => checksum::run(options, context).await,
    }
}

/// The engine that serves a volume on a node.
async fn find_engine(node: &Node, volume: &VolumeName) -> Result<Engine, Failure> {
    let mut engines = engine::list(node).await?;
    engines.retain(|engine| engine.volume_name == volume.as_str());
    match (engines.pop(), engines.len()) {
        (Some(engine), 0) => Ok(engine),
        (None, _) => Err(Failure::new(Exit::NotFound, format!("{} serves no volume {volume}", node.address))),
        (Some(_), others) => {
            let problem = format!("{} has {} engines of volume {volume}", node.address, others + 1);
            Err(Failure::new(Exit::Precondition, problem))
        }
    }
}

/// The node that a replica's data address implies: the same host, the gRPC port that all nodes share.
fn node_of(replica_address: &str, port: u16) -> Result<NodeAddress, Failure> {
    let address = HostPort::parse(replica_address).map_err(|error| {
        Failure::failed(format!("the engine names a replica's address {replica_address:?}: {error}"))
    })?;
    Ok(NodeAddress::of(address.ip(), port))
}

fn list_table(engines: &[Engine]) -> Table {
    let mut table = table(["VOLUME", "ENGINE", "STATE", "SIZE", "FRONTEND", "TARGET", "REPLICAS", "SNAPSHOTS"]);
    for found in engines {
        table.add_row([
            found.volume_name.clone(),
            found.name.clone(),
            found.state.clone(),
            size(found.spec_size),
            frontend_text(&found.frontend),
            engine::target_address(found),
            engine::replica_count(found),
            found.snapshots.len().to_string(),
        ]);
    }
    table
}
