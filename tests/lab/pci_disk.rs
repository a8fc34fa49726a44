//! Disks by the PCI address of an NVMe controller: taken from the kernel, driven by SPDK, found again, given back.

use std::path::Path;
use std::process::Command;

use corriente::wire::spdkrpc as wire;

use crate::node::GuestNode;
use crate::support::wait::wait_until;
use crate::vm::{Vm, VmOptions};
use crate::volume::{
    LIMIT, MIB, delete_frontend, device, disk, disk_request, frontend_get, frontend_request, ready_disk,
};

const NODE: GuestNode = GuestNode(0);
const SIZE: u64 = 32 * MIB;

fn options(name: &str) -> VmOptions {
    VmOptions::named(name).memory_mib(1152).hugepages(264).nvme("DISKA", 256 * MIB)
}

async fn driver_of(vm: &Vm, address: &str) -> String {
    vm.run(&format!("basename $(readlink /sys/bus/pci/devices/{address}/driver)")).await
}

/// Asks for a disk that is refused; why it is, which the node's log tells. It is forgotten again.
async fn refused(vm: &Vm, path: &str, driver: &str) -> String {
    NODE.spdk(vm).disk_create(disk_request("refused", path, driver)).await.expect("an answer");
    wait_until(LIMIT, "the disk is refused", async || {
        let request = wire::DiskGetRequest { disk_name: "refused".into(), ..Default::default() };
        match NODE.spdk(vm).disk_get(request).await.expect("an answer").into_inner().state.as_str() {
            "error" => Ok(()),
            state => Err(state.to_owned()),
        }
    })
    .await;
    delete_disk(vm, "refused").await;
    let log = vm.guest_log(NODE.0);
    log.lines().rfind(|line| line.contains("disk could not be created")).expect("a line of the log").to_owned()
}

async fn delete_disk(vm: &Vm, name: &str) {
    let request = wire::DiskDeleteRequest { disk_name: name.into(), ..Default::default() };
    NODE.spdk(vm).disk_delete(request).await.expect("the disk is deleted");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a VM; ./scripts/lab"]
async fn a_controller_is_taken_from_the_kernel_and_given_back() {
    let vm = Vm::start(options("pci")).await;
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

    let taken = disk(&vm, NODE, "disk", &address, "").await;
    assert_eq!((taken.driver.as_str(), taken.path.as_str()), ("nvme", address.as_str()));
    assert_eq!(driver_of(&vm, &address).await, "uio_pci_generic");
    vm.run("! [ -e /dev/nvme0n1 ]").await;
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
    running(&vm).await;
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
    running(&vm).await;
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

async fn running(vm: &Vm) {
    wait_until(LIMIT, "the volume is back", async || match frontend_get(vm, NODE, "v1").await {
        Ok(found) if found.state == "running" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // Asking again for what is there changes nothing.
    NODE.spdk(vm).engine_frontend_create(frontend_request("v1", SIZE)).await.expect("it is there");
}
