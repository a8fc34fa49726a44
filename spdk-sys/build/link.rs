//! Tells cargo which archives and system libraries make up SPDK.
//!
//! Every archive is linked whole: bdev modules, event subsystems, socket implementations, NVMe-oF transports and
//! DPDK's mempool handler register themselves in constructors that nothing refers to by name.

use std::collections::BTreeSet;
use std::path::Path;

use crate::tree::Tree;

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
const DPDK_20_05: &[&str] = &["bus_pci", "eal", "kvargs", "mempool", "mempool_ring", "pci", "ring", "telemetry"];
const SYSTEM_20_07: &[&str] = &["aio", "crypto", "dl", "numa", "rt", "uuid"];

/// The pkg-config files of a modern tree that name what we link.
const MODERN_PACKAGES: &[&str] =
    &["spdk_event_nvmf", "spdk_event_bdev", "spdk_sock_modules", "spdk_env_dpdk", "spdk_dpdklibs", "spdk_syslibs"];
/// Of the modern bdev modules only these; others pull in libraries nobody asked for.
const MODERN_MODULES: &[&str] =
    &["bdev_aio", "bdev_delay", "bdev_error", "bdev_lvol", "bdev_malloc", "bdev_null", "bdev_nvme", "blob_bdev"];

pub fn emit(tree: &Tree) {
    for folder in ["build/lib", "dpdk/build/lib", "isa-l/.libs", "isa-l-crypto/.libs"] {
        println!("cargo::rustc-link-search=native={}", tree.root.join(folder).display());
    }
    if tree.is_modern() { modern(tree) } else { fixed() }
}

fn whole(library: &str) {
    println!("cargo::rustc-link-lib=static:+whole-archive,-bundle={library}");
}

fn fixed() {
    SPDK_20_07.iter().for_each(|library| whole(&format!("spdk_{library}")));
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
    for name in names {
        let archive = format!("lib{name}.a");
        let ours = ["build/lib", "dpdk/build/lib"].iter().any(|folder| tree.root.join(folder).join(&archive).exists());
        if ours {
            whole(&name);
        } else if name.starts_with("isal") {
            println!("cargo::rustc-link-lib=static:-bundle={name}");
        } else {
            println!("cargo::rustc-link-lib=dylib={name}");
        }
    }
}

/// The `-l` names of a package and of all it requires.
fn collect(folder: &Path, package: &str, names: &mut BTreeSet<String>, seen: &mut BTreeSet<String>) {
    if !seen.insert(package.to_owned()) {
        return;
    }
    let Ok(text) = std::fs::read_to_string(folder.join(format!("{package}.pc"))) else {
        return;
    };
    for line in text.lines() {
        if let Some(libraries) = line.strip_prefix("Libs:").or_else(|| line.strip_prefix("Libs.private:")) {
            for word in libraries.split_whitespace() {
                if let Some(name) = word.strip_prefix("-l:lib").and_then(|name| name.strip_suffix(".a")) {
                    names.insert(name.to_owned());
                } else if let Some(name) = word.strip_prefix("-l") {
                    names.insert(name.to_owned());
                }
            }
        }
        if let Some(required) = line.strip_prefix("Requires:").or_else(|| line.strip_prefix("Requires.private:")) {
            for word in required.split([' ', ',']).filter(|word| !word.is_empty()) {
                collect(folder, word, names, seen);
            }
        }
    }
}
