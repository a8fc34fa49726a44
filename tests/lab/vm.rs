//! A virtual machine: what it is made of, its start, its end and what it is told.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::time::timeout;

use crate::agent::{Agent, Running};
use crate::cache::Cache;
use crate::image;
use crate::qmp::Qmp;
use crate::support::process::Process;
use crate::support::wait::wait_until;

/// From QEMU's start to the agent's word: some seconds, and a minute where other work takes the cores.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// Until the guest's kernel has answered the button of a slot, which it does after 5 s where it has one.
const UNPLUG_LIMIT: Duration = Duration::from_secs(60);
/// As the guest knows itself, one for each node that it may run (`image.rs` gives it these).
pub const GUEST_ADDRESSES: [&str; 2] = ["10.0.2.15", "10.0.2.16"];
/// Of each of them.
const GRPC_PORT: u16 = 8504;
/// The timer check fails where the guest's only core waits for the host's; the rest saves time.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable \
                                rcupdate.rcu_cpu_stall_suppress=1 mitigations=off nokaslr";
/// Lines of the console that a failed test prints.
const CONSOLE_TAIL: usize = 60;

/// What a machine is made of.
pub struct VmOptions {
    name: String,
    memory_mib: u32,
    hugepages: u32,
    /// NVMe controllers by their serial number, one namespace each.
    nvme: Vec<(String, u64)>,
    /// Virtio disks: `/dev/vda`, ...
    virtio: Vec<PathBuf>,
    /// Those that speak the modern protocol only, by their serial number.
    modern_virtio: Vec<(String, u64)>,
    /// Of these, those that go past the IOMMU.
    bypassing: Vec<String>,
    iommu: bool,
}

impl VmOptions {
    /// `name` is for messages.
    pub fn named(name: &str) -> Self {
        let (memory_mib, hugepages) = (256, 0);
        let (nvme, virtio, modern_virtio) = (vec![], vec![], vec![]);
        Self { name: name.into(), memory_mib, hugepages, nvme, virtio, modern_virtio, bypassing: vec![], iommu: false }
    }

    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// With an IOMMU of Intel's kind, which translates what NVMe controllers and modern virtio disks address.
    pub fn iommu(mut self) -> Self {
        self.iommu = true;
        self
    }

    /// Of 2 MiB each, reserved at the start.
    pub fn hugepages(mut self, pages: u32) -> Self {
        self.hugepages = pages;
        self
    }

    /// An NVMe controller that can be unplugged, with an empty disk. Its file lasts as long as the machine does.
    pub fn nvme(mut self, serial: &str, bytes: u64) -> Self {
        self.nvme.push((serial.into(), bytes));
        self
    }

    /// A virtio disk that a user-space driver can take, empty. Its file lasts as long as the machine does.
    pub fn modern_virtio(mut self, serial: &str, bytes: u64) -> Self {
        self.modern_virtio.push((serial.into(), bytes));
        self
    }

    /// One that an IOMMU does not translate for.
    pub fn bypassing_virtio(mut self, serial: &str, bytes: u64) -> Self {
        self.bypassing.push(serial.into());
        self.modern_virtio(serial, bytes)
    }

    /// A virtio disk on a file, of the kind that speaks the old protocol too.
    pub fn virtio(mut self, file: &Path) -> Self {
        self.virtio.push(file.to_owned());
        self
    }
}

/// A machine that runs or was killed; its disks last until it is dropped.
pub struct Vm {
    // First: QEMU ends, and prints its log if the test has failed, before the directory goes.
    running: Option<Parts>,
    options: VmOptions,
    directory: TempDir,
    grpc_ports: [u16; 2],
}

struct Parts {
    _process: Process,
    agent: Agent,
    qmp: Qmp,
}

impl Vm {
    /// Boots a machine and waits until its agent answers.
    pub async fn start(options: VmOptions) -> Self {
        // Not in the target directory: a socket's path must be short.
        let directory = tempfile::Builder::new().prefix("corriente-lab-").tempdir().expect("a directory");
        for (serial, bytes) in options.nvme.iter().chain(&options.modern_virtio) {
            let disk = fs::File::create(disk_file(directory.path(), serial));
            disk.and_then(|disk| disk.set_len(*bytes)).expect("a sparse file");
        }
        let mut vm = Self { options, directory, grpc_ports: [free_port(), free_port()], running: None };
        vm.start_again().await;
        vm
    }

