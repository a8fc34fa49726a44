//! `corriente volume delete`: the engine first, then the replicas, each on its node.

use std::collections::BTreeMap;

use super::super::connect::{Node, NodeAddress};
use super::super::exit::{Exit, Failure};
use super::super::{Context, engine, replica};
use super::{find_engine, node_of};
use crate::name::VolumeName;

pub(super) const EXAMPLES: &str = "\
Examples:
  corriente volume delete v1
  corriente volume delete v1 --node 10.0.0.7 --node 10.0.0.8   (also replicas that no engine has)";

/// What to delete.
#[derive(Debug, clap::Args)]
pub struct DeleteOptions {
    /// The volume
    name: VolumeName,
    /// Leave the replicas and their data
    #[arg(long)]
    keep_replicas: bool,
    /// Also look on this node for replicas of the volume, when its engine is gone or does not have them all
    #[arg(long = "node", value_name = "NODE", conflicts_with = "keep_replicas")]
    nodes: Vec<NodeAddress>,
    /// The port on which the gRPC of the replicas' nodes answers; that of --server when not given
    #[arg(long)]
    peer_port: Option<u16>,
}

/// Does it. Everything is tried; the first failure is the command's.
pub async fn run(options: DeleteOptions, context: &Context) -> Result<(), Failure> {
    let server = context.server().await?;
    let port = options.peer_port.unwrap_or(server.address.port());
    let engine = match find_engine(&server, &options.name).await {
        Ok(engine) => Some(engine),
        Err(failure) if failure.exit == Exit::NotFound && !options.nodes.is_empty() => None,
        Err(failure) => return Err(failure),
    };
    let mut replicas = BTreeMap::new();
    if let Some(engine) = engine {
        for (name, address) in &engine.replica_address_map {
            replicas.insert(name.clone(), node_of(address, port)?);
        }
        engine::delete(&server, &engine.name).await?;
    }
    if options.keep_replicas {
        return context.printer.done(&format!("volume {} is deleted; its replicas are kept", options.name));
    }
    for address in &options.nodes {
        let node = context.node(address).await?;
        replicas.extend(replicas_of(&node, &options.name).await?.into_iter().map(|name| (name, address.clone())));
    }
    delete_replicas(replicas, context).await?;
    context.printer.done(&format!("volume {} is deleted", options.name))
}

async fn delete_replicas(replicas: BTreeMap<String, NodeAddress>, context: &Context) -> Result<(), Failure> {
    let mut first = Ok(());
    for (name, address) in replicas {
        let outcome = async { replica::delete(&context.node(&address).await?, &name, true).await }.await;
        if let Err(failure) = outcome {
            eprintln!("warning: replica {name} on {address} is left behind: {failure}");
            first = first.and(Err(failure));
        }
    }
    first
}

/// The replicas of a volume on a node, by the form of their names: `<volume>-r-<8 letters or digits>`.
async fn replicas_of(node: &Node, volume: &VolumeName) -> Result<Vec<String>, Failure> {
    let prefix = format!("{volume}-r-");
    let is_ours = |name: &str| {
        let id = name.strip_prefix(&prefix);
        id.is_some_and(|id| id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    };
    let replicas = node.spdk().replica_list(()).await?.into_inner().replicas;
    Ok(replicas.into_keys().filter(|name| is_ours(name)).collect())
}
