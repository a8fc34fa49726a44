//! `corriente snapshot`: snapshots of an engine's volume on all its replicas, or of one replica alone.

use std::collections::BTreeMap;

use clap::Subcommand;
use comfy_table::Table;
use serde::Serialize;
use tonic::{Code, Response, Status};

use super::Context;
use super::arguments::Label;
use super::connect::Node;
use super::engine;
use super::exit::Failure;
use super::output::{size, table};
use crate::name::{EngineName, ReplicaName, SnapshotName};
use crate::wire::corriente::v1::{EngineSnapshotLabelsRequest, ReplicaSnapshotLabelsRequest};
use crate::wire::spdkrpc::{Lvol, ReplicaGetRequest, SnapshotRequest, SnapshotResponse};

/// What a snapshot is of.
#[derive(Debug, Clone, clap::Args)]
pub struct Owner {
    /// The engine, or with --replica the replica
    name: String,
    /// The name is that of a single replica
    #[arg(long)]
    replica: bool,
}

/// Verbs for snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Take a snapshot of all replicas at one point in time
    #[command(after_help = "Example:\n  corriente snapshot create v1-e-0 s1")]
    Create {
        #[command(flatten)]
        owner: Owner,
        /// Its name; the node finds one when none is given
        snapshot: Option<SnapshotName>,
        /// A label; may be given more than once
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<Label>,
    },
    /// Show the snapshots and the head, oldest first
    List {
        #[command(flatten)]
        owner: Owner,
    },
    /// Delete a snapshot; its data moves to the one after it
    Delete {
        #[command(flatten)]
        owner: Owner,
        /// The snapshot
        snapshot: SnapshotName,
    },
    /// Make the volume what it was at a snapshot; only without a frontend
    Revert {
        #[command(flatten)]
        owner: Owner,
        /// The snapshot
        snapshot: SnapshotName,
    },
    /// Delete all snapshots that no user made
    Purge {
        #[command(flatten)]
        owner: Owner,
    },
}

/// Does it.
pub async fn run(command: SnapshotCommand, context: &Context) -> Result<(), Failure> {
    let node = context.server().await?;
    let printer = &context.printer;
    match command {
        SnapshotCommand::Create { owner, snapshot, labels } => {
            printer.show(&create(&node, &owner, snapshot, labels).await?, |created| {
                let mut table = table(["SNAPSHOT"]);
                table.add_row([created.snapshot_name.clone()]);
                table
            })
        }
        SnapshotCommand::List { owner } => printer.show(&list(&node, &owner).await?, |entries| list_table(entries)),
        SnapshotCommand::Delete { owner, snapshot } => {
            call(&node, &owner, Verb::Delete, Some(&snapshot)).await?;
            printer.done(&format!("snapshot {snapshot} is deleted"))
        }
        SnapshotCommand::Revert { owner, snapshot } => {
            call(&node, &owner, Verb::Revert, Some(&snapshot)).await?;
            printer.done(&format!("{} is back at snapshot {snapshot}", owner.name))
        }
        SnapshotCommand::Purge { owner } => {
            call(&node, &owner, Verb::Purge, None).await?;
            printer.done(&format!("{} has only snapshots that users made", owner.name))
        }
    }
}

enum Verb {
    Delete,
    Revert,
    Purge,
}

impl Owner {
    /// The name, refused here when no engine or replica can have it.
    fn checked(&self) -> Result<&str, Failure> {
        let parsed = if self.replica {
            ReplicaName::parse(&self.name).map(drop)
        } else {
            EngineName::parse(&self.name).map(drop)
        };
        parsed.map_err(|error| Failure::usage(format!("{:?} {error}", self.name)))?;
        Ok(&self.name)
    }

    fn request(&self, snapshot: Option<&SnapshotName>) -> Result<SnapshotRequest, Failure> {
        let snapshot_name = snapshot.map(SnapshotName::to_string).unwrap_or_default();
        Ok(SnapshotRequest { name: self.checked()?.to_owned(), snapshot_name, ..Default::default() })
    }
}