    /// Boots a killed machine: the same disks, and nothing else is left of it.
    pub async fn start_again(&mut self) {
        assert!(self.running.is_none(), "{} is running", self.options.name);
        let cache = Cache::find();
        let image = image::build(&cache);
        let sockets = ["agent", "qmp"].map(|name| {
            let path = self.directory.path().join(name);
            // Left by the boot before.
            let _ = fs::remove_file(&path);
            UnixListener::bind(&path).expect("a socket")
        });
        let arguments = self.arguments(&cache, &image);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let libraries = cache.libraries();
        let environment = [("LD_LIBRARY_PATH", Path::new(&libraries))];
        let log = self.directory.path().join("qemu.log");
        let mut process = Process::spawn(&self.options.name, &cache.qemu(), &arguments, &environment, log);
        let greeted = timeout(BOOT_LIMIT, async {
            let (monitor, _) = sockets[1].accept().await.expect("a connection");
            let (port, _) = sockets[0].accept().await.expect("a connection");
            (Qmp::greet(monitor).await, Agent::greet(port).await)
        });
        match greeted.await {
            Ok((qmp, agent)) => self.running = Some(Parts { _process: process, agent, qmp }),
            Err(_) => panic!("not up within {BOOT_LIMIT:?}; QEMU: {:?}\n{}", process.ended(), self.console_tail()),
        }
    }

    /// Ends it as a power failure would. Its disks keep what it had told them to write.
    pub fn kill9(&mut self) {
        assert!(self.running.take().is_some(), "{} is not running", self.options.name);
    }

    /// Runs a shell script in the guest, which must succeed; what it printed.
    pub async fn run(&self, script: &str) -> String {
        self.begin(script).await.success().await
    }

