//! Lvols that belong to nothing: listed with whose they may have been, deleted or adopted on request.

use corriente::wire::corriente::v1 as own;
use corriente::wire::spdkrpc as wire;
use tonic::{Code, Status};

use crate::cluster::{MIB, SIZE, refused};
use crate::raw::Raw;
use crate::support::node::Node;
use crate::volume::{Prepared, connect_replica, create_replica, delete_replica, disk};

const KNOWN: &str = "vol-r-00000001";
const GONE: &str = "gone-r-00000002";

async fn prepare(raw: &Raw) {
    raw.volume(KNOWN, SIZE).await;
    raw.fill(KNOWN, 0, 0x11).await;
    raw.snapshot(KNOWN, &format!("{KNOWN}-snap-s1"), true, 1).await;
    // A deletion that came to the head only.
    raw.volume(GONE, SIZE).await;
    raw.fill(GONE, 0, 0x21).await;
    raw.snapshot(GONE, &format!("{GONE}-snap-old"), true, 2).await;
    raw.fill(GONE, 1, 0x22).await;
    raw.snapshot(GONE, &format!("{GONE}-snap-new"), false, 3).await;
    raw.delete(GONE).await;
    // What somebody made by hand.
    raw.volume("loose", 8 * MIB).await;
    raw.fill("loose", 2, 0x31).await;
    raw.snapshot("loose", "loose-base", true, 4).await;
    raw.fill("loose", 3, 0x32).await;
    raw.volume("junk", SIZE).await;
    raw.fill("junk", 0, 0x41).await;
    raw.fill("junk", 1, 0x42).await;
}

async fn list(node: &Node) -> Vec<own::Orphan> {
    let listed = node.corriente().orphan_list(own::OrphanListRequest::default()).await;
    listed.expect("a list").into_inner().orphans
}

async fn delete(node: &Node, lvol: &str, uuid: &str) -> Result<(), Status> {
    let request = own::OrphanDeleteRequest { disk_name: "disk".into(), lvol_name: lvol.into(), lvol_uuid: uuid.into() };
    node.corriente().orphan_delete(request).await.map(drop)
}

async fn adopt(node: &Node, lvol: &str, replica: &str) -> Result<wire::Replica, Status> {
    let request = own::OrphanAdoptRequest {
        disk_name: "disk".into(),
        lvol_name: lvol.into(),
        replica_name: replica.into(),
        ..Default::default()
    };
    node.corriente().orphan_adopt(request).await.map(tonic::Response::into_inner)
}

async fn holds(node: &Node, replica: &str, expected: &[(u64, u8)]) {
    let running = create_replica_of(node, replica).await;
    let host = connect_replica(&running).await;
    for (cluster, byte) in expected {
        let mut data = vec![!byte; MIB as usize];
        host.read(cluster * MIB, &mut data).await.expect("read");
        assert!(data.iter().all(|found| found == byte), "cluster {cluster} of {replica}");
    }
    host.disconnect().await.expect("an orderly end");
}

