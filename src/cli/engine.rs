//! `corriente engine`: mirrors over replicas.

use clap::Subcommand;
use comfy_table::Table;

use super::Context;
use super::arguments::{Frontend, ReplicaAt, frontend_text};
use super::connect::{Node, NodeAddress};
use super::exit::{Exit, Failure};
use super::output::{fields, size, table};
use super::replica::list_table as replica_table;
use super::wait::{self, Step, WaitOptions};
use crate::config::ByteSize;
use crate::name::{EngineName, ReplicaName, VolumeName};
use crate::wire::corriente::v1::{MirrorGetRequest, MirrorGetResponse};
use crate::wire::json::mode_name;
use crate::wire::spdkrpc::{
    Engine, EngineCreateRequest, EngineDeleteRequest, EngineExpandRequest, EngineGetRequest, EngineReplicaAddRequest,
    EngineReplicaDeleteRequest, EngineReplicaListRequest, ReplicaRebuildingDstShallowCopyCheckRequest,
};

/// Verbs for engines.
#[derive(Debug, Subcommand)]
pub enum EngineCommand {
    /// Make an engine over replicas that exist
    #[command(after_help = "Example:\n  corriente engine create v1-e-0 --volume v1 --size 10GiB --frontend \
                            spdk-tcp-nvmf \\\n    --replica v1-r-0a1b2c3d=10.0.0.7:20001 --replica \
                            v1-r-4e5f6a7b=10.0.0.8:20001")]
    Create {
        /// The engine's name
        name: EngineName,
        /// The volume that it serves
        #[arg(long)]
        volume: VolumeName,
        /// The volume's size, as 10GiB
        #[arg(long)]
        size: ByteSize,
        /// A replica and where it answers; once for each
        #[arg(long = "replica", value_name = "NAME=IP:PORT", required = true)]
        replicas: Vec<ReplicaAt>,
        /// How a host reaches the volume
        #[arg(long, default_value = "none")]
        frontend: Frontend,
    },
    /// Show an engine
    Get {
        /// The engine
        name: EngineName,
    },
    /// Show all engines of the node
    List,
    /// Delete an engine; its replicas stay
    Delete {
        /// The engine
        name: EngineName,
    },
    /// Make an engine and its replicas larger
    Expand {
        /// The engine
        name: EngineName,
        /// The new size, as 20GiB
        size: ByteSize,
    },
    /// Show an engine's replicas as their nodes have them
    Replicas {
        /// The engine
        name: EngineName,
    },
    /// Show the mirror's members as the data path has them, with their bdevs
    Mirror {
        /// The engine
        name: EngineName,
    },
    /// Take a new replica into the mirror and copy the volume to it, while hosts go on
    #[command(
        after_help = "The replica must exist, have the volume's size and hold nothing that is needed.\n\nExample:\n  \
                            corriente engine add-replica v1-e-0 --replica v1-r-4e5f6a7b=10.0.0.8:20001 --wait"
    )]
    AddReplica {
        /// The engine
        engine: EngineName,
        /// The replica and where it answers
        #[arg(long, value_name = "NAME=IP:PORT")]
        replica: ReplicaAt,
        /// Keep those of its snapshots whose checksums equal the source's
        #[arg(long)]
        fast_sync: bool,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Take a replica out of the mirror; the replica itself stays
    RemoveReplica {
        /// The engine
        engine: EngineName,
        /// The replica
        replica: ReplicaName,
    },
}

