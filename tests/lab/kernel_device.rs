//! A volume as a block device of a real kernel: `spdk-tcp-blockdev` over its nvme-tcp.

use std::collections::BTreeMap;

use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::node::GuestNode;
use crate::support::wait::wait_until;
use crate::vm::{Vm, VmOptions};
use crate::volume::{
    LIMIT, Load, MIB, delete_frontend, device, disk, engine, engine_with, frontend_get, frontend_request, replica,
};

const NODE: GuestNode = GuestNode(0);
const SIZE: u64 = 64 * MIB;

/// A machine whose node has a disk, `/dev/nvme0n1` of its kernel.
async fn machine() -> Vm {
    let vm = Vm::start(VmOptions::named("kernel").memory_mib(1152).hugepages(264).nvme("DISKA", 256 * MIB)).await;
    NODE.start(&vm, "").await;
    disk(&vm, NODE, "disk", "/dev/nvme0n1", "aio").await;
    vm
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a VM; ./scripts/lab"]
async fn a_kernel_uses_a_volume_as_a_disk() {
    let vm = machine().await;
    let mut spdk = NODE.spdk(&vm);
    let replicas = BTreeMap::from([replica(&vm, NODE, "v1", "disk", SIZE).await]);
    engine(&vm, NODE, ("v1", 0), SIZE, replicas.clone()).await;

    // Without the module it says what to do, and with it the same request succeeds.
    let without = spdk.engine_frontend_create(frontend_request("v1", SIZE)).await.expect_err("no nvme-tcp yet");
    assert_eq!(without.code(), Code::FailedPrecondition, "{without}");
    assert!(without.message().contains("modprobe nvme-tcp"), "{without}");
    vm.run("modprobe nvme-tcp").await;
    let frontend = spdk.engine_frontend_create(frontend_request("v1", SIZE)).await.expect("an answer").into_inner();
    assert_eq!((frontend.state.as_str(), frontend.error_msg.as_str()), ("running", ""), "{}", vm.dmesg().await);
    assert_eq!(frontend.endpoint, "/dev/longhorn/v1");
    let again = spdk.engine_frontend_create(frontend_request("v1", SIZE)).await.expect("an answer").into_inner();
    assert_eq!(again, frontend);
    assert_eq!(vm.run("ls /sys/class/nvme-fabrics/ctl | grep -c '^nvme'").await, "1", "it is connected once");
    assert_eq!(vm.run("blockdev --getsize64 /dev/longhorn/v1").await, SIZE.to_string());

    // A file system, as a host has it; what is read comes from the volume.
    vm.run("mkfs.ext4 -q /dev/longhorn/v1 && mount /dev/longhorn/v1 /mnt").await;
    vm.run("dd if=/dev/urandom of=/mnt/data bs=1M count=16 conv=fsync").await;
    let hash = vm.run("sha256sum /mnt/data").await;
    let mut snapshot = wire::SnapshotRequest { name: "v1-ef".into(), ..Default::default() };
    snapshot.snapshot_name = "s1".into();
    spdk.engine_frontend_snapshot_create(snapshot.clone()).await.expect("a snapshot of a mounted file system");
    vm.run("dd if=/dev/urandom of=/mnt/data bs=1M count=16 conv=fsync; echo later >/mnt/later; sync").await;

    vm.run("umount /mnt && e2fsck -fn /dev/longhorn/v1 && echo 3 >/proc/sys/vm/drop_caches").await;
    vm.run("mount /dev/longhorn/v1 /mnt && grep later /mnt/later && umount /mnt").await;
    delete_frontend(&vm, NODE, "v1").await;

    // The snapshot has what the file system had written when it was taken.
    let delete = wire::EngineDeleteRequest { name: "v1-e-0".into() };
    spdk.engine_delete(delete.clone()).await.expect("the engine is deleted");
    engine_with(&vm, NODE, ("v1", 0), SIZE, "", replicas.clone()).await;
    let revert = wire::SnapshotRequest { name: "v1-e-0".into(), snapshot_name: "s1".into(), ..Default::default() };
    spdk.engine_snapshot_revert(revert).await.expect("reverted");
    spdk.engine_delete(delete).await.expect("the engine is deleted");
    engine(&vm, NODE, ("v1", 0), SIZE, replicas).await;
    spdk.engine_frontend_create(frontend_request("v1", SIZE)).await.expect("the frontend is back");
    vm.run("mount /dev/longhorn/v1 /mnt").await;
    assert_eq!(vm.run("sha256sum /mnt/data").await, hash);
    vm.run("! [ -e /mnt/later ] && umount /mnt && e2fsck -fn /dev/longhorn/v1").await;
    delete_frontend(&vm, NODE, "v1").await;
    NODE.stop(&vm).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a VM; ./scripts/lab"]
async fn a_mounted_volume_goes_through_suspension_and_expansion() {
    let vm = machine().await;
    let mut spdk = NODE.spdk(&vm);
    device(&vm, NODE, "v1", "disk", SIZE).await;
    vm.run("mkfs.ext4 -q /dev/longhorn/v1 && mount /dev/longhorn/v1 /mnt").await;
    let load = Load::start(&vm, "/mnt/load").await;

    vm.run("sleep 1").await;
    let suspend = wire::EngineFrontendSuspendRequest { name: "v1-ef".into() };
    spdk.engine_frontend_suspend(suspend).await.expect("suspended under I/O");
    assert_eq!(frontend_get(&vm, NODE, "v1").await.expect("it is there").state, "suspended");
    vm.run("sleep 3").await;
    let resume = wire::EngineFrontendResumeRequest { name: "v1-ef".into() };
    spdk.engine_frontend_resume(resume).await.expect("resumed");

    let expand = wire::EngineFrontendExpandRequest { name: "v1-ef".into(), size: 2 * SIZE };
    spdk.engine_frontend_expand(expand).await.expect("expanded under I/O");
    let grown = wait_for_size(&vm, 2 * SIZE).await;
    assert_eq!(grown.spec_size, 2 * SIZE);
    vm.run("resize2fs /dev/longhorn/v1").await;
    vm.run("dd if=/dev/zero of=/mnt/large bs=1M count=80 conv=fsync").await;

    let loaded = load.end(&vm).await;
    assert!(loaded.writes > 10 && loaded.slowest_ms >= 2000, "the suspension was seen: {loaded:?}");
    vm.run("umount /mnt && e2fsck -fn /dev/longhorn/v1").await;
    delete_frontend(&vm, NODE, "v1").await;
}

/// Waits until the kernel's device has so many bytes.
async fn wait_for_size(vm: &Vm, size: u64) -> wire::EngineFrontend {
    let script = "blockdev --getsize64 /dev/longhorn/v1";
    wait_until(LIMIT, "the kernel sees the new size", async || match vm.run(script).await {
        found if found == size.to_string() => Ok(()),
        found => Err(found),
    })
    .await;
    frontend_get(vm, NODE, "v1").await.expect("it is there")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a VM; ./scripts/lab"]
async fn a_mounted_volume_outlives_the_node() {
    let vm = machine().await;
    device(&vm, NODE, "v1", "disk", SIZE).await;
    vm.run("mkfs.ext4 -q /dev/longhorn/v1 && mount /dev/longhorn/v1 /mnt").await;
    let number = vm.run("stat -Lc %t:%T /dev/longhorn/v1").await;
    let load = Load::start(&vm, "/mnt/load").await;
    vm.run("sleep 1").await;

    NODE.kill9(&vm).await;
    NODE.start(&vm, "").await;
    wait_until(LIMIT, "the frontend is back", async || match frontend_get(&vm, NODE, "v1").await {
        Ok(found) if found.state == "running" && found.endpoint == "/dev/longhorn/v1" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    vm.run("sleep 1").await;

    let loaded = load.end(&vm).await;
    assert!(loaded.writes > 10, "{loaded:?}");
    assert_eq!(vm.run("stat -Lc %t:%T /dev/longhorn/v1").await, number, "it is the same device");
    vm.run("umount /mnt && e2fsck -fn /dev/longhorn/v1").await;
    delete_frontend(&vm, NODE, "v1").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a VM; ./scripts/lab"]
async fn a_connected_volume_stays_with_its_engine_where_spdk_has_no_ana() {
    let options = VmOptions::named("two-nodes").memory_mib(1536).hugepages(528).nvme("DISKA", 256 * MIB);
    let vm = Vm::start(options.nvme("DISKB", 256 * MIB)).await;
    let nodes = [GuestNode(0), GuestNode(1)];
    let mut replicas = BTreeMap::new();
    for (node, path) in nodes.into_iter().zip(["/dev/nvme0n1", "/dev/nvme1n1"]) {
        node.start(&vm, "").await;
        disk(&vm, node, "disk", path, "aio").await;
        replicas.extend([replica(&vm, node, "v1", "disk", SIZE).await]);
    }
    vm.run("modprobe nvme-tcp").await;
    engine(&vm, nodes[0], ("v1", 0), SIZE, replicas.clone()).await;
    let created = nodes[0].spdk(&vm).engine_frontend_create(frontend_request("v1", SIZE)).await.expect("an answer");
    assert_eq!(created.get_ref().error_msg, "");
    vm.run("mkfs.ext4 -q /dev/longhorn/v1 && mount /dev/longhorn/v1 /mnt").await;
    let load = Load::start(&vm, "/mnt/load").await;

    let second = engine(&vm, nodes[1], ("v1", 1), SIZE, replicas).await;
    let request = wire::EngineFrontendSwitchOverRequest {
        name: "v1-ef".into(),
        engine_name: "v1-e-1".into(),
        target_address: format!("{}:{}", second.target_ip, second.target_port),
        switchover_phase: String::new(),
    };
    let switched = nodes[0].spdk(&vm).engine_frontend_switch_over(request).await;
    let frontend = frontend_get(&vm, nodes[0], "v1").await.expect("it is there");
    assert_eq!(frontend.state, "running", "{frontend:?}");
    match switched {
        // An SPDK with ANA.
        Ok(_) => assert_eq!(frontend.engine_name, "v1-e-1"),
        // Documented in operations.md: the preparation fails at the closed target.
        Err(status) => {
            assert!(status.message().contains("the kernel refused it"), "{status}");
            assert_eq!(frontend.engine_name, "v1-e-0");
        }
    }
    vm.run("sleep 1").await;
    let loaded = load.end(&vm).await;
    assert!(loaded.writes > 10, "{loaded:?}");
    vm.run("umount /mnt && e2fsck -fn /dev/longhorn/v1").await;
    delete_frontend(&vm, nodes[0], "v1").await;
}
