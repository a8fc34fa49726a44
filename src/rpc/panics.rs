//! A panic in a gRPC handler ends that call alone, with INTERNAL; see [`crate::task`].

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use crate::task::{BUG, on_behalf};

/// Puts [`CatchPanic`] around a service.
#[derive(Debug, Clone, Copy)]
pub struct CatchPanicLayer;

impl<S> Layer<S> for CatchPanicLayer {
    type Service = CatchPanic<S>;

    fn layer(&self, inner: S) -> CatchPanic<S> {
        CatchPanic(inner)
    }
}

/// Answers INTERNAL where the service panics.
#[derive(Debug, Clone)]
pub struct CatchPanic<S>(S);

impl<S, B, R> Service<Request<B>> for CatchPanic<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Guarded<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Guarded(Some(Box::pin(self.0.call(request))))
    }
}

/// A call of a service; `None` once it is over.
#[derive(Debug)]
pub struct Guarded<F>(Option<Pin<Box<F>>>);

impl<F, R, E> Future for Guarded<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Default,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(call) = self.0.as_mut() else { return Poll::Pending };
        // The call is never polled again after a panic, so nobody sees what it left half-changed of its own.
        let polled = guarded(|| call.as_mut().poll(context));
        let answer = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(answer)) => answer,
            Err(_) => Ok(Status::internal(format!("the call: {BUG}")).into_http()),
        };
        // What a call holds is dropped under the same rule as it ran.
        let _ = guarded(|| self.0 = None);
        Poll::Ready(answer)
    }
}

fn guarded<T>(step: impl FnOnce() -> T) -> std::thread::Result<T> {
    on_behalf(|| catch_unwind(AssertUnwindSafe(step)))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn a_panic_of_a_handler_is_an_internal_error_of_its_call_and_the_next_is_served() {
        let service = tower::service_fn(async |request: Request<bool>| {
            tokio::task::yield_now().await;
            assert!(*request.body(), "the test's own");
            Ok::<_, std::convert::Infallible>(Response::new(()))
        });
        let mut service = CatchPanicLayer.layer(service);
        let failed = service.call(Request::new(false)).await.expect("an answer");
        let status = Status::from_header_map(failed.headers()).expect("a status");
        assert_eq!(status.code(), Code::Internal);
        let fine = service.call(Request::new(true)).await.expect("an answer");
        assert!(Status::from_header_map(fine.headers()).is_none());
    }
}
