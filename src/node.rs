//! The node: everything that runs in one process, put together, started in order and stopped in reverse.
//!
//! - `info`: the node for people. `sample`: for graphs. [`Rates`]: how fast volumes are read and written. [`Logs`]: what it logs. `affinity`: cores. `shutdown`: signals.

mod affinity;
mod info;
mod logs;
mod rates;
mod sample;
mod shutdown;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backing_image::BackingImages;
use crate::changes::Changes;
use crate::config::{NodeConfig, choice};
use crate::disk::Disks;
use crate::engine::Engines;
use crate::engine::checksum::CHECKSUMS_AT_ONCE;
use crate::engine::context::{EngineContext, EngineLimits};
use crate::engine::local::NodeReplicas;
use crate::error::{Error, Result};
use crate::frontend::kernel::{HostPaths, KernelInitiator};
use crate::frontend::{EngineFrontends, FrontendContext};
use crate::mirror::core::ReadPolicy;
use crate::name::HostPort;
use crate::peer::{PeerLimits, Peers};
use crate::ports::Ports;
use crate::record::Records;
use crate::replica::Replicas;
use crate::rpc::corriente_service::CorrienteServer;
use crate::rpc::gate::Gate;
use crate::rpc::server::{Listeners, services};
use crate::rpc::spdk_service::SpdkServer;
use crate::spdk::env::{Environment, EnvironmentConfig, Memory, version_text};
use crate::spdk::nvme::NvmeOptions;
use crate::spdk::nvmf::TransportOptions;
use crate::spdk::reactor::PollMode;
use crate::spdk::{Capabilities, SpdkError};
use crate::telemetry::{Health, LogControl, Telemetry, log};
use crate::tls::Credentials;

pub use info::info;
pub use logs::Logs;
pub use rates::{Rate, Rates};
pub use shutdown::Stopping;

/// Structures for I/O in flight, and how many each thread keeps: enough for 128-deep queues of several volumes on three
/// members each; 8 MiB.
const BDEV_IO_POOL: u32 = 16 * 1024 - 1;
const BDEV_IO_CACHE: u32 = 256;
/// Exports a node can hold: volumes and replicas.
const MAX_EXPORTS: u32 = 1024;

/// A running node.
pub struct Node {
    /// Its configuration.
    pub config: NodeConfig,
    /// Disks.
    pub disks: Disks,
    /// Backing images on them.
    pub backing_images: BackingImages,
    /// Replicas on them.
    pub replicas: Replicas,
    /// Volumes served here.
    pub engines: Arc<Engines>,
    /// How hosts reach volumes, through engines of this node and of others.
    pub frontends: EngineFrontends,
    /// What its parts tell.
    pub telemetry: Telemetry,
    /// What it logs.
    pub logs: Logs,
    /// How fast its volumes are read and written.
    pub rates: Rates,
    /// When it stops.
    pub stopping: Stopping,
    environment: Arc<Environment>,
    started: Instant,
}

/// Runs a node until it is told to stop by SIGTERM or SIGINT.
pub fn serve(config: NodeConfig) -> Result<()> {
    let log_control = log::init(&config.log)?;
    crate::task::abort_elsewhere();
    crate::faults::read_environment()?;
    affinity::leave_to_reactors(&config.reactor.cores)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("management")
        .build()
        .map_err(|error| Error::internal("the management threads", error.to_string()))?;
    let limit = config.timeouts.shutdown;
    let result = runtime.block_on(run(config, log_control));
    runtime.shutdown_timeout(limit);
    result
}

