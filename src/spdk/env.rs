//! Start and end of the process' environment: DPDK memory and cores, SPDK's threads and subsystems, our reactors.

use std::ffi::{CStr, CString, c_int, c_void};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use spdk_sys as sys;

use super::completion;
use super::control::{Control, Reactor};
use super::errno::{Errno, SpdkError};
use super::reactor::{self, PollMode, ReactorShared};

/// Where DMA memory comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Memory {
    /// Hugepages: `mib` taken at start, more when needed.
    Huge {
        /// MiB taken at start.
        mib: u32,
        /// A hugetlbfs mount; any when `None`.
        directory: Option<PathBuf>,
    },
    /// Ordinary pages, `mib` in all: for tests and small machines. No PCI device can be used.
    Ordinary {
        /// MiB in all; SPDK 20.07 needs 384 to start.
        mib: u32,
    },
}

/// How the environment is to be started.
#[derive(Debug, Clone)]
pub struct EnvironmentConfig {
    /// Cores of the reactors; the first carries the control thread. Not empty, distinct.
    pub cores: Vec<u32>,
    /// Whether idle reactors nap.
    pub poll: PollMode,
    /// Where DMA memory comes from.
    pub memory: Memory,
    /// Whether PCI devices are looked at.
    pub pci: bool,
    /// Structures for I/O in flight, for the whole process.
    pub bdev_io_pool_size: u32,
    /// How many of them each thread may keep to itself.
    pub bdev_io_cache_size: u32,
    /// Exports the NVMe-oF target can hold.
    pub max_exports: u32,
}

/// SPDK's memory: hugepages, or ordinary ones taken in their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaMemory {
    /// What its allocator holds, in bytes.
    pub total_bytes: u64,
    /// What of it nobody uses, in bytes.
    pub free_bytes: u64,
}

/// What the linked release can do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Capabilities {
    /// An lvstore can grow with its device.
    pub lvstore_grow: bool,
    /// Clones of snapshots outside the lvstore.
    pub external_snapshot: bool,
    /// The parent of an lvol can be changed.
    pub set_parent: bool,
    /// Asymmetric namespace access states.
    pub ana: bool,
    /// NVMe/TCP over TLS.
    pub tls: bool,
    /// Virtio disks by PCI address.
    pub virtio: bool,
}

impl Capabilities {
    /// Of the linked SPDK.
    pub fn linked() -> Self {
        let mut raw = sys::cs_capabilities::default_zeroed();
        // SAFETY: writes one structure of plain bools that outlives the call.
        unsafe { sys::cs_capabilities(&mut raw) };
        Self {
            lvstore_grow: raw.lvstore_grow,
            external_snapshot: raw.external_snapshot,
            set_parent: raw.set_parent,
            ana: raw.ana,
            tls: raw.tls,
            virtio: raw.virtio,
        }
    }
}

impl Capabilities {
    /// What there is, as stable words.
    pub fn words(&self) -> impl Iterator<Item = &'static str> + use<> {
        let all = [
            ("lvstore-grow", self.lvstore_grow),
            ("external-snapshot", self.external_snapshot),
            ("set-parent", self.set_parent),
            ("ana", self.ana),
            ("tls", self.tls),
            ("virtio", self.virtio),
        ];
        all.into_iter().filter_map(|(word, there)| there.then_some(word))
    }
}

/// A zeroed C structure, as the shim's out parameters want it.
trait DefaultZeroed {
    fn default_zeroed() -> Self;
}

impl DefaultZeroed for sys::cs_capabilities {
    fn default_zeroed() -> Self {
        Self {
            lvstore_grow: false,
            external_snapshot: false,
            set_parent: false,
            ana: false,
            tls: false,
            virtio: false,
            no_huge_option: false,
        }
    }
}

/// The linked SPDK's version as it prints itself.
pub fn version_text() -> &'static str {
    // SAFETY: returns a string constant of the shim.
    unsafe { CStr::from_ptr(sys::cs_version_text()) }.to_str().unwrap_or("unknown")
}

