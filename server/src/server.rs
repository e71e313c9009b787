//! Start, serve, stop.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mnemon_client::ConnectOptions;
use mnemon_encoder::{Embedder, KeptReaders};
use mnemon_memory_store::storage::{SledOptions, SledStorage};
use mnemon_memory_store::{Storage, Store, StoreOptions};
use mnemon_runtime::{Engine, EngineOptions, Model};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Identity, ServerTlsConfig};

use crate::auth::Credentials;
use crate::error::{Error, Result};
use crate::memories::Backend;
use crate::model::{load_options, model_source};
use crate::remote::RemoteStore;
use crate::settings::Settings;
use crate::state::{AppState, ModelState, Shutdown};
use crate::{connection, embedding, middleware, profile, services, sweep};

/// How often an idle connection is probed, and how long its answer may take: peers that vanished are noticed.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long connections may take to notice that they were cut.
const CUT_WAIT: Duration = Duration::from_secs(30);

/// Listens on the address of `settings`.
pub async fn bind(settings: &Settings) -> Result<TcpListener> {
    let listen = settings.listen;
    TcpListener::bind(listen).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::PortInUse { listen },
        _ => Error::Listen { listen, source },
    })
}

/// Opens the store and the model that `settings` name and serves them on `listener` until `shutdown`; returns when
/// the store is closed.
pub async fn run(settings: Settings, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<()> {
    Server::open(settings).await?.serve(listener, shutdown).await
}

/// A server that is ready to serve.
pub struct Server {
    settings: Settings,
    memories: Backend,
    /// None where memories are kept for others only.
    model: Option<Arc<Model>>,
    /// Makes sentence embeddings.
    embedder: Option<Arc<Embedder>>,
}

impl Server {
    /// Opens the data folder, or connects to the store that keeps the memories, then loads the model (which may take long, so
    /// what is wrong with the former is told first).
    pub async fn open(settings: Settings) -> Result<Self> {
        settings.validate()?;
        let memories = open_memories(&settings).await?;
        if settings.store_only {
            return Ok(Self { settings, memories, model: None, embedder: None });
        }
        let (source, options) = (model_source(&settings.model)?, load_options(&settings)?);
        let asked = settings.clone();
        let load = move || profile::provide(&asked, Model::load(&source, &options)?);
        let model = blocking("loading the model", load).await?;
        let embedder = load_embedder(&settings).await?;
        Ok(Self { settings, memories, model: Some(Arc::new(model)), embedder })
    }

    /// As [`open`](Self::open), over another storage and with a model that is loaded already.
    pub async fn with_parts(settings: Settings, storage: Arc<dyn Storage>, model: Arc<Model>) -> Result<Self> {
        settings.validate()?;
        let memories = Backend::Local(open_store(&settings, storage).await?);
        let embedder = load_embedder(&settings).await?;
        Ok(Self { settings, memories, model: Some(model), embedder })
    }

    /// As [`open`](Self::open), with a model that is loaded already.
    pub async fn with_model(settings: Settings, model: Arc<Model>) -> Result<Self> {
        settings.validate()?;
        let memories = open_memories(&settings).await?;
        let embedder = load_embedder(&settings).await?;
        Ok(Self { settings, memories, model: Some(model), embedder })
    }

    /// The settings it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Serves until `signal`, then stops in order: no new connections and calls, health says `NOT_SERVING`; ingests
    /// commit what they accepted; generations finish or are cut after the grace period; the store closes.
    pub async fn serve(self, listener: TcpListener, signal: impl Future<Output = ()>) -> Result<()> {
        let listen = self.settings.listen;
        let address = listener.local_addr().map_err(|source| Error::Listen { listen, source })?;
        // The listener counts, not what the settings said about it.
        let settings = Settings { listen: address, ..self.settings };
        settings.validate()?;
        let closed = CancellationToken::new();
        let mut builder = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .max_concurrent_streams(Some(settings.limits.streams_per_connection as u32))
            .layer(middleware::MiddlewareLayer::new(settings.limits.calls));
        if let Some(tls) = &settings.tls {
            let cert = read(&tls.cert).await?;
            let key = read(&tls.key).await?;
            let config = ServerTlsConfig::new().identity(Identity::from_pem(cert, key));
            builder = builder.tls_config(config).map_err(|error| Error::Tls { why: innermost(&error) })?;
        }
        announce(&settings, self.model.as_deref());
        let (shutdown, grace) = (Shutdown::default(), settings.shutdown_grace);
        // If this future is dropped, everything that it started ends as well.
        let _ends = (shutdown.closing.clone().drop_guard(), shutdown.cut.clone().drop_guard());
        let limits = settings.limits.clone();
        let app = Arc::new(AppState {
            credentials: Arc::new(Credentials::new(&settings.tenants)),
            shutdown: shutdown.clone(),
            ingests: Arc::new(Semaphore::new(limits.ingests as usize)),
            transfers: Arc::new(Semaphore::new(limits.transfers as usize)),
            reencodings: Mutex::default(),
            store_calls: Arc::new(Semaphore::new(limits.store_calls as usize)),
            memories: self.memories,
            _closed: closed.clone().drop_guard(),
            settings,
        });
        let embedder = self.embedder;
        let state = self.model.map(|model| with_model(&app, model, embedder.clone())).transpose()?;

        if let Backend::Local(store) = &app.memories {
            shutdown.streams.spawn(sweep::run(store.clone(), Arc::downgrade(&app)));
            if let Some(embedder) = embedder {
                let pool = embedding::pool()?;
                shutdown.streams.spawn(embedding::run(store.clone(), embedder, pool, Arc::downgrade(&app)));
            }
        }
        let (health, routes) = services::routes(&app, state.as_ref()).await?;
        let connections =
            connection::accept(listener, limits.connections as usize, shutdown.closing.clone(), shutdown.cut.clone());
        let serving = builder
            .add_routes(routes)
            .serve_with_incoming_shutdown(connections, shutdown.closing.clone().cancelled_owned());
        tokio::pin!(serving, signal);

        // Serving ends by itself only when it fails.
        let mut served = tokio::select! {
            result = &mut serving => Some(result),
            () = &mut signal => None,
        };
        tracing::info!("shutting down");
        services::stop_health(&health).await;
        shutdown.closing.cancel();
        shutdown.streams.close();
        if served.is_none() {
            let finished = async {
                shutdown.streams.wait().await;
                (&mut serving).await
            };
            served = tokio::time::timeout(grace, finished).await.ok();
        }
        shutdown.cut.cancel();
        drop((state, app));
        let served = match served {
            Some(result) => result,
            None => tokio::time::timeout(CUT_WAIT, serving).await.unwrap_or(Ok(())),
        };
        // Connections end within moments of the cut, and with them the last handles of what they share.
        if tokio::time::timeout(CUT_WAIT, closed.cancelled()).await.is_err() {
            return Err(Error::Internal { part: "a call that kept the store open" });
        }
        tracing::info!("the store is closed");
        Ok(served?)
    }
}

/// What calls share that need the model.
fn with_model(app: &Arc<AppState>, model: Arc<Model>, embedder: Option<Arc<Embedder>>) -> Result<Arc<ModelState>> {
    let permits = app.settings.limits.engine_queue as usize;
    Ok(Arc::new(ModelState {
        engine_permits: Arc::new(Semaphore::new(permits)),
        // A task gives its permit back a moment before the engine stops counting it.
        engine: Engine::start(EngineOptions { queue_max: permits + 1, name: "mnemon-engine".into() })?,
        readers: Arc::new(KeptReaders::new(app.settings.cache.reader_bytes as usize)),
        model,
        embedder,
        app: Arc::clone(app),
    }))
}

/// The model for sentence embeddings, if one is named.
async fn load_embedder(settings: &Settings) -> Result<Option<Arc<Embedder>>> {
    let Some(name) = settings.embedder.clone() else { return Ok(None) };
    let load = move || {
        Embedder::load(&name).map_err(|error| Error::Settings { what: "embedder".into(), why: error.to_string() })
    };
    Ok(Some(Arc::new(blocking("loading the embedder", load).await?)))
}

/// The memories of the data folder, or of the server that keeps them.
async fn open_memories(settings: &Settings) -> Result<Backend> {
    if let Some(endpoint) = &settings.store {
        return Ok(Backend::Remote(Box::new(connect(settings, endpoint).await?)));
    }
    let (folder, options) = (settings.data.clone(), sled_options(settings));
    let storage = blocking("opening the store", move || Ok(SledStorage::open(folder, options)?)).await?;
    Ok(Backend::Local(open_store(settings, Arc::new(storage)).await?))
}

async fn open_store(settings: &Settings, storage: Arc<dyn Storage>) -> Result<Store> {
    let options = store_options(settings);
    let store = blocking("opening the store", move || Ok(Store::open(storage, options, Arc::new(unix_ms))?)).await?;
    for (tenant, quota) in settings.quotas() {
        store.set_quota(tenant, quota);
    }
    Ok(store)
}

/// Connects to the server that keeps the memories.
async fn connect(settings: &Settings, endpoint: &str) -> Result<RemoteStore> {
    let options = ConnectOptions {
        endpoint: endpoint.to_owned(),
        token: settings.store_token.as_ref().map(|token| token.0.clone()),
        tls_ca: settings.store_ca.clone(),
        ..ConnectOptions::default()
    };
    let endpoint = endpoint.to_owned();
    RemoteStore::connect(options).await.map_err(|source| Error::RemoteStore { endpoint, source: Box::new(source) })
}

/// Runs what blocks on the blocking pool.
async fn blocking<T: Send + 'static>(
    part: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Internal { part }))
}