/// Does it.
pub async fn run(command: EngineCommand, context: &Context) -> Result<(), Failure> {
    let node = context.server().await?;
    let printer = &context.printer;
    match command {
        EngineCommand::Create { name, volume, size, replicas, frontend } => {
            let addresses = replicas.iter().map(|at| (at.name.to_string(), at.address.to_string())).collect();
            let request = EngineCreateRequest {
                name: name.to_string(),
                volume_name: volume.to_string(),
                spec_size: size.bytes(),
                replica_address_map: addresses,
                frontend: frontend.wire().into(),
                port_count: 1,
                ..Default::default()
            };
            printer.show(&create(&node, request).await?, engine_table)
        }
        EngineCommand::Get { name } => printer.show(&get(&node, &name).await?, engine_table),
        EngineCommand::List => printer.show(&list(&node).await?, |engines| list_table(engines)),
        EngineCommand::Delete { name } => {
            delete(&node, name.as_str()).await?;
            printer.done(&format!("engine {name} is deleted"))
        }
        EngineCommand::Expand { name, size } => {
            let request = EngineExpandRequest { name: name.to_string(), size: size.bytes() };
            node.spdk().engine_expand(request).await?;
            printer.done(&format!("engine {name} has {size}"))
        }
        EngineCommand::Replicas { name } => {
            let request = EngineReplicaListRequest { engine_name: name.to_string() };
            let replicas = node.spdk().engine_replica_list(request).await?.into_inner().replicas;
            printer.show(&replicas.into_values().collect::<Vec<_>>(), |replicas| replica_table(replicas))
        }
        EngineCommand::Mirror { name } => {
            let request = MirrorGetRequest { engine_name: name.to_string() };
            let mirror = node.corriente().mirror_get(request).await?.into_inner();
            printer.show(&mirror, mirror_table)
        }
        EngineCommand::AddReplica { engine, replica, fast_sync, wait } => {
            let request = EngineReplicaAddRequest {
                engine_name: engine.to_string(),
                replica_name: replica.name.to_string(),
                replica_address: replica.address.to_string(),
                fast_sync,
                ..Default::default()
            };
            node.spdk().engine_replica_add(request).await?;
            if !wait.wait {
                return printer.done(&format!("replica {} is being rebuilt for engine {engine}", replica.name));
            }
            let what = format!("rebuild of {}", replica.name);
            wait::follow(&what, wait.wait_timeout, || rebuilt(context, &node, &engine, &replica)).await?;
            printer.done(&format!("replica {} of engine {engine} is in sync", replica.name))
        }
        EngineCommand::RemoveReplica { engine, replica } => {
            remove_replica(&node, &engine, &replica).await?;
            printer.done(&format!("replica {replica} is out of engine {engine}"))
        }
    }
}

/// Creates an engine; an engine in state `error` is a failure, and is still there.
pub async fn create(node: &Node, request: EngineCreateRequest) -> Result<Engine, Failure> {
    let engine = node.spdk().engine_create(request).await?.into_inner();
    if engine.state == "error" {
        return Err(Failure::new(Exit::Failed, format!("engine {}: {}", engine.name, engine.error_msg)));
    }
    Ok(engine)
}

/// The engine of that name.
pub async fn get(node: &Node, name: &EngineName) -> Result<Engine, Failure> {
    let request = EngineGetRequest { name: name.to_string() };
    Ok(node.spdk().engine_get(request).await?.into_inner())
}

/// All engines of a node, in the order of their names.
pub async fn list(node: &Node) -> Result<Vec<Engine>, Failure> {
    Ok(node.spdk().engine_list(()).await?.into_inner().engines.into_values().collect())
}

/// Deletes an engine.
pub async fn delete(node: &Node, name: &str) -> Result<(), Failure> {
    node.spdk().engine_delete(EngineDeleteRequest { name: name.to_owned() }).await?;
    Ok(())
}

