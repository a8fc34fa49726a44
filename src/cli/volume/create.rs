//! `corriente volume create`: a replica on each node, then the engine over them; all or nothing.

use super::super::Context;
use super::super::arguments::Frontend;
use super::super::connect::{Node, NodeAddress};
use super::super::exit::{Exit, Failure};
use super::super::output::fields;
use super::super::{disk, engine, replica};
use crate::config::ByteSize;
use crate::name::{BackingImageName, DiskName, EngineName, HostPort, ReplicaName, VolumeName};
use crate::wire::spdkrpc::{Engine, EngineCreateRequest};

pub(super) const EXAMPLES: &str = "\
Examples:
  corriente volume create v1 --size 10GiB --node 10.0.0.7 --node 10.0.0.8 --frontend spdk-tcp-nvmf
  corriente volume create dr --size 10GiB --node 10.0.0.9 --frontend none";

/// What to make.
#[derive(Debug, clap::Args)]
pub struct CreateOptions {
    /// The volume's name
    name: VolumeName,
    /// Its size, as 10GiB
    #[arg(long)]
    size: ByteSize,
    /// A node that gets a replica; once for each. The same node twice makes two replicas on it
    #[arg(long = "node", value_name = "NODE", required = true)]
    nodes: Vec<NodeAddress>,
    /// The disk for the replica on each node; needed where a node has more than one
    #[arg(long)]
    disk: Option<DiskName>,
    /// The image that the replicas stand on; every disk that gets one must have it
    #[arg(long, value_name = "IMAGE")]
    backing_image: Option<BackingImageName>,
    /// How a host reaches the volume; none for a volume that is restored into
    #[arg(long, default_value = "spdk-tcp-nvmf")]
    frontend: Frontend,
}

/// A replica that was made, and how to get rid of it.
pub(super) struct Made {
    pub(super) node: Node,
    pub(super) name: ReplicaName,
    pub(super) address: HostPort,
}

/// A volume that is to be made, and its engine.
pub(super) struct NewVolume<'a> {
    name: &'a VolumeName,
    pub(super) engine: EngineName,
    bytes: u64,
    image: Option<&'a BackingImageName>,
}

impl<'a> NewVolume<'a> {
    /// Of that name and size, on that backing image.
    pub(super) fn of(name: &'a VolumeName, bytes: u64, image: Option<&'a BackingImageName>) -> Result<Self, Failure> {
        let engine = EngineName::parse(&format!("{name}-e-0")).map_err(|error| refused("engine", error))?;
        Ok(Self { name, engine, bytes, image })
    }
}

/// Does it.
pub async fn run(options: CreateOptions, context: &Context) -> Result<(), Failure> {
    let server = context.server().await?;
    let volume = NewVolume::of(&options.name, options.size.bytes(), options.backing_image.as_ref())?;
    let mut made = Vec::new();
    match create(&options, &volume, &server, context, &mut made).await {
        Ok(engine) => context.printer.show(&engine, |engine| {
            let replicas = engine.replica_address_map.iter().map(|(name, address)| format!("{name} {address}"));
            fields([
                ("volume", engine.volume_name.clone()),
                ("engine", engine.name.clone()),
                ("state", engine.state.clone()),
                ("target", engine::target_address(engine)),
                ("replicas", replicas.collect::<Vec<_>>().join("\n")),
            ])
        }),
        Err(failure) => {
            undo(made).await;
            Err(failure.during(format_args!("volume {} is not created", options.name)))
        }
    }
}

async fn create(
    options: &CreateOptions,
    volume: &NewVolume<'_>,
    server: &Node,
    context: &Context,
    made: &mut Vec<Made>,
) -> Result<Engine, Failure> {
    refuse_existing(server, volume).await?;
    for address in &options.nodes {
        let node = context.node(address).await?;
        made.push(create_replica(volume, options.disk.as_ref(), node).await?);
    }
    make_engine(server, volume, options.frontend, made.iter()).await
}