/// The running environment. There is one in a process; SPDK cannot be started twice.
pub struct Environment {
    reactors: Vec<Reactor>,
    main: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// The reactors, for the callback by which SPDK announces a new thread.
static REACTORS: OnceLock<Vec<Arc<ReactorShared>>> = OnceLock::new();

impl Environment {
    /// Starts everything and returns when the subsystems are up. Blocks; call it once, before any other SPDK use.
    pub fn start(config: EnvironmentConfig) -> Result<Arc<Self>, SpdkError> {
        assert!(!config.cores.is_empty(), "the configuration layer lets no empty core list through");
        let reactors: Vec<_> = config.cores.iter().map(|core| ReactorShared::new(*core, config.poll)).collect();
        if REACTORS.set(reactors.clone()).is_err() {
            return Err(SpdkError::answer("start", "SPDK", "it was started before in this process"));
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let main = std::thread::Builder::new()
            .name(format!("reactor-{}", config.cores[0]))
            .spawn(move || first_reactor(&config, &sender))
            .map_err(|error| SpdkError::answer("start", "reactor thread", error.to_string()))?;
        match receiver.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let _ = main.join();
                return Err(error);
            }
            Err(_) => return Err(SpdkError::answer("start", "reactor thread", "it ended early")),
        }
        Ok(Arc::new(Self {
            reactors: reactors.into_iter().map(|shared| Reactor { shared }).collect(),
            main: Mutex::new(Some(main)),
        }))
    }

    /// The control thread.
    pub fn control(&self) -> Control {
        Control { reactor: self.reactors[0].clone() }
    }

    /// All reactors, the control thread's first.
    pub fn reactors(&self) -> &[Reactor] {
        &self.reactors
    }

    /// What SPDK's allocator holds.
    pub fn memory(&self) -> DmaMemory {
        let mut raw = sys::cs_env_memory { total_bytes: 0, free_bytes: 0 };
        // SAFETY: writes one structure of integers; the allocator is up as long as `self` lives, and locks itself.
        unsafe { sys::cs_env_memory(&mut raw) };
        DmaMemory { total_bytes: raw.total_bytes, free_bytes: raw.free_bytes }
    }

    /// Switches all reactors between napping and spinning.
    pub fn set_poll_mode(&self, mode: PollMode) {
        self.reactors.iter().for_each(|reactor| reactor.shared.set_mode(mode));
    }

    /// Stops subsystems and reactors. Bdevs and exports should be gone by then; what SPDK does not give back within
    /// `limit` is left to the end of the process.
    pub async fn stop(&self, limit: Duration) -> Result<(), SpdkError> {
        let control = self.control();
        let stop = control.run(|_| async {
            completion::done(|cb, arg| {
                // SAFETY: on the application thread, once; the callback and its slot fit each other.
                unsafe { sys::cs_subsystems_stop(cb, arg) }
            })
            .await
            .map_err(|errno| SpdkError::failed("stop", "SPDK's subsystems", errno))
        });
        let stopped: Result<(), SpdkError> = match tokio::time::timeout(limit, stop).await {
            Ok(result) => result,
            Err(_) => Err(SpdkError::failed("stop", "SPDK's subsystems", Errno::ETIMEDOUT)),
        };
        for reactor in &self.reactors {
            reactor.post(|_| {
                // SAFETY: runs on the reactor's own SPDK thread, which nothing uses after this.
                unsafe { sys::spdk_thread_exit(sys::spdk_get_thread()) };
            });
            reactor.shared.stop();
        }
        let deadline = Instant::now() + limit;
        while self.reactors.iter().any(|reactor| !reactor.shared.is_stopped()) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let all = self.reactors.iter().all(|reactor| reactor.shared.is_stopped());
        if let (true, Some(main)) = (all, self.main.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()) {
            let _ = main.join();
        }
        stopped
    }
}

/// The life of the first reactor's OS thread.
fn first_reactor(config: &EnvironmentConfig, report: &std::sync::mpsc::Sender<Result<(), SpdkError>>) {
    let started = start_environment(config);
    if let Err(error) = started {
        let _ = report.send(Err(error));
        return;
    }
    let reactors = REACTORS.get().expect("set before this thread was made");
    for shared in &reactors[1..] {
        let argument = std::ptr::from_ref(shared).cast_mut().cast::<c_void>();
        // SAFETY: the core is one of the environment's, and the reactor's state is kept alive by REACTORS for ever.
        let rc = unsafe { sys::cs_env_launch(shared.core, Some(other_reactor), argument) };
        if let Err(errno) = Errno::check(rc) {
            let _ = report.send(Err(SpdkError::failed("launch", format!("reactor {}", shared.core), errno)));
            return;
        }
    }
    start_subsystems_when_running(config, report.clone());
    reactor::run(&reactors[0]);
    // SAFETY: called by the thread that launched the other reactors, which all end by Environment::stop.
    unsafe {
        sys::cs_env_wait_all();
        sys::cs_thread_lib_stop();
        sys::cs_env_stopped();
    }
}

