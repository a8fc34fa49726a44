//! The command line: `corriente serve` runs a node; everything else is a client of nodes over gRPC.
//!
//! - [`exit`]: how a command ends: messages and stable exit codes (docs/cli.md).
//! - [`arguments`]: values that several commands take. [`connect`]: a node's gRPC. [`output`]: tables and JSON.
//!   [`wait`]: following long work with a progress bar.
//! - [`serve`]: starting a node. One file for each noun: [`node`], [`disk`], [`backing_image`], [`replica`], [`engine`], [`frontend`],
//!   [`snapshot`], [`backup`], [`restore`], and [`volume`] for the steps that a person would otherwise type.

pub mod arguments;
pub mod backing_image;
pub mod backup;
pub mod connect;
pub mod credentials;
pub mod disk;
pub mod engine;
pub mod exit;
pub mod frontend;
pub mod node;
pub mod orphan;
pub mod output;
pub mod replica;
pub mod restore;
pub mod serve;
pub mod snapshot;
pub mod volume;
pub mod wait;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::value::Value;
use crate::tls::{self, Credentials, Files};
use connect::{Node, NodeAddress};
use exit::{Exit, Failure};
use output::{Format, Printer};

/// Mirrored volumes over SPDK: runs a node, and talks to nodes.
#[derive(Debug, Parser)]
#[command(name = "corriente", version, disable_help_subcommand = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    client: ClientOptions,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  corriente serve --listen 10.0.0.7:8504 --reactor-cores 2-3
  corriente disk create d1 --path /dev/sdb --wait
  corriente volume create v1 --size 10GiB --node 10.0.0.7 --node 10.0.0.8
  corriente backup create v1-e-0 --snapshot s1 --target vfs:///backups --wait
  corriente restore start v2-e-0 --backup 'vfs:///backups?backup=b1&volume=v1' --wait

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 exists already, 5 wrong state, 6 no answer, 7 corrupt data.";

/// Options of every client command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Client options")]
pub struct ClientOptions {
    /// The node to talk to: ip, ip:port, or unix:/path
    #[arg(long, global = true, env = "CORRIENTE_SERVER", value_name = "NODE", default_value = "127.0.0.1")]
    server: NodeAddress,
    /// How long one call may take
    #[arg(long, global = true, env = "CORRIENTE_TIMEOUT", value_name = "DURATION", default_value = "3m",
          value_parser = <Duration as Value>::parse)]
    timeout: Duration,
    /// Speak TLS to nodes, with ca.crt, tls.crt and tls.key of a directory, or with CA,CERTIFICATE,KEY by name
    #[arg(long, global = true, env = "CORRIENTE_TLS", value_name = "FILES", value_parser = tls_files)]
    tls: Option<Files>,
    /// Who the certificates of nodes are made out to
    #[arg(long, global = true, env = "CORRIENTE_TLS_NAME", value_name = "NAME", default_value = tls::LONGHORN_NAME)]
    tls_name: String,
    /// A table for people or JSON for programs
    #[arg(long, short, global = true, env = "CORRIENTE_OUTPUT", value_name = "FORMAT", default_value = "table")]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node in the foreground
    Serve(serve::ServeOptions),
    /// What a node is and what happens on it
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Disks of a node, each with a store for replicas
    #[command(subcommand)]
    Disk(disk::DiskCommand),
    /// Images on the disks of a node, which volumes may stand on
    #[command(subcommand)]
    BackingImage(backing_image::BackingImageCommand),
    /// Copies of volumes on the disks of a node
    #[command(subcommand)]
    Replica(replica::ReplicaCommand),
    /// Mirrors over replicas, on the node that serves the volume
    #[command(subcommand)]
    Engine(engine::EngineCommand),
    /// How a host reaches volumes, through engines of its node or of another
    #[command(subcommand)]
    Frontend(frontend::FrontendCommand),
    /// Snapshots of an engine's volume, or of a single replica
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Backups of snapshots in a backup store
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// Bringing a backup into an engine's volume
    #[command(subcommand)]
    Restore(restore::RestoreCommand),
    /// Whole volumes: replicas, engine and data together
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    /// Print a script that completes commands in a shell
    #[command(after_help = "Example:\n  corriente completions bash > /etc/bash_completion.d/corriente")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// A directory, or three files.
fn tls_files(text: &str) -> Result<Files, String> {
    match text.split(',').collect::<Vec<_>>().as_slice() {
        [directory] if !directory.is_empty() => Ok(Files::in_directory(Path::new(directory))),
        [ca, certificate, key] if ![ca, certificate, key].iter().any(|path| path.is_empty()) => {
            Ok(Files { ca: ca.into(), certificate: certificate.into(), key: key.into() })
        }
        _ => Err(format!("{text:?} is neither a directory nor CA,CERTIFICATE,KEY")),
    }
}

/// What every client command is given.
pub struct Context {
    server: NodeAddress,
    timeout: Duration,
    credentials: Option<Credentials>,
    printer: Printer,
}

impl Context {
    /// Connects to the node that `--server` names.
    async fn server(&self) -> Result<Node, Failure> {
        self.node(&self.server).await
    }

    /// Connects to another node.
    async fn node(&self, address: &NodeAddress) -> Result<Node, Failure> {
        Node::connect(address, self.timeout, self.credentials.as_ref()).await
    }
}

/// The whole program: reads the arguments, does it, says how it went.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, with code 0. A closed pipe is nothing to report to.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let ClientOptions { server, timeout, tls, tls_name, output } = cli.client;
    match cli.command {
        Command::Serve(options) => serve::run(options),
        Command::Completions { shell } => completions(shell),
        command => {
            let credentials = tls.map(|files| Credentials::read(&files, &tls_name)).transpose()?;
            let context = Context { server, timeout, credentials, printer: Printer::new(output) };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(run_client(command, &context))
        }
    }
}

async fn run_client(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Node(command) => node::run(command, context).await,
        Command::Disk(command) => disk::run(command, context).await,
        Command::BackingImage(command) => backing_image::run(command, context).await,
        Command::Replica(command) => replica::run(command, context).await,
        Command::Engine(command) => engine::run(command, context).await,
        Command::Frontend(command) => frontend::run(command, context).await,
        Command::Snapshot(command) => snapshot::run(command, context).await,
        Command::Backup(command) => backup::run(command, context).await,
        Command::Restore(command) => restore::run(command, context).await,
        Command::Volume(command) => volume::run(command, context).await,
        Command::Serve(_) | Command::Completions { .. } => unreachable!("run() handles the commands without a node"),
    }
}

fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "corriente", &mut script);
    output::write_out(&script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }
}
