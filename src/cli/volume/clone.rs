//! `corriente volume clone`: a new volume of another's snapshot, with replicas and engine; all or nothing.

use std::collections::BTreeMap;

use super::super::Context;
use super::super::arguments::Frontend;
use super::super::connect::{Node, NodeAddress};
use super::super::engine;
use super::super::exit::{Exit, Failure};
use super::super::wait::{self, Step, WaitOptions};
use super::create::{Made, NewVolume, create_replica, make_engine, refuse_existing, report, undo};
use super::{find_engine, node_of};
use crate::name::{DiskName, EngineName, ReplicaName, SnapshotName, VolumeName};
use crate::wire::json::mode_name;
use crate::wire::spdkrpc::{
    CloneMode, Engine, EngineSnapshotCloneRequest, ReplicaGetRequest, ReplicaSnapshotCloneDstStatusCheckRequest,
};

pub(super) const EXAMPLES: &str = "\
A linked clone is there at once, takes space only for what is written to it, and is on the disks of the source's
replicas; source and snapshot cannot be deleted before it. A full copy is independent when it is complete.

Examples:
  corriente volume clone v1 s1 v2
  corriente volume clone v1 s1 v3 --full --node 10.0.0.8 --wait";

/// What to make.
#[derive(Debug, clap::Args)]
pub struct CloneOptions {
    /// The source volume, which the node of --server serves
    source: VolumeName,
    /// Its snapshot
    snapshot: SnapshotName,
    /// The new volume's name
    name: VolumeName,
    /// Copy all data, to one new replica
    #[arg(long)]
    full: bool,
    /// The node for the replica of a full copy; that of --server when not given
    #[arg(long, value_name = "NODE", requires = "full")]
    node: Option<NodeAddress>,
    /// The disk for the replica of a full copy; needed where its node has more than one
    #[arg(long, requires = "full")]
    disk: Option<DiskName>,
    /// How a host reaches the new volume
    #[arg(long, default_value = "spdk-tcp-nvmf")]
    frontend: Frontend,
    #[command(flatten)]
    wait: WaitOptions,
}

/// A replica of the new volume, and the source of its linked clone.
struct Pair {
    made: Made,
    source: Option<String>,
}

/// Does it.
pub async fn run(options: CloneOptions, context: &Context) -> Result<(), Failure> {
    let server = context.server().await?;
    let source = find_engine(&server, &options.source).await?;
    if !source.snapshots.contains_key(options.snapshot.as_str()) {
        let problem = format!("volume {} has no snapshot {}", options.source, options.snapshot);
        return Err(Failure::new(Exit::NotFound, problem));
    }
    let volume = NewVolume::of(&options.name, source.spec_size, None)?;
    refuse_existing(&server, &volume).await?;
    let mut pairs = Vec::new();
    match clone(&options, &volume, &source, &server, context, &mut pairs).await {
        Ok(()) => {}
        Err(failure) => {
            report("engine", volume.engine.as_str(), engine::delete(&server, volume.engine.as_str()).await);
            undo(pairs.into_iter().map(|pair| pair.made).collect()).await;
            return Err(failure.during(format_args!("volume {} is not created", options.name)));
        }
    }
    let of = format!("snapshot {} of volume {}", options.snapshot, options.source);
    if !options.full {
        return context.printer.done(&format!("volume {} is a linked clone of {of}", options.name));
    }
    if !options.wait.wait {
        return context.printer.done(&format!("{of} is being copied into volume {}", options.name));
    }
    let what = format!("copy of {of}");
    wait::follow(&what, options.wait.wait_timeout, || copied(&pairs, &server, &volume.engine)).await?;
    context.printer.done(&format!("volume {} is a copy of {of}", options.name))
}

async fn clone(
    options: &CloneOptions,
    volume: &NewVolume<'_>,
    source: &Engine,
    server: &Node,
    context: &Context,
    pairs: &mut Vec<Pair>,
) -> Result<(), Failure> {
    match options.full {
        true => {
            let node = match &options.node {
                Some(address) => context.node(address).await?,
                None => context.server().await?,
            };
            pairs.push(Pair { made: create_replica(volume, options.disk.as_ref(), node).await?, source: None });
        }
        false => {
            for (replica, address) in in_sync(source) {
                let node = context.node(&node_of(address, server.address.port())?).await?;
                let disk = disk_of(&node, replica).await?;
                let made = create_replica(volume, Some(&disk), node).await?;
                pairs.push(Pair { made, source: Some(replica.to_owned()) });
            }
        }
    }
    make_engine(server, volume, options.frontend, pairs.iter().map(|pair| &pair.made)).await?;
    let mode = if options.full { CloneMode::FullCopy } else { CloneMode::LinkedClone };
    let info = server.corriente().node_info(()).await?.into_inner();
    let map: BTreeMap<_, _> =
        pairs.iter().filter_map(|pair| Some((pair.made.name.to_string(), pair.source.clone()?))).collect();
    let request = EngineSnapshotCloneRequest {
        name: volume.engine.to_string(),
        snapshot_name: options.snapshot.to_string(),
        src_engine_name: source.name.clone(),
        src_engine_address: std::net::SocketAddr::new(
            info.data_ip
                .parse()
                .map_err(|_| Failure::failed(format!("{} has the data address {:?}", server.address, info.data_ip)))?,
            server.address.port(),
        )
        .to_string(),
        clone_mode: mode.into(),
        dst_replica_src_replica_pair_map: map,
    };
    server.spdk().engine_snapshot_clone(request).await?;
    Ok(())
}

/// The source's replicas that can be cloned from, and where each is.
fn in_sync(source: &Engine) -> impl Iterator<Item = (&str, &str)> {
    let is_in_sync = |name: &str| source.replica_mode_map.get(name).is_some_and(|mode| mode_name(*mode) == "RW");
    source
        .replica_address_map
        .iter()
        .filter(move |(name, _)| is_in_sync(name))
        .map(|(name, address)| (name.as_str(), address.as_str()))
}

async fn disk_of(node: &Node, replica: &str) -> Result<DiskName, Failure> {
    let found = node.spdk().replica_get(ReplicaGetRequest { name: replica.to_owned() }).await?.into_inner();
    DiskName::parse(&found.lvs_name)
        .map_err(|error| Failure::failed(format!("{} names the disk of replica {replica}: {error}", node.address)))
}

/// How the copy stands, by the replica's own node, and in the end by the engine.
async fn copied(pairs: &[Pair], server: &Node, engine: &EngineName) -> Result<Step<()>, Failure> {
    for Pair { made, .. } in pairs {
        let status = status(&made.node, &made.name).await?;
        match status.state.as_str() {
            "complete" => {}
            "starting" | "in_progress" => return Ok(Step::Percent(status.progress.into())),
            _ => {
                return Err(Failure::new(
                    Exit::Failed,
                    format!("the copy into replica {}: {}", made.name, status.error),
                ));
            }
        }
    }
    let found = engine::get(server, engine).await?;
    match found.state.as_str() {
        "error" => Err(Failure::new(Exit::Failed, format!("engine {engine}: {}", found.error_msg))),
        _ => Ok(Step::Done(())),
    }
}

async fn status(
    node: &Node,
    replica: &ReplicaName,
) -> Result<crate::wire::spdkrpc::ReplicaSnapshotCloneDstStatusCheckResponse, Failure> {
    let request = ReplicaSnapshotCloneDstStatusCheckRequest { name: replica.to_string() };
    Ok(node.spdk().replica_snapshot_clone_dst_status_check(request).await?.into_inner())
}
