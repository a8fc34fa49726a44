//! A node as an operator would run it: `corriente serve` with a configuration file, on an address of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use corriente::tls::{self, Credentials, Files, LONGHORN_NAME};
use corriente::wire::corriente::v1::corriente_service_client::CorrienteServiceClient;
use corriente::wire::spdkrpc::spdk_service_client::SpdkServiceClient;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::address::Address;
use super::faults::Faults;
use super::memory::{Choice, Memory};
use super::process::Process;
use super::wait::wait_until;

/// Longhorn's managers expect the service here.
const GRPC_PORT: u16 = 8504;
/// Without hugepages a node clears its memory page by page before it answers.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// What a test wants of a node beyond the defaults.
pub struct NodeOptions {
    name: String,
    settings: toml::Table,
    faulty: bool,
    credentials: Option<Credentials>,
}

impl NodeOptions {
    /// `name` is for the log and for messages.
    pub fn named(name: &str) -> Self {
        NodeOptions { name: name.to_string(), settings: toml::Table::new(), faulty: false, credentials: None }
    }

    /// It obeys [`Node::faults`].
    pub fn faulty(mut self) -> Self {
        self.faulty = true;
        self
    }

    /// It speaks TLS with the files of a directory, and is spoken to with the same.
    pub fn tls(mut self, directory: &Path) -> Self {
        let credentials = Credentials::read(&Files::in_directory(directory), LONGHORN_NAME);
        self.credentials = Some(credentials.expect("credentials"));
        self.set("tls.directory", directory.to_str().expect("a path in UTF-8"))
    }

    /// Sets one key of the configuration file, e.g. `timeouts.attach`.
    pub fn set(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        set(&mut self.settings, key, value.into());
        self
    }
}

/// A running, stopped or killed node. Its address, state and disks last until it is dropped.
pub struct Node {
    name: String,
    settings: toml::Table,
    address: Address,
    directory: TempDir,
    core: usize,
    faults: Option<Faults>,
    credentials: Option<Credentials>,
    process: Option<Process>,
}

impl Node {
    /// Starts a node and waits until it serves.
    pub async fn start(options: NodeOptions) -> Self {
        let directory = tempfile::Builder::new()
            .prefix(&format!("{}-", options.name))
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("a directory for the node");
        let faults = options.faulty.then(|| Faults::in_directory(directory.path().join("faults")));
        let mut node = Node {
            name: options.name,
            settings: options.settings,
            address: Address::lease(),
            directory,
            core: next_core(),
            faults,
            credentials: options.credentials,
            process: None,
        };
        node.start_again().await;
        node
    }

    /// Starts a stopped or killed node: the same address, configuration and state.
    pub async fn start_again(&mut self) {
        assert!(self.process.is_none(), "{} is running", self.name);
        let choice = Choice::make();
        let config = self.write_config(choice.memory);
        let arguments = ["serve", "--config", config.to_str().expect("a path in UTF-8")];
        let program = Path::new(env!("CARGO_BIN_EXE_corriente"));
        let faults = self.faults.as_ref().map(|faults| (corriente::faults::VARIABLE, faults.directory().as_path()));
        let log = self.directory.path().join("log");
        let mut process = Process::spawn(&self.name, program, &arguments, faults.as_slice(), log);
        let health = HealthClient::new(self.channel());
        wait_until(START_LIMIT, &format!("{} serves", self.name), async || {
            if let Some(status) = process.ended() {
                panic!("{} ended while starting: {status}", self.name);
            }
            match health.clone().check(HealthCheckRequest::default()).await {
                Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => Ok(()),
                Ok(answer) => Err(format!("its health is {:?}", answer.get_ref().status())),
                Err(status) => Err(status.to_string()),
            }
        })
        .await;
        self.process = Some(process);
    }