async fn run(config: NodeConfig, log_control: LogControl) -> Result<()> {
    let credentials = credentials(&config)?;
    crate::backing_image::require_authorities(&config)?;
    let listeners = Listeners::bind(&config, credentials.clone()).await?;
    let telemetry = Telemetry::new(config.limits.watch_queue_depth.get());
    let health = Health::new();
    let gate = Gate::closed(health.clone())?;
    let endpoint = match config.metrics.listen {
        choice::Listen::On(address) => Some(crate::telemetry::http::Endpoint::bind(address).await?),
        choice::Listen::Off => None,
    };
    let (stop, stopping) = shutdown::signal();
    if let Some(endpoint) = endpoint {
        // To the end of the process, so that it can be seen stopping.
        let serve = endpoint.serve(telemetry.metrics.clone(), health, std::future::pending());
        tokio::spawn(serve);
    }
    let mut server = tokio::spawn(listeners.serve(gate.routes(), telemetry.metrics.clone(), stopping.wait()));
    let node = Arc::new(Node::start(config, telemetry, log_control, stopping.clone(), credentials).await?);
    node.telemetry.metrics.sample_with(sample::sampler(&node));
    rates::follow(&node, stopping.clone());
    node.disks.load_all().await?;
    let (disks, until) = (node.disks.clone(), stopping.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = disks.watch_devices() => {}
            () = until.wait() => {}
        }
    });
    node.engines.recover().await?;
    node.frontends.follow_engines();
    node.frontends.recover().await?;
    let message_bytes = usize::try_from(node.config.limits.message_size.bytes()).unwrap_or(usize::MAX);
    gate.open(services(message_bytes, SpdkServer::new(node.clone()), CorrienteServer::new(node.clone())));
    tracing::info!(listen = %node.config.listen, data_ip = %node.config.data_ip, spdk = version_text(), "the node is ready");
    let ended = tokio::select! {
        ended = &mut server => Some(ended),
        () = stopping.wait() => None,
    };
    gate.close();
    let served = match ended {
        Some(ended) => ended,
        None => server.await,
    };
    drop(stop);
    node.stop().await;
    served.unwrap_or_else(|error| Err(Error::internal("the gRPC server", error.to_string())))
}

impl Node {
    /// Brings SPDK and the domain up, without disks yet.
    async fn start(
        config: NodeConfig,
        telemetry: Telemetry,
        log_control: LogControl,
        stopping: Stopping,
        credentials: Option<Credentials>,
    ) -> Result<Self> {
        let started = Instant::now();
        let environment_config = environment_config(&config);
        let environment = tokio::task::spawn_blocking(move || Environment::start(environment_config))
            .await
            .map_err(|error| Error::internal("SPDK's start", error.to_string()))??;
        let control = environment.control();
        control
            .run(|on| async move {
                crate::spdk::nvme::configure(on, &NvmeOptions::default())?;
                crate::spdk::nvmf::start_tcp(on, &TransportOptions::default()).await
            })
            .await
            .map_err(|error: SpdkError| Error::from(error))?;
        let logs = Logs::new(log_control, control.clone());
        let events = telemetry.events.clone();
        let disks = Disks::new(control.clone(), &config.state_dir, config.host_prefix.0.clone(), events);
        let ports = Ports::new(config.data_ports, config.data_ip);
        let peer_port = u16::try_from(config.peer_port.get()).unwrap_or(crate::name::address::SERVICE_PORT);
        let peer_limits = PeerLimits { connect: config.timeouts.peer_connect, call: config.timeouts.peer_call };
        let peers = Peers::new(peer_port, peer_limits, credentials);
        let replicas =
            Replicas::new(control.clone(), disks.clone(), ports.clone(), peers.clone(), &config, telemetry.clone());
        let (images_peers, images_ports) = (peers.clone(), ports.clone());
        let backing_images = BackingImages::new(
            control.clone(),
            disks.clone(),
            images_ports,
            images_peers,
            &config,
            telemetry.events.clone(),
        );
        disks.observe(vec![Arc::new(backing_images.clone()), Arc::new(replicas.clone())]);
        let restores = config.limits.restores.get();
        let context = EngineContext {
            control,
            capabilities: Capabilities::linked(),
            local: Arc::new(NodeReplicas::new(replicas.clone())),
            peers,
            ports,
            data_ip: config.data_ip,
            read_policy: read_policy(config.read_policy),
            limits: engine_limits(&config),
            changes: Changes::new(),
            records: Records::new(&config.state_dir),
            restores: Arc::new(tokio::sync::Semaphore::new(restores)),
            checksums: Arc::new(tokio::sync::Semaphore::new(CHECKSUMS_AT_ONCE)),
            telemetry: telemetry.clone(),
        };
        let engines = Arc::new(Engines::new(Arc::new(context)));
        let frontends = FrontendContext {
            engines: engines.clone(),
            service: HostPort::new(config.data_ip, peer_port)
                .map_err(|error| Error::invalid("advertise_ip", error.to_string()))?,
            kernel: KernelInitiator::new(HostPaths::below(config.host_prefix.0.as_deref()), config.timeouts.attach),
            recovery: config.timeouts.recovery,
            events: telemetry.events.clone(),
        };
        let frontends = EngineFrontends::new(frontends, &config.state_dir);
        let rates = Rates::default();
        Ok(Self {
            config,
            disks,
            backing_images,
            replicas,
            engines,
            frontends,
            telemetry,
            logs,
            rates,
            stopping,
            environment,
            started,
        })
    }

