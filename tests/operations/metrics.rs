//! `/metrics` of a real node before and after a restore, a failed member and a removed one; NodeInfo and MirrorGet.

use corriente::wire::corriente::v1 as own;
use corriente::wire::spdkrpc as wire;

use crate::cluster::Cluster;
use crate::scene::{connect, get, volume};
use crate::support::node::Node;

const MIB: u64 = 1 << 20;

/// One scrape.
struct Page(String);

impl Page {
    async fn scrape(node: &Node) -> Self {
        let (status, page) = get(node, "/metrics").await;
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(page.trim_end().ends_with("# EOF"), "the page is cut off:\n{page}");
        let page = Self(page);
        assert_eq!(page.value("corriente_sample_complete"), 1.0);
        page
    }

    /// The value of a series, spelt as on the page.
    fn value(&self, series: &str) -> f64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{}", self.0)).parse().expect("a number")
    }

    /// The sum of all series that start so.
    fn sum(&self, start: &str) -> f64 {
        let lines: Vec<_> = self.0.lines().filter(|line| line.starts_with(start)).collect();
        assert!(!lines.is_empty(), "no {start} in\n{}", self.0);
        lines.iter().map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")).sum()
    }

    fn has(&self, series: &str, expected: f64) {
        assert_eq!(self.value(series), expected, "{series}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_follow_a_restore_a_failed_member_and_a_removed_one() {
    let mut cluster = Cluster::start().await;
    let before = Page::scrape(&cluster.nodes[0]).await;
    before.has("corriente_restores_running", 0.0);
    before.has("corriente_pause_seconds_count", 0.0);
    before.has(r#"corriente_disks{state="ready"}"#, 1.0);
    before.has(r#"corriente_replicas{state="running"}"#, 0.0);
    before.has(r#"corriente_engines{state="running"}"#, 0.0);
    assert!(!before.0.contains("corriente_restores_ended_total"), "nothing has ended yet");
    assert!(before.sum("corriente_reactor_seconds_total") > 0.0);
    assert!(before.sum("corriente_reactor_threads") >= 1.0);
    assert!(before.value("corriente_resident_bytes") > 1e6);
    let dma = (before.value("corriente_dma_free_bytes"), before.value("corriente_dma_total_bytes"));
    assert!(0.0 < dma.0 && dma.0 < dma.1, "{dma:?}");

    let (source, size, backups) = {
        let source = cluster.fixtures.volume("pvc-5f2d1c7e-lz4");
        let names: Vec<_> = source.backups.iter().map(|backup| backup.name.clone()).collect();
        (source.name.clone(), source.restore_size, names)
    };
    let replicas = cluster.replicas("dr", size).await;
    cluster.engine("dr", size, "", replicas).await;
    cluster.start_restore("dr", cluster.url(&source, &backups[0])).await.expect("the restore starts");
    assert!(cluster.restored("dr").await.iter().all(|entry| entry.state == "complete"));
    let restored = Page::scrape(&cluster.nodes[0]).await;
    restored.has(r#"corriente_restores_ended_total{outcome="complete"}"#, 1.0);
    restored.has("corriente_restores_running", 0.0);
    restored.has("corriente_restores_seconds_count", 1.0);
    assert!(restored.value("corriente_restores_store_bytes_total") > 0.0);
    let moved = restored.value("corriente_restores_volume_bytes_total");
    assert!(moved > 0.0 && moved <= size as f64);
    assert!(restored.value(r#"corriente_volume_written_bytes_total{volume="dr"}"#) >= moved);
    assert!(restored.value("corriente_pause_seconds_count") >= 1.0, "a restore takes a snapshot under a pause");
    restored.has(r#"corriente_members{volume="dr",mode="RW"}"#, 2.0);
    restored.has(r#"corriente_replicas{state="running"}"#, 1.0);
    restored.has(r#"corriente_engines{state="running"}"#, 1.0);
    assert_eq!(restored.sum(r#"corriente_member_failures_total{volume="dr""#), 0.0);
    let free = r#"corriente_disk_free_bytes{disk="disk"}"#;
    assert!(restored.value(free) < before.value(free));

    let (_, initiator) = volume(&cluster, "io", 8 * MIB).await;
    initiator.write(0, &[1; 8192]).await.expect("written to both");
    let generation = Page::scrape(&cluster.nodes[0]).await.value(r#"corriente_mirror_generation{volume="io"}"#);
    cluster.nodes[1].kill9();
    initiator.write(8192, &[2; 8192]).await.expect("written to the one that is left");
    let failed = Page::scrape(&cluster.nodes[0]).await;
    assert_eq!(failed.sum(r#"corriente_member_failures_total{volume="io""#), 1.0);
    assert!(failed.value(r#"corriente_member_errors_total{volume="io"}"#) >= 1.0);
    failed.has(r#"corriente_members{volume="io",mode="ERR"}"#, 1.0);
    failed.has(r#"corriente_members{volume="io",mode="RW"}"#, 1.0);
    failed.has(r#"corriente_volume_errors_total{volume="io"}"#, 0.0);
    assert!(failed.value(r#"corriente_volume_writes_total{volume="io"}"#) >= 2.0);
    assert!(failed.value(r#"corriente_volume_written_bytes_total{volume="io"}"#) >= 16384.0);
    assert!(failed.value(r#"corriente_mirror_generation{volume="io"}"#) > generation);
    failed.has(r#"corriente_member_pending{volume="io",replica="io-r-00000000"}"#, 0.0);

    cluster.start_restore("dr", cluster.url(&source, &backups[1])).await.expect("the restore starts");
    let complete = cluster.restored("dr").await.iter().any(|entry| entry.state == "complete");
    let ended = Page::scrape(&cluster.nodes[0]).await;
    let outcome = if complete { ("complete", 2.0) } else { ("failed", 1.0) };
    ended.has(&format!(r#"corriente_restores_ended_total{{outcome="{}"}}"#, outcome.0), outcome.1);
    ended.has("corriente_restores_seconds_count", 2.0);

    let request = wire::EngineReplicaDeleteRequest {
        engine_name: "dr-e-0".into(),
        replica_name: "dr-r-00000001".into(),
        ..Default::default()
    };
    cluster.nodes[0].spdk().engine_replica_delete(request).await.expect("the replica is taken out");
    let removed = Page::scrape(&cluster.nodes[0]).await;
    removed.has(r#"corriente_members{volume="dr",mode="RW"}"#, 1.0);
    removed.has(r#"corriente_members{volume="dr",mode="ERR"}"#, 0.0);

    let documented = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    let documented = std::fs::read_to_string(documented).expect("the documentation");
    for name in removed.0.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert!(documented.contains(name), "{name} is not in docs/operations.md");
    }

    cluster.delete_engine("io").await;
    let deleted = Page::scrape(&cluster.nodes[0]).await;
    assert!(!deleted.0.contains(r#"volume="io""#), "the series of a volume end with it");
    deleted.has(r#"corriente_engines{state="running"}"#, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_counted_where_it_is_made() {
    let cluster = Cluster::start().await;
    let (_, initiator) = volume(&cluster, "src", 8 * MIB).await;
    initiator.write(0, &vec![7; MIB as usize]).await.expect("written");
    let mut spdk = cluster.nodes[0].spdk();
    let snapshot = wire::SnapshotRequest { name: "src-e-0".into(), snapshot_name: "s1".into(), ..Default::default() };
    spdk.engine_snapshot_create(snapshot).await.expect("a snapshot");
    let request = wire::BackupCreateRequest {
        engine_name: "src-e-0".into(),
        snapshot_name: "s1".into(),
        backup_target: format!("vfs://{}", cluster.nodes[0].directory().join("backups").display()),
        volume_name: "src".into(),
        backup_name: "backup-1".into(),
        ..Default::default()
    };
    std::fs::create_dir(cluster.nodes[0].directory().join("backups")).expect("a directory");
    let started = spdk.engine_backup_create(request).await.expect("the backup starts").into_inner();
    crate::support::wait::wait_until(std::time::Duration::from_secs(60), "the backup ends", async || {
        let request = wire::BackupStatusRequest {
            backup: "backup-1".into(),
            engine_name: "src-e-0".into(),
            replica_address: started.replica_address.clone(),
        };
        match spdk.clone().engine_backup_status(request).await.expect("a status").into_inner() {
            status if status.state == "complete" => Ok(()),
            status => Err(format!("{status:?}")),
        }
    })
    .await;
    let page = Page::scrape(&cluster.nodes[0]).await;
    page.has(r#"corriente_backups_ended_total{outcome="complete"}"#, 1.0);
    page.has("corriente_backups_running", 0.0);
    assert!(page.value("corriente_backups_volume_bytes_total") >= MIB as f64);
    assert!(page.value("corriente_backups_store_bytes_total") > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn node_info_and_mirror_get_tell_memory_threads_and_what_a_member_owes() {
    let mut cluster = Cluster::start_with(|options| options.set("timeouts.member_deadline", "60s")).await;
    let info = cluster.nodes[0].corriente().node_info(()).await.expect("node info").into_inner();
    let memory = info.memory.expect("memory is told");
    assert!(memory.dma_total_bytes > memory.dma_free_bytes && memory.dma_free_bytes > 0, "{memory:?}");
    assert!(memory.resident_bytes > MIB, "{memory:?}");
    assert!(info.reactors.iter().all(|reactor| reactor.spdk_threads >= 1), "{:?}", info.reactors);

    let (engine, initiator) = volume(&cluster, "owed", 8 * MIB).await;
    let pending = |members: &[own::MirrorMember]| members.iter().map(|member| member.pending).collect::<Vec<_>>();
    assert_eq!(pending(&cluster.mirror("owed").await), [0, 0]);
    // Its region is dirty then, and the next write goes to the members at once.
    initiator.write(0, &[0; 4096]).await.expect("a write");
    cluster.nodes[1].freeze();
    let write = tokio::spawn(async move { initiator.write(0, &[1; 4096]).await });
    crate::support::wait::wait_until(
        std::time::Duration::from_secs(30),
        "the frozen member owes an answer",
        async || match pending(&cluster.mirror("owed").await)[..] {
            [0, 1] => Ok(()),
            ref other => Err(format!("pending is {other:?}")),
        },
    )
    .await;
    cluster.nodes[1].thaw();
    write.await.expect("no panic").expect("the write is answered");
    let members = cluster.mirror("owed").await;
    assert_eq!(pending(&members), [0, 0]);
    assert!(members.iter().all(|member| member.generation > 0 && member.last_error.is_empty()), "{members:?}");

    cluster.nodes[1].kill9();
    let again = connect(&engine).await;
    again.write(0, &[2; 4096]).await.expect("written to the one that is left");
    let members = cluster.mirror("owed").await;
    let lost = members.iter().find(|member| !member.local).expect("the remote member is listed");
    assert_eq!((lost.mode, lost.generation), (2, 0), "{lost:?}");
    assert!(!lost.last_error.is_empty(), "{lost:?}");
}
