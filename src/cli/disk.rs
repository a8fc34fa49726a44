//! `corriente disk`: disks of a node.

use clap::Subcommand;
use comfy_table::Table;

use super::Context;
use super::connect::Node;
use super::exit::{Exit, Failure};
use super::output::{fields, signed_size, table};
use super::wait::{Step, WaitOptions, follow};
use crate::name::DiskName;
use crate::wire::spdkrpc::{Disk, DiskCreateRequest, DiskDeleteRequest, DiskGetRequest};

/// Verbs for disks.
#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// Make a file, block device or NVMe device a disk, or take one that is a disk already
    #[command(after_help = "Examples:\n  corriente disk create d1 --path /dev/sdb --wait\n  \
                            corriente disk create d2 --path 0000:03:00.0 --driver nvme --wait")]
    Create {
        /// The disk's name, also that of its store
        name: DiskName,
        /// A file, a block device, or a PCI address like 0000:03:00.0
        #[arg(long)]
        path: String,
        /// auto, aio or nvme
        #[arg(long, default_value = "auto")]
        driver: String,
        /// 512 or 4096
        #[arg(long, default_value_t = 512)]
        block_size: i64,
        /// Only take a store with this UUID; never make a new one
        #[arg(long, default_value = "")]
        uuid: String,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Show a disk
    Get {
        /// The disk
        name: DiskName,
    },
    /// Show all disks
    List,
    /// Let go of a disk; what is on it stays
    Delete {
        /// The disk
        name: DiskName,
    },
}

/// Does it.
pub async fn run(command: DiskCommand, context: &Context) -> Result<(), Failure> {
    let node = context.server().await?;
    match command {
        DiskCommand::Create { name, path, driver, block_size, uuid, wait } => {
            let request = DiskCreateRequest {
                disk_name: name.to_string(),
                disk_uuid: uuid,
                disk_path: path,
                block_size,
                disk_driver: driver,
            };
            let mut disk = node.spdk().disk_create(request).await?.into_inner();
            if wait.wait {
                disk = until_ready(&node, &name, &wait).await?;
            } else {
                refuse_error(&disk)?;
            }
            context.printer.show(&disk, disk_table)
        }
        DiskCommand::Get { name } => context.printer.show(&get(&node, &name).await?, disk_table),
        DiskCommand::List => context.printer.show(&list(&node).await?, |disks| list_table(disks)),
        DiskCommand::Delete { name } => {
            let request = DiskDeleteRequest { disk_name: name.to_string(), ..Default::default() };
            node.spdk().disk_delete(request).await?;
            context.printer.done(&format!("disk {name} is let go"))
        }
    }
}

/// All disks of a node.
pub async fn list(node: &Node) -> Result<Vec<Disk>, Failure> {
    Ok(node.corriente().disk_list(()).await?.into_inner().disks)
}

async fn get(node: &Node, name: &DiskName) -> Result<Disk, Failure> {
    let request = DiskGetRequest { disk_name: name.to_string(), ..Default::default() };
    Ok(node.spdk().disk_get(request).await?.into_inner())
}

async fn until_ready(node: &Node, name: &DiskName, wait: &WaitOptions) -> Result<Disk, Failure> {
    follow(&format!("disk {name}"), wait.wait_timeout, || async {
        let disk = get(node, name).await?;
        refuse_error(&disk)?;
        Ok(if disk.state == "creating" { Step::Percent(0) } else { Step::Done(disk) })
    })
    .await
}

/// The wire has no text for a disk's error; the node's log and its events do.
fn refuse_error(disk: &Disk) -> Result<(), Failure> {
    if disk.state == "error" {
        let problem = "could not be created; the node's log says why. Delete it before another attempt";
        return Err(Failure::new(Exit::Failed, format!("disk {} {problem}", disk.name)));
    }
    Ok(())
}

fn disk_table(disk: &Disk) -> Table {
    fields([
        ("name", disk.name.clone()),
        ("state", disk.state.clone()),
        ("uuid", disk.uuid.clone()),
        ("path", disk.path.clone()),
        ("driver", disk.driver.clone()),
        ("size", signed_size(disk.total_size)),
        ("free", signed_size(disk.free_size)),
        ("block size", disk.block_size.to_string()),
        ("cluster size", signed_size(disk.cluster_size)),
    ])
}

fn list_table(disks: &[Disk]) -> Table {
    let mut table = table(["NAME", "STATE", "DRIVER", "SIZE", "FREE", "PATH"]);
    for disk in disks {
        table.add_row([
            disk.name.clone(),
            disk.state.clone(),
            disk.driver.clone(),
            signed_size(disk.total_size),
            signed_size(disk.free_size),
            disk.path.clone(),
        ]);
    }
    table
}
