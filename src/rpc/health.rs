//! `grpc.health.v1.Health`: NOT_SERVING until the node is ready and when it stops. A watch ends with that.

use futures::stream;
use tokio::sync::watch;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthCalls, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::gate::is_ours;
use crate::telemetry::Health;
use crate::telemetry::health::Readiness;

/// The service over a node's own account.
pub(super) struct HealthService(Health);

impl HealthService {
    pub(super) fn server(health: Health) -> HealthServer<Self> {
        HealthServer::new(Self(health))
    }
}

/// The empty name is the whole server.
fn is_known(service: &str) -> bool {
    service.is_empty() || is_ours(service)
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl HealthCalls for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !is_known(&service) {
            return Err(Status::not_found(format!("service {service:?} does not exist")));
        }
        let status = if self.0.ready().is_ok() { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(answer(status)))
    }

    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let known = is_known(&request.into_inner().service);
        let steps = stream::unfold(Some(self.0.watch()), move |receiver| next(receiver, known));
        Ok(Response::new(Box::pin(steps)))
    }
}

type Steps = Option<watch::Receiver<Readiness>>;

/// One message a step; the step to the stop is the last.
async fn next(receiver: Steps, known: bool) -> Option<(Result<HealthCheckResponse, Status>, Steps)> {
    let mut receiver = receiver?;
    receiver.changed().await.ok()?;
    let readiness = *receiver.borrow_and_update();
    let status = match readiness {
        _ if !known => ServingStatus::ServiceUnknown,
        Readiness::Ready => ServingStatus::Serving,
        Readiness::Starting | Readiness::Stopping => ServingStatus::NotServing,
    };
    Some((Ok(answer(status)), (readiness != Readiness::Stopping).then_some(receiver)))
}
