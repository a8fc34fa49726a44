//! Disks and volumes of a node in a guest, and the calls that a Longhorn manager would make of them.

use std::collections::BTreeMap;
use std::time::Duration;

use corriente::name::{Nqn, VolumeName};
use corriente::wire::spdkrpc as wire;
use tonic::Status;

use crate::node::GuestNode;
use crate::support::wait::wait_until;
use crate::vm::Vm;

pub const MIB: u64 = 1 << 20;
pub const BLOCKDEV: &str = "spdk-tcp-blockdev";
pub const NVMF: &str = "spdk-tcp-nvmf";
pub const LIMIT: Duration = Duration::from_secs(60);

/// Creates a disk and waits until it is ready.
pub async fn disk(vm: &Vm, node: GuestNode, name: &str, path: &str, driver: &str) -> wire::Disk {
    node.spdk(vm).disk_create(disk_request(name, path, driver)).await.expect("the disk is taken");
    ready_disk(vm, node, name).await
}

pub fn disk_request(name: &str, path: &str, driver: &str) -> wire::DiskCreateRequest {
    wire::DiskCreateRequest {
        disk_name: name.into(),
        disk_path: path.into(),
        block_size: if driver == "aio" { 512 } else { 0 },
        disk_driver: driver.into(),
        ..Default::default()
    }
}

