//! `corriente replica`: copies of volumes on the disks of a node.

use clap::Subcommand;
use comfy_table::Table;

use super::Context;
use super::connect::Node;
use super::exit::{Exit, Failure};
use super::output::{fields, size, table};
use crate::config::ByteSize;
use crate::name::{BackingImageName, DiskName, ReplicaName};
use crate::wire::spdkrpc::{
    Replica, ReplicaCreateRequest, ReplicaDeleteRequest, ReplicaExpandRequest, ReplicaGetRequest,
};

/// What Longhorn's manager asks for: one port for the data, the others for rebuilding, cloning and backups
/// (`engine-behaviour` §0, §1.5).
pub const PORT_COUNT: i32 = 5;

/// Verbs for replicas.
#[derive(Debug, Subcommand)]
pub enum ReplicaCommand {
    /// Make a replica, or start one that is stopped
    #[command(after_help = "Example:\n  corriente replica create v1-r-0a1b2c3d --disk d1 --size 10GiB")]
    Create {
        /// The replica's name; only names like <volume>-r-<8 letters or digits> are found again after a restart
        name: ReplicaName,
        /// The disk it is on
        #[arg(long)]
        disk: DiskName,
        /// The volume's size, as 10GiB
        #[arg(long)]
        size: ByteSize,
        /// How many ports it may use
        #[arg(long, default_value_t = PORT_COUNT)]
        ports: i32,
        /// The image on that disk that a new replica stands on
        #[arg(long, value_name = "IMAGE")]
        backing_image: Option<BackingImageName>,
    },
    /// Show a replica
    Get {
        /// The replica
        name: ReplicaName,
    },
    /// Show all replicas of the node
    List,
    /// Stop a replica; what it holds stays, unless --cleanup is given
    Delete {
        /// The replica
        name: ReplicaName,
        /// Also destroy its data and snapshots
        #[arg(long)]
        cleanup: bool,
    },
    /// Make a replica larger
    Expand {
        /// The replica
        name: ReplicaName,
        /// The new size, as 20GiB
        size: ByteSize,
    },
}

/// Does it.
pub async fn run(command: ReplicaCommand, context: &Context) -> Result<(), Failure> {
    let node = context.server().await?;
    match command {
        ReplicaCommand::Create { name, disk, size, ports, backing_image } => {
            let replica = create(&node, &name, &disk, size.bytes(), ports, backing_image.as_ref()).await?;
            context.printer.show(&replica, replica_table)
        }
        ReplicaCommand::Get { name } => {
            let request = ReplicaGetRequest { name: name.to_string() };
            let replica = node.spdk().replica_get(request).await?.into_inner();
            context.printer.show(&replica, replica_table)
        }
        ReplicaCommand::List => {
            let replicas = node.spdk().replica_list(()).await?.into_inner().replicas;
            context.printer.show(&replicas.into_values().collect::<Vec<_>>(), |replicas| list_table(replicas))
        }
        ReplicaCommand::Delete { name, cleanup } => {
            delete(&node, name.as_str(), cleanup).await?;
            context.printer.done(&format!("replica {name} is {}", if cleanup { "deleted" } else { "stopped" }))
        }
        ReplicaCommand::Expand { name, size } => {
            let request = ReplicaExpandRequest { name: name.to_string(), size: size.bytes() };
            node.spdk().replica_expand(request).await?;
            context.printer.done(&format!("replica {name} has {size}"))
        }
    }
}

/// Creates a replica. The node answers OK with the state `error` when its parts could not be made
/// (`engine-behaviour` §1.4); that is a failure here.
pub async fn create(
    node: &Node,
    name: &ReplicaName,
    disk: &DiskName,
    size_bytes: u64,
    ports: i32,
    backing_image: Option<&BackingImageName>,
) -> Result<Replica, Failure> {
    let request = ReplicaCreateRequest {
        name: name.to_string(),
        lvs_name: disk.to_string(),
        spec_size: size_bytes,
        port_count: ports,
        backing_image_name: backing_image.map(ToString::to_string).unwrap_or_default(),
        ..Default::default()
    };
    let replica = node.spdk().replica_create(request).await?.into_inner();
    if replica.state == "error" {
        return Err(Failure::new(Exit::Failed, format!("replica {name} on {}: {}", node.address, replica.error_msg)));
    }
    Ok(replica)
}

/// Stops or deletes a replica.
pub async fn delete(node: &Node, name: &str, cleanup: bool) -> Result<(), Failure> {
    let request = ReplicaDeleteRequest { name: name.to_owned(), cleanup_required: cleanup };
    node.spdk().replica_delete(request).await?;
    Ok(())
}

fn address(replica: &Replica) -> String {
    if replica.ip.is_empty() { String::new() } else { format!("{}:{}", replica.ip, replica.port_start) }
}

/// A replica, a field a line.
pub fn replica_table(replica: &Replica) -> Table {
    let snapshots: Vec<_> = replica.snapshots.keys().cloned().collect();
    fields([
        ("name", replica.name.clone()),
        ("state", replica.state.clone()),
        ("error", replica.error_msg.clone()),
        ("disk", replica.lvs_name.clone()),
        ("backing image", replica.backing_image_name.clone()),
        ("size", size(replica.spec_size)),
        ("actual size", size(replica.actual_size)),
        ("address", address(replica)),
        ("snapshots", snapshots.join(", ")),
        ("rebuilding", replica.rebuilding.to_string()),
    ])
}

/// A line for each replica.
pub fn list_table(replicas: &[Replica]) -> Table {
    let mut table = table(["NAME", "STATE", "DISK", "SIZE", "ADDRESS", "SNAPSHOTS", "ERROR"]);
    for replica in replicas {
        table.add_row([
            replica.name.clone(),
            replica.state.clone(),
            replica.lvs_name.clone(),
            size(replica.spec_size),
            address(replica),
            replica.snapshots.len().to_string(),
            replica.error_msg.clone(),
        ]);
    }
    table
}
