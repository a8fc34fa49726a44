//! `corriente disk orphans`: volumes and snapshots on disks that belong to no object of the node.

use clap::Subcommand;
use comfy_table::Table;

use super::Context;
use super::connect::Node;
use super::exit::Failure;
use super::output::{size, table};
use crate::name::{DiskName, LvolName, ReplicaName};
use crate::wire::corriente::v1::{Orphan, OrphanAdoptRequest, OrphanDeleteRequest, OrphanListRequest};

/// Verbs for orphans.
#[derive(Debug, Subcommand)]
pub enum OrphanCommand {
    /// Show them, with the replica each most likely belonged to
    List {
        /// Only of this disk
        #[arg(long)]
        disk: Option<DiskName>,
    },
    /// Delete one for good; a snapshot's data goes to what is based on it
    #[command(after_help = "Example:\n  corriente disk orphans delete disk-1 vol-r-0a1b2c3d --uuid <as listed>")]
    Delete {
        /// The disk it is on
        disk: DiskName,
        /// Its name, as listed
        lvol: LvolName,
        /// Its UUID, as listed: nothing is done to another one that has the name by now
        #[arg(long, default_value = "")]
        uuid: String,
    },
    /// Make one a stopped replica, with all that it is based on
    Adopt {
        /// The disk it is on
        disk: DiskName,
        /// Its name, as listed
        lvol: LvolName,
        /// Its UUID, as listed
        #[arg(long, default_value = "")]
        uuid: String,
        /// The replica's name; the owner as listed when not given
        #[arg(long)]
        replica: Option<ReplicaName>,
    },
}

/// Does it.
pub async fn run(command: OrphanCommand, node: &Node, context: &Context) -> Result<(), Failure> {
    match command {
        OrphanCommand::List { disk } => {
            let request = OrphanListRequest { disk_name: disk.map(|disk| disk.to_string()).unwrap_or_default() };
            let orphans = node.corriente().orphan_list(request).await?.into_inner().orphans;
            context.printer.show(&orphans, |orphans| list_table(orphans))
        }
        OrphanCommand::Delete { disk, lvol, uuid } => {
            let request =
                OrphanDeleteRequest { disk_name: disk.to_string(), lvol_name: lvol.to_string(), lvol_uuid: uuid };
            node.corriente().orphan_delete(request).await?;
            context.printer.done(&format!("{lvol} is deleted from disk {disk}"))
        }
        OrphanCommand::Adopt { disk, lvol, uuid, replica } => {
            let request = OrphanAdoptRequest {
                disk_name: disk.to_string(),
                lvol_name: lvol.to_string(),
                lvol_uuid: uuid,
                replica_name: replica.map(|replica| replica.to_string()).unwrap_or_default(),
            };
            let replica = node.corriente().orphan_adopt(request).await?.into_inner();
            context.printer.show(&replica, super::replica::replica_table)
        }
    }
}

fn list_table(orphans: &[Orphan]) -> Table {
    let mut table = table(["DISK", "NAME", "KIND", "OWNER", "SIZE", "OWN DATA", "CREATED", "BASED ON", "UUID"]);
    for orphan in orphans {
        table.add_row([
            orphan.disk_name.clone(),
            orphan.lvol_name.clone(),
            if orphan.is_snapshot { "snapshot" } else { "volume" }.to_owned(),
            orphan.owner.clone(),
            size(orphan.size),
            size(orphan.actual_size),
            orphan.created.clone(),
            orphan.parent.clone(),
            orphan.lvol_uuid.clone(),
        ]);
    }
    table
}