pub async fn ready_disk(vm: &Vm, node: GuestNode, name: &str) -> wire::Disk {
    wait_until(LIMIT, "the disk is ready", async || {
        let request = wire::DiskGetRequest { disk_name: name.into(), ..Default::default() };
        match node.spdk(vm).disk_get(request).await {
            Ok(disk) if disk.get_ref().state == "ready" => Ok(disk.into_inner()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// A replica of a volume, running; its name and address.
pub async fn replica(vm: &Vm, node: GuestNode, volume: &str, disk: &str, size: u64) -> (String, String) {
    numbered_replica(vm, node, (volume, node.0), disk, size).await
}

/// One of several replicas of a volume on a node.
pub async fn numbered_replica(
    vm: &Vm,
    node: GuestNode,
    (volume, number): (&str, usize),
    disk: &str,
    size: u64,
) -> (String, String) {
    let request = wire::ReplicaCreateRequest {
        name: format!("{volume}-r-0000000{number}"),
        lvs_name: disk.into(),
        spec_size: size,
        port_count: 5,
        ..Default::default()
    };
    let replica = node.spdk(vm).replica_create(request).await.expect("the replica is created").into_inner();
    assert_eq!((replica.state.as_str(), replica.error_msg.as_str()), ("running", ""));
    (replica.name, format!("{}:{}", replica.ip, replica.port_start))
}

/// The engine `<volume>-e-<ordinal>` with a target.
pub async fn engine(
    vm: &Vm,
    node: GuestNode,
    name: (&str, u32),
    size: u64,
    replicas: BTreeMap<String, String>,
) -> wire::Engine {
    engine_with(vm, node, name, size, NVMF, replicas).await
}

/// The engine `<volume>-e-<ordinal>` with a frontend of its own.
pub async fn engine_with(
    vm: &Vm,
    node: GuestNode,
    (volume, ordinal): (&str, u32),
    size: u64,
    frontend: &str,
    replicas: BTreeMap<String, String>,
) -> wire::Engine {
    let request = wire::EngineCreateRequest {
        name: format!("{volume}-e-{ordinal}"),
        volume_name: volume.into(),
        spec_size: size,
        replica_address_map: replicas,
        frontend: frontend.into(),
        ..Default::default()
    };
    let engine = node.spdk(vm).engine_create(request).await.expect("the engine is created").into_inner();
    assert_eq!((engine.state.as_str(), engine.error_msg.as_str()), ("running", ""));
    engine
}

/// A request for the frontend `<volume>-ef`, a device of the guest's kernel, over the engine `<volume>-e-0`.
pub fn frontend_request(volume: &str, size: u64) -> wire::EngineFrontendCreateRequest {
    wire::EngineFrontendCreateRequest {
        name: format!("{volume}-ef"),
        volume_name: volume.into(),
        engine_name: format!("{volume}-e-0"),
        spec_size: size,
        frontend: BLOCKDEV.into(),
        ..Default::default()
    }
}

/// A volume of one replica on a disk, as the device `/dev/longhorn/<volume>` of the guest's kernel.
pub async fn device(vm: &Vm, node: GuestNode, volume: &str, disk: &str, size: u64) -> wire::EngineFrontend {
    let replicas = BTreeMap::from([replica(vm, node, volume, disk, size).await]);
    device_of(vm, node, volume, size, replicas).await
}

/// As [`device`], of replicas that there are.
pub async fn device_of(
    vm: &Vm,
    node: GuestNode,
    volume: &str,
    size: u64,
    replicas: BTreeMap<String, String>,
) -> wire::EngineFrontend {
    engine(vm, node, (volume, 0), size, replicas).await;
    vm.run("modprobe nvme-tcp").await;
    let created = node.spdk(vm).engine_frontend_create(frontend_request(volume, size)).await;
    let frontend = created.expect("an answer").into_inner();
    assert_eq!((frontend.state.as_str(), frontend.error_msg.as_str()), ("running", ""), "{}", vm.dmesg().await);
    assert_eq!(frontend.endpoint, format!("/dev/longhorn/{volume}"));
    frontend
}

pub async fn frontend_get(vm: &Vm, node: GuestNode, volume: &str) -> Result<wire::EngineFrontend, Status> {
    let request = wire::EngineFrontendGetRequest { name: format!("{volume}-ef") };
    node.spdk(vm).engine_frontend_get(request).await.map(tonic::Response::into_inner)
}

/// Deletes the frontend; its kernel must not show anything of it afterwards.
pub async fn delete_frontend(vm: &Vm, node: GuestNode, volume: &str) {
    let request = wire::EngineFrontendDeleteRequest { name: format!("{volume}-ef") };
    node.spdk(vm).engine_frontend_delete(request).await.expect("the frontend is deleted");
    vm.run(&format!("! [ -e /dev/longhorn/{volume} ]")).await;
    let nqn = Nqn::volume(&VolumeName::parse(volume).expect("a name"));
    let left = vm.run(&format!("grep -ls {nqn} /sys/class/nvme/*/subsysnqn; true")).await;
    assert_eq!(left, "", "the kernel still has a connection");
    // The kernel takes its device nodes away in its own time.
    let script = "ls /sys/class/nvme-fabrics/ctl | grep '^nvme'; ls /dev | grep 'nvme[1-9]n'; true";
    wait_until(LIMIT, "nothing is left of the device", async || match vm.run(script).await {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    })
    .await;
}

/// Deletes the engine of a volume with its one replica and all its data.
pub async fn delete_volume(vm: &Vm, node: GuestNode, volume: &str) {
    let request = wire::EngineDeleteRequest { name: format!("{volume}-e-0") };
    node.spdk(vm).engine_delete(request).await.expect("the engine is deleted");
    let request = wire::ReplicaDeleteRequest { name: format!("{volume}-r-0000000{}", node.0), cleanup_required: true };
    node.spdk(vm).replica_delete(request).await.expect("the replica is deleted");
}

/// A load on a file or device of the guest, in a background of its own, until [`Load::end`].
pub struct Load {
    running: crate::agent::Running,
}

/// What a load has seen.
#[derive(Debug)]
pub struct Loaded {
    pub writes: u64,
    pub slowest_ms: u64,
}

impl Load {
    /// On 256 blocks at the start of `path`.
    pub async fn start(vm: &Vm, path: &str) -> Self {
        vm.run("rm -f /run/load.stop").await;
        let running = vm.begin(&format!("agent load {path} 256 /run/load.stop")).await;
        Self { running }
    }

    /// No write of it has failed, and what was synced is there.
    pub async fn end(self, vm: &Vm) -> Loaded {
        vm.run("touch /run/load.stop").await;
        let text = self.running.success().await;
        let number = |key: &str| {
            let word = text.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no {key} in {text}"))
        };
        Loaded { writes: number("writes"), slowest_ms: number("slowest_ms") }
    }
}
