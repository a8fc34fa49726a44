//! The HTTP endpoint: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever starts and stops nodes.

use std::future::Future;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::{Health, Metrics};
use crate::error::{Error, Result};

/// What OpenMetrics asks a scraper to be told.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Shared {
    metrics: Metrics,
    health: Health,
}

/// An endpoint that holds its port and does not answer yet.
#[derive(Debug)]
pub struct Endpoint {
    listener: TcpListener,
    address: SocketAddr,
}

impl Endpoint {
    /// Takes the port.
    pub async fn bind(address: SocketAddr) -> Result<Self> {
        let failed =
            |error| Error::precondition(format!("metrics.listen {address}"), format!("cannot listen: {error}"));
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` is done.
    pub async fn serve(
        self,
        metrics: Metrics,
        health: Health,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<()> {
        let routes = Router::new()
            .route("/metrics", get(metrics_page))
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readiness))
            .with_state(Shared { metrics, health });
        axum::serve(self.listener, routes)
            .with_graceful_shutdown(shutdown)
            .await
            .map_err(|error| Error::internal("the metrics endpoint", error.to_string()))
    }
}

async fn metrics_page(State(shared): State<Shared>) -> Response {
    match shared.metrics.page().await {
        Ok(page) => ([(header::CONTENT_TYPE, OPEN_METRICS)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readiness(State(shared): State<Shared>) -> Response {
    match shared.health.ready() {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;
    use crate::telemetry::health::Readiness;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        answer
    }

    #[tokio::test]
    async fn a_node_is_ready_while_it_says_so_and_alive_while_it_answers() {
        let endpoint = Endpoint::bind("127.0.0.1:0".parse().unwrap()).await.expect("a free port");
        let (address, health) = (endpoint.address(), Health::new());
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(endpoint.serve(Metrics::new(), health.clone(), async {
            let _ = stopped.await;
        }));

        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"), "a node that starts is not ready");
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        health.reach(Readiness::Ready);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        health.reach(Readiness::Stopping);
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("the node is stopping"), "{answer}");
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let page = get(address, "/metrics").await;
        assert!(page.contains("corriente_build_info{version=") && page.contains("# EOF"), "{page}");

        stop.send(()).expect("the server listens");
        server.await.expect("no panic").expect("a clean end");
    }
}
