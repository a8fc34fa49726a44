//! Tells cargo which archives and system libraries make up SPDK.
//!
//! Every archive is linked whole: bdev modules, event subsystems, socket implementations, NVMe-oF transports and
//! DPDK's mempool handler register themselves in constructors that nothing refers to by name.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::tree::Tree;

/// Archives of SPDK's that are linked as copies, in which one function is replaced by one of the shim's.
const REPLACED: [Replaced; 2] = [
    // The clock of the bdev layer: shim/ticks.c.
    Replaced { library: "spdk_bdev", function: "spdk_get_ticks", by: "cs_bdev_ticks" },
    // What a virtio disk is asked to do: shim/virtio.c.
    Replaced { library: "spdk_bdev_virtio", function: "virtio_dev_reset", by: "cs_virtio_dev_reset" },
];

struct Replaced {
    library: &'static str,
    function: &'static str,
    by: &'static str,
}

impl Replaced {
    fn copy(&self) -> String {
        format!("corriente_{}", self.library)
    }
}

/// What 20.07 needs of SPDK (it has no pkg-config files to ask).
const SPDK_20_07: &[&str] = &[
    "accel",
    "bdev",
    "bdev_aio",
    "bdev_delay",
    "bdev_error",
    "bdev_lvol",
    "bdev_malloc",
    "bdev_null",
    "bdev_nvme",
    "blob",
    "blob_bdev",
    "conf",
    "env_dpdk",
    "event",
    "event_accel",
    "event_bdev",
    "event_nvmf",
    "event_sock",
    "event_vmd",
    "json",
    "jsonrpc",
    "log",
    "lvol",
    "notify",
    "nvme",
    "nvmf",
    "rpc",
    "sock",
    "sock_posix",
    "thread",
    "trace",
    "util",
    "vmd",
];
/// SPDK's virtio drivers, where the tree was built with them; 20.07's own archives.
const VIRTIO: &[&str] = &["bdev_virtio", "virtio"];
const DPDK_20_05: &[&str] = &["bus_pci", "eal", "kvargs", "mempool", "mempool_ring", "pci", "ring", "telemetry"];
const SYSTEM_20_07: &[&str] = &["aio", "crypto", "dl", "numa", "rt", "uuid"];

/// The pkg-config files of a modern tree that name what we link.
const MODERN_PACKAGES: &[&str] =
    &["spdk_event_nvmf", "spdk_event_bdev", "spdk_sock_modules", "spdk_env_dpdk", "spdk_dpdklibs", "spdk_syslibs"];
/// What `spdk_bdev` and `spdk_accel` require as well: all modules that the tree has, of which we choose our own.
const MODERN_COLLECTIONS: &[&str] = &["spdk_bdev_modules", "spdk_accel_modules"];
/// Of the modern bdev modules only these; others pull in libraries nobody asked for.
const MODERN_MODULES: &[&str] =
    &["bdev_aio", "bdev_delay", "bdev_error", "bdev_lvol", "bdev_malloc", "bdev_null", "bdev_nvme", "blob_bdev"];

/// Whether the tree can drive virtio disks.
pub fn has_virtio(tree: &Tree) -> bool {
    VIRTIO.iter().all(|library| tree.root.join(format!("build/lib/libspdk_{library}.a")).exists())
}

pub fn emit(tree: &Tree, out: &Path) {
    REPLACED.iter().for_each(|replaced| copy(tree, out, replaced));
    println!("cargo::rustc-link-search=native={}", out.display());
    for folder in ["build/lib", "dpdk/build/lib", "isa-l/.libs", "isa-l-crypto/.libs"] {
        println!("cargo::rustc-link-search=native={}", tree.root.join(folder).display());
    }
    if tree.is_modern() { modern(tree) } else { fixed(tree) }
}