/// An engine over the replicas; none when that fails.
pub(super) async fn make_engine<'a>(
    server: &Node,
    volume: &NewVolume<'_>,
    frontend: Frontend,
    made: impl Iterator<Item = &'a Made>,
) -> Result<Engine, Failure> {
    let request = EngineCreateRequest {
        name: volume.engine.to_string(),
        volume_name: volume.name.to_string(),
        spec_size: volume.bytes,
        replica_address_map: made.map(|made| (made.name.to_string(), made.address.to_string())).collect(),
        frontend: frontend.wire().into(),
        port_count: 1,
        ..Default::default()
    };
    let created = engine::create(server, request).await;
    if created.is_err() {
        // A node may keep an engine that it could not bring up. It was not there before: refuse_existing looked.
        report("engine", volume.engine.as_str(), engine::delete(server, volume.engine.as_str()).await);
    }
    created
}

/// Before anything is made, so that undoing never takes what was there before.
pub(super) async fn refuse_existing(server: &Node, volume: &NewVolume<'_>) -> Result<(), Failure> {
    let engines = engine::list(server).await?;
    let taken =
        engines.iter().find(|found| found.name == volume.engine.as_str() || found.volume_name == volume.name.as_str());
    match taken {
        None => Ok(()),
        Some(found) => {
            let problem = format!("volume {} exists already: engine {}", found.volume_name, found.name);
            Err(Failure::new(Exit::Exists, problem))
        }
    }
}

pub(super) async fn create_replica(
    volume: &NewVolume<'_>,
    disk: Option<&DiskName>,
    node: Node,
) -> Result<Made, Failure> {
    let disk = match disk {
        Some(disk) => disk.clone(),
        None => only_disk(&node).await?,
    };
    // The name that a node finds again after a restart (`engine-behaviour` §1.2).
    let name = format!("{}-r-{:08x}", volume.name, rand::random::<u32>());
    let name = ReplicaName::parse(&name).map_err(|error| refused("replica", error))?;
    let created = replica::create(&node, &name, &disk, volume.bytes, replica::PORT_COUNT, volume.image).await;
    let address = created.and_then(|replica| {
        HostPort::parse(&format!("{}:{}", replica.ip, replica.port_start))
            .map_err(|error| Failure::failed(format!("{} gave replica {name} no address: {error}", node.address)))
    });
    match address {
        Ok(address) => Ok(Made { node, name, address }),
        Err(failure) => {
            // The name is random and ours; whatever the node made of it can go.
            report("replica", name.as_str(), replica::delete(&node, name.as_str(), true).await);
            Err(failure)
        }
    }
}

/// The disk of a node that has just one that is ready.
async fn only_disk(node: &Node) -> Result<DiskName, Failure> {
    let mut disks = disk::list(node).await?;
    disks.retain(|disk| disk.state == "ready");
    let names: Vec<_> = disks.iter().map(|disk| disk.name.as_str()).collect();
    match names.as_slice() {
        [name] => DiskName::parse(name).map_err(|error| refused("disk", error)),
        [] => Err(Failure::new(Exit::Precondition, format!("{} has no disk that is ready", node.address))),
        names => Err(Failure::usage(format!(
            "{} has more than one disk; choose with --disk: {}",
            node.address,
            names.join(", ")
        ))),
    }
}

fn refused(kind: &str, error: crate::name::NameError) -> Failure {
    Failure::usage(format!("the name of the {kind} {error}"))
}

pub(super) async fn undo(made: Vec<Made>) {
    for Made { node, name, .. } in made {
        report("replica", name.as_str(), replica::delete(&node, name.as_str(), true).await);
    }
}

/// What cannot be undone is named, so that a person can.
pub(super) fn report(kind: &str, name: &str, outcome: Result<(), Failure>) {
    if let Err(failure) = outcome {
        eprintln!("warning: {kind} {name} is left behind: {failure}");
    }
}
