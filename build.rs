//! Compiles the wire contracts of `proto/` into Rust, without needing protoc on the machine.

use std::path::Path;
use std::{env, error, fs};

const PROTO_FILES: [&str; 2] = ["spdkrpc/spdk.proto", "corriente/v1/corriente.proto"];

fn main() -> Result<(), Box<dyn error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTO_FILES, ["proto"])?;
    let output = env::var("OUT_DIR")?;
    // The server's reflection and the conformance test read the contract from here.
    let encoded = protox::prost::Message::encode_to_vec(&descriptors);
    fs::write(Path::new(&output).join("descriptors.bin"), encoded)?;

    // Ordered maps and serde: the command line prints messages as JSON, the same bytes for the same answer.
    tonic_prost_build::configure()
        .btree_map(".")
        // A call that no service writes answers Unimplemented, as the contract has it for the calls we don't offer.
        .generate_default_stubs(true)
        .type_attribute(".", "#[derive(serde::Serialize)]")
        .field_attribute(
            ".spdkrpc.Engine.replica_mode_map",
            "#[serde(serialize_with = \"crate::wire::json::replica_modes\")]",
        )
        .field_attribute(
            ".corriente.v1.MirrorMember.mode",
            "#[serde(serialize_with = \"crate::wire::json::replica_mode\")]",
        )
        .compile_fds(descriptors)?;
    Ok(())
}
