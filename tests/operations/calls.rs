//! Every call of the contract is answered: by what it does, or by why it is not offered.

use corriente::wire::FILE_DESCRIPTOR_SET;
use prost::Message;
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;

use crate::support::node::{Node, NodeOptions};

/// All but erasure coding and what Longhorn's own engine leaves out as well (`engine-behaviour` §0).
fn is_offered(call: &str) -> bool {
    let left_out = ["EngineSuspend", "EngineResume", "EngineDeleteTarget", "EngineBackupRestoreFinish"];
    !call.starts_with("Shard") && !left_out.contains(&call)
}

/// The calls of a service as its descriptor has them, and whether each streams its answer.
fn calls_of(service: &str) -> Vec<(String, bool)> {
    let files = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("our descriptors");
    let services = files.file.iter().flat_map(|file| &file.service);
    let ours = services.filter(|found| found.name() == service).flat_map(|found| &found.method);
    ours.map(|method| (method.name().to_owned(), method.server_streaming())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_the_contract_is_answered_and_what_is_not_offered_says_why() {
    let node = Node::start(NodeOptions::named("calls")).await;
    let calls = calls_of("SPDKService");
    assert_eq!(calls.len(), 118);
    for (call, streams) in calls {
        if streams && is_offered(&call) {
            continue;
        }
        let mut client = tonic::client::Grpc::new(node.channel());
        client.ready().await.expect("the node answers");
        let path = PathAndQuery::try_from(format!("/spdkrpc.SPDKService/{call}")).expect("a path");
        // An empty message is a request of any call, with every field left out.
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let answer = client.unary(tonic::Request::new(()), path, codec).await;
        let code = answer.as_ref().map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code == Code::Unimplemented, !is_offered(&call), "{call}: {answer:?}");
        if let Err(status) = answer
            && code == Code::Unimplemented
        {
            assert!(status.message().starts_with(&format!("{call}: ")), "{call}: {status:?}");
        }
    }
}