    /// Stops it as systemd would; it must end by itself, and well.
    pub async fn stop(&mut self) {
        let status = self.running().stop(STOP_LIMIT).await;
        self.forget_process();
        assert!(status.success(), "{} ended with {status}; its log:\n{}", self.name, self.log());
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    /// Ends it as a power failure would.
    pub fn kill9(&mut self) {
        self.running().kill9();
        self.forget_process();
    }

    /// Waits until it has killed itself as a fault ordered.
    pub async fn killed(&mut self) {
        let status = self.running().wait(STOP_LIMIT).await;
        self.forget_process();
        assert!(!status.success(), "{} ended as if it had been told to", self.name);
    }

    /// Stops it where it stands: its connections stay open and nothing answers.
    pub fn freeze(&mut self) {
        self.running().freeze();
    }

    pub fn thaw(&mut self) {
        self.running().thaw();
    }

    /// What it is ordered to do wrong.
    pub fn faults(&self) -> &Faults {
        self.faults.as_ref().unwrap_or_else(|| panic!("{} was started without faults", self.name))
    }

    /// Where all its services answer.
    pub fn ip(&self) -> Ipv4Addr {
        self.address.ip()
    }

    pub fn grpc_address(&self) -> SocketAddr {
        SocketAddr::new(self.ip().into(), GRPC_PORT)
    }

    /// Longhorn's service of this node.
    pub fn spdk(&self) -> SpdkServiceClient<Channel> {
        SpdkServiceClient::new(self.channel())
    }

    /// Our own service of this node.
    pub fn corriente(&self) -> CorrienteServiceClient<Channel> {
        CorrienteServiceClient::new(self.channel())
    }

    /// For any generated client; connects at the first call, and again after a restart.
    pub fn channel(&self) -> Channel {
        tls::endpoint(&self.grpc_address().to_string(), self.credentials.as_ref())
            .expect("an address makes a URI")
            .timeout(CALL_LIMIT)
            .connect_timeout(CALL_LIMIT)
            .connect_lazy()
    }

    /// A place for disks that lasts as long as the node.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// All it has logged, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Of the running process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap_or_else(|| panic!("{} is not running", self.name)).pid()
    }

    fn running(&mut self) -> &mut Process {
        self.process.as_mut().unwrap_or_else(|| panic!("{} is not running", self.name))
    }

    fn forget_process(&mut self) {
        if let Some(process) = self.process.take() {
            let pid = process.pid();
            drop(process);
            remove_leftovers(pid);
        }
    }

    fn write_config(&self, memory: Memory) -> PathBuf {
        let mut config = patient();
        merge(&mut config, self.settings.clone());
        let state = self.directory.path().join("state");
        fs::create_dir_all(&state).expect("a state directory");
        let memory_mode = match memory {
            Memory::Hugepages => "hugepages",
            Memory::NoHuge => "no-huge",
        };
        let own = [
            ("listen", self.grpc_address().to_string()),
            ("advertise_ip", self.ip().to_string()),
            ("state_dir", state.to_str().expect("a path in UTF-8").to_string()),
            ("reactor.cores", self.core.to_string()),
            ("memory.mode", memory_mode.to_string()),
            ("metrics.listen", format!("{}:9504", self.ip())),
        ];
        for (key, value) in own {
            set(&mut config, key, value.into());
        }
        let path = self.directory.path().join("corriente.toml");
        fs::write(&path, config.to_string()).expect("a written configuration");
        path
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.forget_process();
    }
}

/// The cores we may use in turn, so that the nodes of one test spread over the machine.
fn next_core() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("our own CPU mask");
    let cores: Vec<usize> = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false)).collect();
    cores[NEXT.fetch_add(1, Ordering::Relaxed) % cores.len()]
}

/// A killed node cannot remove what DPDK makes outside its state directory: hugepage files of the moment, run-time data.
fn remove_leftovers(pid: u32) {
    for (directory, own) in [("/dev/hugepages", format!("pid{pid}map_")), ("/var/run/dpdk", format!("pid{pid}"))] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = if own.ends_with('_') { name.contains(&own) } else { name.ends_with(&own) };
            if ours {
                // Either may be gone already.
                let _ = fs::remove_file(entry.path());
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Puts `value` at a dotted key.
/// Limits that a busy machine does not reach: a test of one of them sets it.
fn patient() -> toml::Table {
    let mut settings = toml::Table::new();
    set(&mut settings, "timeouts.member_deadline", "30s".into());
    set(&mut settings, "timeouts.pause", "30s".into());
    // A replica that failed stays so, but in the tests of what becomes of it.
    set(&mut settings, "timeouts.return_window", "0s".into());
    settings
}

/// What `settings` says beats what is there.
fn merge(table: &mut toml::Table, settings: toml::Table) {
    for (key, value) in settings {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(known)), toml::Value::Table(section)) => merge(known, section),
            (_, value) => drop(table.insert(key, value)),
        }
    }
}

fn set(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_string(), value);
        }
        Some((section, rest)) => {
            let section = table.entry(section).or_insert_with(|| toml::Table::new().into());
            set(section.as_table_mut().expect("a section, not a value"), rest, value);
        }
    }
}
