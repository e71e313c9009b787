//! Where the server is, and how to reach it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mnemon_proto::v1::chunk_store_client::ChunkStoreClient;
use mnemon_proto::v1::memory_service_client::MemoryServiceClient;
use mnemon_proto::v1::recall_service_client::RecallServiceClient;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::error::{Error, Result};
use crate::transport::Transport;

/// Where a server listens by default.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7117";

/// Bytes of one answer that are accepted: a page of 1000 chunks with their text is below this.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How to reach a server.
#[derive(Clone)]
pub struct ConnectOptions {
    /// `http://HOST:PORT`, or `https://HOST:PORT` for TLS.
    pub endpoint: String,
    /// Credential sent with every call, as a bearer token.
    pub token: Option<String>,
    /// PEM file of the authority that signed the server's certificate; required for `https`.
    pub tls_ca: Option<PathBuf>,
    /// Longest time to wait for the connection, and for answers about memories and documents. Ingest, search,
    /// generate and score take as long as they need.
    pub timeout: Duration,
}

impl fmt::Debug for ConnectOptions {
    /// Without the token: options get logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("endpoint", &self.endpoint)
            .field("has_token", &self.token.is_some())
            .field("tls_ca", &self.tls_ca)
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { endpoint: DEFAULT_ENDPOINT.into(), token: None, tls_ca: None, timeout: Duration::from_secs(30) }
    }
}

/// A connection to a server. Cheap to clone; clones share the connection, and calls may run at the same time.
#[derive(Debug, Clone)]
pub struct Client {
    /// Calls about memories and documents.
    pub(crate) memories: MemoryServiceClient<Transport>,
    /// Ingest, search, generate, score.
    pub(crate) recalls: RecallServiceClient<Transport>,
    /// What all of them go through.
    transport: Transport,
    /// Longest wait for an answer about memories and documents.
    pub(crate) timeout: Duration,
}

impl Client {
    /// Connects. Fails at once if nothing listens there.
    pub async fn connect(options: ConnectOptions) -> Result<Self> {
        let channel = endpoint(&options)
            .await?
            .connect()
            .await
            .map_err(|error| Error::Connect { endpoint: options.endpoint.clone(), why: innermost(&error) })?;
        let authorization = options.token.as_deref().map(bearer).transpose()?;
        Ok(Self::over(Transport::new(channel, authorization), options.timeout))
    }

    fn over(transport: Transport, timeout: Duration) -> Self {
        Self {
            memories: MemoryServiceClient::new(transport.clone()).max_decoding_message_size(ANSWER_BYTES_MAX),
            recalls: RecallServiceClient::new(transport.clone()).max_decoding_message_size(ANSWER_BYTES_MAX),
            transport,
            timeout,
        }
    }

    /// The same connection, for calls on behalf of another tenant. The server refuses that to callers who may not.
    pub fn on_behalf_of(&self, tenant: &str) -> Result<Self> {
        Ok(Self::over(self.transport.on_behalf_of(tenant)?, self.timeout))
    }

    /// Calls of `MemoryService` as they were generated, for programs that pass messages and statuses on.
    pub fn memory_service(&self) -> MemoryServiceClient<Transport> {
        self.memories.clone()
    }

    /// Calls of `ChunkStore`: chunks in, entries found, chunks out, without a model.
    pub fn chunk_store(&self) -> ChunkStoreClient<Transport> {
        ChunkStoreClient::new(self.transport.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

/// The endpoint with its timeouts and TLS settings.
async fn endpoint(options: &ConnectOptions) -> Result<Endpoint> {
    let invalid = |why: String| Error::Options { what: "endpoint", why };
    let endpoint = Endpoint::from_shared(options.endpoint.clone())
        .map_err(|error| invalid(format!("'{}': {error}", options.endpoint)))?
        .connect_timeout(options.timeout)
        // A peer that vanished is noticed while a long answer is awaited.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    match (endpoint.uri().scheme_str(), &options.tls_ca) {
        (Some("http"), None) => Ok(endpoint),
        (Some("http"), Some(_)) => Err(invalid("a certificate authority is given, so use https://".into())),
        (Some("https"), Some(path)) => {
            let pem = tokio::fs::read(path).await.map_err(|source| Error::File { path: path.clone(), source })?;
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            endpoint.tls_config(tls).map_err(|error| Error::Options { what: "tls_ca", why: innermost(&error) })
        }
        (Some("https"), None) => Err(invalid("https:// needs the PEM file of the certificate authority".into())),
        _ => Err(invalid(format!("'{}'; write http://HOST:PORT or https://HOST:PORT", options.endpoint))),
    }
}

/// The value of the `authorization` header.
fn bearer(token: &str) -> Result<MetadataValue<tonic::metadata::Ascii>> {
    let mut value: MetadataValue<_> = format!("Bearer {token}")
        .parse()
        .map_err(|_| Error::Options { what: "token", why: "visible ASCII characters are accepted".into() })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The cause at the bottom of a chain of errors: the one that tells most.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
