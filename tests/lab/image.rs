//! The guest's root file system: an initramfs of busybox, the agent, kernel modules, mkfs.ext4 and the program under test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{Cache, files_below};

const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");
const PROGRAM: &str = env!("CARGO_BIN_EXE_corriente");
const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/guest/agent.rs");

const INIT_TABLE: &str = "::sysinit:/etc/start\n::once:/bin/agent\n";
/// What a distribution's initramfs does. The addresses beyond the first are for further nodes.
const START: &str = "#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/hugepages /dev/shm
mount -t hugetlbfs huge /dev/hugepages
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
modprobe virtio_net
ip link set lo up
ip link set eth0 up
for host in 15 16; do ip address add 10.0.2.$host/24 dev eth0; done
";

/// Makes the archive, or takes the one that an earlier test has made of the same parts.
pub fn build(cache: &Cache) -> PathBuf {
    let agent = compile_agent();
    let program = strip_program();
    let image = Path::new(SCRATCH).join("lab.cpio");
    let parts = [&agent, &program, &cache.kernel(), &std::env::current_exe().expect("our own path")];
    if !parts.iter().all(|part| is_newer(&image, part)) {
        write_whole(&image, &assemble(cache, &agent, &program));
    }
    image
}

fn assemble(cache: &Cache, agent: &Path, program: &Path) -> Vec<u8> {
    let mut archive = Archive::default();
    for directory in ["proc", "sys", "dev", "run", "tmp", "mnt", "root", "sbin", "usr/bin", "usr/sbin", "var/run"] {
        archive.directory(Path::new(directory));
    }
    archive.device("dev/console", 5, 1);
    archive.device("dev/null", 1, 3);
    archive.file("bin/busybox", &read(&cache.busybox()), 0o755);
    archive.link("init", "/bin/busybox");
    let applets = Command::new(cache.busybox()).arg("--list-full").output().expect("busybox runs");
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|applet| *applet != "bin/busybox") {
        archive.link(applet, "/bin/busybox");
    }
    archive.file("etc/inittab", INIT_TABLE.as_bytes(), 0o644);
    archive.file("etc/start", START.as_bytes(), 0o755);
    archive.file("bin/agent", &read(agent), 0o755);
    for module in files_below(&cache.modules()) {
        let inside = module.strip_prefix(cache.modules()).expect("a path below");
        archive.file(inside.to_str().expect("UTF-8"), &read(&module), 0o644);
    }
    let mut libraries = BTreeSet::new();
    for (program, inside) in [
        (program.to_owned(), "bin/corriente"),
        (find_program("mkfs.ext4"), "bin/mkfs.ext4"),
        (find_program("e2fsck"), "bin/e2fsck"),
        (find_program("resize2fs"), "bin/resize2fs"),
    ] {
        libraries.extend(libraries_of(&program));
        archive.file(inside, &read(&program), 0o755);
    }
    for library in libraries {
        archive.file(library.trim_start_matches('/'), &read(Path::new(&library)), 0o755);
    }
    archive.finish()
}

/// Static, so that it needs nothing of the guest.
fn compile_agent() -> PathBuf {
    let agent = Path::new(SCRATCH).join("lab-agent");
    if !is_newer(&agent, Path::new(AGENT)) {
        let options = ["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"];
        run(Command::new("rustc").args(options).arg(beside(&agent)).arg(AGENT));
        fs::rename(beside(&agent), &agent).expect("the agent is in place");
    }
    agent
}

/// Debug symbols are four fifths of it, and memory is what an initramfs costs.
fn strip_program() -> PathBuf {
    let program = Path::new(SCRATCH).join("lab-corriente");
    if !is_newer(&program, Path::new(PROGRAM)) {
        run(Command::new("strip").arg("-o").arg(beside(&program)).arg(PROGRAM));
        fs::rename(beside(&program), &program).expect("the program is in place");
    }
    program
}

/// Paths of all that the dynamic linker maps, itself among them.
fn libraries_of(program: &Path) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output().expect("ldd runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned))
        .collect()
}

fn find_program(name: &str) -> PathBuf {
    let places = ["/usr/sbin", "/sbin", "/usr/bin"].map(|place| Path::new(place).join(name));
    places
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is not installed: run scripts/setup"))
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether something made is there and not older than what it was made of.
fn is_newer(made: &Path, of: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    match (time(made), time(of)) {
        (Some(made), Some(of)) => made >= of,
        _ => false,
    }
}

/// A test that is killed must not leave half a file for the next.
fn write_whole(path: &Path, data: &[u8]) {
    fs::write(beside(path), data).and_then(|()| fs::rename(beside(path), path)).expect("the image is written");
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension(format!("new-{}", std::process::id()))
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// A cpio archive in the format `newc`, which Linux unpacks as its first root (Documentation/driver-api/early-userspace,
/// buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<PathBuf>,
}

impl Archive {
    fn directory(&mut self, path: &Path) {
        if path.as_os_str().is_empty() || !self.directories.insert(path.to_owned()) {
            return;
        }
        self.parent(path);
        self.entry(path.to_str().expect("UTF-8"), 0o040_755, (0, 0), &[]);
    }

    fn file(&mut self, path: &str, data: &[u8], mode: u32) {
        self.parent(Path::new(path));
        self.entry(path, 0o100_000 | mode, (0, 0), data);
    }

    fn link(&mut self, path: &str, to: &str) {
        self.parent(Path::new(path));
        self.entry(path, 0o120_777, (0, 0), to.as_bytes());
    }

    fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, 0o020_600, (major, minor), &[]);
    }

    fn parent(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), data: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(data.len()).expect("files below 4 GiB");
        let name = path.len() as u32 + 1;
        // Inode, mode, owner, group, links, time, size, the file system's and the device's numbers, name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").into_bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(data);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}
