//! Disks by the PCI address of a virtio block device, on a machine without an IOMMU.

use crate::pci::{NODE, driver_of, refused};
use crate::vm::{Vm, VmOptions};
use crate::volume::MIB;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a VM; ./scripts/lab"]
async fn a_virtio_disk_is_refused_without_an_iommu_and_stays_the_kernels() {
    let old = tempfile::NamedTempFile::new().expect("a file");
    old.as_file().set_len(64 * MIB).expect("a sparse file");
    let options = VmOptions::named("virtio").memory_mib(1152).hugepages(264);
    let vm = Vm::start(options.modern_virtio("MODERN", 128 * MIB).virtio(old.path())).await;
    vm.run("modprobe virtio_blk && modprobe uio_pci_generic").await;
    let address = address_of(&vm, "MODERN").await;
    let transitional = address_of(&vm, "").await;
    NODE.start(&vm, "").await;

    let old_kind = refused(&vm, &transitional, "").await;
    assert!(old_kind.contains("disable-legacy"), "{old_kind}");
    assert_eq!(driver_of(&vm, &transitional).await, "virtio-pci");
    let other = refused(&vm, &address, "virtio-scsi").await;
    assert!(other.contains("it is no virtio-scsi device"), "{other}");
    let other = refused(&vm, &address, "nvme").await;
    assert!(other.contains("it is no NVMe controller"), "{other}");
    assert_eq!(driver_of(&vm, &address).await, "virtio-pci");

    // Without an IOMMU SPDK's driver would do I/O in wrong memory.
    for driver in ["auto", "virtio-blk"] {
        let unsafe_here = refused(&vm, &address, driver).await;
        assert!(unsafe_here.contains("it needs an IOMMU"), "{unsafe_here}");
        assert_eq!(driver_of(&vm, &address).await, "virtio-pci");
    }
    NODE.stop(&vm).await;
    assert_eq!(driver_of(&vm, &address).await, "virtio-pci");
}

/// The PCI address of the virtio disk with this serial number.
pub async fn address_of(vm: &Vm, serial: &str) -> String {
    let find = "for one in /sys/block/vd*; do if [ \"$(cat $one/serial)\" = \"SERIAL\" ]; then \
                basename $(readlink -f $one/device/..); fi; done";
    let found = vm.run(&find.replace("SERIAL", serial)).await;
    assert!(!found.is_empty(), "the kernel shows no virtio disk {serial}");
    found
}
