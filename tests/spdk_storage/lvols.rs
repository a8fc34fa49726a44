//! Lvol stores, lvols and their snapshots.

use std::sync::Arc;
use std::time::Instant;

use corriente::name::LvolAlias;
use corriente::spdk::bdev::OpenBdev;
use corriente::spdk::lvol::{self, Provision};
use corriente::spdk::lvstore::{self, ClearMethod};
use corriente::spdk::xattr::{XATTR_NAME_LIMIT, XATTR_VALUE_LIMIT, XattrChange, XattrName, XattrValue};
use corriente::spdk::{DmaBuffer, OnThread, SpdkError, base};

use crate::scene::*;

#[test]
fn a_snapshot_chain_survives_reloads_and_merges() {
    let (disk, store) = (Disk::new("chain-disk", 256), lvs("chain"));
    disk.format(&store);
    let (head, s1, s2) = (alias(&store, "head"), alias(&store, "s1"), alias(&store, "s2"));
    control({
        let head = head.clone();
        async move |on| lvol::create(on, &head, 64 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await.map(drop)
    });
    write_clusters(&head, &[(0, b'a'), (1, b'a')]);
    control({
        let (head, (name, value)) = (head.clone(), xattr("generation", "7"));
        async move |on| lvol::apply_xattrs(on, &head, &[XattrChange::set(name, value)]).await
    });
    snapshot(&head, "s1", vec![xattr("user_created", "true"), xattr("snapshot_timestamp", "2026-11-22T00:00:00Z")]);
    write_clusters(&head, &[(1, b'b'), (2, b'b')]);
    snapshot(&head, "s2", vec![xattr("user_created", "false")]);

    let maps = |name: &LvolAlias| {
        let name = name.clone();
        control(async move |on| Ok(lvol::cluster_map(on, &name)?.iter().collect::<Vec<_>>()))
    };
    assert_eq!((maps(&s1), maps(&s2), maps(&head)), (vec![0, 1], vec![1, 2], vec![]));

    // The head has no cluster of its own now, which is when 20.07 opens its parent twice at load.
    disk.reload(&store);
    let value = |of: &LvolAlias, name: &str| {
        let (of, name) = (of.clone(), XattrName::parse(name).expect("a name"));
        control(async move |on| Ok(lvol::xattr(on, &of, &name)?.and_then(|value| value.as_text().map(str::to_owned))))
    };
    assert_eq!(value(&head, "generation").as_deref(), Some("7"), "the head keeps its xattrs over a snapshot");
    assert_eq!(value(&s1, "generation"), None, "a snapshot inherits none");
    assert_eq!(value(&s1, "user_created").as_deref(), Some("true"));
    control({
        let (s2, (name, text)) = (s2.clone(), xattr("checksum", "42"));
        async move |on| {
            let gone = XattrName::parse("user_created").expect("a name");
            lvol::apply_xattrs(on, &s2, &[XattrChange::set(name, text), XattrChange::remove(gone)]).await
        }
    });
    write_clusters(&head, &[(3, b'c')]);
    assert_eq!(clusters(&head, 5), [b'a', b'b', b'b', b'c', 0]);

    let infos = control({
        let store = store.clone();
        async move |on| lvol::list(on, &store)
    });
    let of = |name: &str| infos.iter().find(|info| info.alias.lvol.as_str() == name).expect("listed");
    assert_eq!(of("s1").children, [lvol_name("s2")]);
    assert_eq!(of("s2").parent, Some(lvol_name("s1")));
    assert!(of("s1").is_snapshot && !of("head").is_snapshot);

    // Merges in both places of the chain, and what is left must be on the disk, not only in memory.
    delete(&s1);
    assert_eq!(maps(&s2), [0, 1, 2]);
    delete(&s2);
    assert_eq!(maps(&head), [0, 1, 2, 3]);
    assert_eq!(clusters(&head, 5), [b'a', b'b', b'b', b'c', 0]);
    disk.reload(&store);
    assert_eq!(clusters(&head, 5), [b'a', b'b', b'b', b'c', 0]);
    assert_eq!(maps(&head), [0, 1, 2, 3]);
    assert_eq!(value(&head, "generation").as_deref(), Some("7"));
}

#[test]
fn a_snapshots_xattr_survives_a_reload() {
    let (disk, store) = (Disk::new("xattr-disk", 64), lvs("xattr"));
    disk.format(&store);
    let (head, snap) = (alias(&store, "head"), alias(&store, "snap"));
    control({
        let head = head.clone();
        async move |on| lvol::create(on, &head, 4 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await.map(drop)
    });
    snapshot(&head, "snap", Vec::new());
    let renamed = alias(&store, "renamed");
    control({
        let (snap, renamed, (name, value)) = (snap.clone(), renamed.clone(), xattr("checksum", "42"));
        async move |on| {
            lvol::apply_xattrs(on, &snap, &[XattrChange::set(name, value)]).await?;
            lvol::rename(on, &snap, &renamed.lvol).await.map(drop)
        }
    });
    disk.reload(&store);
    let (gone, info, value) = control(async move |on| {
        let checksum = XattrName::parse("checksum").expect("a name");
        Ok((lvol::find(on, &snap)?, lvol::info(on, &renamed)?, lvol::xattr(on, &renamed, &checksum)?))
    });
    assert!(gone.is_none());
    assert!(info.is_snapshot, "setting an xattr leaves a snapshot read-only");
    assert_eq!(value.and_then(|value| value.as_text().map(str::to_owned)).as_deref(), Some("42"));
}

#[test]
fn the_longest_xattrs_survive_reloads_changes_and_a_crash() {
    let (mut disk, store) = (Disk::new("long-xattr-disk", 64), lvs("long-xattr"));
    disk.format(&store);
    let head = alias(&store, "head");
    control({
        let head = head.clone();
        async move |on| lvol::create(on, &head, 4 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await.map(drop)
    });
    let names = ["a".repeat(XATTR_NAME_LIMIT), "second".to_owned(), "small".to_owned()];
    let set = |byte: u8| {
        let lengths = [XATTR_VALUE_LIMIT, XATTR_VALUE_LIMIT, 10];
        let changes = names.iter().zip(lengths).map(|(name, length)| {
            let value = XattrValue::new(&vec![byte; length]).expect("within the limit");
            XattrChange::set(XattrName::parse(name).expect("a name"), value)
        });
        let (head, changes) = (head.clone(), changes.collect::<Vec<_>>());
        control(async move |on| lvol::apply_xattrs(on, &head, &changes).await);
    };
    let found = || {
        let (head, names) = (head.clone(), names.clone());
        control(async move |on| {
            let values = names.iter().map(|name| lvol::xattr(on, &head, &XattrName::parse(name).expect("a name")));
            values.collect::<Result<Vec<_>, _>>()
        })
    };
    let all_are = |byte: u8| {
        let values = found();
        let lengths: Vec<_> = values.iter().flatten().map(|value| value.as_bytes().len()).collect();
        assert_eq!(lengths, [XATTR_VALUE_LIMIT, XATTR_VALUE_LIMIT, 10]);
        assert!(values.iter().flatten().all(|value| value.as_bytes().iter().all(|found| *found == byte)));
    };
    write_clusters(&head, &[(0, b'x'), (3, b'y')]);
    set(1);
    all_are(1);
    snapshot(&head, "snap", Vec::new());
    for byte in 2..6 {
        disk.reload(&store);
        all_are(byte - 1);
        set(byte);
        all_are(byte);
    }
    // The store is open, so a copy of its disk is what a power failure would leave.
    let copy = disk.path.with_extension("copy");
    std::fs::copy(&disk.path, &copy).expect("a copy of the disk");
    set(9);
    disk.path = copy;
    disk.reload(&store);
    all_are(5);
    assert_eq!(clusters(&head, 4), [b'x', 0, 0, b'y']);
}

#[test]
fn none_means_that_there_is_no_store() {
    let disk = Disk::new("blank-disk", 64);
    disk.create();
    let name = disk.name.clone();
    assert!(control(async move |on| lvstore::load(on, &name).await).is_none());

    let (damaged, store) = (Disk::new("damaged-disk", 64), lvs("damaged"));
    damaged.format(&store);
    let name = damaged.name.clone();
    control(async move |on| {
        lvstore::unload(on, &store).await?;
        base::delete(on, &name).await
    });
    let mut bytes = std::fs::read(&damaged.path).expect("the disk");
    bytes[8..4096].fill(0x5a);
    std::fs::write(&damaged.path, bytes).expect("the disk");
    damaged.create();
    let name = damaged.name.clone();
    let refused = control(async move |on| Ok(lvstore::load(on, &name).await));
    assert!(refused.is_err(), "a store that cannot be read is not taken for an empty disk: {refused:?}");
}

#[test]
fn a_grown_clone_reads_zeroes_beyond_its_parent() {
    let (disk, store) = (Disk::new("grown-disk", 64), lvs("grown"));
    disk.format(&store);
    let head = alias(&store, "head");
    control({
        let head = head.clone();
        async move |on| lvol::create(on, &head, 2 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await.map(drop)
    });
    write_clusters(&head, &[(0, b'a'), (1, b'a')]);
    snapshot(&head, "snap", Vec::new());
    let size = control({
        let head = head.clone();
        async move |on| Ok(lvol::grow(on, &head, 4 * MIB).await?.size)
    });
    assert_eq!(size, 4 * MIB);
    for reloaded in [false, true] {
        if reloaded {
            disk.reload(&store);
        }
        assert_eq!(clusters(&head, 4), [b'a', b'a', 0, 0], "reloaded: {reloaded}");
    }
    let name = head.bdev();
    control(async move |on| {
        let channel = open(on, &name, true)?;
        fill(&channel, 3 * MIB + 4096, 4096, b'x').await?;
        assert!(holds(&channel, 3 * MIB, 4096, 0).await?);
        assert!(holds(&channel, 3 * MIB + 4096, 4096, b'x').await?);
        assert!(holds(&channel, 3 * MIB + 8192, 4096, 0).await?);
        Ok(())
    });
}

#[test]
fn what_would_lose_data_or_hang_is_refused() {
    let (disk, store) = (Disk::new("refusal-disk", 64), lvs("refusal"));
    disk.format(&store);
    let (head, snap) = (alias(&store, "head"), alias(&store, "snap"));
    let name = disk.name.clone();
    control(async move |on| {
        lvol::create(on, &head, 4 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await?;
        lvol::snapshot(on, &head, &snap.lvol, &[]).await?;
        lvol::clone(on, &snap, &lvol_name("other")).await?;
        let refused = |what: &str, result: Result<(), SpdkError>| match result {
            Err(SpdkError::Refused { problem, .. }) => problem,
            other => panic!("{what} is refused: {other:?}"),
        };
        let problem = refused("deletion of a snapshot with two children", lvol::delete(on, &snap).await);
        assert!(problem.contains("more than one child"), "{problem}");
        refused("shrinking", lvol::grow(on, &head, MIB).await.map(drop));
        refused("a snapshot of a snapshot", lvol::snapshot(on, &snap, &lvol_name("x"), &[]).await.map(drop));
        refused("a clone of a head", lvol::clone(on, &head, &lvol_name("x")).await.map(drop));
        refused(
            "a volume of nothing",
            lvol::create(on, &alias(&store, "x"), 0, Provision::Thin, ClearMethod::None).await.map(drop),
        );
        let channel = open(on, &head.bdev(), false)?;
        assert!(lvol::info(on, &head)?.open);
        refused("deletion while open", lvol::delete(on, &head).await);
        refused("unload while open", lvstore::unload(on, &store).await);
        refused("deletion of the disk below", base::delete(on, &name).await);
        drop(channel);
        assert!(matches!(lvol::delete(on, &alias(&store, "none")).await, Err(SpdkError::NoSuch { .. })));
        let taken = lvol::rename(on, &head, &snap.lvol).await;
        assert!(taken.is_err(), "a rename to a name that is taken");
        assert_eq!(base::aliases(on, &lvol::info(on, &head)?.bdev), [head.bdev()], "and the alias stays");
        lvol::delete(on, &alias(&store, "other")).await?;
        lvol::delete(on, &snap).await?;
        lvol::delete(on, &head).await?;
        assert_eq!(lvol::list(on, &store)?, []);
        let info = lvstore::info(on, &store)?;
        assert_eq!(info.free_clusters, lvstore::on_base(on, &name)?.expect("loaded").free_clusters);
        Ok(())
    });
}

#[test]
fn a_reverted_volumes_data_is_not_readable_by_the_next() {
    let (disk, store) = (Disk::new("revert-disk", 64), lvs("revert"));
    disk.format(&store);
    let (head, snap) = (alias(&store, "head"), alias(&store, "snap"));
    let leaked = control(async move |on| {
        lvol::create(on, &head, 8 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await?;
        lvol::snapshot(on, &head, &snap.lvol, &[]).await?;
        lvol::delete(on, &head).await?;
        lvol::clone(on, &snap, &head.lvol).await?;
        let channel = open(on, &head.bdev(), true)?;
        for cluster in 0..8 {
            fill(&channel, cluster * MIB, MIB as usize, b's').await?;
        }
        drop(channel);
        lvol::delete(on, &head).await?;
        lvol::delete(on, &snap).await?;
        let next = alias(&store, "next");
        lvol::create(on, &next, 8 * MIB, Provision::Thin, ClearMethod::WriteZeroes).await?;
        let channel = open(on, &next.bdev(), true)?;
        let mut leaked = 0;
        for cluster in 0..8 {
            fill(&channel, cluster * MIB, 4096, b'n').await?;
            let rest = MIB as usize - 4096;
            let found = channel.read(cluster * MIB + 4096, DmaBuffer::zeroed(rest)?).await?;
            leaked += found.iter().filter(|byte| **byte != 0).count();
        }
        Ok(leaked)
    });
    assert_eq!(leaked, 0);
}

/// Writes every second block of the volume from one thread, in an order of its own.
async fn interleave(on: OnThread, bdev: Arc<OpenBdev>, parity: u64, blocks: u64) -> Result<(), SpdkError> {
    use futures::stream::{StreamExt, TryStreamExt};
    let channel = bdev.channel(on)?;
    let writes = (0..blocks / 2).map(|index| {
        // Neighbours in time are in the same cluster, so both threads take it at once.
        let block = index * 2 + parity;
        let channel = channel.clone();
        async move {
            fill(&channel, block * 4096, 4096, (block % 251) as u8).await?;
            match holds(&channel, block * 4096, 4096, (block % 251) as u8).await? {
                true => Ok(()),
                false => Err(SpdkError::answer("read", "the volume", format!("block {block} is not what was written"))),
            }
        }
    });
    futures::stream::iter(writes).buffer_unordered(32).try_collect().await
}

#[test]
fn two_threads_may_allocate_the_same_clusters() {
    let (disk, store) = (Disk::new("race-disk", 256), lvs("race"));
    disk.format(&store);
    let head = alias(&store, "head");
    let size = 64 * MIB;
    let opened = control({
        let head = head.clone();
        async move |on| {
            lvol::create(on, &head, size, Provision::Thin, ClearMethod::WriteZeroes).await?;
            OpenBdev::open(on, &head.bdev(), true, |_| {})
        }
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let [first, second] = [0u64, 1].map(|parity| {
        let (reactor, opened) = (environment().reactors()[parity as usize].clone(), opened.clone());
        runtime.spawn(async move {
            reactor.run(move |on| async move { interleave(on, opened, parity, size / 4096).await }).await
        })
    });
    runtime.block_on(async {
        first.await.expect("no panic").unwrap_or_else(|error: SpdkError| panic!("{error}"));
        second.await.expect("no panic").unwrap_or_else(|error: SpdkError| panic!("{error}"));
    });
    // The tasks' ends of it, and the close on the control thread, take a moment more.
    drop(opened);
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        let head = head.clone();
        if !control(async move |on| Ok(lvol::info(on, &head)?.open)) {
            break;
        }
    }
    disk.reload(&store);
    let name = head.bdev();
    control(async move |on| {
        let channel = open(on, &name, false)?;
        for block in 0..size / 4096 {
            assert!(holds(&channel, block * 4096, 4096, (block % 251) as u8).await?, "block {block}");
        }
        Ok(())
    });
}