/// Copies an archive, if the tree has it, with a function of the shim in place of one of SPDK's.
fn copy(tree: &Tree, out: &Path, replaced: &Replaced) {
    let archive = tree.root.join(format!("build/lib/lib{}.a", replaced.library));
    if !archive.exists() {
        return;
    }
    println!("cargo::rerun-if-changed={}", archive.display());
    let status = Command::new("objcopy")
        .arg("--redefine-sym")
        .arg(format!("{}={}", replaced.function, replaced.by))
        .arg(&archive)
        .arg(out.join(format!("lib{}.a", replaced.copy())))
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("objcopy of {} ended with {status}", archive.display()),
        Err(error) => panic!("objcopy (Debian: binutils, which scripts/setup installs) did not start: {error}"),
    }
}

fn whole(library: &str) {
    let replaced = REPLACED.iter().find(|replaced| replaced.library == library);
    let library = replaced.map_or_else(|| library.to_owned(), Replaced::copy);
    println!("cargo::rustc-link-lib=static:+whole-archive,-bundle={library}");
}

fn fixed(tree: &Tree) {
    SPDK_20_07.iter().for_each(|library| whole(&format!("spdk_{library}")));
    if has_virtio(tree) {
        VIRTIO.iter().for_each(|library| whole(&format!("spdk_{library}")));
    }
    DPDK_20_05.iter().for_each(|library| whole(&format!("rte_{library}")));
    println!("cargo::rustc-link-lib=static:-bundle=isal");
    SYSTEM_20_07.iter().for_each(|library| println!("cargo::rustc-link-lib=dylib={library}"));
}

fn modern(tree: &Tree) {
    let folder = tree.root.join("build/lib/pkgconfig");
    let mut names = BTreeSet::new();
    for package in MODERN_PACKAGES {
        collect(&folder, package, &mut names, &mut BTreeSet::new());
    }
    for module in MODERN_MODULES {
        collect(&folder, &format!("spdk_{module}"), &mut names, &mut BTreeSet::new());
    }
    if has_virtio(tree) {
        collect(&folder, "spdk_bdev_virtio", &mut names, &mut BTreeSet::new());
    }
    let is_archive = |name: &str| {
        let archive = format!("lib{name}.a");
        ["build/lib", "dpdk/build/lib"].iter().any(|folder| tree.root.join(folder).join(&archive).exists())
    };
    let (ours, others): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| is_archive(name));
    // In the order that a linker wants which reads archives once: ISA-L and the system's after those that call them.
    ours.iter().for_each(|name| whole(name));
    let (isal, system): (Vec<_>, Vec<_>) = others.into_iter().partition(|name| name.starts_with("isal"));
    isal.iter().for_each(|name| println!("cargo::rustc-link-lib=static:-bundle={name}"));
    system.iter().for_each(|name| println!("cargo::rustc-link-lib=dylib={name}"));
}

/// The libraries of a package and of all it requires, without `lib` and ending.
fn collect(folder: &Path, package: &str, names: &mut BTreeSet<String>, seen: &mut BTreeSet<String>) {
    if MODERN_COLLECTIONS.contains(&package) || !seen.insert(package.to_owned()) {
        return;
    }
    let Ok(text) = std::fs::read_to_string(folder.join(format!("{package}.pc"))) else {
        return;
    };
    for line in text.lines() {
        if let Some(libraries) = line.strip_prefix("Libs:").or_else(|| line.strip_prefix("Libs.private:")) {
            for word in libraries.split_whitespace() {
                names.extend(library(word));
            }
        }
        if let Some(required) = line.strip_prefix("Requires:").or_else(|| line.strip_prefix("Requires.private:")) {
            for word in required.split([' ', ',']).filter(|word| !word.is_empty()) {
                collect(folder, word, names, seen);
            }
        }
    }
}

/// What a word of a `Libs` line links: `-laio`, `-l:libx.a` or the path of an archive (ISA-L's).
fn library(word: &str) -> Option<String> {
    let archive = |file: &str| Some(file.strip_prefix("lib")?.strip_suffix(".a")?.to_owned());
    match word.strip_prefix("-l") {
        Some(name) => name.strip_prefix(':').map_or_else(|| Some(name.to_owned()), archive),
        None if word.starts_with('/') => archive(word.rsplit('/').next()?),
        None => None,
    }
}
