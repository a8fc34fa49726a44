//! What a node answers from the moment its port is open: health and reflection at once, our own services when it is
//! ready, and none of them any more when it stops.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::service::Routes;
use tower::Service;

use super::health::HealthService;
use super::not_offered;
use crate::error::{Error, Result};
use crate::telemetry::Health;
use crate::telemetry::health::Readiness;
use crate::wire::FILE_DESCRIPTOR_SET;

/// The services behind the gate.
const OURS: [&str; 2] = ["spdkrpc.SPDKService", "corriente.v1.CorrienteService"];

/// Whether a service is one of ours.
pub(super) fn is_ours(service: &str) -> bool {
    OURS.contains(&service)
}

/// Decides whether our services are reached. All clones are one gate.
#[derive(Clone)]
pub struct Gate {
    always: Routes,
    ours: Arc<OnceLock<Routes>>,
    health: Health,
}

impl Gate {
    /// Closed: calls of our services are answered UNAVAILABLE.
    pub fn closed(health: Health) -> Result<Self> {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let failed = |error: tonic_reflection::server::Error| Error::internal("reflection", error.to_string());
        let always = Routes::default()
            .add_service(HealthService::server(health.clone()))
            .add_service(reflection().build_v1().map_err(failed)?)
            .add_service(reflection().build_v1alpha().map_err(failed)?);
        Ok(Self { always, ours: Arc::default(), health })
    }

    /// The node is ready: calls go to these services. Only the first services count.
    pub fn open(&self, services: Routes) {
        let _ = self.ours.set(services);
        self.health.reach(Readiness::Ready);
    }

    /// The node stops: calls are refused.
    pub fn close(&self) {
        self.health.reach(Readiness::Stopping);
    }

    /// The gate and what is behind it.
    pub fn routes(&self) -> Routes {
        axum::Router::new().fallback_service(self.clone()).into()
    }
}

impl Service<Request<axum::body::Body>> for Gate {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<axum::body::Body>) -> Self::Future {
        let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        if !is_ours(service) {
            return Box::pin(self.always.call(request));
        }
        match (self.health.ready(), self.ours.get()) {
            (Ok(()), Some(services)) => match not_offered::refusal(request.uri().path()) {
                Some(refusal) => Box::pin(ready(Ok(refusal.into_http()))),
                None => Box::pin(services.clone().call(request)),
            },
            (ready_or_why, _) => {
                let reason = ready_or_why.err().unwrap_or("the node is starting");
                Box::pin(ready(Ok(Status::unavailable(reason).into_http())))
            }
        }
    }
}
