//! Memories and documents of a store on another machine: its own service answers.

use std::sync::Arc;

use mnemon_client::Transport;
use mnemon_proto::v1;
use mnemon_proto::v1::memory_service_client::MemoryServiceClient;
use mnemon_proto::v1::memory_service_server::MemoryService;
use mnemon_runtime::Model;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Response, Status, Streaming};

use super::memory::spec_of;
use crate::auth::tenant;
use crate::parts::Common;
use crate::remote::RemoteStore;
use crate::{convert, status, wire};

/// `MemoryService` that hands each call on, on behalf of its caller.
pub(super) struct ForwardedCalls {
    store: RemoteStore,
    /// The model that memories are for when nothing else is said.
    model: Arc<Model>,
    /// Held as long as calls may come.
    _common: Arc<Common>,
}

impl ForwardedCalls {
    pub(super) fn new(store: RemoteStore, model: Arc<Model>, common: Arc<Common>) -> Self {
        Self { store, model, _common: common }
    }

    /// The service, for the caller of `request`, and what is asked.
    fn service<T>(&self, request: Request<T>) -> Result<(MemoryServiceClient<Transport>, T), Status> {
        let tenant = tenant(&request)?;
        Ok((self.store.client_of(tenant.name())?.memory_service(), request.into_inner()))
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
                let (mut service, pieces) = self.service(request)?;
                service.import_memory(pieces.map_while(Result::ok)).await
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
