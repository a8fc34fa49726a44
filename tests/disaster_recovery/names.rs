//! Every name and address that cannot be one is refused by field, and changes nothing.

use std::collections::BTreeMap;

use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::support::node::{Node, NodeOptions};

fn bad_names() -> Vec<String> {
    let words = ["", " ", "a b", "a\0b", "a/b", "x-clone-ep-y", "x-tmp-head"];
    words.into_iter().map(str::to_owned).chain([String::from("n").repeat(4096)]).collect()
}

fn named<T: std::fmt::Debug>(result: Result<T, tonic::Status>, field: &str, value: &str) {
    let shown: String = value.chars().take(20).collect();
    let status = result.expect_err(&format!("{field} = {shown:?} is refused"));
    assert_eq!(status.code(), Code::InvalidArgument, "{field} = {shown:?}: {status}");
    assert!(status.message().contains(field), "{field} is not named in {:?}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_takes_an_empty_blank_or_foreign_name() {
    let node = Node::start(NodeOptions::named("names")).await;
    for bad in bad_names() {
        let engine = |name: &str, volume: &str, map: BTreeMap<String, String>| wire::EngineCreateRequest {
            name: name.into(),
            volume_name: volume.into(),
            spec_size: 1 << 20,
            replica_address_map: map,
            ..Default::default()
        };
        let one = |name: &str, address: &str| BTreeMap::from([(name.to_owned(), address.to_owned())]);
        let good = one("vol-r-00000000", "127.0.0.1:20001");
        let mut spdk = node.spdk();
        named(spdk.engine_create(engine(&bad, "vol", good.clone())).await, "name", &bad);
        named(spdk.engine_create(engine("vol-e-0", &bad, good.clone())).await, "volume_name", &bad);
        named(
            spdk.engine_create(engine("vol-e-0", "vol", one(&bad, "127.0.0.1:1"))).await,
            "replica_address_map",
            &bad,
        );
        named(spdk.engine_create(engine("vol-e-0", "vol", one("vol-r-0", &bad))).await, "replica_address_map", &bad);
        named(spdk.engine_get(wire::EngineGetRequest { name: bad.clone() }).await, "name", &bad);
        named(spdk.replica_get(wire::ReplicaGetRequest { name: bad.clone() }).await, "name", &bad);
        let replica = wire::ReplicaCreateRequest {
            name: bad.clone(),
            lvs_name: "disk".into(),
            spec_size: 1 << 20,
            ..Default::default()
        };
        named(spdk.replica_create(replica).await, "name", &bad);
        let restore = wire::EngineBackupRestoreRequest {
            backup_url: "vfs:///x?backup=backup-1&volume=vol".into(),
            engine_name: bad.clone(),
            ..Default::default()
        };
        named(spdk.engine_backup_restore(restore).await, "engine_name", &bad);
        if !bad.is_empty() {
            let restore = wire::EngineBackupRestoreRequest {
                backup_url: "vfs:///x?backup=backup-1&volume=vol".into(),
                engine_name: "vol-e-0".into(),
                snapshot_name: bad.clone(),
                ..Default::default()
            };
            named(spdk.engine_backup_restore(restore).await, "snapshot_name", &bad);
        }
    }
    for address in [":0", "127.0.0.1", "127.0.0.1:0", "0.0.0.0:1", "vol-r-00000000", "::1"] {
        let request = wire::EngineCreateRequest {
            name: "vol-e-0".into(),
            volume_name: "vol".into(),
            spec_size: 1 << 20,
            replica_address_map: BTreeMap::from([("vol-r-0".to_owned(), address.to_owned())]),
            ..Default::default()
        };
        named(node.spdk().engine_create(request).await, "replica_address_map", address);
    }
    assert!(node.spdk().engine_list(()).await.expect("a list").into_inner().engines.is_empty());
    assert!(node.spdk().replica_list(()).await.expect("a list").into_inner().replicas.is_empty());
}
