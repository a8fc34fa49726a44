//! PCI functions as disks: what is asked of a node and of the guest's kernel about them.

use corriente::wire::spdkrpc as wire;

use crate::node::GuestNode;
use crate::support::wait::wait_until;
use crate::vm::Vm;
use crate::volume::{LIMIT, disk_request};

/// The node of these tests.
pub const NODE: GuestNode = GuestNode(0);

/// The kernel driver that has a function; empty when none has.
pub async fn driver_of(vm: &Vm, address: &str) -> String {
    vm.run(&format!("readlink /sys/bus/pci/devices/{address}/driver | sed 's|.*/||'")).await
}

/// Asks for a disk that is refused; why it is, which the node's log tells. It is forgotten again.
pub async fn refused(vm: &Vm, path: &str, driver: &str) -> String {
    NODE.spdk(vm).disk_create(disk_request("refused", path, driver)).await.expect("an answer");
    wait_until(LIMIT, "the disk is refused", async || match disk_get(vm, "refused").await.state.as_str() {
        "error" => Ok(()),
        state => Err(state.to_owned()),
    })
    .await;
    delete_disk(vm, "refused").await;
    let log = vm.guest_log(NODE.0);
    log.lines().rfind(|line| line.contains("disk could not be created")).expect("a line of the log").to_owned()
}

/// Deletes a disk.
pub async fn delete_disk(vm: &Vm, name: &str) {
    let request = wire::DiskDeleteRequest { disk_name: name.into(), ..Default::default() };
    NODE.spdk(vm).disk_delete(request).await.expect("the disk is deleted");
}

/// The state of a disk, and all else that a node shows of it.
pub async fn disk_get(vm: &Vm, name: &str) -> wire::Disk {
    let request = wire::DiskGetRequest { disk_name: name.into(), ..Default::default() };
    NODE.spdk(vm).disk_get(request).await.expect("an answer").into_inner()
}
