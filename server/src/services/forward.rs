//! Memories and documents of a store on another machine: its own service answers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use mnemon_client::{CleanEnd, Transport};
use mnemon_proto::v1;
use mnemon_proto::v1::memory_service_client::MemoryServiceClient;
use mnemon_proto::v1::memory_service_server::MemoryService;
use mnemon_runtime::Model;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::auth::tenant;
use crate::middleware::BodyEnd;
use crate::model::spec_of;
use crate::remote::RemoteStore;
use crate::state::AppState;
use crate::{convert, status, wire};

/// `MemoryService` that hands each call on, on behalf of its caller.
pub(super) struct ForwardedCalls {
    store: RemoteStore,
    /// The model that memories are for when nothing else is said.
    model: Arc<Model>,
    /// Held as long as calls may come.
    _app: Arc<AppState>,
}

impl ForwardedCalls {
    pub(super) fn new(store: RemoteStore, model: Arc<Model>, app: Arc<AppState>) -> Self {
        Self { store, model, _app: app }
    }

    /// The service, for the caller of `request`, and what is asked.
    fn service<T>(&self, request: Request<T>) -> Result<(MemoryServiceClient<Transport>, T), Status> {
        let tenant = tenant(&request)?;
        Ok((self.store.client_of(tenant.name())?.memory_service(), request.into_inner()))
    }
}

/// A request stream on its way to the store. It ends cleanly there only if the client ended it cleanly here: a client that hangs up
/// after the last byte of an archive has not asked for the import.
struct PassedOn {
    pieces: Streaming<v1::ImportMemoryRequest>,
    end: BodyEnd,
    clean_end: CleanEnd,
}

impl Stream for PassedOn {
    type Item = v1::ImportMemoryRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match ready!(Pin::new(&mut self.pieces).poll_next(cx)) {
            Some(Ok(piece)) => Poll::Ready(Some(piece)),
            Some(Err(_)) => Poll::Ready(None),
            None => {
                if self.end.is_clean() {
                    self.clean_end.set();
                }
                Poll::Ready(None)
            }
        }
    }
}

/// Hands calls on as they are.
macro_rules! forwarded {
    ($($call:ident: $request:ident -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl MemoryService for ForwardedCalls {
            type ExportMemoryStream = Streaming<v1::ExportMemoryResponse>;
            type ReencodeMemoryStream = Streaming<v1::ReencodeProgress>;

            async fn create_memory(
                &self,
                request: Request<v1::CreateMemoryRequest>,
            ) -> Result<Response<v1::Memory>, Status> {
                let (mut service, mut request) = self.service(request)?;
                if request.spec.is_none() {
                    let mode = convert::recall_mode(request.mode());
                    request.mode = v1::RecallMode::Unspecified.into();
                    request.spec = Some(wire::spec_to_send(&spec_of(&self.model, mode)));
                }
                service.create_memory(request).await
            }

            // An archive is passed on as it comes: the store checks it.
            async fn export_memory(
                &self,
                request: Request<v1::ExportMemoryRequest>,
            ) -> Result<Response<Self::ExportMemoryStream>, Status> {
                let (mut service, request) = self.service(request)?;
                service.export_memory(request).await
            }

            async fn import_memory(
                &self,
                request: Request<Streaming<v1::ImportMemoryRequest>>,
            ) -> Result<Response<v1::Memory>, Status> {
                let end = request.extensions().get::<BodyEnd>().cloned().unwrap_or_default();
                let (mut service, pieces) = self.service(request)?;
                let clean_end = CleanEnd::default();
                let mut passed_on = Request::new(PassedOn { pieces, end, clean_end: clean_end.clone() });
                passed_on.extensions_mut().insert(clean_end);
                service.import_memory(passed_on).await
            }

            async fn reencode_memory(
                &self,
                _request: Request<v1::ReencodeMemoryRequest>,
            ) -> Result<Response<Self::ReencodeMemoryStream>, Status> {
                let message = "re-encoding needs the memories and the model in one server: serve the store's folder with the \
                               model, then call again";
                Err(status::with_reason(Code::Unimplemented, message, "STORE_ELSEWHERE"))
            }

            $(async fn $call(&self, request: Request<v1::$request>) -> Result<Response<v1::$response>, Status> {
                let (mut service, request) = self.service(request)?;
                service.$call(request).await
            })*
        }
    };
}

forwarded! {
    update_memory: UpdateMemoryRequest -> Memory;
    get_memory: GetMemoryRequest -> Memory;
    list_memories: ListMemoriesRequest -> ListMemoriesResponse;
    delete_memory: DeleteMemoryRequest -> DeleteMemoryResponse;
    compact_memory: CompactMemoryRequest -> CompactMemoryResponse;
    list_documents: ListDocumentsRequest -> ListDocumentsResponse;
    get_document: GetDocumentRequest -> Document;
    delete_document: DeleteDocumentRequest -> DeleteDocumentResponse;
}
