//! Checksums of volumes and of each replica, from the command line and over gRPC.

use std::time::Duration;

use corriente::wire::corriente::v1 as own;
use corriente::wire::corriente::v1::corriente_service_client::CorrienteServiceClient;
use corriente::wire::corriente::v1::volume_checksum_response::Step;
use sha2::{Digest, Sha256};
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use crate::cluster::{Cluster, refused};
use crate::scene::{expect_exit, volume, write_into_replica};
use crate::support::random::pattern;
use crate::support::wait::wait_until;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn json(output: &str) -> serde_json::Value {
    serde_json::from_str(output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

async fn checksum(
    cluster: &Cluster,
    volume: &str,
    members: bool,
) -> Result<Streaming<own::VolumeChecksumResponse>, Status> {
    let node = &cluster.nodes[0];
    let channel = Endpoint::from_shared(format!("http://{}", node.grpc_address())).expect("a URI").connect_lazy();
    let request =
        own::VolumeChecksumRequest { engine_name: format!("{volume}-e-0"), algorithm: "sha256".into(), members };
    CorrienteServiceClient::new(channel).volume_checksum(request).await.map(tonic::Response::into_inner)
}

/// All progress, then the result.
async fn result(
    mut steps: Streaming<own::VolumeChecksumResponse>,
) -> (Vec<own::VolumeChecksumProgress>, own::VolumeChecksumResult) {
    let mut progress = Vec::new();
    loop {
        match steps.message().await.expect("no error").expect("a result comes last").step.expect("a step") {
            Step::Progress(step) => progress.push(step),
            Step::Result(result) => {
                assert!(steps.message().await.expect("no error").is_none(), "nothing after the result");
                return (progress, result);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checksum_is_that_of_the_image_for_the_volume_and_for_each_replica() {
    let cluster = Cluster::start().await;
    // No whole number of the pieces that are read at once.
    let size = 9 * MIB;
    let (engine, initiator) = volume(&cluster, "sum", size).await;
    let mut image = pattern(7, 4096, size as usize);
    image[3 * MIB as usize..5 * MIB as usize].fill(0);
    for (offset, data) in [(0, &image[..3 * MIB as usize]), (5 * MIB, &image[5 * MIB as usize..])] {
        initiator.write(offset, data).await.expect("written");
    }
    let expected = sha256(&image);
    let node = &cluster.nodes[0];
    let shown = json(&expect_exit(node, &["volume", "checksum", "sum", "--members", "-o", "json"], 0).await);
    assert_eq!((&shown["digest"], &shown["equal"]), (&expected.clone().into(), &true.into()), "{shown}");
    let members = shown["members"].as_array().expect("a list");
    assert_eq!(members.len(), 2);
    for member in members {
        assert_eq!((&member["digest"], &member["error"]), (&expected.clone().into(), &"".into()), "{member}");
    }
    let host = json(&expect_exit(node, &["volume", "checksum", "sum", "-o", "json"], 0).await);
    assert_eq!(host["digest"], expected, "as a host reads it");

    let (progress, found) = result(checksum(&cluster, "sum", false).await.expect("it starts")).await;
    assert_eq!((found.digest, found.members.len(), found.equal), (expected.clone(), 0, true));
    assert!(
        progress.iter().all(|step| step.done_bytes <= step.total_bytes && step.total_bytes == size),
        "{progress:?}"
    );
    let request = own::VolumeChecksumRequest { engine_name: "sum-e-0".into(), algorithm: "md5".into(), members: false };
    refused(node.corriente().volume_checksum(request).await, Code::InvalidArgument, "algorithm");
    refused(checksum(&cluster, "none", false).await, Code::NotFound, "none-e-0");

    drop(initiator);
    cluster.delete_engine("sum").await;
    let replicas = engine.replica_address_map;
    let (remote, address) = replicas.iter().find(|(name, _)| name.ends_with('1')).expect("a remote replica");
    write_into_replica(address, remote, 4 * MIB, &[1; 4096]).await;
    cluster.engine("sum", size, "", replicas.clone()).await;
    let without_target = json(&expect_exit(node, &["volume", "checksum", "sum", "-o", "json"], 0).await);
    assert_eq!(without_target["digest"], expected, "reads go to the replica of this node");
    let shown = json(&expect_exit(node, &["volume", "checksum", "sum", "--members", "-o", "json"], 7).await);
    assert_eq!(shown["equal"], false);
    image[4 * MIB as usize..4 * MIB as usize + 4096].fill(1);
    for member in shown["members"].as_array().expect("a list") {
        let differs = member["replica_name"] == remote.as_str();
        assert_eq!(member["digest"], if differs { sha256(&image) } else { expected.clone() }, "{member}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_out_is_named_and_not_read() {
    let mut cluster = Cluster::start().await;
    let (_, initiator) = volume(&cluster, "out", 2 * MIB).await;
    cluster.nodes[1].kill9();
    initiator.write(0, &[1; 4096]).await.expect("written to the one that is left");
    let shown =
        json(&expect_exit(&cluster.nodes[0], &["volume", "checksum", "out", "--members", "-o", "json"], 1).await);
    let members = shown["members"].as_array().expect("a list");
    let of = |replica: &str| members.iter().find(|member| member["replica_name"] == replica).expect("it is listed");
    assert_eq!(of("out-r-00000000")["digest"], shown["digest"]);
    assert_eq!(of("out-r-00000001")["digest"], "");
    assert!(of("out-r-00000001")["error"].as_str().expect("a text").contains("not in sync"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksum_ends_with_its_reader_and_only_so_many_run_at_once() {
    let mut cluster = Cluster::start_with(|options| options.set("timeouts.member_deadline", "10m")).await;
    let (_, initiator) = volume(&cluster, "slow", 4 * MIB).await;
    initiator.write(0, &vec![1; MIB as usize]).await.expect("written");
    // The replica on that node is read last, and does not answer.
    cluster.nodes[1].freeze();
    let first = checksum(&cluster, "slow", true).await.expect("it starts");
    let second = checksum(&cluster, "slow", true).await.expect("it starts");
    refused(checksum(&cluster, "slow", true).await, Code::ResourceExhausted, "checksums at once");
    drop(first);
    wait_until(LIMIT, "the checksum is called off", async || {
        match cluster.nodes[0].log().contains("a checksum was called off") {
            true => Ok(()),
            false => Err("it is not".into()),
        }
    })
    .await;
    let third = wait_until(LIMIT, "its place is free", async || {
        checksum(&cluster, "slow", true).await.map_err(|status| status.to_string())
    })
    .await;
    cluster.nodes[1].thaw();
    for steps in [second, third] {
        let (_, found) = result(steps).await;
        assert!(found.equal && found.members.iter().all(|member| member.digest == found.digest), "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksum_is_refused_while_the_volume_is_restored() {
    let mut cluster = Cluster::start_with(|options| options.set("timeouts.member_deadline", "10m")).await;
    let source = cluster.fixtures.volume("pvc-5f2d1c7e-lz4");
    let (size, url) = (source.restore_size, cluster.url(&source.name, &source.backups[0].name));
    let replicas = cluster.replicas("dr", size).await;
    cluster.engine("dr", size, "", replicas).await;
    // A restore that cannot go on: the other node does not answer.
    cluster.nodes[1].freeze();
    cluster.start_restore("dr", url).await.expect("the restore starts");
    refused(checksum(&cluster, "dr", false).await, Code::FailedPrecondition, "restore is in progress");
    cluster.nodes[1].thaw();
    assert!(cluster.restored("dr").await.iter().all(|entry| entry.state == "complete"));
    let (_, found) = result(checksum(&cluster, "dr", true).await.expect("it starts")).await;
    assert!(found.equal && !found.digest.is_empty(), "{found:?}");
}
