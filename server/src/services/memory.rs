//! Memories and documents.

use std::sync::Arc;

use mnemon_memory_store::{MemorySpec, Store};
use mnemon_proto::v1;
use mnemon_proto::v1::memory_service_server::MemoryService;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::no_model::no_model;
use super::{export, import, reencode};
use crate::auth::tenant;
use crate::model::spec_of;
use crate::state::{AppState, ModelState};
use crate::{convert, limits, status, tasks, validate, wire};

/// Bytes of metadata after which a page ends early: pages stay below what clients accept in one message.
const PAGE_BYTES: usize = 1 << 20;

/// `MemoryService`, over memories that this process keeps.
pub(super) struct MemoryCalls {
    store: Store,
    /// The model that memories are for when nothing else is said, and what runs it.
    state: Option<Arc<ModelState>>,
    app: Arc<AppState>,
}

impl MemoryCalls {
    pub(super) fn new(store: Store, state: Option<Arc<ModelState>>, app: Arc<AppState>) -> Self {
        Self { store, state, app }
    }

    /// Runs what blocks on the store.
    async fn with_store<T, F>(&self, work: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> mnemon_memory_store::Result<T> + Send + 'static,
    {
        let store = self.store.clone();
        tasks::store(&self.app, move || work(&store)).await
    }
}

#[tonic::async_trait]
impl MemoryService for MemoryCalls {
    async fn create_memory(&self, request: Request<v1::CreateMemoryRequest>) -> Result<Response<v1::Memory>, Status> {
        let tenant = tenant(&request)?;
        let request = request.into_inner();
        validate::create_memory(&request)?;
        let limits = limits::limits(&request);
        let mode = convert::recall_mode(request.mode());
        let spec = match (request.spec, &self.state) {
            (Some(spec), _) => wire::spec(spec, request.description)?,
            (None, Some(state)) => MemorySpec { description: request.description, ..spec_of(&state.model, mode) },
            (None, None) => {
                let why = "this server has no model, so the shape of the memory must be given";
                return Err(status::invalid(vec![status::violation("spec", why)]));
            }
        };
        let info = self
            .with_store(move |store| Ok(store.create_memory_with(tenant.name(), &request.name, spec, limits)?.info()));
        Ok(Response::new(convert::memory(info.await?)))
    }

    async fn update_memory(&self, request: Request<v1::UpdateMemoryRequest>) -> Result<Response<v1::Memory>, Status> {
        let tenant = tenant(&request)?;
        let request = request.into_inner();
        validate::update_memory(&request)?;
        let info = self.with_store(move |store| {
            let memory = store.memory(tenant.name(), &request.name)?;
            memory.update_limits(|limits| limits::update(limits, &request))
        });
        Ok(Response::new(convert::memory(info.await?)))
    }

    async fn get_memory(&self, request: Request<v1::GetMemoryRequest>) -> Result<Response<v1::Memory>, Status> {
        let tenant = tenant(&request)?;
        let name = request.into_inner().name;
        validate::memory("name", &name)?;
        let embedder = self.state.as_ref().and_then(|state| state.embedder.clone());
        let shown = self.with_store(move |store| {
            let memory = store.memory(tenant.name(), &name)?;
            let embedded = embedder.map(|embedder| memory.embedded_chunks(embedder.fingerprint()));
            Ok((memory.info(), embedded))
        });
        let (info, embedded_chunks) = shown.await?;
        Ok(Response::new(v1::Memory { embedded_chunks, ..convert::memory(info) }))
    }

    async fn list_memories(
        &self,
        request: Request<v1::ListMemoriesRequest>,
    ) -> Result<Response<v1::ListMemoriesResponse>, Status> {
        let tenant = tenant(&request)?;
        let v1::ListMemoriesRequest { page_size, page_token } = request.into_inner();
        let page_size = validate::page_size(page_size)?;
        if !page_token.is_empty() {
            validate::memory("page_token", &page_token)?;
        }
        let mut infos = self
            .with_store(move |store| {
                let after = Some(page_token.as_str()).filter(|token| !token.is_empty());
                store.list_memories(tenant.name(), after, page_size + 1)
            })
            .await?;
        let bytes = |info: &mnemon_memory_store::MemoryInfo| info.description.len();
        let next_page_token = cut(&mut infos, page_size, bytes, |last| last.name.clone());
        let memories = infos.into_iter().map(convert::memory).collect();
        Ok(Response::new(v1::ListMemoriesResponse { memories, next_page_token }))
    }

    async fn delete_memory(
        &self,
        request: Request<v1::DeleteMemoryRequest>,
    ) -> Result<Response<v1::DeleteMemoryResponse>, Status> {
        let tenant = tenant(&request)?;
        let name = request.into_inner().name;
        validate::memory("name", &name)?;
        self.with_store(move |store| store.delete_memory(tenant.name(), &name)).await?;
        Ok(Response::new(v1::DeleteMemoryResponse {}))
    }