fn start_environment(config: &EnvironmentConfig) -> Result<(), SpdkError> {
    let name = CString::from(c"corriente");
    let (mib, no_huge, directory) = match &config.memory {
        Memory::Huge { mib, directory } => (*mib, false, directory.clone()),
        Memory::Ordinary { mib } => (*mib, true, None),
    };
    let directory = directory
        .map(|path| CString::new(path.into_os_string().into_encoded_bytes()))
        .transpose()
        .map_err(|_| SpdkError::failed("start", "hugepage directory", Errno::EINVAL))?;
    let raw = sys::cs_env_config {
        name: name.as_ptr(),
        cores: config.cores.as_ptr(),
        core_count: config.cores.len(),
        memory_mib: mib,
        no_huge,
        huge_dir: directory.as_ref().map_or(std::ptr::null(), |path| path.as_ptr()),
        no_pci: no_huge || !config.pci,
    };
    // SAFETY: first use of SPDK in the process; all pointers in `raw` outlive the calls, and the hooks are functions.
    unsafe {
        super::log::hook();
        sys::cs_bdev_event_hook(Some(super::bdev::event));
        Errno::check(sys::cs_env_start(&raw)).map_err(|errno| {
            SpdkError::answer(
                "start",
                "DPDK",
                format!(
                    "{errno}; are there {mib} MiB of free memory of the configured kind, and the cores {:?}?",
                    config.cores
                ),
            )
        })?;
        Errno::check(sys::cs_thread_lib_start(Some(new_thread)))
            .map_err(|errno| SpdkError::failed("start", "SPDK's thread library", errno))?;
    }
    for (index, core) in config.cores.iter().enumerate() {
        let name = CString::new(format!("corriente-{core}"))
            .map_err(|_| SpdkError::failed("start", "thread", Errno::EINVAL))?;
        // SAFETY: the library is up. The first thread made is SPDK's application thread, that of the first reactor.
        if unsafe { sys::cs_thread_new(name.as_ptr(), *core) }.is_null() {
            return Err(SpdkError::failed("creation", format!("thread {index}"), Errno::ENOMEM));
        }
    }
    Ok(())
}

/// Posts the bring-up of the subsystems, which needs the reactors to turn.
fn start_subsystems_when_running(config: &EnvironmentConfig, report: std::sync::mpsc::Sender<Result<(), SpdkError>>) {
    let raw = sys::cs_subsystem_config {
        bdev_io_pool_size: config.bdev_io_pool_size,
        bdev_io_cache_size: config.bdev_io_cache_size,
        nvmf_max_subsystems: config.max_exports,
    };
    let first = &REACTORS.get().expect("set by start")[0];
    let posted = first.post(Box::new(move |_, spawn| {
        spawn.spawn(async move {
            let result = completion::started(|cb, arg| {
                // SAFETY: on the application thread, once; the configuration is read during the call only.
                unsafe { sys::cs_subsystems_start(&raw, cb, arg) }
            })
            .await;
            let _ = report.send(result.map_err(|errno| SpdkError::failed("start", "SPDK's subsystems", errno)));
        });
    }));
    assert!(posted.is_ok(), "the mailbox of a reactor that has not run yet is empty");
}

unsafe extern "C" fn other_reactor(argument: *mut c_void) -> c_int {
    // SAFETY: the argument is the state that REACTORS keeps alive for ever.
    reactor::run(unsafe { &*argument.cast::<Arc<ReactorShared>>() });
    0
}

unsafe extern "C" fn new_thread(thread: *mut sys::spdk_thread, core: u32) -> c_int {
    let reactors = REACTORS.get().expect("set before the thread library starts");
    match reactors.iter().find(|reactor| reactor.core == core) {
        Some(reactor) => reactor.adopt(thread),
        None => return -libc::EINVAL,
    }
    0
}