async fn read(path: &std::path::Path) -> Result<Vec<u8>> {
    tokio::fs::read(path).await.map_err(|source| Error::File { path: path.to_owned(), source })
}

fn sled_options(settings: &Settings) -> SledOptions {
    SledOptions { cache_bytes: settings.cache.catalog_bytes, min_free_bytes: settings.limits.disk_free_bytes }
}

fn store_options(settings: &Settings) -> StoreOptions {
    StoreOptions {
        index_cache_bytes: settings.cache.index_bytes as usize,
        chunk_cache_bytes: settings.cache.chunk_bytes as usize,
        max_memories: settings.limits.memories,
        max_documents_per_memory: settings.limits.documents_per_memory,
        tenant_quota: settings.default_quota(),
        ..StoreOptions::default()
    }
}

/// Milliseconds since 1970-01-01 UTC; 0 on a clock that stands before it.
fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Tells the log what is served.
fn announce(settings: &Settings, model: Option<&Model>) {
    tracing::info!(
        listen = %settings.listen,
        memories = settings.store.clone().unwrap_or_else(|| settings.data.display().to_string()),
        model = model.map_or("none", Model::name),
        fingerprint = model.map(|model| model.fingerprint().to_string()),
        parameters = model.map(Model::parameters),
        device = model.map(Model::device_name),
        tls = settings.tls.is_some(),
        tenants = settings.tenants.len(),
        cache_bytes = settings.cache.total_bytes(),
        "serving"
    );
    let secured = settings.tls.is_some() && !settings.tenants.is_empty();
    if !settings.listen.ip().is_loopback() && !secured {
        tracing::warn!("others can reach this server, and TLS or credentials are missing (allow_insecure_remote)");
    }
}

/// The cause at the bottom of a chain of errors: the one that tells most.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
