//! Longhorn's log calls on a real node.

use corriente::wire::spdkrpc as wire;
use tonic::Code;

use crate::cluster::refused;
use crate::support::node::{Node, NodeOptions};

async fn level(node: &Node) -> String {
    node.spdk().log_get_level(()).await.expect("a level").into_inner().level
}

async fn set_level(node: &Node, level: &str) -> Result<(), tonic::Status> {
    node.spdk().log_set_level(wire::LogSetLevelRequest { level: level.into() }).await.map(drop)
}

async fn flags(node: &Node) -> String {
    node.spdk().log_get_flags(()).await.expect("flags").into_inner().flags
}

async fn set_flags(node: &Node, flags: &str) -> Result<(), tonic::Status> {
    node.spdk().log_set_flags(wire::LogSetFlagsRequest { flags: flags.into() }).await.map(drop)
}

/// Whether a call that only looks, and is logged as a detail, shows in the log.
async fn logs_details(node: &Node) -> bool {
    let lines = || node.log().lines().filter(|line| line.contains("EngineList")).count();
    let before = lines();
    node.spdk().engine_list(()).await.expect("a list");
    lines() > before
}

#[tokio::test(flavor = "multi_thread")]
async fn o4_log_level_and_flags_are_set_told_and_in_force() {
    let node = Node::start(NodeOptions::named("log")).await;
    assert_eq!(level(&node).await, "NOTICE");
    assert!(!logs_details(&node).await);
    for (given, shown) in [("debug", "DEBUG"), ("Warn", "WARNING"), ("INFO", "INFO"), ("DEBUG", "DEBUG")] {
        set_level(&node, given).await.expect("a level");
        assert_eq!(level(&node).await, shown);
    }
    assert!(logs_details(&node).await);
    for wrong in ["", "loud", "info,corriente=debug"] {
        refused(set_level(&node, wrong).await, Code::InvalidArgument, "level");
    }
    assert_eq!(level(&node).await, "DEBUG");
    set_level(&node, "error").await.expect("a level");
    assert!(!logs_details(&node).await);

    assert_eq!(flags(&node).await, "", "no flag is an answer too");
    set_flags(&node, "nvmf, BDEV").await.expect("known flags");
    assert_eq!(flags(&node).await, "bdev,nvmf");
    for wrong in ["bdev,nope", "a\0b", ","] {
        refused(set_flags(&node, wrong).await, Code::InvalidArgument, "flags");
        assert_eq!(flags(&node).await, "bdev,nvmf", "a refused list changes nothing");
    }
    set_flags(&node, "lvol,all").await.expect("all flags");
    let all = flags(&node).await;
    assert!(["bdev", "lvol", "nvme", "nvmf"].iter().all(|flag| all.split(',').any(|set| set == *flag)), "{all}");
    set_flags(&node, "").await.expect("no flag");
    assert_eq!(flags(&node).await, "");
}
