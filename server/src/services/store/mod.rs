//! `ChunkStore`: chunks in, entries found, chunks out, for servers that run the model elsewhere.
//!
//! | file | calls |
//! |---|---|
//! | `mod.rs` | OpenDocument, ReadDocument, SearchEntries, FetchChunks |
//! | `append.rs` | Append |
//! | `view.rs` | View, and what a view answers |

mod append;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use mnemon_memory_store::{Error, Store};
use mnemon_proto::v1;
use mnemon_proto::v1::chunk_store_server::ChunkStore;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::auth::{Tenant, tenant};
use crate::memories::view_of;
use crate::state::AppState;
use crate::status::IntoStatus as _;
use crate::{tasks, validate, wire};

/// `ChunkStore`, over memories that this process keeps.
pub(super) struct StoreCalls {
    store: Store,
    app: Arc<AppState>,
}

impl StoreCalls {
    pub(super) fn new(store: Store, app: Arc<AppState>) -> Self {
        Self { store, app }
    }

    /// One question to a view that is opened for it alone.
    async fn ask_once<T: Send + 'static>(
        &self,
        tenant: Tenant,
        memories: Vec<String>,
        ask: impl FnOnce(&dyn mnemon_memory::Recall) -> Result<T, Status> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        validate::memories(&memories)?;
        let store = self.store.clone();
        let asked = tasks::store(&self.app, move || {
            let (view, _) =
                view_of(&store, tenant.name(), &memories, None, None).map_err(|error| error.into_status("memories"))?;
            ask(view.as_ref())
        });
        asked.await.map(Response::new)
    }
}

#[tonic::async_trait]
impl ChunkStore for StoreCalls {
    type ViewStream = ReceiverStream<Result<v1::ViewResponse, Status>>;

    async fn open_document(
        &self,
        request: Request<v1::OpenDocumentRequest>,
    ) -> Result<Response<v1::OpenDocumentResponse>, Status> {
        let tenant = tenant(&request)?;
        let v1::OpenDocumentRequest { memory, document_id, needs_room } = request.into_inner();
        validate::document(&memory, &document_id)?;
        let store = self.store.clone();
        let opened = tasks::store(&self.app, move || {
            let memory = store.memory(tenant.name(), &memory)?;
            if needs_room {
                memory.check_room()?;
            }
            let writer = memory.writer(&document_id, BTreeMap::new())?;
            Ok::<_, Error>((wire::spec_to_send(memory.spec()), wire::state_to_send(&writer.state())))
        });
        let (spec, state) = opened.await?;
        Ok(Response::new(v1::OpenDocumentResponse { spec: Some(spec), state: Some(state) }))
    }

    async fn read_document(
        &self,
        request: Request<v1::ReadDocumentRequest>,
    ) -> Result<Response<v1::ReadDocumentResponse>, Status> {
        let tenant = tenant(&request)?;
        let v1::ReadDocumentRequest { memory, document_id, from_ordinal, limit } = request.into_inner();
        validate::document(&memory, &document_id)?;
        validate::within("limit", limit, 1, view::DESCRIBED_MAX)?;
        let store = self.store.clone();
        let chunks = tasks::store(&self.app, move || {
            store.memory(tenant.name(), &memory)?.document_chunks(&document_id, from_ordinal, limit as usize)
        });
        let chunks = chunks.await?.into_iter().map(wire::text_to_send).collect();
        Ok(Response::new(v1::ReadDocumentResponse { chunks }))
    }

    async fn append(
        &self,
        request: Request<Streaming<v1::AppendRequest>>,
    ) -> Result<Response<v1::AppendResponse>, Status> {
        let tenant = tenant(&request)?;
        append::answer(&self.store, &self.app, tenant, request.into_inner()).await.map(Response::new)
    }

    async fn view(&self, request: Request<Streaming<v1::ViewRequest>>) -> Result<Response<Self::ViewStream>, Status> {
        let tenant = tenant(&request)?;
        Ok(Response::new(view::start(&self.store, &self.app, tenant, request.into_inner())))
    }

    async fn search_entries(
        &self,
        request: Request<v1::SearchEntriesRequest>,
    ) -> Result<Response<v1::EntryHits>, Status> {
        let tenant = tenant(&request)?;
        let v1::SearchEntriesRequest { memories, search } = request.into_inner();
        let search = wire::given("search", search)?;
        self.ask_once(tenant, memories, move |view| view::search(view, &search)).await
    }

    async fn fetch_chunks(&self, request: Request<v1::FetchChunksRequest>) -> Result<Response<v1::ChunkKvs>, Status> {
        let tenant = tenant(&request)?;
        let v1::FetchChunksRequest { memories, fetch } = request.into_inner();
        let fetch = wire::given("fetch", fetch)?;
        self.ask_once(tenant, memories, move |view| view::fetch(view, &fetch)).await
    }
}
