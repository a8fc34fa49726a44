//! Disks by PCI address behind an IOMMU: vfio-pci has them, and SPDK addresses them by its own virtual addresses.

use crate::pci::{NODE, delete_disk, driver_of, refused};
use crate::virtio_disk::address_of;
use crate::vm::{Vm, VmOptions};
use crate::volume::{MIB, delete_frontend, device, disk};

const SIZE: u64 = 32 * MIB;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a VM; ./scripts/lab"]
async fn nvme_and_virtio_disks_behind_an_iommu_are_driven_by_vfio_and_given_back() {
    let options = VmOptions::named("iommu").memory_mib(1152).hugepages(264).iommu();
    let options = options.nvme("DISKA", 256 * MIB).modern_virtio("MODERN", 256 * MIB);
    let vm = Vm::start(options.bypassing_virtio("BYPASS", 128 * MIB)).await;
    assert_ne!(vm.run("ls /sys/class/iommu").await, "", "the guest's kernel has no IOMMU: {}", vm.dmesg().await);
    vm.run("modprobe virtio_blk && modprobe vfio_iommu_type1 && modprobe vfio-pci && modprobe uio_pci_generic").await;
    let controller = vm.pci_address("DISKA").await;
    let virtio = address_of(&vm, "MODERN").await;
    let bypass = address_of(&vm, "BYPASS").await;
    NODE.start(&vm, "").await;
    // One that goes past the IOMMU would do I/O in wrong memory; the node and the device survive the refusal.
    for _ in 0..2 {
        let refused = refused(&vm, &bypass, "").await;
        assert!(refused.contains("iommu_platform=on"), "{refused}");
        assert_eq!(driver_of(&vm, &bypass).await, "virtio-pci");
    }
    for (name, address, driver, kernel_driver) in
        [("d1", &controller, "nvme", "nvme"), ("d2", &virtio, "virtio-blk", "virtio-pci")]
    {
        let taken = disk(&vm, NODE, name, address, "").await;
        assert_eq!((taken.driver.as_str(), taken.path.as_str()), (driver, address.as_str()));
        assert_eq!(driver_of(&vm, address).await, "vfio-pci", "the better of the two that are loaded");
        let volume = format!("v{name}");
        device(&vm, NODE, &volume, name, SIZE).await;
        vm.run(&format!("mkfs.ext4 -q /dev/longhorn/{volume} && mount /dev/longhorn/{volume} /mnt")).await;
        vm.run("dd if=/dev/urandom of=/mnt/data bs=1M count=16 conv=fsync").await;
        let hash = vm.run("sha256sum /mnt/data").await;
        vm.run("umount /mnt && echo 3 >/proc/sys/vm/drop_caches").await;
        vm.run(&format!("mount /dev/longhorn/{volume} /mnt")).await;
        assert_eq!(vm.run("sha256sum /mnt/data").await, hash);
        vm.run(&format!("umount /mnt && e2fsck -fn /dev/longhorn/{volume}")).await;

        // The same after a crash of the node, whose controller vfio has taken back meanwhile.
        NODE.kill9(&vm).await;
        NODE.start(&vm, "").await;
        crate::volume::ready_disk(&vm, NODE, name).await;
        crate::pci_disk::running(&vm, &volume, SIZE).await;
        vm.run(&format!("mount /dev/longhorn/{volume} /mnt")).await;
        assert_eq!(vm.run("sha256sum /mnt/data").await, hash);
        vm.run("umount /mnt").await;
        delete_frontend(&vm, NODE, &volume).await;
        crate::volume::delete_volume(&vm, NODE, &volume).await;
        delete_disk(&vm, name).await;
        assert_eq!(driver_of(&vm, address).await, kernel_driver, "it is the kernel's again");
    }
    NODE.stop(&vm).await;
}
