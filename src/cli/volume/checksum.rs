//! `corriente volume checksum`: a digest of what a host reads, and with `--members` of each replica.

use serde::Serialize;

use super::super::Context;
use super::super::connect::Node;
use super::super::exit::{Exit, Failure};
use super::super::output::{fields, table};
use super::super::wait::byte_bar;
use super::{find_engine, transfer};
use crate::name::VolumeName;
use crate::wire::corriente::v1::volume_checksum_response::Step;
use crate::wire::corriente::v1::{VolumeChecksumRequest, VolumeChecksumResult};

pub(super) const EXAMPLES: &str = "\
Examples:
  corriente volume checksum v1
  corriente volume checksum v1 --members     (each replica on its own; exit code 7 when they differ)";

const ALGORITHM: &str = "sha256";

/// What to digest.
#[derive(Debug, clap::Args)]
pub struct ChecksumOptions {
    /// The volume; it should be quiet
    name: VolumeName,
    /// Each replica on its own too, read by the node. A volume without a target is always read by the node
    #[arg(long)]
    members: bool,
}

#[derive(Serialize)]
struct Report {
    volume: String,
    algorithm: &'static str,
    digest: String,
}

/// Does it.
pub async fn run(options: ChecksumOptions, context: &Context) -> Result<(), Failure> {
    let node = context.server().await?;
    let engine = find_engine(&node, &options.name).await?;
    if !options.members && transfer::target_of(&engine).is_some() {
        return show(context, &options.name, transfer::checksum(&engine, &options.name).await?);
    }
    let result = by_node(&node, &engine.name, options.members).await?;
    if !options.members {
        return show(context, &options.name, result.digest);
    }
    context.printer.show(&result, |result| {
        let mut table = table(["REPLICA", "SHA256", "ERROR"]);
        table.add_row(["(the volume)".into(), result.digest.clone(), String::new()]);
        for member in &result.members {
            table.add_row([member.replica_name.clone(), member.digest.clone(), member.error.clone()]);
        }
        table
    })?;
    judge(&result, &options.name)
}

fn show(context: &Context, volume: &VolumeName, digest: String) -> Result<(), Failure> {
    let report = Report { volume: volume.to_string(), algorithm: ALGORITHM, digest };
    context
        .printer
        .show(&report, |report| fields([("volume", report.volume.clone()), (ALGORITHM, report.digest.clone())]))
}

/// What the node itself reads.
async fn by_node(node: &Node, engine: &str, members: bool) -> Result<VolumeChecksumResult, Failure> {
    let request = VolumeChecksumRequest { engine_name: engine.to_owned(), algorithm: ALGORITHM.into(), members };
    let mut steps = node.corriente().volume_checksum(request).await?.into_inner();
    let bar = byte_bar("checksum", 0);
    while let Some(step) = steps.message().await? {
        match step.step {
            Some(Step::Progress(progress)) => {
                bar.set_length(progress.total_bytes);
                bar.set_position(progress.done_bytes);
            }
            Some(Step::Result(result)) => {
                bar.finish_and_clear();
                return Ok(result);
            }
            None => {}
        }
    }
    Err(Failure::failed(format!("{} ended the checksum of {engine} without a result", node.address)))
}

/// Members that differ are corruption; one that cannot be read is a failure, whatever the others say.
fn judge(result: &VolumeChecksumResult, volume: &VolumeName) -> Result<(), Failure> {
    if !result.equal {
        let problem = format!("the replicas of volume {volume} differ, or it was written to meanwhile");
        return Err(Failure::new(Exit::Corrupt, problem));
    }
    match result.members.iter().find(|member| !member.error.is_empty()) {
        Some(member) => Err(Failure::failed(format!("replica {}: {}", member.replica_name, member.error))),
        None => Ok(()),
    }
}
