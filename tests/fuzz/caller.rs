//! Sends bytes as a request, whatever they are.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::methods::Method;

/// No call of these may take that long; one that does is stuck.
const CALL_LIMIT: Duration = Duration::from_secs(120);

/// What came back.
#[derive(Debug)]
pub struct Outcome {
    pub code: Code,
    pub text: String,
}

/// One connection.
pub struct Caller(Channel);

impl Caller {
    pub fn new(address: SocketAddr) -> Self {
        Self(Endpoint::from_shared(format!("http://{address}")).expect("a URI").connect_lazy())
    }

    /// Calls, and takes at most the beginning of a stream.
    pub async fn call(&self, method: &Method, body: Vec<u8>) -> Outcome {
        let answer = tokio::time::timeout(CALL_LIMIT, self.answer(method, body)).await;
        match answer {
            Ok(Ok(())) => Outcome { code: Code::Ok, text: String::new() },
            Ok(Err(status)) => Outcome { code: status.code(), text: status.message().to_owned() },
            Err(_) => Outcome { code: Code::DeadlineExceeded, text: format!("no answer in {CALL_LIMIT:?}") },
        }
    }

    async fn answer(&self, method: &Method, body: Vec<u8>) -> Result<(), Status> {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::try_from(method.path.as_str()).expect("a path");
        let request = Request::new(Bytes::from(body));
        if method.streams {
            grpc.server_streaming(request, path, Raw).await.map(drop)
        } else {
            grpc.unary(request, path, Raw).await.map(drop)
        }
    }
}

/// Bytes that stay what they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}
