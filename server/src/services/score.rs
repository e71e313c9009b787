//! Score: the probability of a text, with or without memory.

use std::sync::Arc;

use mnemon_memory::Recall as _;
use mnemon_proto::v1;
use mnemon_runtime::{Error, MemoryFrom, ScoreStep, Scoring, Turn};
use tonic::Status;

use crate::auth::Tenant;
use crate::citations::Recalled;
use crate::state::ModelState;
use crate::status::IntoStatus;
use crate::tasks::Job;
use crate::{status, tasks, validate};

/// Answers a Score.
pub(super) async fn answer(
    state: &Arc<ModelState>,
    tenant: Tenant,
    request: v1::ScoreRequest,
) -> Result<v1::ScoreResponse, Status> {
    validate::score(&request)?;
    let options = request.memory.unwrap_or_default();
    let recalled = Recalled::from_options(state, tenant, &options).await?;
    let job = ScoreJob {
        state: Arc::clone(state),
        context: request.context,
        text: request.text,
        recalled: recalled.clone(),
        options,
        scoring: None,
        outcome: Err(Error::EmptyPrompt),
    };
    let scored = tokio::select! {
        job = tasks::run_new(state, job) => job?.outcome.map_err(|error| error.into_status("text"))?,
        () = state.app.shutdown.cut.cancelled() => return Err(status::shutting_down()),
    };
    if scored.tokens == 0 {
        return Err(status::invalid(vec![status::violation(
            "text",
            "it has no token with another before it; give at least two, or a context",
        )]));
    }
    let nats_per_token = -scored.log_probability / scored.tokens as f64;
    Ok(v1::ScoreResponse {
        tokens: scored.tokens as u64,
        log_probability: scored.log_probability,
        perplexity: nats_per_token.exp(),
        bits_per_byte: -scored.log_probability / std::f64::consts::LN_2 / scored.bytes.max(1) as f64,
        recalled_chunks: recalled.map_or(0, |recalled| recalled.count() as u32),
    })
}

/// One scoring, a piece of the text at a time.
struct ScoreJob {
    state: Arc<ModelState>,
    context: String,
    text: String,
    recalled: Option<Arc<Recalled>>,
    options: v1::MemoryOptions,
    /// Begun in the first step: tokenizing is work.
    scoring: Option<Scoring>,
    outcome: Result<Scored, Error>,
}

struct Scored {
    tokens: usize,
    log_probability: f64,
    bytes: usize,
}

impl ScoreJob {
    fn begin(&self) -> Result<Scoring, Error> {
        let whole = [self.context.as_str(), self.text.as_str()].concat();
        super::check_tokens(&self.state.model, &whole, self.state.app.settings.limits.score_tokens)?;
        let memory = match &self.recalled {
            Some(recalled) if !recalled.is_empty() => recalled.memory_from(&self.state, &self.options),
            _ => MemoryFrom::Nothing,
        };
        let context_tokens = Some(self.state.app.settings.context_tokens as usize);
        Scoring::within(Arc::clone(&self.state.model), &self.context, &self.text, memory, context_tokens)
    }

    fn work(&mut self) -> Result<Option<Scored>, Error> {
        let Some(scoring) = &mut self.scoring else {
            self.scoring = Some(self.begin()?);
            return Ok(None);
        };
        let step = scoring.step()?;
        if let (Some(recalled), Some((_, passages))) = (&self.recalled, scoring.passages()) {
            recalled.note(passages.iter().flat_map(|passage| &passage.chunks).map(|info| info.id));
        }
        Ok(match step {
            ScoreStep::Progress { .. } => None,
            ScoreStep::Finished { tokens, log_probability, bytes } => Some(Scored { tokens, log_probability, bytes }),
        })
    }
}

impl Job for ScoreJob {
    fn step(&mut self) -> Turn {
        match self.work().transpose() {
            None => Turn::Again,
            Some(outcome) => {
                self.outcome = outcome;
                Turn::Done
            }
        }
    }
}
