//! A controller that is pulled out under load, and put back.

use std::collections::BTreeMap;

use corriente::wire::spdkrpc as wire;

use crate::pci::{NODE, delete_disk, disk_get, driver_of};
use crate::support::wait::wait_until;
use crate::vm::{Vm, VmOptions};
use crate::volume::{LIMIT, Load, MIB, delete_frontend, device_of, disk, numbered_replica};

const SIZE: u64 = 32 * MIB;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a VM; ./scripts/lab"]
async fn an_unplugged_controller_takes_its_replicas_along_and_nothing_else() {
    let options = VmOptions::named("unplug").memory_mib(1152).hugepages(264);
    let mut vm = Vm::start(options.nvme("DISKA", 128 * MIB).nvme("DISKB", 128 * MIB)).await;
    vm.run("modprobe uio_pci_generic").await;
    let pulled = vm.pci_address("DISKA").await;
    let kept = vm.pci_address("DISKB").await;
    NODE.start(&vm, "").await;
    let first = disk(&vm, NODE, "first", &pulled, "nvme").await;
    disk(&vm, NODE, "second", &kept, "nvme").await;
    let replicas = BTreeMap::from([
        numbered_replica(&vm, NODE, ("v1", 1), "first", SIZE).await,
        numbered_replica(&vm, NODE, ("v1", 2), "second", SIZE).await,
    ]);
    device_of(&vm, NODE, "v1", SIZE, replicas).await;
    let load = Load::start(&vm, "/dev/longhorn/v1").await;

    vm.unplug("DISKA").await;
    wait_until(LIMIT, "the disk is in state error, and its replica has left", async || {
        let disk = disk_get(&vm, "first").await;
        let replicas: Vec<_> = replicas_of(&vm).await.into_keys().collect();
        let modes = engine(&vm).await.replica_mode_map;
        let out = modes.get("v1-r-00000001") == Some(&i32::from(wire::ReplicaMode::Err));
        match disk.state == "error" && replicas == ["v1-r-00000002"] && out {
            true => Ok(()),
            false => Err(format!("{} {replicas:?} {modes:?}", disk.state)),
        }
    })
    .await;
    let loaded = load.end(&vm).await;
    assert!(loaded.writes > 0, "{loaded:?}");
    let engine = engine(&vm).await;
    assert_eq!((engine.state.as_str(), engine.replica_mode_map["v1-r-00000002"]), ("running", 1));
    assert_eq!(disk_get(&vm, "second").await.state, "ready");

    // The device comes back, and is asked for again: what was on it is found. Nobody uses the disk any more, so it goes at once.
    let request = wire::DiskDeleteRequest { disk_name: "first".into(), ..Default::default() };
    NODE.spdk(&vm).disk_delete(request).await.expect("the lost disk is deleted");
    vm.plug("DISKA").await;
    let again = disk(&vm, NODE, "first", &pulled, "nvme").await;
    assert_eq!(again.uuid, first.uuid);
    let found = replicas_of(&vm).await;
    assert_eq!(found["v1-r-00000001"].spec_size, SIZE);

    delete_frontend(&vm, NODE, "v1").await;
    let request = wire::EngineDeleteRequest { name: "v1-e-0".into() };
    NODE.spdk(&vm).engine_delete(request).await.expect("the engine is deleted");
    for name in found.into_keys() {
        let request = wire::ReplicaDeleteRequest { name, cleanup_required: true };
        NODE.spdk(&vm).replica_delete(request).await.expect("the replica is deleted");
    }
    for (name, address) in [("first", &pulled), ("second", &kept)] {
        delete_disk(&vm, name).await;
        assert_eq!(driver_of(&vm, address).await, "nvme");
    }
    NODE.stop(&vm).await;
}

async fn replicas_of(vm: &Vm) -> BTreeMap<String, wire::Replica> {
    NODE.spdk(vm).replica_list(()).await.expect("an answer").into_inner().replicas
}

async fn engine(vm: &Vm) -> wire::Engine {
    let request = wire::EngineGetRequest { name: "v1-e-0".into() };
    NODE.spdk(vm).engine_get(request).await.expect("an answer").into_inner()
}
