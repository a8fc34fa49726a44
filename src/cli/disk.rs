//! `corriente disk`: disks of a node.

use clap::Subcommand;
use comfy_table::Table;

use super::Context;
use super::connect::Node;
use super::exit::{Exit, Failure};
use super::orphan::{self, OrphanCommand};
use super::output::{fields, signed_size, size, table};
use super::wait::{Step, WaitOptions, follow};
use crate::name::DiskName;
use crate::wire::spdkrpc::{
    Disk, DiskCreateRequest, DiskDeleteRequest, DiskGetRequest, DiskHealthGetRequest, DiskHealthGetResponse,
};

/// Bytes in a data unit of the health log: a thousand blocks of 512.
const DATA_UNIT: u64 = 512_000;

/// Verbs for disks.
#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// Make a file, block device, NVMe or virtio device a disk, or take one that is a disk already
    #[command(after_help = "Examples:\n  corriente disk create d1 --path /dev/sdb --wait\n  \
                            corriente disk create d2 --path 0000:03:00.0 --driver nvme --wait")]
    Create {
        /// The disk's name, also that of its store
        name: DiskName,
        /// A file, a block device, or a PCI address like 0000:03:00.0
        #[arg(long)]
        path: String,
        /// auto, aio, nvme, virtio-blk, virtio-scsi or virtio-pci
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
    /// Show what an NVMe disk says of its health
    Health {
        /// The disk
        name: DiskName,
    },
    /// Volumes and snapshots on disks that belong to nothing: list, delete, adopt
    Orphans {
        #[command(subcommand)]
        command: OrphanCommand,
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
        DiskCommand::Health { name } => {
            let request = DiskHealthGetRequest { disk_name: name.to_string(), ..Default::default() };
            let health = node.spdk().disk_health_get(request).await?.into_inner();
            context.printer.show(&health, health_table)
        }
        DiskCommand::Orphans { command } => orphan::run(command, &node, context).await,
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

fn health_table(health: &DiskHealthGetResponse) -> Table {
    let temperature = match health.temperature_celsius {
        unknown if unknown < 0.0 => "unknown".to_owned(),
        celsius => format!("{celsius} °C"),
    };
    fields([
        ("model", health.model_number.clone()),
        ("serial", health.serial_number.clone()),
        ("firmware", health.firmware_revision.clone()),
        ("address", health.traddr.clone()),
        ("critical warning", format!("{:#04x}", health.critical_warning)),
        ("temperature", temperature),
        ("life used", format!("{} %", health.percentage_used)),
        ("spare left", format!("{} %", health.available_spare_percentage)),
        ("spare threshold", format!("{} %", health.available_spare_threshold_percentage)),
        ("media errors", health.media_errors.to_string()),
        ("error log entries", health.num_err_log_entries.to_string()),
        ("unsafe shutdowns", health.unsafe_shutdowns.to_string()),
        ("power cycles", health.power_cycles.to_string()),
        ("power-on hours", health.power_on_hours.to_string()),
        ("written", size(health.data_units_written.saturating_mul(DATA_UNIT))),
        ("read", size(health.data_units_read.saturating_mul(DATA_UNIT))),
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
