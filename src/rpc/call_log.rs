//! One log line and one count for every gRPC call: method, peer, duration and code.
//!
//! A tower layer around all services. A call whose answer streams is logged when the stream begins, and is not under way
//! any more from then on.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tonic::codegen::http::{Request, Response};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::gate::is_ours;
use crate::telemetry::{Metrics, metrics::code_name};

/// How many calls are under way. All clones count the same.
#[derive(Debug, Clone)]
pub struct InFlight(watch::Sender<usize>);

impl Default for InFlight {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl InFlight {
    fn begin(&self) -> UnderWay {
        self.0.send_modify(|count| *count += 1);
        UnderWay(self.0.clone())
    }

    /// Waits until no call has been under way for that long.
    pub async fn none_for(&self, time: Duration) {
        let mut count = self.0.subscribe();
        loop {
            // The sender is `self`'s own, so neither wait fails.
            let _ = count.wait_for(|count| *count == 0).await;
            if tokio::time::timeout(time, count.wait_for(|count| *count > 0)).await.is_err() {
                return;
            }
        }
    }
}

/// A call under way; counted out when dropped.
struct UnderWay(watch::Sender<usize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Puts [`CallLog`] around a service.
#[derive(Debug, Clone)]
pub struct CallLogLayer {
    metrics: Metrics,
    in_flight: InFlight,
}

impl CallLogLayer {
    /// Counts into both.
    pub fn new(metrics: Metrics, in_flight: InFlight) -> Self {
        Self { metrics, in_flight }
    }
}

impl<S> Layer<S> for CallLogLayer {
    type Service = CallLog<S>;

    fn layer(&self, inner: S) -> CallLog<S> {
        CallLog { inner, metrics: self.metrics.clone(), in_flight: self.in_flight.clone() }
    }
}

/// Logs and counts the calls of a service.
#[derive(Debug, Clone)]
pub struct CallLog<S> {
    inner: S,
    metrics: Metrics,
    in_flight: InFlight,
}

impl<S, B, R> Service<Request<B>> for CallLog<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send,
    R: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let begun = Instant::now();
        let path = request.uri().path().to_owned();
        let peer = peer_of(&request);
        let metrics = self.metrics.clone();
        let under_way = self.in_flight.begin();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(under_way);
            if let Ok(response) = &answer {
                let status = Status::from_header_map(response.headers());
                record(&metrics, &path, &peer, begun.elapsed(), status.as_ref());
            }
            answer
        })
    }
}

/// The caller's address, or `unix` for one on the Unix socket.
fn peer_of<B>(request: &Request<B>) -> String {
    let extensions = request.extensions();
    let secure = extensions.get::<TlsConnectInfo<TcpConnectInfo>>().map(TlsConnectInfo::get_ref);
    let peer = extensions.get::<TcpConnectInfo>().or(secure).and_then(TcpConnectInfo::remote_addr);
    peer.map_or_else(|| "unix".to_owned(), |address| address.to_string())
}

fn record(metrics: &Metrics, path: &str, peer: &str, took: Duration, status: Option<&Status>) {
    let (service, method) = split(path);
    // The label's values must not be the caller's to invent: an unknown method would be a new time series each.
    let code = status.map_or(Code::Ok, Status::code);
    let known = code != Code::Unimplemented && is_ours(service);
    metrics.call(if known { method } else { "other" }, code, took);

    let (ms, code_text) = (took.as_secs_f64() * 1e3, code_name(code));
    let message = status.map(Status::message).unwrap_or_default();
    match (code, is_quiet(service, method)) {
        (Code::Internal | Code::Unknown | Code::DataLoss, _) => {
            tracing::warn!(method, peer, ms, code = code_text, message, "call failed");
        }
        (Code::Ok, true) => tracing::debug!(method, peer, ms, code = code_text, "call"),
        (Code::Ok, false) => tracing::info!(method, peer, ms, code = code_text, "call"),
        _ => tracing::info!(method, peer, ms, code = code_text, message, "call refused"),
    }
}

/// `/package.Service/Method` as service and method.
fn split(path: &str) -> (&str, &str) {
    path.trim_start_matches('/').split_once('/').unwrap_or(("", path))
}

/// Calls that only look, which managers repeat every few seconds.
fn is_quiet(service: &str, method: &str) -> bool {
    let looks = ["Get", "List", "Status", "Watch", "Check", "StatusCheck", "Info", "Events"];
    !is_ours(service) || looks.iter().any(|ending| method.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_methods_of_our_services_become_labels() {
        let metrics = Metrics::new();
        let took = Duration::from_millis(1);
        record(&metrics, "/spdkrpc.SPDKService/EngineGet", "p", took, None);
        record(&metrics, "/spdkrpc.SPDKService/Invented", "p", took, Some(&Status::unimplemented("")));
        record(&metrics, "/another.Service/EngineGet", "p", took, Some(&Status::not_found("")));
        let page = metrics.page().await.expect("a page");
        for line in [
            r#"corriente_calls_total{method="EngineGet",code="OK"} 1"#,
            r#"corriente_calls_total{method="other",code="UNIMPLEMENTED"} 1"#,
            r#"corriente_calls_total{method="other",code="NOT_FOUND"} 1"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn calls_that_change_something_are_not_quiet() {
        for method in ["EngineCreate", "ReplicaDelete", "EngineBackupRestore", "EngineSnapshotCreate"] {
            assert!(!is_quiet("spdkrpc.SPDKService", method), "{method}");
        }
        assert!(is_quiet("spdkrpc.SPDKService", "EngineRestoreStatus"));
        assert!(is_quiet("grpc.health.v1.Health", "Check"));
    }
}
