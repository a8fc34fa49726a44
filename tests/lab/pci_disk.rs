//! Disks by the PCI address of an NVMe controller: taken from the kernel, driven by SPDK, found again, given back.

use std::path::Path;
use std::process::Command;

use corriente::wire::spdkrpc as wire;
use serde_json::json;
use tonic::Code;

use crate::pci::{NODE, delete_disk, driver_of, refused};
use crate::support::wait::wait_until;
use crate::vm::{Vm, VmOptions};
use crate::volume::{LIMIT, MIB, delete_frontend, device, disk, frontend_get, frontend_request, ready_disk};

const SIZE: u64 = 32 * MIB;

fn options(name: &str) -> VmOptions {
    VmOptions::named(name).memory_mib(1152).hugepages(264).nvme("DISKA", 256 * MIB)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a VM; ./scripts/lab"]
async fn a_controller_is_taken_from_the_kernel_and_given_back() {
    let mut vm = Vm::start(options("pci")).await;
    let address = vm.pci_address("DISKA").await;
    NODE.start(&vm, "").await;

    // Nothing is taken that is in use, nor without a driver to take it with; the kernel keeps it.
    vm.run("mkfs.ext4 -q /dev/nvme0n1 && mount /dev/nvme0n1 /mnt").await;
    vm.run("modprobe uio_pci_generic").await;
    let mounted = refused(&vm, &address, "").await;
    assert!(mounted.contains("/dev/nvme0n1 is mounted or in use"), "{mounted}");
    vm.run("rmmod uio_pci_generic").await;
    vm.run("echo kept >/mnt/file && umount /mnt").await;
    let unloaded = refused(&vm, &address, "nvme").await;
    assert!(unloaded.contains("modprobe vfio-pci"), "{unloaded}");
    assert_eq!(driver_of(&vm, &address).await, "nvme");

    // A disk with a file system is not formatted, and goes back to the kernel with it.
    vm.run("modprobe uio_pci_generic").await;
    let carried = refused(&vm, &address, "nvme").await;
    assert!(carried.contains("it carries an ext"), "{carried}");
    assert_eq!(driver_of(&vm, &address).await, "nvme");
    let wait = "until [ -b /dev/nvme0n1 ]; do usleep 10000; done";
    vm.run(&format!("{wait}; mount /dev/nvme0n1 /mnt && grep kept /mnt/file && umount /mnt")).await;
    vm.run("dd if=/dev/zero of=/dev/nvme0n1 bs=1M count=8 conv=fsync").await;

    // Nor is what is no disk, whatever it is said to be: the machine's network.
    let network = vm.run("basename $(readlink -f /sys/class/net/eth0/device/..)").await;
    for (driver, problem) in
        [("", "neither a virtio block device"), ("virtio-blk", "neither"), ("nvme", "its class is")]
    {
        let kind = refused(&vm, &network, driver).await;
        assert!(kind.contains(problem), "{kind}");
        assert_eq!(driver_of(&vm, &network).await, "virtio-pci");
    }

    let taken = disk(&vm, NODE, "disk", &address, "").await;
    assert_eq!((taken.driver.as_str(), taken.path.as_str()), ("nvme", address.as_str()));
    assert_eq!(driver_of(&vm, &address).await, "uio_pci_generic");
    vm.run("! [ -e /dev/nvme0n1 ]").await;
    health(&mut vm, &address).await;
    delete_disk(&vm, "disk").await;
    assert_eq!(driver_of(&vm, &address).await, "nvme");
    vm.run(wait).await;

    // The same again finds its own.
    let again = disk(&vm, NODE, "disk", &address, "").await;
    assert_eq!((again.uuid, again.id), (taken.uuid, taken.id));
    let missing = refused(&vm, "0000:7f:1f.7", "nvme").await;
    assert!(missing.contains("0000:7f:1f.7 does not exist"), "{missing}");
    NODE.stop(&vm).await;
}

/// What the controller says of itself, as it is and with an alarm. Numbers are those of QEMU's controller.
async fn health(vm: &mut Vm, address: &str) {
    let request = wire::DiskHealthGetRequest { disk_name: "disk".into(), ..Default::default() };
    let told = NODE.spdk(vm).disk_health_get(request.clone()).await.expect("the health").into_inner();
    let names = (told.model_number.as_str(), told.serial_number.as_str(), told.traddr.as_str());
    assert_eq!(names, ("QEMU NVMe Ctrl", "DISKA", address));
    assert_eq!((told.critical_warning, told.temperature_celsius), (0, 50.0));
    assert!(told.host_read_commands > 0 && told.host_write_commands > 0, "{told:?}");
    let alarm = json!({ "path": "/machine/peripheral/DISKA", "property": "smart_critical_warning", "value": 4 });
    vm.qmp().execute("qom-set", alarm).await;
    let told = NODE.spdk(vm).disk_health_get(request).await.expect("the health").into_inner();
    assert_eq!(told.critical_warning, 4);
    let unknown = wire::DiskHealthGetRequest { disk_name: "unknown".into(), ..Default::default() };
    let refused = NODE.spdk(vm).disk_health_get(unknown).await.expect_err("there is no such disk");
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a VM; ./scripts/lab"]
async fn a_volume_on_a_controller_outlives_node_and_machine() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = state_disk(directory.path());
    let mut vm = Vm::start(options("reboot").virtio(&state)).await;
    prepare(&vm).await;
    let address = vm.pci_address("DISKA").await;
    NODE.start(&vm, "").await;
    let before = disk(&vm, NODE, "disk", &address, "").await;
    device(&vm, NODE, "v1", "disk", SIZE).await;
    vm.run("mkfs.ext4 -q /dev/longhorn/v1 && mount /dev/longhorn/v1 /mnt").await;
    vm.run("dd if=/dev/urandom of=/mnt/data bs=1M count=8 conv=fsync").await;
    let hash = vm.run("sha256sum /mnt/data").await;

    // The node dies: user space has the controller still, and the mounted file system goes on.
    NODE.kill9(&vm).await;
    assert_eq!(driver_of(&vm, &address).await, "uio_pci_generic");
    NODE.start(&vm, "").await;
    assert_eq!(ready_disk(&vm, NODE, "disk").await.uuid, before.uuid);
    running(&vm, "v1", SIZE).await;
    vm.run("echo after >/mnt/after && sync && echo 3 >/proc/sys/vm/drop_caches").await;
    assert_eq!(vm.run("sha256sum /mnt/data").await, hash);

    // The machine dies: the kernel has the controller again until the node takes it, by its record alone.
    vm.kill9();
    vm.start_again().await;
    prepare(&vm).await;
    assert_eq!(driver_of(&vm, &address).await, "nvme");
    vm.run("modprobe nvme-tcp").await;
    NODE.start(&vm, "").await;
    let after = ready_disk(&vm, NODE, "disk").await;
    assert_eq!((after.uuid, after.driver), (before.uuid, before.driver));
    running(&vm, "v1", SIZE).await;
    vm.run("mount /dev/longhorn/v1 /mnt && grep after /mnt/after").await;
    assert_eq!(vm.run("sha256sum /mnt/data").await, hash);
    vm.run("umount /mnt && e2fsck -fn /dev/longhorn/v1").await;
    delete_frontend(&vm, NODE, "v1").await;
    NODE.stop(&vm).await;
    assert_eq!(driver_of(&vm, &address).await, "nvme", "a node that ends in order gives its controllers back");
}

/// A file system for what the node stores, which an initramfs cannot keep.
fn state_disk(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("state.raw");
    std::fs::File::create(&path).and_then(|file| file.set_len(32 * MIB)).expect("a sparse file");
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&path).env("PATH", "/usr/sbin:/sbin:/usr/bin").status();
    assert!(made.expect("mkfs.ext4 runs").success());
    path
}

async fn prepare(vm: &Vm) {
    let state = "mkdir -p /var/lib/corriente0 && mount /dev/vda /var/lib/corriente0";
    vm.run(&format!("modprobe virtio_blk && modprobe uio_pci_generic && {state}")).await;
}

pub async fn running(vm: &Vm, volume: &str, size: u64) {
    wait_until(LIMIT, "the volume is back", async || match frontend_get(vm, NODE, volume).await {
        Ok(found) if found.state == "running" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // Asking again for what is there changes nothing.
    NODE.spdk(vm).engine_frontend_create(frontend_request(volume, size)).await.expect("it is there");
}
