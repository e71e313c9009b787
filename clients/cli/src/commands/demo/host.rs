//! A server in this process, on a free port of this machine, over a folder that goes away with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use mnemon_client::{Client, ConnectOptions};
use mnemon_server::{Embedded, Settings};
use tempfile::TempDir;

use crate::args::Demo;
use crate::exit::Failure;
use crate::render::Ui;

/// The demo does not wait long for what it does not want any more.
const STOP_WITHIN: Duration = Duration::from_secs(8);

/// The demo's server. Dropping it removes the folder.
pub(super) struct Host {
    pub(super) client: Client,
    server: Embedded,
    folder: TempDir,
}

impl Host {
    /// Starts the server and connects to it. The environment's MNEMON_* settings are for real servers; they are
    /// not looked at.
    pub(super) async fn start(args: &Demo, ui: &Ui) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("mnemon-demo-")
            .tempdir()
            .context("no temporary folder can be made; point TMPDIR to one that can be written")?;
        let defaults = Settings::default();
        let settings = Settings {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data: folder.path().to_owned(),
            model: args.model.clone().unwrap_or(defaults.model),
            device: args.device.clone().unwrap_or(defaults.device),
            profile: args.profile.clone(),
            shutdown_grace: Duration::from_secs(1),
            ..Settings::default()
        };
        if let Some(model) = &args.model {
            let measured =
                if args.profile.is_none() { "; a pretrained model is measured first, which takes minutes" } else { "" };
            ui.note(format!("loading {model}{measured}"));
        }
        let server = Embedded::start(settings).await.map_err(|error| Failure::from(&error))?;
        let options = ConnectOptions { endpoint: server.endpoint(), ..ConnectOptions::default() };
        let client = Client::connect(options).await?;
        Ok(Self { client, server, folder })
    }

    /// Stops the server and removes its folder. Problems with that are no matter of the demo: the folder is a
    /// temporary one.
    pub(super) async fn stop(self) {
        let Self { client, server, folder } = self;
        drop(client);
        let _ = tokio::time::timeout(STOP_WITHIN, server.stop()).await;
        let _ = folder.close();
    }
}