    /// Starts a shell script in the guest.
    pub async fn begin(&self, script: &str) -> Running {
        self.parts().agent.start(script).await
    }

    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.running.as_mut().expect("a running machine").qmp
    }

    /// Where the gRPC of the guest's node with this index answers on the host.
    pub fn grpc_port(&self, node: usize) -> u16 {
        self.grpc_ports[node]
    }

    /// The PCI address of a controller that the kernel's driver has.
    pub async fn pci_address(&self, serial: &str) -> String {
        let find = format!("for one in /sys/class/nvme/*; do grep -q {serial} $one/serial && cat $one/address; done");
        let found = self.run(&format!("{find}; true")).await;
        assert!(!found.is_empty(), "the kernel shows no NVMe controller {serial}");
        found
    }

    /// The end of what the guest's kernel has logged.
    pub async fn dmesg(&self) -> String {
        self.run("dmesg | tail -n 40").await
    }

    /// What the guest writes to its port `log<index>`, since the first boot.
    pub fn guest_log(&self, index: usize) -> String {
        fs::read_to_string(self.directory.path().join(format!("log{index}"))).unwrap_or_default()
    }

    /// Pulls an NVMe controller out of the machine; returns when the guest's kernel has let go of it.
    pub async fn unplug(&mut self, serial: &str) {
        let at = self.run("ls -d /sys/bus/pci/devices/*/; true").await.lines().count();
        self.qmp().execute("device_del", json!({ "id": serial })).await;
        wait_until(UNPLUG_LIMIT, "the controller is unplugged", async || {
            match self.run("ls -d /sys/bus/pci/devices/*/; true").await.lines().count() {
                left if left < at => Ok(()),
                left => Err(format!("{left} PCI functions")),
            }
        })
        .await;
    }

    /// Puts an NVMe controller that was unplugged back into its slot; returns when the guest's kernel drives it.
    pub async fn plug(&mut self, serial: &str) {
        let mut device =
            json!({ "driver": "nvme", "id": serial, "serial": serial, "drive": format!("drive-{serial}") });
        device["bus"] = format!("port-{serial}").into();
        device["dbcs"] = false.into();
        self.qmp().execute("device_add", device).await;
        self.run(&format!("until grep -q {serial} /sys/class/nvme/*/serial; do usleep 10000; done")).await;
    }

    fn parts(&self) -> &Parts {
        self.running.as_ref().unwrap_or_else(|| panic!("{} is not running", self.options.name))
    }

    fn arguments(&self, cache: &Cache, image: &Path) -> Vec<String> {
        let options = &self.options;
        let own = |file: &str| self.directory.path().join(file).display().to_string();
        let fixed =
            "-nodefaults -no-user-config -display none -no-reboot -machine q35 -accel tcg,thread=multi -cpu max";
        let mut arguments: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
        let mut add = |option: &str, value: String| arguments.extend([format!("-{option}"), value]);
        for directory in cache.firmware() {
            add("L", directory.display().to_string());
        }
        add("m", options.memory_mib.to_string());
        add("kernel", cache.kernel().display().to_string());
        add("initrd", image.display().to_string());
        let iommu = if options.iommu { " intel_iommu=on" } else { "" };
        add("append", format!("{KERNEL_ARGUMENTS} hugepages={}{iommu}", options.hugepages));
        if options.iommu {
            // As wide as virtual addresses, so that user space may use its own for devices. Before all that it translates.
            add("device", "intel-iommu,intremap=on,aw-bits=48".into());
        }
        add("serial", format!("file:{}", own("console")));
        add("chardev", format!("socket,id=qmp,path={}", own("qmp")));
        add("mon", "chardev=qmp,mode=control".into());
        add("device", "virtio-serial-pci".into());
        add("chardev", format!("socket,id=agent,path={}", own("agent")));
        add("device", "virtserialport,chardev=agent,name=agent".into());
        let mut network = "user,id=net".to_owned();
        for (index, port) in self.grpc_ports.iter().enumerate() {
            network += &format!(",hostfwd=tcp:127.0.0.1:{port}-{}:{GRPC_PORT}", GUEST_ADDRESSES[index]);
            add("chardev", format!("file,id=log{index},append=on,path={}", own(&format!("log{index}"))));
            add("device", format!("virtserialport,chardev=log{index},name=log{index}"));
        }
        add("netdev", network);
        add("device", "virtio-net-pci,netdev=net,romfile=".into());
        let backend = |serial: &str| {
            let file = disk_file(self.directory.path(), serial);
            format!("if=none,id=drive-{serial},file={},format=raw,cache=writeback", file.display())
        };
        for (index, (serial, _)) in options.nvme.iter().enumerate() {
            add("drive", backend(serial));
            // Only what is behind a root port of its own can be unplugged.
            add("device", format!("pcie-root-port,id=port-{serial},chassis={0},slot={0}", index + 1));
            // Without shadow doorbells, as a real controller: QEMU now and then overlooks one of a single command.
            let device = format!("nvme,id={serial},drive=drive-{serial},serial={serial},dbcs=off");
            add("device", format!("{device},bus=port-{serial}"));
        }
        for (index, (serial, _)) in options.modern_virtio.iter().enumerate() {
            let slot = options.nvme.len() + index + 1;
            add("drive", backend(serial));
            add("device", format!("pcie-root-port,id=port-{serial},chassis={slot},slot={slot}"));
            // SPDK gives each of its threads that does I/O a queue of its own.
            let is_translated = options.iommu && !options.bypassing.contains(serial);
            let translated = if is_translated { ",iommu_platform=on" } else { "" };
            let device = format!("virtio-blk-pci,disable-legacy=on{translated},num-queues=8,id={serial}");
            let device = format!("{device},drive=drive-{serial}");
            add("device", format!("{device},serial={serial},bus=port-{serial}"));
        }
        for (index, file) in options.virtio.iter().enumerate() {
            add("drive", format!("if=none,id=virtio{index},file={},format=raw,cache=writeback", file.display()));
            add("device", format!("virtio-blk-pci,drive=virtio{index}"));
        }
        arguments
    }

    fn console_tail(&self) -> String {
        let tail = |file: &str| {
            let text = fs::read(self.directory.path().join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {file} ---\n{}\n", lines[lines.len().saturating_sub(CONSOLE_TAIL)..].join("\n"))
        };
        ["console", "log0", "log1"].map(tail).concat()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.console_tail());
        }
    }
}

fn disk_file(directory: &Path, serial: &str) -> PathBuf {
    directory.join(format!("{serial}.raw"))
}

/// One that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}
