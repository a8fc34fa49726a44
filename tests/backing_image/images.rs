//! Images themselves: made, found again, exposed, verified, deleted.

use corriente::faults::{Action, Point};
use corriente::wire::corriente::v1 as own;
use tonic::Code;

use super::scene::*;
use super::server::Server;
use crate::support::node::{Node, NodeOptions};
use crate::support::wait::wait_until;

fn refused<T: std::fmt::Debug>(result: Result<T, tonic::Status>, code: Code, words: &str) {
    let status = result.expect_err("it is refused");
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(words), "{words:?} is not in {:?}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_by_http_is_what_the_server_has_and_its_zeroes_take_no_space() {
    let node = Node::start(NodeOptions::named("a")).await;
    let (_disk, lvs) = add_disk(&node, "disk").await;
    let image = image();
    let server = Server::start(image.clone()).await;
    let begun = create(&node, order(&lvs, &image, &server.url("/redirect?a=b"))).await.expect("it is begun");
    assert_eq!((begun.name.as_str(), begun.size, begun.expected_checksum), (NAME, SIZE, sha512(&image)));
    let made = ended(&node, &lvs).await;
    assert_eq!((made.state.as_str(), made.error_msg.as_str(), made.progress), ("ready", "", 100));
    assert_eq!((&made.current_checksum, made.backing_image_uuid.as_str()), (&sha512(&image), ID));
    let lvol = made.snapshot.expect("its lvol");
    assert_eq!(
        (lvol.name, lvol.spec_size, lvol.actual_size),
        (format!("bi-{NAME}-disk-{lvs}"), SIZE, IMAGE_CLUSTERS * MIB)
    );
    assert_eq!(server.asked()[0], "/redirect?a=b&forV2Creation=true");

    let listed = node.spdk().backing_image_list(()).await.expect("a list").into_inner().backing_images;
    assert_eq!(listed.keys().collect::<Vec<_>>(), [&format!("bi-{NAME}-disk-{lvs}")]);
    refused(create(&node, order(&lvs, &image, &server.url("/image"))).await, Code::AlreadyExists, NAME);

    let first = node.spdk().backing_image_expose(which(&lvs)).await.expect("it is exposed").into_inner();
    let again = node.spdk().backing_image_expose(which(&lvs)).await.expect("it is exposed already").into_inner();
    assert_eq!(first, again);
    let device = connect_image(&first.exposed_snapshot_lvol_address, &lvs).await;
    assert!(read_all(&device).await == image, "the exposed image is another");
    // Another copy may be under way, so it stays while somebody reads it.
    node.spdk().backing_image_unexpose(which(&lvs)).await.expect("it is unexposed");
    assert!(read_all(&device).await == image, "a reader was thrown out");
    device.disconnect().await.expect("an orderly end");
    let address = first.exposed_snapshot_lvol_address;
    wait_until(LIMIT, "the target is gone", async || match tokio::net::TcpStream::connect(&address).await {
        Ok(_) => Err("it answers".into()),
        Err(_) => Ok(()),
    })
    .await;
    node.spdk().backing_image_unexpose(which(&lvs)).await.expect("it is unexposed already");

    // Made anew under its name: the old one gives way.
    let mut other = image.clone();
    other[0] ^= 1;
    let path = node.directory().join("other.raw");
    std::fs::write(&path, &other).expect("a file");
    let mut renewed = order(&lvs, &other, &format!("file://{}", path.display()));
    renewed.backing_image_uuid = "another".into();
    create(&node, renewed).await.expect("it is begun");
    let made = ended(&node, &lvs).await;
    assert_eq!((made.state.as_str(), made.current_checksum), ("ready", sha512(&other)));
    delete(&node, &lvs).await.expect("it is deleted");
    delete(&node, &lvs).await.expect("it is deleted already");
    refused(get(&node, &lvs).await, Code::NotFound, NAME);
}

