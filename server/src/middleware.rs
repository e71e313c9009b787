//! Before and after each call: whether there is room for it, its span, its log line, and whether its request body
//! ended cleanly.
//!
//! A client that hangs up resets its stream; to a handler that reads the request this looks like the end of the
//! stream. An ingest must not take it for the end of the document, so the body is watched on its way in, and what
//! happened travels in the request's extensions as a [`BodyEnd`].

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::Span;
use tracing::field::Empty;
use tracing::instrument::Instrument as _;

use crate::status;

/// How a request body ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct BodyEnd(Arc<AtomicBool>);

impl BodyEnd {
    /// Whether the client closed its side after all it had to send; false before the end, and after a reset.
    pub(crate) fn is_clean(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Wraps the whole server.
#[derive(Debug, Clone)]
pub(crate) struct MiddlewareLayer {
    /// Number of the next call: names it in the log.
    next: Arc<AtomicU64>,
    /// One permit for each call that may be open: each may hold a message in memory.
    permits: Arc<Semaphore>,
}

impl MiddlewareLayer {
    /// At most `calls` open calls of the contract at one time. Health and reflection always have room.
    pub(crate) fn new(calls: u64) -> Self {
        Self { next: Arc::default(), permits: Arc::new(Semaphore::new(calls as usize)) }
    }
}

impl<S> Layer<S> for MiddlewareLayer {
    type Service = Middleware<S>;

    fn layer(&self, inner: S) -> Middleware<S> {
        Middleware { inner, layer: self.clone() }
    }
}

/// The wrapped server.
#[derive(Debug, Clone)]
pub(crate) struct Middleware<S> {
    inner: S,
    layer: MiddlewareLayer,
}

impl<S> Service<http::Request<Body>> for Middleware<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = self.layer.next.fetch_add(1, Ordering::Relaxed);
        let path = request.uri().path();
        let is_probe = !path.starts_with("/mnemon.");
        let span = tracing::info_span!("call", id = call, path, tenant = Empty);
        let place = Arc::clone(&self.layer.permits).try_acquire_owned().ok();
        let refused = place.is_none() && !is_probe;
        let mut log = CallLog { span: span.clone(), started: Instant::now(), is_probe, code: None, _permit: place };
        if refused {
            log.code = Some(Code::ResourceExhausted);
            let status = status::overloaded("too many calls are open; try again later", "CALLS_FULL");
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        let answer = self.inner.call(watch(request)).instrument(span);
        Box::pin(async move {
            let answer = answer.await?;
            // An error before the first message comes in the headers; anything else ends with trailers.
            log.code = code_of(answer.headers());
            Ok(answer.map(|inner| Body::new(LoggedBody { inner, log })))
        })
    }
}

/// Puts a [`BodyEnd`] into the request and the watcher around its body.
fn watch(mut request: http::Request<Body>) -> http::Request<Body> {
    let end = BodyEnd::default();
    end.0.store(request.body().is_end_stream(), Ordering::Release);
    request.extensions_mut().insert(end.clone());
    request.map(|inner| Body::new(WatchedBody { inner, end }))
}

/// A request body that notes how it ends.
struct WatchedBody {
    inner: Body,
    end: BodyEnd,
}

impl HttpBody for WatchedBody {
    type Data = <Body as HttpBody>::Data;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        // Some resets end the body without an error; only an end that the client announced counts.
        if matches!(polled, Poll::Ready(None | Some(Ok(_)))) && self.inner.is_end_stream() {
            self.end.0.store(true, Ordering::Release);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response body that knows when the call is over.
struct LoggedBody {
    inner: Body,
    log: CallLog,
}

impl HttpBody for LoggedBody {
    type Data = <Body as HttpBody>::Data;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
        {
            self.log.code = code_of(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Writes one line when the call is over, however it ends.
struct CallLog {
    span: Span,
    started: Instant,
    /// Health and reflection are asked often.
    is_probe: bool,
    /// None until the answer is complete: a call that is dropped before was given up by its client.
    code: Option<Code>,
    /// Its place among the open calls; a probe does without if there is none.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for CallLog {
    fn drop(&mut self) {
        let milliseconds = self.started.elapsed().as_secs_f64() * 1e3;
        self.span.in_scope(|| match self.code {
            Some(code) if self.is_probe => tracing::debug!(code = ?code, milliseconds, "answered"),
            Some(code) => tracing::info!(code = ?code, milliseconds, "answered"),
            None => tracing::info!(milliseconds, "given up by the client"),
        });
    }
}

fn code_of(headers: &http::HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}
