//! `corriente volume activate`: a volume that was restored into becomes one that hosts use.
//!
//! The engine is made anew over the same replicas with a frontend; the replicas and their data stay as they are.

use super::super::arguments::Frontend;
use super::super::connect::Node;
use super::super::exit::{Exit, Failure};
use super::super::output::fields;
use super::super::restore::restore_status;
use super::super::{Context, engine};
use super::find_engine;
use crate::name::VolumeName;
use crate::wire::json::mode_name;
use crate::wire::spdkrpc::{Engine, EngineCreateRequest};

pub(super) const EXAMPLES: &str = "\
Example:
  corriente volume activate dr --frontend spdk-tcp-nvmf";

/// What to activate.
#[derive(Debug, clap::Args)]
pub struct ActivateOptions {
    /// The volume
    name: VolumeName,
    /// How a host reaches it
    #[arg(long, default_value = "spdk-tcp-nvmf")]
    frontend: Frontend,
    /// Also when its last restore failed or it was never restored
    #[arg(long)]
    force: bool,
}

/// Does it.
pub async fn run(options: ActivateOptions, context: &Context) -> Result<(), Failure> {
    if options.frontend == Frontend::None {
        return Err(Failure::usage("activation needs a frontend"));
    }
    let node = context.server().await?;
    let old = find_engine(&node, &options.name).await?;
    if !old.frontend.is_empty() {
        let problem = format!("volume {} is active already, with frontend {}", options.name, old.frontend);
        return Err(Failure::new(Exit::Precondition, problem));
    }
    check_restored(&node, &old, options.force).await?;

    engine::delete(&node, &old.name).await?;
    let created = match engine::create(&node, request(&old, options.frontend.wire())).await {
        Ok(created) => created,
        Err(failure) => {
            go_back(&node, &old).await;
            return Err(failure.during(format_args!("volume {} is not activated", options.name)));
        }
    };
    context.printer.show(&created, |engine| {
        fields([
            ("volume", engine.volume_name.clone()),
            ("engine", engine.name.clone()),
            ("state", engine.state.clone()),
            ("frontend", engine.frontend.clone()),
            ("target", engine::target_address(engine)),
        ])
    })
}

/// Refuses while a restore runs, always; and, unless forced, when the data is not that of a whole backup.
async fn check_restored(node: &Node, engine: &Engine, force: bool) -> Result<(), Failure> {
    let status = restore_status(node, &engine.name).await?.status;
    let refuse = |problem: String| Err(Failure::new(Exit::Precondition, problem));
    if status.values().any(|entry| entry.is_restoring) {
        return refuse(format!("engine {} is restoring; wait for its end", engine.name));
    }
    if force {
        return Ok(());
    }
    if let Some(entry) = status.values().find(|entry| !entry.error.is_empty()) {
        return refuse(format!(
            "the last restore of {} failed: {}; --force activates it anyway",
            engine.name, entry.error
        ));
    }
    if status.is_empty() || status.values().any(|entry| entry.last_restored.is_empty()) {
        return refuse(format!("engine {} was never restored into; --force activates it anyway", engine.name));
    }
    Ok(())
}

/// The engine as it was, with another frontend, over the replicas that are good.
fn request(engine: &Engine, frontend: &str) -> EngineCreateRequest {
    let is_good = |name: &String| engine.replica_mode_map.get(name).is_none_or(|mode| mode_name(*mode) == "RW");
    let replicas = engine.replica_address_map.iter().filter(|(name, _)| is_good(name));
    EngineCreateRequest {
        name: engine.name.clone(),
        volume_name: engine.volume_name.clone(),
        spec_size: engine.spec_size,
        replica_address_map: replicas.map(|(name, address)| (name.clone(), address.clone())).collect(),
        frontend: frontend.to_owned(),
        port_count: 1,
        snapshot_max_count: engine.snapshot_max_count,
        ..Default::default()
    }
}

/// Brings the engine back without a frontend. An engine that failed to come up may still be there under the name.
async fn go_back(node: &Node, old: &Engine) {
    let outcome = async {
        engine::delete(node, &old.name).await?;
        engine::create(node, request(old, "")).await
    };
    if let Err(failure) = outcome.await {
        eprintln!("warning: engine {} is not back as it was: {failure}", old.name);
    }
}
