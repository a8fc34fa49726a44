//! Disks by the PCI address of a virtio block device, driven by SPDK.

use std::collections::BTreeMap;

use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::pci::{NODE, delete_disk, driver_of, refused};
use crate::vm::{Vm, VmOptions};
use crate::volume::{MIB, delete_frontend, device_of, disk, ready_disk, replica};

const SIZE: u64 = 32 * MIB;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a VM; ./scripts/lab"]
async fn a_virtio_disk_is_driven_found_again_and_given_back() {
    let old = tempfile::NamedTempFile::new().expect("a file");
    old.as_file().set_len(64 * MIB).expect("a sparse file");
    let options = VmOptions::named("virtio").memory_mib(1152).hugepages(264);
    let vm = Vm::start(options.modern_virtio("MODERN", 128 * MIB).virtio(old.path())).await;
    vm.run("modprobe virtio_blk && modprobe uio_pci_generic").await;
    let address = address(&vm, "MODERN").await;
    let transitional = self::address(&vm, "").await;
    NODE.start(&vm, "").await;

    let old_kind = refused(&vm, &transitional, "").await;
    assert!(old_kind.contains("disable-legacy"), "{old_kind}");
    assert_eq!(driver_of(&vm, &transitional).await, "virtio-pci");
    let other = refused(&vm, &address, "virtio-scsi").await;
    assert!(other.contains("it is no virtio-scsi device"), "{other}");
    let other = refused(&vm, &address, "nvme").await;
    assert!(other.contains("it is no NVMe controller"), "{other}");
    assert_eq!(driver_of(&vm, &address).await, "virtio-pci");

    // By what it is, and by its name.
    let taken = disk(&vm, NODE, "disk", &address, "auto").await;
    assert_eq!((taken.driver.as_str(), driver_of(&vm, &address).await.as_str()), ("virtio-blk", "uio_pci_generic"));
    delete_disk(&vm, "disk").await;
    assert_eq!(driver_of(&vm, &address).await, "virtio-pci");
    let again = disk(&vm, NODE, "disk", &address, "virtio-blk").await;
    assert_eq!((again.uuid.as_str(), again.driver.as_str()), (taken.uuid.as_str(), "virtio-blk"));
    let request = wire::DiskHealthGetRequest { disk_name: "disk".into(), ..Default::default() };
    let refused = NODE.spdk(&vm).disk_health_get(request).await.expect_err("it has none");
    assert_eq!(refused.code(), Code::Unimplemented);

    let replicas = BTreeMap::from([replica(&vm, NODE, "v1", "disk", SIZE).await]);
    device_of(&vm, NODE, "v1", SIZE, replicas).await;
    vm.run("dd if=/dev/urandom of=/run/data bs=1M count=8").await;
    vm.run("dd if=/run/data of=/dev/longhorn/v1 bs=1M conv=fsync").await;
    let same = "dd if=/dev/longhorn/v1 bs=1M count=8 iflag=direct 2>/dev/null | cmp - /run/data";
    vm.run(same).await;
    NODE.kill9(&vm).await;
    NODE.start(&vm, "").await;
    assert_eq!(ready_disk(&vm, NODE, "disk").await.uuid, taken.uuid);
    vm.run(same).await;
    delete_frontend(&vm, NODE, "v1").await;
    NODE.stop(&vm).await;
    assert_eq!(driver_of(&vm, &address).await, "virtio-pci");
}

/// The PCI address of the virtio disk with this serial number.
async fn address(vm: &Vm, serial: &str) -> String {
    let find = "for one in /sys/block/vd*; do if [ \"$(cat $one/serial)\" = \"SERIAL\" ]; then \
                basename $(readlink -f $one/device/..); fi; done";
    let found = vm.run(&find.replace("SERIAL", serial)).await;
    assert!(!found.is_empty(), "the kernel shows no virtio disk {serial}");
    found
}
