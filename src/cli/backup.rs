//! `corriente backup`: backups of snapshots in a backup store.
//!
//! `create` and `status` ask a node; `list` and `inspect` read the store from here.

use std::collections::BTreeMap;

use clap::{Subcommand, ValueEnum};
use comfy_table::Table;

use super::Context;
use super::arguments::Label;
use super::connect::Node;
use super::credentials::CredentialOptions;
use super::engine;
use super::exit::{Exit, Failure};
use super::output::{fields, size, table};
use super::wait::{Step, WaitOptions, follow};
use crate::backup::inspect::{self, BackupSummary, ListedBackup, ListedVolume, VolumeSummary};
use crate::backup::{BackupUrl, Target, TargetUrl};
use crate::config::ByteSize;
use crate::name::{BackupName, EngineName, SnapshotName};
use crate::wire::spdkrpc::{BackupCreateRequest, BackupStatusRequest, BackupStatusResponse};

/// Verbs for backups.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Back a snapshot up: only what changed since the last backup, when that one's snapshot is still there
    #[command(after_help = "Example:\n  corriente backup create v1-e-0 --snapshot s1 --target vfs:///backups --wait")]
    Create(CreateOptions),
    /// Show how a backup stands
    Status {
        /// The backup
        backup: BackupName,
        /// The engine it was started on
        #[arg(long)]
        engine: EngineName,
        /// The replica that it is made from, as the answer of create names it
        #[arg(long, value_name = "IP:PORT")]
        replica_address: String,
    },
    /// Show the volumes of a backup store, or the backups of one volume
    #[command(after_help = "Examples:\n  corriente backup list vfs:///backups\n  \
                            corriente backup list 'vfs:///backups?volume=v1'")]
    List {
        /// The store's URL, with ?volume=NAME for one volume's backups
        url: String,
    },
    /// Show a backup
    #[command(after_help = "Example:\n  corriente backup inspect 'vfs:///backups?backup=b1&volume=v1'")]
    Inspect {
        /// The backup's URL
        url: String,
    },
}

/// What to back up, and where to.
#[derive(Debug, clap::Args)]
pub struct CreateOptions {
    /// The engine of the volume
    engine: EngineName,
    /// The snapshot to back up
    #[arg(long)]
    snapshot: SnapshotName,
    /// The backup store's URL, as vfs:///directory
    #[arg(long, value_name = "URL")]
    target: String,
    /// The backup's name; one is made up when none is given
    #[arg(long)]
    name: Option<BackupName>,
    /// How blocks are compressed
    #[arg(long, default_value = "lz4")]
    compression: Compression,
    /// All that the snapshot holds, not only what changed
    #[arg(long)]
    full: bool,
    /// The size of a block: 2MiB or 16MiB
    #[arg(long, value_name = "SIZE")]
    block_size: Option<ByteSize>,
    /// How many blocks are handled at once; the node decides when not given
    #[arg(long, default_value_t = 0)]
    concurrent_limit: i32,
    /// A label that is stored with the backup; may be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Label>,
    #[command(flatten)]
    credentials: CredentialOptions,
    #[command(flatten)]
    wait: WaitOptions,
}

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[allow(missing_docs)] // The words say it.
pub enum Compression {
    None,
    Lz4,
    Gzip,
}

/// Does it.
pub async fn run(command: BackupCommand, context: &Context) -> Result<(), Failure> {
    match command {
        BackupCommand::Create(options) => create(options, context).await,
        BackupCommand::Status { backup, engine, replica_address } => {
            let request = status_request(backup.as_str(), &engine, &replica_address);
            let status = backup_status(&context.server().await?, request).await?;
            context.printer.show(&status, status_table)
        }
        BackupCommand::List { url } => list(&url, context).await,
        BackupCommand::Inspect { url } => {
            let url = BackupUrl::parse(&url)?;
            let summary =
                inspect::inspect_backup(&Target::open(&url.target)?, &url.volume, url.require_backup()?).await?;
            context.printer.show(&summary, summary_table)
        }
    }
}

async fn backup_status(node: &Node, request: BackupStatusRequest) -> Result<BackupStatusResponse, Failure> {
    Ok(node.spdk().engine_backup_status(request).await?.into_inner())
}

/// The parameters of the wire travel as labels with this prefix (`engine-behaviour` §9).
const PARAMETER_PREFIX: &str = "longhorn.io/backup-parameter.";

fn labels(options: &CreateOptions) -> Vec<String> {
    let mut labels: Vec<_> = options.labels.iter().map(|label| format!("{}={}", label.key, label.value)).collect();
    if options.full {
        labels.push(format!("{PARAMETER_PREFIX}backup-mode=full"));
    }
    if let Some(block_size) = options.block_size {
        labels.push(format!("{PARAMETER_PREFIX}backup-block-size={}", block_size.bytes()));
    }
    labels
}

async fn create(options: CreateOptions, context: &Context) -> Result<(), Failure> {
    let node = context.server().await?;
    let volume = engine::get(&node, &options.engine).await?;
    let size = i64::try_from(volume.spec_size).map_err(|_| Failure::failed("the volume's size is not a size"))?;
    let name = options.name.as_ref().map_or_else(made_up_name, BackupName::to_string);
    let request = BackupCreateRequest {
        snapshot_name: options.snapshot.to_string(),
        backup_target: options.target.clone(),
        volume_name: volume.volume_name,
        size,
        engine_name: options.engine.to_string(),
        labels: labels(&options),
        credential: options.credentials.read()?,
        backup_name: name,
        compression_method: compression_word(options.compression).into(),
        concurrent_limit: options.concurrent_limit,
        ..Default::default()
    };
    let created = node.spdk().engine_backup_create(request).await?.into_inner();
    if !options.wait.wait {
        return context.printer.show(&created, |created| {
            fields([
                ("backup", created.backup.clone()),
                ("incremental", created.is_incremental.to_string()),
                ("replica address", created.replica_address.clone()),
            ])
        });
    }
    let request = status_request(&created.backup, &options.engine, &created.replica_address);
    let status = until_complete(&node, &request, &options.wait).await?;
    context.printer.show(&status, status_table)
}