#[tokio::test(flavor = "multi_thread")]
async fn h16_what_a_source_does_wrong_fails_the_image_and_says_what() {
    let node = Node::start(NodeOptions::named("a").set("timeouts.backing_image_stall", "1s")).await;
    let (_disk, lvs) = add_disk(&node, "disk").await;
    let free = ready_disk(&node, "disk").await.free_size;
    let image = image();
    let server = Server::start(image.clone()).await;
    let small = node.directory().join("small.raw");
    std::fs::write(&small, &image[..4096]).expect("a file");
    let file = |path: &str| format!("file://{path}");
    for (from, words) in [
        (server.url("/missing"), "404"),
        (server.url("/longer"), "bytes"),
        (server.url("/endless"), "more than"),
        (server.url("/broken"), "broke off"),
        (server.url("/stalled"), "did not finish within"),
        (server.url("/silent"), "did not finish within"),
        (server.url("/circle"), "redirect"),
        ("http://127.0.0.1:1/".into(), "http://127.0.0.1:1/"),
        (file(small.to_str().expect("UTF-8")), "4096 bytes"),
        (file("/nowhere/at/all"), "/nowhere/at/all"),
        (file("/dev/zero"), "neither a regular file nor a block device"),
    ] {
        create(&node, order(&lvs, &image, &from)).await.unwrap_or_else(|status| panic!("{from}: {status}"));
        let made = ended(&node, &lvs).await;
        assert_eq!(made.state, "failed", "{from}");
        assert!(made.error_msg.contains(words), "{from}: {words:?} is not in {:?}", made.error_msg);
        assert!(made.progress < 100);
        delete(&node, &lvs).await.expect("a failed image is deleted");
    }
    let mut wrong = order(&lvs, &image, &server.url("/image"));
    wrong.checksum = sha512(b"another");
    create(&node, wrong).await.expect("it is begun");
    let made = ended(&node, &lvs).await;
    assert_eq!((made.state.as_str(), &made.current_checksum), ("failed", &sha512(&image)));
    assert!(made.error_msg.contains(&sha512(&image)), "{}", made.error_msg);
    refused(node.spdk().backing_image_expose(which(&lvs)).await, Code::FailedPrecondition, "failed");
    refused(node.spdk().replica_create(replica_order("vol-r-00000000", SIZE)).await, Code::FailedPrecondition, NAME);
    delete(&node, &lvs).await.expect("a failed image is deleted");
    assert_eq!(ready_disk(&node, "disk").await.free_size, free, "something is left on the disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_names_its_field_and_an_unknown_disk_leaves_no_lock() {
    let node = Node::start(NodeOptions::named("a")).await;
    let (_disk, lvs) = add_disk(&node, "disk").await;
    let image = image();
    let whole = || order(&lvs, &image, "http://127.0.0.1:1/");
    let bad = |change: &dyn Fn(&mut corriente::wire::spdkrpc::BackingImageCreateRequest)| {
        let mut order = whole();
        change(&mut order);
        create(&node, order)
    };
    refused(bad(&|order| order.name = "a/b".into()).await, Code::InvalidArgument, "name");
    refused(bad(&|order| order.backing_image_uuid.clear()).await, Code::InvalidArgument, "backing_image_uuid");
    refused(bad(&|order| order.lvs_uuid = "x".into()).await, Code::InvalidArgument, "lvs_uuid");
    refused(bad(&|order| order.size = 0).await, Code::InvalidArgument, "size");
    refused(bad(&|order| order.checksum = "sha".into()).await, Code::InvalidArgument, "checksum");
    refused(bad(&|order| order.from_address.clear()).await, Code::InvalidArgument, "from_address");
    refused(bad(&|order| order.from_address = "10.0.0.1:8504".into()).await, Code::InvalidArgument, "src_lvs_uuid");
    refused(bad(&|order| order.lvs_uuid = uuid::Uuid::new_v4().to_string()).await, Code::NotFound, "lvstore");
    refused(get(&node, "").await, Code::InvalidArgument, "lvs_uuid");
    refused(get(&node, &lvs).await, Code::NotFound, NAME);
    refused(node.spdk().backing_image_expose(which(&lvs)).await, Code::NotFound, NAME);
    refused(node.spdk().backing_image_unexpose(which(&lvs)).await, Code::NotFound, NAME);
    assert!(node.spdk().backing_image_list(()).await.expect("a list").into_inner().backing_images.is_empty());
    ready_image(&node, &lvs, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_from_another_disk_and_from_another_node() {
    let (a, b) = (Node::start(NodeOptions::named("a")).await, Node::start(NodeOptions::named("b")).await);
    let (_disk, lvs) = add_disk(&a, "disk").await;
    let (_second, second) = add_disk(&a, "second").await;
    let (_other, other) = add_disk(&b, "disk").await;
    let image = image();
    ready_image(&a, &lvs, &image).await;
    let mut watch = b.spdk().backing_image_watch(()).await.expect("a watch").into_inner();
    for (node, target) in [(&a, &second), (&b, &other)] {
        let mut order = order(target, &image, &a.grpc_address().to_string());
        order.src_lvs_uuid = lvs.clone();
        create(node, order).await.expect("it is begun");
        let made = ended(node, target).await;
        assert_eq!((made.state.as_str(), made.error_msg.as_str()), ("ready", ""));
        assert_eq!(made.snapshot.expect("its lvol").actual_size, IMAGE_CLUSTERS * MIB, "zeroes are left out");
    }
    watch.message().await.expect("the watch goes on").expect("it tells of a change");
    // Nobody reads any more, so the next copy's exposure is a new one: what the copy took is given back.
    let disk = corriente::wire::spdkrpc::DiskDeleteRequest { disk_name: "disk".into(), ..Default::default() };
    wait_until(LIMIT, "the source is not in use any more", async || {
        a.spdk().disk_delete(disk.clone()).await.map(drop).map_err(|status| status.to_string())
    })
    .await;
    refused(get(&a, &lvs).await, Code::NotFound, NAME);

    // A node that has no such image, and one that is not there.
    delete(&b, &other).await.expect("it is deleted");
    for (node, words) in [(a.grpc_address().to_string(), "does not exist"), ("127.0.0.1:1".into(), "127.0.0.1:1")] {
        let mut order = order(&other, &image, &node);
        order.src_lvs_uuid = lvs.clone();
        create(&b, order).await.expect("it is begun");
        let made = ended(&b, &other).await;
        assert_eq!(made.state, "failed");
        assert!(made.error_msg.contains(words), "{:?}", made.error_msg);
        delete(&b, &other).await.expect("it is deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_at_any_step_of_a_making_finds_the_image_whole_or_not_at_all() {
    let mut node = Node::start(NodeOptions::named("a").faulty()).await;
    let (_disk, lvs) = add_disk(&node, "disk").await;
    let free = ready_disk(&node, "disk").await.free_size;
    let image = image();
    let path = node.directory().join("image.raw");
    std::fs::write(&path, &image).expect("a file");
    for (point, is_whole) in [
        (Point::ImageBegun, false),
        (Point::ImageCopied, false),
        (Point::ImageVerified, false),
        (Point::ImageRecorded, true),
        (Point::ImageTaken, true),
    ] {
        node.faults().once(point, Action::Kill);
        // The node may be gone before it answers.
        let _ = create(&node, order(&lvs, &image, &format!("file://{}", path.display()))).await;
        node.killed().await;
        node.start_again().await;
        ready_disk(&node, "disk").await;
        if is_whole {
            let found = get(&node, &lvs).await.expect("the image is found");
            assert_eq!((found.state.as_str(), found.progress, found.size), ("ready", 100, SIZE), "{point:?}");
            assert_eq!((&found.current_checksum, found.backing_image_uuid.as_str()), (&sha512(&image), ID));
            let exposed = node.spdk().backing_image_expose(which(&lvs)).await.expect("it is exposed").into_inner();
            let device = connect_image(&exposed.exposed_snapshot_lvol_address, &lvs).await;
            assert!(read_all(&device).await == image, "{point:?}: the image is another");
            device.disconnect().await.expect("an orderly end");
            delete(&node, &lvs).await.expect("it is deleted");
        } else {
            refused(get(&node, &lvs).await, Code::NotFound, NAME);
        }
        assert_eq!(ready_disk(&node, "disk").await.free_size, free, "{point:?} leaves something on the disk");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_image_is_found_again_and_a_deletion_ends_a_making() {
    let mut node = Node::start(NodeOptions::named("a")).await;
    let (_disk, lvs) = add_disk(&node, "disk").await;
    let free = ready_disk(&node, "disk").await.free_size;
    let image = image();
    let server = Server::start(image.clone()).await;
    create(&node, order(&lvs, &image, &server.url("/stalled"))).await.expect("it is begun");
    wait_until(LIMIT, "half of it is here", async || {
        let found = get(&node, &lvs).await.map_err(|status| status.to_string())?;
        if found.state == "in-progress" && found.progress > 0 { Ok(()) } else { Err(found.state) }
    })
    .await;
    refused(node.spdk().backing_image_expose(which(&lvs)).await, Code::FailedPrecondition, "in-progress");
    let disk = corriente::wire::spdkrpc::DiskDeleteRequest { disk_name: "disk".into(), ..Default::default() };
    refused(node.spdk().disk_delete(disk).await, Code::FailedPrecondition, NAME);
    delete(&node, &lvs).await.expect("the making is called off");
    refused(get(&node, &lvs).await, Code::NotFound, NAME);
    assert_eq!(ready_disk(&node, "disk").await.free_size, free);

    let mut wrong = order(&lvs, &image, &server.url("/image"));
    wrong.checksum = sha512(b"another");
    create(&node, wrong).await.expect("it is begun");
    let before = ended(&node, &lvs).await;
    node.restart().await;
    ready_disk(&node, "disk").await;
    let found = get(&node, &lvs).await.expect("it is found");
    assert_eq!((found.state.as_str(), &found.error_msg), ("failed", &before.error_msg));
    assert_eq!((found.expected_checksum, found.current_checksum), (sha512(b"another"), sha512(&image)));
    delete(&node, &lvs).await.expect("it is deleted");
    assert_eq!(ready_disk(&node, "disk").await.free_size, free);
}

#[tokio::test(flavor = "multi_thread")]
async fn o14_a_verification_finds_what_a_restart_does_not_look_for() {
    let mut node = Node::start(NodeOptions::named("a")).await;
    let (disk, lvs) = add_disk(&node, "disk").await;
    let image = image();
    ready_image(&node, &lvs, &image).await;
    assert_eq!(verify(&node, &lvs).await.expect("it is whole"), sha512(&image));

    node.stop().await;
    let medium = std::fs::read(disk.path()).expect("the disk");
    let place = medium.windows(64).position(|window| window == &image[..64]).expect("the image is on the disk");
    disk.overwrite(place as u64, b"rot");
    node.start_again().await;
    ready_disk(&node, "disk").await;
    assert_eq!(get(&node, &lvs).await.expect("it is found").state, "ready");
    refused(verify(&node, &lvs).await, Code::DataLoss, "SHA-512");
    for _ in 0..2 {
        let found = get(&node, &lvs).await.expect("it is there");
        assert_eq!(found.state, "failed");
        assert!(found.error_msg.contains("SHA-512"), "{}", found.error_msg);
        node.restart().await;
        ready_disk(&node, "disk").await;
    }
}

async fn verify(node: &Node, lvs: &str) -> Result<String, tonic::Status> {
    let request = own::BackingImageVerifyRequest { name: NAME.into(), lvs_uuid: lvs.into() };
    let mut steps = node.corriente().backing_image_verify(request).await?.into_inner();
    let mut last = None;
    while let Some(step) = steps.message().await? {
        assert_eq!(step.total_bytes, SIZE);
        last = Some(step);
    }
    let last = last.expect("a result");
    assert_eq!(last.done_bytes, SIZE);
    Ok(last.checksum)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_an_image_and_a_replica_on_it() {
    let node = Node::start(NodeOptions::named("a")).await;
    let (_disk, _) = add_disk(&node, "disk").await;
    let image = image();
    let server = Server::start(image.clone()).await;
    let (url, sum) = (server.url("/image"), sha512(&image));
    let run = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_corriente"));
        command.args(arguments).args(["--server", &node.grpc_address().to_string(), "--output", "json"]);
        command.env_clear().kill_on_drop(true).output().await.expect("the program starts")
    };
    let create = [
        "backing-image",
        "create",
        NAME,
        "--disk",
        "disk",
        "--size",
        "8MiB",
        "--checksum",
        &sum,
        "--from",
        &url,
        "--wait",
    ];
    let made = run(&create).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let shown: serde_json::Value = serde_json::from_slice(&made.stdout).expect("JSON");
    assert_eq!((&shown["state"], &shown["progress"]), (&"ready".into(), &100.into()));
    let verified = run(&["backing-image", "verify", NAME, "--disk", "disk"]).await;
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let replica = ["replica", "create", "vol-r-00000000", "--disk", "disk", "--size", "16MiB", "--backing-image", NAME];
    assert!(run(&replica).await.status.success());
    let kept = run(&["backing-image", "delete", NAME, "--disk", "disk"]).await;
    assert_eq!(kept.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&kept.stderr).contains("replica vol-r-00000000"));
    assert!(run(&["replica", "delete", "vol-r-00000000", "--cleanup"]).await.status.success());
    assert!(run(&["backing-image", "delete", NAME, "--disk", "disk"]).await.status.success());
    let listed = run(&["backing-image", "list"]).await;
    assert_eq!(String::from_utf8_lossy(&listed.stdout).trim(), "[]");
}
