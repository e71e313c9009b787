//! Search: the chunks nearest to a text.

use std::sync::Arc;

use mnemon_encoder::{Error, search_text};
use mnemon_memory_store::ChunkId;
use mnemon_proto::v1;
use mnemon_runtime::Turn;
use tonic::Status;

use crate::auth::Tenant;
use crate::citations::{self, Recalled};
use crate::parts::Parts;
use crate::status::IntoStatus;
use crate::tasks::{self, Job};
use crate::validate;

/// Answers a Search.
pub(super) async fn answer(
    parts: &Arc<Parts>,
    tenant: Tenant,
    request: v1::SearchRequest,
) -> Result<v1::SearchResponse, Status> {
    let k = validate::search(&request)?;
    let Some(recalled) = Recalled::open(parts, tenant, request.memories).await? else {
        return Ok(v1::SearchResponse::default());
    };
    let job = SearchJob {
        parts: Arc::clone(parts),
        recalled: Arc::clone(&recalled),
        query: request.query,
        k,
        exact: request.exact,
        found: Ok(Vec::new()),
    };
    let found = tasks::run_new(parts, job).await?.found.map_err(|error| error.into_status("query"))?;
    let chunks = citations::describe(parts, &recalled, found.iter().map(|(chunk, _)| *chunk).collect()).await?;
    let hits = chunks.into_iter().zip(found).map(|(chunk, (_, score))| v1::SearchHit { chunk: Some(chunk), score });
    Ok(v1::SearchResponse { hits: hits.collect() })
}

/// One search: reads the query with the model, then asks the index. A single step.
struct SearchJob {
    parts: Arc<Parts>,
    recalled: Arc<Recalled>,
    query: String,
    k: usize,
    exact: bool,
    found: Result<Vec<(ChunkId, f32)>, Error>,
}

impl Job for SearchJob {
    fn step(&mut self) -> Turn {
        let model = &self.parts.model;
        self.found = super::check_tokens(model, &self.query, self.parts.common.settings.limits.prompt_tokens)
            .map_err(Error::from)
            .and_then(|()| search_text(model, self.recalled.as_ref(), &self.query, self.k, self.exact));
        Turn::Done
    }
}
