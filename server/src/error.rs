//! What can go wrong before a server serves, or with the server as a whole. Errors of single calls are statuses:
//! see `status.rs`.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a server could not start or go on, and what its operator can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is missing, unknown or out of range.
    #[error("{what}: {why}")]
    Settings {
        /// The setting, or the file it is in.
        what: String,
        /// What is accepted.
        why: String,
    },
    /// Others could reach the server, and nothing would protect it.
    #[error(
        "refusing to listen on {listen}: others can reach it, so TLS (tls_cert, tls_key) and credentials (tenants) \
         are needed; set allow_insecure_remote to do without them"
    )]
    InsecureRemote {
        /// The address.
        listen: SocketAddr,
    },
    /// Another process listens there.
    #[error("{listen} is in use by another process; stop it or choose another port (the setting `listen`)")]
    PortInUse {
        /// The address.
        listen: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}: {source}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// A file that a setting names cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Certificate and key cannot be used.
    #[error("TLS: {why}")]
    Tls {
        /// What is wrong with them.
        why: String,
    },
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] mnemon_memory_store::Error),
    /// The server that keeps the memories could not be reached, or refused.
    #[error("the store at {endpoint}: {source}")]
    RemoteStore {
        /// Its address.
        endpoint: String,
        /// What went wrong.
        source: Box<mnemon_client::Error>,
    },
    /// The model could not be loaded.
    #[error(transparent)]
    Model(#[from] mnemon_runtime::Error),
    /// The model could not be measured.
    #[error("the model could not be measured: {0}")]
    Probe(#[from] mnemon_encoder::Error),
    /// The connections could not be served.
    #[error("serving failed: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// A part of the server ended unexpectedly. A defect: please report it.
    #[error("{part} ended unexpectedly")]
    Internal {
        /// The part.
        part: &'static str,
    },
}

/// Result of the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
