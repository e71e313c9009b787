//! What is added to each call: the token, and request bodies that cannot end by accident.
//!
//! In gRPC the end of the request stream means "that was all". But a stream also ends when whatever feeds it is
//! dropped: because reading a file failed, or because the caller gave up. The server must not take that for the end
//! of the document. So a body that carries a [`CleanEnd`] resets the call, instead of closing it, unless the feeder
//! said that it was done.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::HeaderValue;
use http::header::AUTHORIZATION;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tower::Service;

use crate::error::{Error, Result};

/// Set by the feeder of a request stream once all is sent; travels in the request's extensions. A stream that ends without it
/// resets the call.
#[derive(Debug, Clone, Default)]
pub struct CleanEnd(Arc<AtomicBool>);

impl CleanEnd {
    /// From here on the end of the stream is the end of the document. Call it before the feeder is dropped.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Header that names the tenant for whom a call is made, where that is not the caller.
const TENANT: http::HeaderName = http::HeaderName::from_static("mnemon-tenant");

/// A channel that signs each call and guards its request body.
#[derive(Debug, Clone)]
pub struct Transport {
    /// The connection; reconnects by itself.
    channel: Channel,
    /// `Bearer TOKEN`, marked sensitive so that it is never printed.
    authorization: Option<HeaderValue>,
    /// For whom calls are made, if not for the caller.
    tenant: Option<HeaderValue>,
}

impl Transport {
    pub(crate) fn new(channel: Channel, authorization: Option<MetadataValue<Ascii>>) -> Self {
        let authorization = authorization.and_then(|value| {
            let mut header = HeaderValue::from_bytes(value.as_encoded_bytes()).ok()?;
            header.set_sensitive(true);
            Some(header)
        });
        Self { channel, authorization, tenant: None }
    }

    /// The same connection, for calls on behalf of `tenant`.
    pub(crate) fn on_behalf_of(&self, tenant: &str) -> Result<Self> {
        let invalid = |_| Error::Options { what: "tenant", why: "visible ASCII characters are accepted".into() };
        Ok(Self { tenant: Some(HeaderValue::from_str(tenant).map_err(invalid)?), ..self.clone() })
    }
}

impl Service<http::Request<Body>> for Transport {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Some(value) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        if let Some(value) = &self.tenant {
            request.headers_mut().insert(TENANT, value.clone());
        }
        if let Some(clean_end) = request.extensions().get::<CleanEnd>().cloned() {
            request = request.map(|inner| Body::new(GuardedBody { inner, clean_end }));
        }
        self.channel.call(request)
    }
}

/// A request body whose end is an error unless it was announced.
struct GuardedBody {
    inner: Body,
    clean_end: CleanEnd,
}

impl HttpBody for GuardedBody {
    type Data = <Body as HttpBody>::Data;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(None) if !self.clean_end.is_set() => {
                Poll::Ready(Some(Err(tonic::Status::cancelled("the caller gave up"))))
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.clean_end.is_set() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
