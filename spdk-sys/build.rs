//! Finds a built SPDK tree, compiles the shim against it, binds the shim's header, and links SPDK statically.
//!
//! Where SPDK is looked for: `SPDK_DIR`, else `spdk/current` in the cache that `scripts/setup` fills
//! (`CORRIENTE_CACHE`, by default `/var/cache/corriente`).

#[path = "build/link.rs"]
mod link;
#[path = "build/tree.rs"]
mod tree;

use std::path::{Path, PathBuf};

use tree::Tree;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(spdk_modern)");
    println!("cargo::rerun-if-env-changed=SPDK_DIR");
    println!("cargo::rerun-if-env-changed=CORRIENTE_CACHE");
    println!("cargo::rerun-if-changed=build");

    let tree = Tree::find().unwrap_or_else(|problem| {
        println!("cargo::error={problem}");
        std::process::exit(1);
    });
    if tree.is_modern() {
        println!("cargo::rustc-cfg=spdk_modern");
    }
    println!("cargo::metadata=version={}", tree.version);
    println!("cargo::metadata=modern={}", u8::from(tree.is_modern()));

    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    compile_shim(&tree);
    bind_shim(&tree, &out);
    link::emit(&tree, &out);
}

/// Every `.c` of `shim/` into one archive, linked whole: a constructor registers the bdev module.
fn compile_shim(tree: &Tree) {
    println!("cargo::rerun-if-changed=shim");
    let mut sources: Vec<PathBuf> = std::fs::read_dir("shim")
        .expect("shim/ is part of the crate")
        .map(|entry| entry.expect("shim/ can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .collect();
    sources.sort();
    let mut build = cc::Build::new();
    build
        .files(sources)
        .std("gnu11")
        .flag("-fno-strict-aliasing")
        .flag("-march=x86-64-v2")
        .flag("-Wall")
        .flag("-Wextra")
        .flag("-Wno-unused-parameter")
        .flag("-Wno-missing-field-initializers")
        // A private function whose signature changed must fail here, not at run time.
        .flag("-Werror=incompatible-pointer-types")
        .flag("-Werror=implicit-function-declaration")
        .flag("-Werror=int-conversion")
        .opt_level(2)
        .link_lib_modifier("+whole-archive")
        .link_lib_modifier("-bundle");
    if link::has_virtio(tree) {
        build.define("CS_HAVE_VIRTIO", None);
    }
    for include in tree.includes() {
        // Not our headers: their warnings are not ours either.
        build.flag("-isystem").flag(include.to_str().expect("the SPDK path is UTF-8"));
    }
    build.include("shim");
    build.compile("corriente_shim");
}

/// SPDK functions with one prototype in every release supported; all else goes through the shim.
const STABLE_FUNCTIONS: &[&str] = &[
    "spdk_bdev_close",
    "spdk_bdev_flush_blocks",
    "spdk_bdev_free_io",
    "spdk_bdev_get_io_channel",
    "spdk_bdev_readv_blocks",
    "spdk_bdev_reset",
    "spdk_bdev_unmap_blocks",
    "spdk_bdev_write_zeroes_blocks",
    "spdk_bdev_writev_blocks",
    "spdk_dma_free",
    "spdk_dma_malloc",
    "spdk_dma_zmalloc",
    "spdk_env_get_current_core",
    "spdk_get_thread",
    "spdk_get_ticks",
    "spdk_get_ticks_hz",
    "spdk_poller_register_named",
    "spdk_poller_unregister",
    "spdk_put_io_channel",
    "spdk_set_thread",
    "spdk_thread_destroy",
    "spdk_thread_exit",
    "spdk_thread_is_exited",
    "spdk_thread_is_idle",
    "spdk_thread_next_poller_expiration",
    "spdk_thread_poll",
    "spdk_thread_send_msg",
];

fn bind_shim(tree: &Tree, out: &Path) {
    let mut builder = bindgen::Builder::default()
        .header("shim/bind.h")
        .allowlist_item("cs_.*|CS_.*")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .layout_tests(false)
        .generate_comments(false)
        .use_core()
        .opaque_type("spdk_bdev.*_(desc|channel)|spdk_bdev|spdk_bdev_io|spdk_thread|spdk_io_channel|spdk_poller")
        .clang_arg("-Ishim");
    for function in STABLE_FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for include in tree.includes() {
        builder = builder.clang_arg(format!("-isystem{}", include.display()));
    }
    builder
        .generate()
        .expect("the shim's header binds; a missing libclang is installed by scripts/setup")
        .write_to_file(out.join("bindings.rs"))
        .expect("OUT_DIR can be written");
}
