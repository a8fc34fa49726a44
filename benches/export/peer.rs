//! The same SPDK's `nvmf_tgt`, told over its own JSON-RPC socket to export one lvol on a file.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::common::support::process::Process;
use super::common::support::wait::wait_until;
use super::perf::Target;

const IP: &str = "127.0.0.1";
const PORT: i32 = 24420;
const NQN: &str = "nqn.2026-01.bench:peer";
const START_LIMIT: Duration = Duration::from_secs(30);

pub struct Peer {
    process: Process,
}

impl Peer {
    /// Starts the target with the settings that a node has too: 1 MiB clusters, 4 KiB blocks, a thin lvol.
    pub async fn start(apps: &Path, directory: &Path, disk: &Path, bytes: u64) -> Self {
        let socket = directory.join("peer.sock");
        let program = apps.join("build/bin/nvmf_tgt");
        let arguments = ["-m", "0x1", "-s", "512", "-r", socket.to_str().expect("a path in UTF-8")];
        let process = Process::spawn("nvmf_tgt", &program, &arguments, &[], directory.join("peer.log"));
        wait_until(START_LIMIT, "nvmf_tgt answers", async || {
            UnixStream::connect(&socket).map(drop).map_err(|error| error.to_string())
        })
        .await;
        let rpc = Rpc { socket };
        rpc.call("nvmf_create_transport", json!({"trtype": "TCP"}));
        let disk = disk.to_str().expect("a path in UTF-8");
        rpc.call("bdev_aio_create", json!({"name": "disk", "filename": disk, "block_size": 4096}));
        rpc.call("bdev_lvol_create_lvstore", json!({"bdev_name": "disk", "lvs_name": "lvs", "cluster_sz": 1 << 20}));
        let lvol = json!({"lvol_name": "v", "lvs_name": "lvs", "size": bytes, "thin_provision": true});
        rpc.call("bdev_lvol_create", lvol);
        rpc.call("nvmf_create_subsystem", json!({"nqn": NQN, "allow_any_host": true}));
        rpc.call("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": {"bdev_name": "lvs/v"}}));
        let address = json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": IP, "trsvcid": PORT.to_string()});
        rpc.call("nvmf_subsystem_add_listener", json!({"nqn": NQN, "listen_address": address}));
        Self { process }
    }

    pub fn target(&self) -> Target {
        Target { ip: IP.into(), port: PORT, nqn: NQN.into() }
    }

    pub fn freeze(&mut self) {
        self.process.freeze();
    }

    pub fn thaw(&mut self) {
        self.process.thaw();
    }
}

struct Rpc {
    socket: PathBuf,
}

impl Rpc {
    fn call(&self, method: &str, parameters: Value) {
        let mut stream = UnixStream::connect(&self.socket).expect("nvmf_tgt listens");
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters});
        stream.write_all(request.to_string().as_bytes()).expect("a request is taken");
        // The answer has no length: it is over when it parses.
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let count = stream.read(&mut piece).expect("an answer");
            assert_ne!(count, 0, "{method}: nvmf_tgt closed the connection");
            answer.extend_from_slice(&piece[..count]);
            if let Ok(answer) = serde_json::from_slice::<Value>(&answer) {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return;
            }
        }
    }
}
