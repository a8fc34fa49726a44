//! Replicas and disks that are taken away while somebody has them open still: they wait for that, also when asked again.

use super::*;

async fn open(bdev: corriente::name::BdevName) -> BdevClient {
    BdevClient::open(&environment().control(), bdev, false).await.unwrap()
}

#[test]
fn a_stop_that_was_not_waited_out_is_waited_for_by_the_next() {
    run(async {
        let (folder, path) = file(64);
        let node = Node::start(folder.path(), "21220-21239");
        node.ready_disk("slow", &path).await;
        let name = replica_name("vol-slow-r-00000001");
        node.create_replica(name.as_str(), "slow", 8).await;
        let head = node.replicas.local_head(&name).await.unwrap().unwrap();
        let client = open(head.bdev).await;
        let stopped = node.replicas.delete(&name, false).await;
        assert!(matches!(&stopped, Err(Error::Timeout { what, .. }) if what.contains("vol-slow")), "{stopped:?}");

        let (replicas, again) = (node.replicas.clone(), name.clone());
        let stopping = tokio::spawn(async move { replicas.delete(&again, false).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!stopping.is_finished(), "it is open still");
        drop(client);
        stopping.await.unwrap().unwrap();
        node.replicas.delete(&name, true).await.unwrap();
        node.disks.delete(&DiskName::parse("slow").unwrap(), None).await.unwrap();
    });
}

#[test]
fn a_disk_is_deleted_when_who_used_it_closes_it_in_a_moment_and_refused_when_nobody_does() {
    run(async {
        let (folder, path) = file(64);
        let node = Node::start(folder.path(), "21240-21259");
        node.ready_disk("busy", &path).await;
        let name = replica_name("vol-busy-r-00000001");
        node.create_replica(name.as_str(), "busy", 8).await;
        node.replicas.delete(&name, false).await.unwrap();
        let lvol = LvolAlias { lvs: LvsName::parse("busy").unwrap(), lvol: LvolName::head(&name) };
        let client = open(lvol.bdev()).await;
        let disk = DiskName::parse("busy").unwrap();
        let refused = node.disks.delete(&disk, None).await;
        assert!(
            matches!(&refused, Err(Error::Precondition { problem, .. }) if problem.contains("in use")),
            "{refused:?}"
        );
        assert_eq!(node.disks.get(&disk).await.unwrap().state, DiskState::Ready, "it can be used further");

        let (disks, again) = (node.disks.clone(), disk.clone());
        let deletion = tokio::spawn(async move { disks.delete(&again, None).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!deletion.is_finished(), "an lvol of it is open still");
        drop(client);
        deletion.await.unwrap().unwrap();
    });
}