/// As Longhorn's manager makes them up.
fn made_up_name() -> String {
    format!("backup-{:016x}", rand::random::<u64>())
}

fn compression_word(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "none",
        Compression::Lz4 => "lz4",
        Compression::Gzip => "gzip",
    }
}

/// The status wants the address without the scheme that the answer of create has in front.
fn status_request(backup: &str, engine: &EngineName, replica_address: &str) -> BackupStatusRequest {
    let bare = replica_address.strip_prefix("tcp://").unwrap_or(replica_address);
    BackupStatusRequest { backup: backup.to_owned(), engine_name: engine.to_string(), replica_address: bare.to_owned() }
}

async fn until_complete(
    node: &Node,
    request: &BackupStatusRequest,
    wait: &WaitOptions,
) -> Result<BackupStatusResponse, Failure> {
    follow(&format!("backup {}", request.backup), wait.wait_timeout, || async {
        let status = backup_status(node, request.clone()).await?;
        match status.state.as_str() {
            "complete" => Ok(Step::Done(status)),
            "error" | "canceled" => Err(failed(request, &status)),
            _ if !status.error.is_empty() => Err(failed(request, &status)),
            _ => Ok(Step::Percent(u64::try_from(status.progress).unwrap_or(0))),
        }
    })
    .await
}

fn failed(request: &BackupStatusRequest, status: &BackupStatusResponse) -> Failure {
    let reason = if status.error.is_empty() { &status.state } else { &status.error };
    Failure::new(Exit::Failed, format!("backup {}: {reason}", request.backup))
}

fn status_table(status: &BackupStatusResponse) -> Table {
    fields([
        ("state", status.state.clone()),
        ("progress", format!("{} %", status.progress)),
        ("error", status.error.clone()),
        ("snapshot", status.snapshot_name.clone()),
        ("url", status.backup_url.clone()),
        ("replica address", status.replica_address.clone()),
    ])
}

/// A store's URL with a volume in its query is that of a volume; without, of the store.
async fn list(url: &str, context: &Context) -> Result<(), Failure> {
    if url.contains("volume=") {
        let url = BackupUrl::parse(url)?;
        let listed = inspect::list_backups(&Target::open(&url.target)?, &url.volume).await?;
        let (good, bad) = split(listed.into_iter().map(|ListedBackup { name, summary }| (name.to_string(), summary)));
        warn("backup", &bad);
        return context.printer.show(&good, |summaries| backups_table(summaries));
    }
    let listed = inspect::list_volumes(&Target::open(&TargetUrl::parse(url)?)?).await?;
    let (good, bad) = split(listed.into_iter().map(|ListedVolume { name, summary }| (name.to_string(), summary)));
    warn("volume", &bad);
    context.printer.show(&good, |summaries| volumes_table(summaries))
}

type Unreadable = BTreeMap<String, crate::Error>;

fn split<T>(listed: impl Iterator<Item = (String, crate::Result<T>)>) -> (Vec<T>, Unreadable) {
    let (mut good, mut bad) = (Vec::new(), Unreadable::new());
    for (name, summary) in listed {
        match summary {
            Ok(summary) => good.push(summary),
            Err(error) => drop(bad.insert(name, error)),
        }
    }
    (good, bad)
}

/// What cannot be read does not hide what can.
fn warn(kind: &str, unreadable: &Unreadable) {
    for (name, error) in unreadable {
        eprintln!("warning: {kind} {name}: {error}");
    }
}

fn backups_table(summaries: &[BackupSummary]) -> Table {
    let mut table = table(["BACKUP", "SNAPSHOT", "CREATED", "SIZE", "INCREMENTAL", "COMPRESSION"]);
    for summary in summaries {
        table.add_row([
            summary.name.clone(),
            summary.snapshot_name.clone(),
            summary.created.clone(),
            size(summary.size),
            summary.is_incremental.to_string(),
            summary.compression_method.to_owned(),
        ]);
    }
    table
}

fn volumes_table(summaries: &[VolumeSummary]) -> Table {
    let mut table = table(["VOLUME", "SIZE", "LAST BACKUP", "AT", "STORED"]);
    for summary in summaries {
        table.add_row([
            summary.name.clone(),
            size(summary.size),
            summary.last_backup_name.clone(),
            summary.last_backup_at.clone(),
            size(summary.data_stored),
        ]);
    }
    table
}

fn summary_table(summary: &BackupSummary) -> Table {
    let labels: Vec<_> = summary.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    fields([
        ("backup", summary.name.clone()),
        ("volume", summary.volume_name.clone()),
        ("volume size", size(summary.volume_size)),
        ("snapshot", summary.snapshot_name.clone()),
        ("snapshot taken", summary.snapshot_created.clone()),
        ("created", summary.created.clone()),
        ("size", size(summary.size)),
        ("incremental", summary.is_incremental.to_string()),
        ("compression", summary.compression_method.to_owned()),
        ("labels", labels.join(", ")),
        ("url", summary.url.clone()),
    ])
}
