//! The lab itself: a machine boots, runs what it is told, and a node starts in it.

use crate::node::GuestNode;
use crate::vm::{Vm, VmOptions};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a VM; ./scripts/lab"]
async fn a_machine_boots_and_a_node_starts_in_it() {
    let options = VmOptions::named("smoke").memory_mib(1152).hugepages(260).nvme("DISKA", 64 << 20);
    let mut vm = Vm::start(options).await;
    assert_eq!(vm.run("echo $((6 * 7))").await, "42");
    assert_eq!(vm.begin("exit 3").await.end().await.code, 3);
    assert!(vm.pci_address("DISKA").await.starts_with("0000:"));
    assert_eq!(vm.qmp().execute("query-status", serde_json::json!({})).await["status"], "running");
    let node = GuestNode(0);
    node.start(&vm, "").await;
    let disks = node.spdk(&vm).replica_list(()).await.expect("an answer").into_inner();
    assert!(disks.replicas.is_empty());
    node.stop(&vm).await;
}
