//! Answers of a server without a model to calls that need one.

use mnemon_proto::v1;
use mnemon_proto::v1::recall_service_server::RecallService;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::status;

/// `RecallService` of a server that keeps memories only.
pub(super) struct NoModelCalls;

/// Why a call cannot be answered.
pub(super) fn no_model() -> Status {
    let message = "this server keeps memories only (store_only): ask one that has a model and uses this store";
    status::with_reason(Code::Unimplemented, message, "NO_MODEL")
}

#[tonic::async_trait]
impl RecallService for NoModelCalls {
    type IngestStream = ReceiverStream<Result<v1::IngestProgress, Status>>;
    type GenerateStream = ReceiverStream<Result<v1::GenerateResponse, Status>>;

    async fn ingest(
        &self,
        _request: Request<Streaming<v1::IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        Err(no_model())
    }

    async fn search(&self, _request: Request<v1::SearchRequest>) -> Result<Response<v1::SearchResponse>, Status> {
        Err(no_model())
    }

    async fn generate(&self, _request: Request<v1::GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        Err(no_model())
    }

    async fn score(&self, _request: Request<v1::ScoreRequest>) -> Result<Response<v1::ScoreResponse>, Status> {
        Err(no_model())
    }

    async fn get_model(&self, _request: Request<v1::GetModelRequest>) -> Result<Response<v1::Model>, Status> {
        Err(no_model())
    }
}