    async fn compact_memory(
        &self,
        request: Request<v1::CompactMemoryRequest>,
    ) -> Result<Response<v1::CompactMemoryResponse>, Status> {
        let tenant = tenant(&request)?;
        let name = request.into_inner().name;
        if !name.is_empty() {
            validate::memory("name", &name)?;
        }
        let done = self
            .with_store(move |store| store.compact(tenant.name(), Some(name.as_str()).filter(|name| !name.is_empty())))
            .await?;
        Ok(Response::new(v1::CompactMemoryResponse {
            bytes_before: done.bytes_before,
            bytes_after: done.bytes_after,
            files_before: done.blobs_before,
            files_after: done.blobs_after,
        }))
    }

    async fn list_documents(
        &self,
        request: Request<v1::ListDocumentsRequest>,
    ) -> Result<Response<v1::ListDocumentsResponse>, Status> {
        let tenant = tenant(&request)?;
        let v1::ListDocumentsRequest { memory, page_size, page_token } = request.into_inner();
        validate::memory("memory", &memory)?;
        let page_size = validate::page_size(page_size)?;
        let mut infos = self
            .with_store(move |store| {
                let after = Some(page_token.as_str()).filter(|token| !token.is_empty());
                store.memory(tenant.name(), &memory)?.list_documents(after, page_size + 1)
            })
            .await?;
        let bytes = |info: &mnemon_memory_store::DocumentInfo| {
            info.metadata.iter().map(|(key, value)| key.len() + value.len()).sum()
        };
        let next_page_token = cut(&mut infos, page_size, bytes, |last| last.id.clone());
        let documents = infos.into_iter().map(convert::document).collect();
        Ok(Response::new(v1::ListDocumentsResponse { documents, next_page_token }))
    }

    async fn get_document(&self, request: Request<v1::GetDocumentRequest>) -> Result<Response<v1::Document>, Status> {
        let tenant = tenant(&request)?;
        let v1::GetDocumentRequest { memory, document_id } = request.into_inner();
        validate::document(&memory, &document_id)?;
        let info = self.with_store(move |store| store.memory(tenant.name(), &memory)?.document(&document_id));
        Ok(Response::new(convert::document(info.await?)))
    }

    async fn delete_document(
        &self,
        request: Request<v1::DeleteDocumentRequest>,
    ) -> Result<Response<v1::DeleteDocumentResponse>, Status> {
        let tenant = tenant(&request)?;
        let v1::DeleteDocumentRequest { memory, document_id } = request.into_inner();
        validate::document(&memory, &document_id)?;
        self.with_store(move |store| store.memory(tenant.name(), &memory)?.delete_document(&document_id)).await?;
        Ok(Response::new(v1::DeleteDocumentResponse {}))
    }

    type ExportMemoryStream = ReceiverStream<Result<v1::ExportMemoryResponse, Status>>;
    type ReencodeMemoryStream = ReceiverStream<Result<v1::ReencodeProgress, Status>>;

    async fn export_memory(
        &self,
        request: Request<v1::ExportMemoryRequest>,
    ) -> Result<Response<Self::ExportMemoryStream>, Status> {
        let tenant = tenant(&request)?;
        export::start(&self.store, &self.app, tenant, request.into_inner()).await.map(Response::new)
    }

    async fn import_memory(
        &self,
        request: Request<Streaming<v1::ImportMemoryRequest>>,
    ) -> Result<Response<v1::Memory>, Status> {
        let tenant = tenant(&request)?;
        import::receive(&self.store, &self.app, tenant, request).await.map(Response::new)
    }

    async fn reencode_memory(
        &self,
        request: Request<v1::ReencodeMemoryRequest>,
    ) -> Result<Response<Self::ReencodeMemoryStream>, Status> {
        let tenant = tenant(&request)?;
        let state = self.state.as_ref().ok_or_else(no_model)?;
        reencode::start(&self.store, state, tenant, request.into_inner()).await.map(Response::new)
    }
}

/// Cuts `items`, of which there may be one more than a page has, to a page; returns the token of the next page, the
/// key of the last item, or nothing when this was the last page.
fn cut<T>(items: &mut Vec<T>, page_size: usize, bytes: impl Fn(&T) -> usize, key: impl Fn(&T) -> String) -> String {
    let mut total = 0;
    let fitting = items.iter().take_while(|item| {
        // The first always fits.
        let fits = total < PAGE_BYTES;
        total += bytes(item);
        fits
    });
    let page = fitting.count().min(page_size);
    if items.len() == page {
        return String::new();
    }
    items.truncate(page);
    items.last().map_or_else(String::new, key)
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn pages_end_by_count_and_by_bytes() {
        let page = |sizes: &[usize], page_size: usize| {
            let mut items: Vec<(usize, usize)> = sizes.iter().copied().enumerate().collect();
            let token = cut(&mut items, page_size, |item| item.1, |item| item.0.to_string());
            (items.len(), token)
        };
        assert_eq!(page(&[], 2), (0, String::new()));
        assert_eq!(page(&[1, 1], 2), (2, String::new()));
        assert_eq!(page(&[1, 1, 1], 2), (2, "1".into()));
        assert_eq!(page(&[super::PAGE_BYTES * 2, 1, 1], 3), (1, "0".into()));
    }
}
