//! The initiator against a made-up sysfs, in which a thread plays the kernel.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const SIZE: u64 = 8 << 20;

/// A host: its directories, and a kernel that brings controllers up and takes them down.
struct Host {
    root: tempfile::TempDir,
    kernel: Arc<Kernel>,
    stop: Arc<AtomicBool>,
}

/// The kernel's side: each request makes a controller that becomes live; a deletion is noticed and carried out.
struct Kernel {
    sysfs: PathBuf,
    requests: Mutex<Vec<String>>,
    nguid: Mutex<Nguid>,
    /// The error number that requests are refused with.
    refusal: Mutex<Option<i32>>,
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

impl Kernel {
    fn value<'a>(options: &'a str, key: &str) -> &'a str {
        options.split(',').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')).unwrap()
    }

    fn step(&self) {
        for entry in fs::read_dir(self.sysfs.join("class/nvme")).into_iter().flatten().flatten() {
            let path = entry.path();
            let text = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
            if text("delete_controller") == "1" {
                fs::remove_dir_all(&path).unwrap();
            } else if text("state") == "connecting\n" {
                fs::write(path.join("state"), "live\n").unwrap();
            }
        }
    }
}

impl Fabrics for Kernel {
    fn is_present(&self) -> bool {
        true
    }

    fn connect(&self, options: &str) -> io::Result<()> {
        let number = {
            let mut requests = self.requests.lock().unwrap();
            requests.push(options.to_owned());
            requests.len() - 1
        };
        if let Some(number) = *self.refusal.lock().unwrap() {
            return Err(io::Error::from_raw_os_error(number));
        }
        let (address, port) = (Self::value(options, "traddr"), Self::value(options, "trsvcid"));
        let controller = self.sysfs.join(format!("class/nvme/nvme{number}"));
        write(&controller.join("subsysnqn"), &format!("{}\n", Self::value(options, "nqn")));
        write(&controller.join("transport"), "tcp\n");
        write(&controller.join("address"), &format!("traddr={address},trsvcid={port},src_addr=10.0.0.9\n"));
        write(&controller.join(format!("nvme0c{number}n1/ana_state")), "optimized\n");
        let block = self.sysfs.join("block/nvme0n1");
        write(&block.join("dev"), "259:7\n");
        write(&block.join("size"), &format!("{}\n", SIZE / 512));
        write(&block.join("nguid"), &format!("{}\n", uuid::Uuid::from_bytes(self.nguid.lock().unwrap().0)));
        write(&controller.join("state"), "connecting\n");
        Ok(())
    }
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let kernel = Arc::new(Kernel {
            sysfs: root.path().join("sys"),
            requests: Mutex::default(),
            nguid: Mutex::new(Nguid::volume(&volume())),
            refusal: Mutex::default(),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (running, acting) = (stop.clone(), kernel.clone());
        std::thread::spawn(move || {
            while !running.load(Ordering::Relaxed) {
                acting.step();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { root, kernel, stop }
    }

    fn initiator(&self, limit: Duration) -> KernelInitiator {
        let path = |name| self.root.path().join(name);
        let paths = HostPaths { sysfs: path("sys"), dev: path("dev"), etc_nvme: path("etc") };
        KernelInitiator::with_fabrics(paths, limit, self.kernel.clone())
    }

    fn requests(&self) -> Vec<String> {
        self.kernel.requests.lock().unwrap().clone()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn volume() -> VolumeName {
    VolumeName::parse("v1").unwrap()
}

/// Nobody listens there, so discovery is refused and the rest is the kernel's.
fn target(number: u16) -> Connect {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ip = std::net::Ipv4Addr::new(127, 0, 0, 1 + number as u8);
    let target = HostPort::new(ip.into(), listener.local_addr().unwrap().port()).unwrap();
    Connect { nqn: Nqn::volume(&volume()), target, io_queues: None }
}

fn expected(size: u64) -> Expected {
    Expected { volume: volume(), size }
}

const GENEROUS: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_refused_connection_is_the_targets_fault_only_when_the_network_says_so() {
    let host = Host::new();
    let initiator = host.initiator(SHORT);
    for (number, is_peer) in [(libc::ECONNREFUSED, true), (libc::ETIMEDOUT, true), (libc::EINVAL, false)] {
        *host.kernel.refusal.lock().unwrap() = Some(number);
        let error = initiator.connect(&target(0)).await.unwrap_err();
        assert_eq!(matches!(error, Error::Peer { .. }), is_peer, "{error}");
        assert!(error.to_string().contains("the kernel refused it (nqn="), "{error}");
    }
}

#[test]
fn a_kernel_without_the_module_is_told_which_to_load() {
    let host = Host::new();
    let initiator = host.initiator(SHORT);
    let error = initiator.require().unwrap_err();
    assert!(matches!(&error, Error::Precondition { problem, .. } if problem.contains("modprobe nvme-tcp")), "{error}");
    fs::create_dir_all(host.root.path().join("sys/module/nvme_tcp")).unwrap();
    initiator.require().unwrap();
    let paths = HostPaths { dev: host.root.path().join("dev"), ..initiator.paths.clone() };
    let error = KernelInitiator::new(paths, SHORT).require().unwrap_err();
    assert!(error.to_string().contains("nvme-fabrics is not there"), "{error}");
}

#[tokio::test]
async fn a_connection_is_made_once_and_taken_over_after_that() {
    let host = Host::new();
    let initiator = host.initiator(GENEROUS);
    initiator.connect(&target(0)).await.unwrap();
    let first = host.requests();
    assert_eq!(first.len(), 1);
    let again = Connect { target: HostPort::parse(&address_of(&first[0])).unwrap(), ..target(0) };
    initiator.connect(&again).await.unwrap();
    assert_eq!(host.requests(), first, "it was there already");
    let device = initiator.device(&again, &expected(SIZE)).await.unwrap();
    assert_eq!((device.name.as_str(), device.major, device.minor, device.size), ("nvme0n1", 259, 7, SIZE));
    initiator.await_ana(&again, "optimized").await.unwrap();
    if nix::unistd::geteuid().is_root() {
        initiator.publish(&again, &expected(SIZE)).await.unwrap();
        assert!(host.root.path().join("dev/longhorn/v1").exists());
    }
    initiator.disconnect(&volume()).await.unwrap();
    assert!(!host.root.path().join("dev/longhorn/v1").exists());
    assert_eq!(initiator.controllers(&again.nqn).await.unwrap(), []);
    initiator.disconnect(&volume()).await.unwrap();
}

fn address_of(options: &str) -> String {
    format!("{}:{}", Kernel::value(options, "traddr"), Kernel::value(options, "trsvcid"))
}

#[tokio::test]
async fn a_device_of_another_volume_is_refused_and_one_of_another_size_waited_for() {
    let host = Host::new();
    let initiator = host.initiator(SHORT);
    let here = target(0);
    initiator.connect(&here).await.unwrap();
    let late = initiator.device(&here, &expected(2 * SIZE)).await.unwrap_err();
    assert!(matches!(late, Error::Timeout { .. }), "{late}");
    let size = host.root.path().join("sys/block/nvme0n1/size");
    write(&size, &(2 * SIZE / 512).to_string());
    initiator.device(&here, &expected(2 * SIZE)).await.unwrap();
    let other = VolumeName::parse("other").unwrap();
    let error = initiator.device(&here, &Expected { volume: other, size: 2 * SIZE }).await.unwrap_err();
    assert!(matches!(error, Error::Precondition { .. }), "{error}");
    let late = initiator.await_ana(&here, "inaccessible").await.unwrap_err();
    assert!(matches!(late, Error::Timeout { .. }), "{late}");
}

#[tokio::test]
async fn two_paths_are_two_controllers_and_go_together() {
    let host = Host::new();
    let initiator = host.initiator(GENEROUS);
    for path in [target(0), target(1)] {
        initiator.connect(&path).await.unwrap();
    }
    assert_eq!(initiator.controllers(&target(0).nqn).await.unwrap().len(), 2);
    let foreign = Nqn::parse("nqn.2014-08.org.example:other").unwrap();
    assert_eq!(initiator.controllers(&foreign).await.unwrap(), []);
    initiator.disconnect(&volume()).await.unwrap();
    assert_eq!(initiator.controllers(&target(0).nqn).await.unwrap(), []);
}
