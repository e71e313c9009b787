//! `GetModel`, and the way to ingest, search, generate and score.

use std::sync::Arc;

use mnemon_proto::v1;
use mnemon_proto::v1::recall_service_server::RecallService;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{generate, ingest, score, search};
use crate::auth::tenant;
use crate::convert;
use crate::state::ModelState;

/// `RecallService`.
pub(super) struct RecallCalls {
    state: Arc<ModelState>,
}

impl RecallCalls {
    pub(super) fn new(state: Arc<ModelState>) -> Self {
        Self { state }
    }
}

#[tonic::async_trait]
impl RecallService for RecallCalls {
    type IngestStream = ReceiverStream<Result<v1::IngestProgress, Status>>;
    type GenerateStream = ReceiverStream<Result<v1::GenerateResponse, Status>>;

    async fn ingest(
        &self,
        request: Request<Streaming<v1::IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        ingest::start(&self.state, tenant(&request)?, request).map(Response::new)
    }

    async fn search(&self, request: Request<v1::SearchRequest>) -> Result<Response<v1::SearchResponse>, Status> {
        let tenant = tenant(&request)?;
        search::answer(&self.state, tenant, request.into_inner()).await.map(Response::new)
    }

    async fn generate(&self, request: Request<v1::GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        let tenant = tenant(&request)?;
        generate::start(&self.state, tenant, request.into_inner()).await.map(Response::new)
    }

    async fn score(&self, request: Request<v1::ScoreRequest>) -> Result<Response<v1::ScoreResponse>, Status> {
        let tenant = tenant(&request)?;
        score::answer(&self.state, tenant, request.into_inner()).await.map(Response::new)
    }

    async fn get_model(&self, _request: Request<v1::GetModelRequest>) -> Result<Response<v1::Model>, Status> {
        let (model, limits) = (&self.state.model, &self.state.app.settings.limits);
        Ok(Response::new(v1::Model {
            name: model.name().to_owned(),
            architecture: format!("{:?}", model.config().architecture).to_lowercase(),
            fingerprint: model.fingerprint().to_hex(),
            geometry: Some(convert::geometry(model.geometry())),
            parameters: model.parameters(),
            window_tokens: model.config().memory.window as u32,
            prompt_tokens_max: limits.prompt_tokens.min(u64::from(u32::MAX)) as u32,
            device: model.device_name(),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            answers_messages: model.chat_template().is_ok(),
            uses_passages: model.profile().is_some(),
        }))
    }
}
