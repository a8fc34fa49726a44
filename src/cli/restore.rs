//! `corriente restore`: bringing a backup into an engine's volume, in full or as what changed since the last one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Subcommand;
use comfy_table::Table;

use super::Context;
use super::connect::Node;
use super::credentials::CredentialOptions;
use super::exit::{Exit, Failure};
use super::output::table;
use super::wait::{Step, WaitOptions, follow};
use crate::backup::BackupUrl;
use crate::name::EngineName;
use crate::wire::corriente::v1::{RestoreCheckpointsRequest, RestoreCheckpointsResponse};
use crate::wire::spdkrpc::{
    EngineBackupRestoreRequest, ReplicaRestoreStatusResponse, RestoreStatusRequest, RestoreStatusResponse,
};

/// Verbs for restores.
#[derive(Debug, Subcommand)]
pub enum RestoreCommand {
    /// Restore a backup; the engine must have no frontend
    #[command(after_help = "Example:\n  corriente restore start dr-e-0 --backup 'vfs:///backups?backup=b1&volume=v1' \
                            --wait")]
    Start {
        /// The engine of the volume to restore into
        engine: EngineName,
        /// The backup's URL
        #[arg(long, value_name = "URL")]
        backup: String,
        /// How many blocks are handled at once; the node decides when not given
        #[arg(long, default_value_t = 0)]
        concurrent_limit: i32,
        #[command(flatten)]
        credentials: CredentialOptions,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Show what each replica durably knows of restores: the point it is back at if the node ends now
    Checkpoints {
        /// The engine
        engine: EngineName,
    },
    /// Show how a restore stands, or how the last one ended
    Status {
        /// The engine
        engine: EngineName,
    },
}

/// Does it.
pub async fn run(command: RestoreCommand, context: &Context) -> Result<(), Failure> {
    let node = context.server().await?;
    match command {
        RestoreCommand::Start { engine, backup, concurrent_limit, credentials, wait } => {
            let url = BackupUrl::parse(&backup)?;
            let name = url.require_backup()?.to_string();
            let request = EngineBackupRestoreRequest {
                backup_url: backup,
                engine_name: engine.to_string(),
                // The node names the snapshot after that of the backup.
                snapshot_name: String::new(),
                credential: credentials.read()?,
                concurrent_limit,
            };
            let answer = node.spdk().engine_backup_restore(request).await?.into_inner();
            refuse_errors(&answer.errors)?;
            if !wait.wait {
                return context.printer.done(&format!("restore of backup {name} into {engine} has begun"));
            }
            let status = until_restored(&node, &engine, &name, &wait).await?;
            context.printer.show(&status, status_table)
        }
        RestoreCommand::Checkpoints { engine } => {
            let request = RestoreCheckpointsRequest { engine_name: engine.to_string() };
            let answer = node.corriente().restore_checkpoints(request).await?.into_inner();
            context.printer.show(&answer, checkpoints_table)
        }
        RestoreCommand::Status { engine } => {
            context.printer.show(&restore_status(&node, engine.as_str()).await?, status_table)
        }
    }
}

/// How the restore of an engine stands, by replica address.
pub async fn restore_status(node: &Node, engine: &str) -> Result<RestoreStatusResponse, Failure> {
    let request = RestoreStatusRequest { engine_name: engine.to_owned() };
    Ok(node.spdk().engine_restore_status(request).await?.into_inner())
}

fn refuse_errors(errors: &BTreeMap<String, String>) -> Result<(), Failure> {
    if errors.is_empty() {
        return Ok(());
    }
    let texts: Vec<_> = errors.iter().map(|(replica, error)| format!("{replica}: {error}")).collect();
    Err(Failure::new(Exit::Failed, texts.join("; ")))
}

/// How long a restore that was accepted may take until it shows in the status.
const START_LIMIT: Duration = Duration::from_secs(10);

async fn until_restored(
    node: &Node,
    engine: &EngineName,
    backup: &str,
    wait: &WaitOptions,
) -> Result<RestoreStatusResponse, Failure> {
    let begun = Instant::now();
    let what = format!("restore of {backup} into {engine}");
    follow(&what, wait.wait_timeout, || async {
        let status = restore_status(node, engine.as_str()).await?;
        match judge(&status, backup) {
            Standing::Done => Ok(Step::Done(status)),
            Standing::Failed(reason) => Err(Failure::new(Exit::Failed, format!("{what}: {reason}"))),
            Standing::Running(percent) => Ok(Step::Percent(percent)),
            Standing::Silent if begun.elapsed() < START_LIMIT => Ok(Step::Percent(0)),
            Standing::Silent => Err(Failure::new(
                Exit::Failed,
                format!("{what}: it ended without an error, and the backup is not there"),
            )),
        }
    })
    .await
}

#[derive(Debug, PartialEq)]
enum Standing {
    /// The slowest replica has this many per cent.
    Running(u64),
    /// Every replica says that this backup is what it holds.
    Done,
    Failed(String),
    /// Nothing runs, nothing failed, and the backup is not there.
    Silent,
}

/// What the entries of all replicas say together.
fn judge(status: &RestoreStatusResponse, backup: &str) -> Standing {
    let entries = || status.status.values();
    let broken = |entry: &&ReplicaRestoreStatusResponse| {
        !entry.error.is_empty() || matches!(entry.state.as_str(), "error" | "canceled")
    };
    if let Some(entry) = entries().find(broken) {
        let reason = if entry.error.is_empty() { &entry.state } else { &entry.error };
        return Standing::Failed(format!("{}: {reason}", entry.replica_name));
    }
    if entries().any(|entry| entry.is_restoring) {
        let slowest = entries().map(|entry| entry.progress).min().unwrap_or(0);
        return Standing::Running(u64::try_from(slowest).unwrap_or(0));
    }
    if !status.status.is_empty() && entries().all(|entry| entry.last_restored == backup) {
        return Standing::Done;
    }
    Standing::Silent
}

fn checkpoints_table(answer: &RestoreCheckpointsResponse) -> Table {
    let mut table = table(["REPLICA", "ADDRESS", "RESTORED", "SNAPSHOT", "UNFINISHED", "ERROR"]);
    for checkpoint in &answer.checkpoints {
        let restored = checkpoint.restored.clone().unwrap_or_default();
        table.add_row([
            checkpoint.replica_name.clone(),
            checkpoint.address.clone(),
            restored.backup_name,
            restored.snapshot_name,
            checkpoint.unfinished.clone().unwrap_or_default().backup_name,
            checkpoint.error.clone(),
        ]);
    }
    table
}

fn status_table(status: &RestoreStatusResponse) -> Table {
    let mut table = table(["REPLICA", "ADDRESS", "STATE", "PROGRESS", "LAST RESTORED", "RESTORING", "ERROR"]);
    for entry in status.status.values() {
        table.add_row([
            entry.replica_name.clone(),
            entry.replica_address.clone(),
            entry.state.clone(),
            format!("{} %", entry.progress),
            entry.last_restored.clone(),
            entry.current_restoring_backup.clone(),
            entry.error.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(entries: &[(bool, &str, &str, i32)]) -> RestoreStatusResponse {
        let entry =
            |(is_restoring, last_restored, error, progress): &(bool, &str, &str, i32)| ReplicaRestoreStatusResponse {
                is_restoring: *is_restoring,
                last_restored: (*last_restored).into(),
                error: (*error).into(),
                progress: *progress,
                replica_name: "r".into(),
                ..Default::default()
            };
        let entries = entries.iter().enumerate().map(|(index, values)| (index.to_string(), entry(values)));
        RestoreStatusResponse { status: entries.collect() }
    }

    #[test]
    fn done_is_when_every_replica_holds_the_backup_and_none_restores() {
        assert_eq!(judge(&status(&[(false, "b2", "", 100), (false, "b2", "", 100)]), "b2"), Standing::Done);
        assert_eq!(judge(&status(&[(false, "b2", "", 100), (false, "b1", "", 100)]), "b2"), Standing::Silent);
        assert_eq!(judge(&status(&[(true, "b2", "", 100), (true, "b2", "", 100)]), "b2"), Standing::Running(100));
        assert_eq!(judge(&status(&[]), "b2"), Standing::Silent, "no replica is no proof");
    }

    #[test]
    fn the_slowest_replica_counts_and_one_error_is_the_restores() {
        assert_eq!(judge(&status(&[(true, "", "", 70), (true, "", "", 40)]), "b1"), Standing::Running(40));
        let failed = judge(&status(&[(true, "", "", 70), (false, "", "block missing", 40)]), "b1");
        assert_eq!(failed, Standing::Failed("r: block missing".into()));
    }
}