    /// Takes everything down in order; what cannot be is logged and left to the end of the process.
    async fn stop(&self) {
        let limit = self.config.timeouts.shutdown;
        let engines = async {
            self.frontends.stop_all().await;
            self.engines.stop_all().await;
            self.replicas.stop_all().await;
            self.backing_images.stop_all().await;
            self.disks.unload_all().await;
        };
        if tokio::time::timeout(limit, engines).await.is_err() {
            tracing::warn!(?limit, "volumes did not stop in time and are left as they are");
            return;
        }
        if let Err(error) = self.environment.stop(Duration::from_secs(5)).await {
            tracing::warn!(%error, "SPDK did not stop cleanly");
        }
        tracing::info!("the node has stopped");
    }
}

fn credentials(config: &NodeConfig) -> Result<Option<Credentials>> {
    let files = config.tls.files().map_err(|missing| Error::invalid(missing, "is missing"))?;
    files.map(|files| Credentials::read(&files, config.tls.server_name.as_str())).transpose()
}

fn environment_config(config: &NodeConfig) -> EnvironmentConfig {
    let mib = u32::try_from(config.memory.size.bytes() >> 20).unwrap_or(u32::MAX);
    let memory = match config.memory.mode {
        choice::MemoryMode::Hugepages => Memory::Huge { mib, directory: config.memory.hugepage_dir.0.clone() },
        choice::MemoryMode::NoHuge => Memory::Ordinary { mib },
    };
    EnvironmentConfig {
        cores: config.reactor.cores.cores().to_vec(),
        poll: match config.reactor.poll {
            choice::Poll::Adaptive => PollMode::Adaptive,
            choice::Poll::Busy => PollMode::Busy,
        },
        memory,
        pci: true,
        bdev_io_pool_size: BDEV_IO_POOL,
        bdev_io_cache_size: BDEV_IO_CACHE,
        max_exports: MAX_EXPORTS,
    }
}

fn read_policy(policy: choice::ReadPolicy) -> ReadPolicy {
    match policy {
        choice::ReadPolicy::LocalFirst => ReadPolicy::LocalFirst,
        choice::ReadPolicy::RoundRobin => ReadPolicy::RoundRobin,
        choice::ReadPolicy::LeastPending => ReadPolicy::LeastPending,
    }
}

fn engine_limits(config: &NodeConfig) -> EngineLimits {
    EngineLimits {
        replicas: config.limits.replicas.get(),
        restores: config.limits.restores.get(),
        restore_workers: config.limits.restore_workers.get(),
        restore_queue_depth: config.limits.restore_queue_depth.get(),
        attach: config.timeouts.attach,
        pause: config.timeouts.pause,
        member_deadline: config.timeouts.member_deadline,
        suspend: config.timeouts.suspend,
        recovery: config.timeouts.recovery,
        restore_stall: config.timeouts.restore_stall,
        rebuild_stall: config.timeouts.rebuild_stall,
        dirty_quiet: config.timeouts.dirty_quiet,
        return_window: config.timeouts.return_window.0,
        rebuild_step: config.timeouts.rebuild_step,
    }
}