/// Starts it with the size it has.
async fn create_replica_of(node: &Node, replica: &str) -> wire::Replica {
    let running = create_replica(node, replica).await;
    assert_eq!((running.state.as_str(), running.error_msg.as_str()), ("running", ""));
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_listed_with_owner_and_size_and_deleted_or_adopted_on_request() {
    let mut prepared = Prepared::start(prepare).await;
    let node = &prepared.node;
    let listed = list(node).await;
    let shown: Vec<_> = listed
        .iter()
        .map(|orphan| {
            let name = orphan.lvol_name.as_str();
            (name, orphan.owner.as_str(), orphan.size / MIB, orphan.actual_size / MIB, orphan.is_snapshot)
        })
        .collect();
    let (old, new) = (format!("{GONE}-snap-old"), format!("{GONE}-snap-new"));
    let expected = [
        (new.as_str(), GONE, SIZE / MIB, 1, true),
        (old.as_str(), GONE, SIZE / MIB, 1, true),
        ("junk", "junk", SIZE / MIB, 2, false),
        ("loose", "loose", 8, 1, false),
        ("loose-base", "loose-base", 8, 1, true),
    ];
    assert_eq!(shown, expected);
    let of = |lvol: &str| listed.iter().find(|orphan| orphan.lvol_name == lvol).expect("it is listed");
    assert_eq!((of("loose").parent.as_str(), of("loose-base").children), ("loose-base", 1));
    assert_eq!((of(&old).created.as_str(), of("junk").created.as_str()), ("2026-01-01T00:00:02Z", ""));
    assert!(listed.iter().all(|orphan| orphan.disk_name == "disk" && !orphan.in_use));

    // Only an orphan, only the one that is meant, only one that is there.
    let owned = format!("{KNOWN}-snap-s1");
    for lvol in [KNOWN, &owned] {
        refused(delete(node, lvol, "").await, Code::FailedPrecondition, "no orphan");
        refused(adopt(node, lvol, "vol-r-00000009").await, Code::FailedPrecondition, "no orphan");
    }
    refused(delete(node, "junk", &of("loose").lvol_uuid).await, Code::InvalidArgument, "lvol_uuid");
    refused(delete(node, "junk", "no uuid").await, Code::InvalidArgument, "lvol_uuid");
    refused(delete(node, "missing", "").await, Code::NotFound, "missing");
    refused(delete(node, "", "").await, Code::InvalidArgument, "lvol_name");
    refused(adopt(node, "junk", KNOWN).await, Code::AlreadyExists, KNOWN);
    refused(adopt(node, &old, "").await, Code::FailedPrecondition, "based on it");
    assert_eq!(list(node).await, listed, "a refusal changes nothing");
    assert_eq!(prepared.replicas().await.keys().collect::<Vec<_>>(), [KNOWN]);

    let free = disk(node).await.free_size;
    delete(node, "junk", &of("junk").lvol_uuid).await.expect("it is deleted");
    assert_eq!(disk(node).await.free_size - free, 2 * MIB as i64, "its space is given back");

    let adopted = adopt(node, "loose", "vol-r-00000009").await.expect("it is adopted");
    assert_eq!((adopted.state.as_str(), adopted.spec_size), ("stopped", 8 * MIB));
    assert_eq!(adopted.snapshots.len(), 1, "what it was based on came with it");
    assert_eq!(adopted.head.expect("a head").uuid, of("loose").lvol_uuid);
    let revived = adopt(node, &new, "").await.expect("a chain without a head gets one");
    assert_eq!((revived.name.as_str(), revived.state.as_str()), (GONE, "stopped"));
    assert_eq!(revived.snapshots.keys().collect::<Vec<_>>(), ["new", "old"]);
    assert_eq!(revived.head.expect("a head").parent, "new");
    assert_eq!(list(node).await, []);

    // They are replicas as all others, also after a crash.
    prepared.node.kill9();
    prepared.node.start_again().await;
    assert_eq!(prepared.replicas().await.keys().collect::<Vec<_>>(), [GONE, KNOWN, "vol-r-00000009"]);
    holds(&prepared.node, "vol-r-00000009", &[(2, 0x31), (3, 0x32), (0, 0)]).await;
    holds(&prepared.node, GONE, &[(0, 0x21), (1, 0x22), (2, 0)]).await;
    for replica in [GONE, KNOWN, "vol-r-00000009"] {
        delete_replica(&prepared.node, replica, true).await;
    }
    assert_eq!(list(&prepared.node).await, [], "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_adopts_and_deletes_orphans() {
    let prepared = Prepared::start(async |raw| {
        raw.volume("loose", SIZE).await;
        raw.volume("junk", SIZE).await;
    })
    .await;
    let run = async |arguments: &[&str]| {
        let server = prepared.node.grpc_address().to_string();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_corriente"));
        command.args(["disk", "orphans"]).args(arguments).args(["--server", &server]).env_clear().kill_on_drop(true);
        let output = command.output().await.expect("the program starts");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
    };
    let (code, text) = run(&["list", "--disk", "disk"]).await;
    assert_eq!((code, text.contains("loose") && text.contains("junk")), (Some(0), true), "{text}");
    let (code, text) = run(&["adopt", "disk", "loose", "--replica", "vol-r-00000003"]).await;
    assert_eq!((code, text.contains("stopped")), (Some(0), true), "{text}");
    let (code, text) = run(&["delete", "disk", "junk"]).await;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = run(&["list", "--output", "json"]).await;
    assert_eq!((code, text.trim()), (Some(0), "[]"));
    let (code, text) = run(&["delete", "disk", "vol-r-00000003"]).await;
    assert_eq!((code, text.contains("no orphan")), (Some(5), true), "{text}");
}
