//! A server inside another program: for demonstrations and tests.

use std::net::SocketAddr;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::server::{Server, bind};
use crate::settings::Settings;

/// A running server of this process. Dropping it asks the server to stop, without waiting for it.
#[derive(Debug)]
pub struct Embedded {
    address: SocketAddr,
    stop: CancellationToken,
    /// Ends when the store is closed.
    task: JoinHandle<Result<()>>,
}

impl Embedded {
    /// Opens and serves; `settings.listen` may have port 0.
    pub async fn start(settings: Settings) -> Result<Self> {
        let listener = bind(&settings).await?;
        Self::serve(Server::open(settings).await?, listener)
    }

    /// Serves what is open already.
    pub fn serve(server: Server, listener: tokio::net::TcpListener) -> Result<Self> {
        let address =
            listener.local_addr().map_err(|source| Error::Listen { listen: server.settings().listen, source })?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.serve(listener, stop.clone().cancelled_owned()));
        Ok(Self { address, stop, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, for a client: `http://...`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Shuts down gracefully and waits until the store is closed.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        (&mut self.task).await.unwrap_or(Err(Error::Internal { part: "the embedded server" }))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