async fn create(
    node: &Node,
    owner: &Owner,
    snapshot: Option<SnapshotName>,
    labels: Vec<Label>,
) -> Result<SnapshotResponse, Failure> {
    let labels: BTreeMap<_, _> = labels.into_iter().map(|label| (label.key, label.value)).collect();
    let mut request = SnapshotRequest { labels, user_created: true, ..owner.request(snapshot.as_ref())? };
    if !owner.replica {
        return Ok(node.spdk().engine_snapshot_create(request).await?.into_inner());
    }
    // A replica takes name and time as given: an engine decides both for all of its replicas.
    if request.snapshot_name.is_empty() {
        return Err(Failure::usage("a snapshot of a single replica needs a name"));
    }
    request.snapshot_timestamp = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let snapshot_name = request.snapshot_name.clone();
    node.spdk().replica_snapshot_create(request).await?;
    Ok(SnapshotResponse { snapshot_name })
}

async fn call(node: &Node, owner: &Owner, verb: Verb, snapshot: Option<&SnapshotName>) -> Result<(), Failure> {
    let request = owner.request(snapshot)?;
    let mut client = node.spdk();
    let answer: Result<Response<()>, Status> = match (owner.replica, verb) {
        (false, Verb::Delete) => client.engine_snapshot_delete(request).await,
        (false, Verb::Revert) => client.engine_snapshot_revert(request).await,
        (false, Verb::Purge) => client.engine_snapshot_purge(request).await,
        (true, Verb::Delete) => client.replica_snapshot_delete(request).await,
        (true, Verb::Revert) => client.replica_snapshot_revert(request).await,
        (true, Verb::Purge) => client.replica_snapshot_purge(request).await,
    };
    Ok(answer.map(drop)?)
}

/// One link of a chain, under the name that the map had it by.
#[derive(Debug, Serialize)]
struct Entry {
    snapshot: String,
    #[serde(flatten)]
    lvol: Lvol,
    labels: BTreeMap<String, String>,
}

async fn list(node: &Node, owner: &Owner) -> Result<Vec<Entry>, Failure> {
    let name = owner.checked()?.to_owned();
    let (snapshots, head, mut labels) = if owner.replica {
        let replica = node.spdk().replica_get(ReplicaGetRequest { name: name.clone() }).await?.into_inner();
        let request = ReplicaSnapshotLabelsRequest { replica_name: name };
        let labels = node.corriente().replica_snapshot_labels(request).await?.into_inner();
        (replica.snapshots, replica.head, labels.snapshots)
    } else {
        let name = EngineName::parse(&name).map_err(|error| Failure::usage(error.to_string()))?;
        let engine = engine::get(node, &name).await?;
        let request = EngineSnapshotLabelsRequest { engine_name: name.to_string() };
        let labels = match node.corriente().engine_snapshot_labels(request).await {
            Ok(labels) => labels.into_inner().snapshots,
            // Without a replica in sync the list is what the engine knew last.
            Err(status) if status.code() == Code::FailedPrecondition => BTreeMap::new(),
            Err(status) => return Err(status.into()),
        };
        (engine.snapshots, engine.head, labels)
    };
    let mut entry = |(snapshot, lvol): (String, Lvol)| {
        let labels = labels.remove(&snapshot).map(|labels| labels.labels).unwrap_or_default();
        Entry { snapshot, lvol, labels }
    };
    let mut entries: Vec<_> = snapshots.into_iter().map(&mut entry).collect();
    entries.sort_by(|a, b| time_of(&a.lvol).cmp(time_of(&b.lvol)).then_with(|| a.snapshot.cmp(&b.snapshot)));
    entries.extend(head.map(|lvol| entry((lvol.name.clone(), lvol))));
    Ok(entries)
}

/// When a snapshot was taken; RFC 3339 in UTC sorts as text.
fn time_of(lvol: &Lvol) -> &str {
    if lvol.snapshot_timestamp.is_empty() { &lvol.creation_time } else { &lvol.snapshot_timestamp }
}

fn list_table(entries: &[Entry]) -> Table {
    let mut table = table(["SNAPSHOT", "PARENT", "CHILDREN", "SIZE", "USER", "TAKEN", "LABELS"]);
    for Entry { snapshot, lvol, labels } in entries {
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let children: Vec<_> = lvol.children.keys().cloned().collect();
        table.add_row([
            snapshot.clone(),
            lvol.parent.clone(),
            children.join(", "),
            size(lvol.actual_size),
            lvol.user_created.to_string(),
            time_of(lvol).to_owned(),
            labels.join(", "),
        ]);
    }
    table
}