/// How a rebuild stands: by the engine's list of modes, and by the replica's own node while it is copied to.
async fn rebuilt(
    context: &Context,
    node: &Node,
    engine: &EngineName,
    replica: &ReplicaAt,
) -> Result<Step<()>, Failure> {
    let modes = get(node, engine).await?.replica_mode_map;
    match modes.get(replica.name.as_str()).map(|mode| mode_name(*mode)).as_deref() {
        Some("RW") => return Ok(Step::Done(())),
        Some("WO") => {}
        mode => {
            let problem = format!("the rebuild of {} failed: its mode is {}", replica.name, mode.unwrap_or("none"));
            return Err(Failure::new(Exit::Failed, format!("{problem}; the log of the engine's node says why")));
        }
    }
    let peer = NodeAddress::of(replica.address.ip(), context.server.port());
    let request = ReplicaRebuildingDstShallowCopyCheckRequest { name: replica.name.to_string() };
    let percent = match context.node(&peer).await {
        Ok(peer) => peer
            .spdk()
            .replica_rebuilding_dst_shallow_copy_check(request)
            .await
            .map(|answer| answer.into_inner().total_progress),
        // It is only for the bar; the engine notices a node that is gone.
        Err(_) => Ok(0),
    };
    Ok(Step::Percent(u64::from(percent.unwrap_or(100))))
}

async fn remove_replica(node: &Node, engine: &EngineName, replica: &ReplicaName) -> Result<(), Failure> {
    let found = get(node, engine).await?.replica_address_map.remove(replica.as_str());
    let address =
        found.ok_or_else(|| Failure::new(Exit::NotFound, format!("engine {engine} has no replica {replica}")))?;
    let request = EngineReplicaDeleteRequest {
        engine_name: engine.to_string(),
        replica_name: replica.to_string(),
        replica_address: address,
    };
    node.spdk().engine_replica_delete(request).await?;
    Ok(())
}

/// How many of an engine's replicas are RW, of how many.
pub fn replica_count(engine: &Engine) -> String {
    let writable = engine.replica_mode_map.values().filter(|mode| mode_name(**mode) == "RW").count();
    format!("{writable}/{}", engine.replica_address_map.len())
}

/// Where the volume's target answers, or nothing.
pub fn target_address(engine: &Engine) -> String {
    if engine.port > 0 { format!("{}:{}", engine.ip, engine.port) } else { String::new() }
}

fn engine_table(engine: &Engine) -> Table {
    let mode = |name: &String| engine.replica_mode_map.get(name).map_or_else(String::new, |mode| mode_name(*mode));
    let replicas = engine.replica_address_map.iter().map(|(name, address)| format!("{name} {address} {}", mode(name)));
    let snapshots: Vec<_> = engine.snapshots.keys().cloned().collect();
    fields([
        ("name", engine.name.clone()),
        ("volume", engine.volume_name.clone()),
        ("state", engine.state.clone()),
        ("error", engine.error_msg.clone()),
        ("size", size(engine.spec_size)),
        ("frontend", frontend_text(&engine.frontend)),
        ("target", target_address(engine)),
        ("endpoint", engine.endpoint.clone()),
        ("replicas", replicas.collect::<Vec<_>>().join("\n")),
        ("snapshots", snapshots.join(", ")),
    ])
}

fn list_table(engines: &[Engine]) -> Table {
    let mut table = table(["NAME", "VOLUME", "STATE", "SIZE", "FRONTEND", "TARGET", "REPLICAS", "ERROR"]);
    for engine in engines {
        table.add_row([
            engine.name.clone(),
            engine.volume_name.clone(),
            engine.state.clone(),
            size(engine.spec_size),
            frontend_text(&engine.frontend),
            target_address(engine),
            replica_count(engine),
            engine.error_msg.clone(),
        ]);
    }
    table
}

fn mirror_table(mirror: &MirrorGetResponse) -> Table {
    let mut table = table(["REPLICA", "MODE", "BDEV", "ADDRESS", "WHERE", "GENERATION", "PENDING", "LAST ERROR"]);
    for member in &mirror.members {
        table.add_row([
            member.replica_name.clone(),
            if member.awaited { format!("{} (awaited)", mode_name(member.mode)) } else { mode_name(member.mode) },
            member.bdev_name.clone(),
            member.address.clone(),
            if member.local { "local" } else { "remote" }.into(),
            member.generation.to_string(),
            member.pending.to_string(),
            member.last_error.clone(),
        ]);
    }
    table
}
