//! `corriente volume checksum`: one digest of what a host reads, or one for each member of the mirror.

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
    /// Each member of the mirror on its own, read by the node. So it is also for a volume without a target
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
        let digest = transfer::checksum(&engine, &options.name).await?;
        let report = Report { volume: options.name.to_string(), algorithm: ALGORITHM, digest };
        return context
            .printer
            .show(&report, |report| fields([("volume", report.volume.clone()), (ALGORITHM, report.digest.clone())]));
    }
    let result = members(&node, &engine.name).await?;
    context.printer.show(&result, |result| {
        let mut table = table(["REPLICA", "SHA256", "ERROR"]);
        for member in &result.members {
            table.add_row([member.replica_name.clone(), member.digest.clone(), member.error.clone()]);
        }
        table
    })?;
    judge(&result, &options.name)
}

async fn members(node: &Node, engine: &str) -> Result<VolumeChecksumResult, Failure> {
    let request = VolumeChecksumRequest { engine_name: engine.to_owned(), algorithm: ALGORITHM.into() };
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
        return Err(Failure::new(Exit::Corrupt, format!("the replicas of volume {volume} differ")));
    }
    match result.members.iter().find(|member| !member.error.is_empty()) {
        Some(member) => Err(Failure::failed(format!("replica {}: {}", member.replica_name, member.error))),
        None => Ok(()),
    }
}
