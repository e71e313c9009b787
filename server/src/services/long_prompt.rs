//! Prompts that are longer than the context of a pretrained model: what leaves it is recalled as memory is.

use std::sync::Arc;

use mnemon_encoder::{Error, Overflow};
use mnemon_memory::{Recall, UnionRecall};
use mnemon_memory_store::create_scratch;
use mnemon_runtime::{
    GenerateOptions, MemoryFrom, Model, PassageOptions, PassagesFrom, RecallMode, Select, split_chat, split_text,
};
use tonic::Status;

use super::asked::Asked;
use crate::status;
use crate::status::{IntoStatus, violation};

/// Shortens what is asked, a prompt of `tokens`, to half of the context if it does not fit beside the answer, and beside passages if there are some;
/// returns what was taken away, which is not read yet.
pub(super) fn shorten(
    model: &Arc<Model>,
    asked: &mut Asked,
    tokens: usize,
    options: &GenerateOptions,
) -> Result<Option<Overflow>, Status> {
    if model.profile().is_none() {
        return Ok(None);
    }
    let told = |error: mnemon_runtime::Error| error.into_status("prompt");
    let context = options.context_tokens.unwrap_or(usize::MAX).min(model.config().max_position_embeddings);
    let has_passages = matches!(options.memory, MemoryFrom::Passages(_));
    if tokens > options.prompt_tokens_max {
        let limit = options.prompt_tokens_max;
        return Err(told(mnemon_runtime::Error::PromptTooLong { tokens, limit }));
    }
    let room = if has_passages { context / 4 * 3 } else { context };
    if tokens + options.max_tokens.min(context / 4) <= room {
        return Ok(None);
    }
    let keep_tokens = context / 2;
    let earlier = match asked {
        Asked::Text { text, .. } => {
            let (beginning, end) = split_text(model, text, keep_tokens).map_err(told)?;
            *text = end;
            beginning
        }
        Asked::Chat(conversation) => {
            let (earlier, kept) = split_chat(model, conversation, keep_tokens).map_err(told)?;
            conversation.messages = kept;
            earlier
        }
    };
    if earlier.trim().is_empty() {
        let field = match asked {
            Asked::Text { .. } => "prompt",
            Asked::Chat(_) => "messages",
        };
        let why = format!("{tokens} tokens that cannot be shortened, where {room} fit");
        return Err(status::invalid(vec![violation(field, why)]));
    }
    let geometry = match &options.memory {
        // Asked for by name: all that is recalled has keys and values.
        MemoryFrom::Passages(from) if from.options.mode == Some(RecallMode::Attend) => from.recall.geometry().clone(),
        MemoryFrom::Passages(from) => {
            let kept = from.recall.geometry().clone();
            mnemon_memory::KvGeometry { layers: Vec::new(), ..kept }
        }
        _ => model.geometry_for(RecallMode::Reread),
    };
    Overflow::new(create_scratch, model, &geometry, earlier).map(Some).map_err(|error| error.into_status("prompt"))
}

/// Adds what was taken away, and read meanwhile, to what is recalled.
pub(super) fn recall_from(model: &Model, options: &mut GenerateOptions, overflow: &Overflow) -> Result<(), Error> {
    let Some(profile) = model.profile() else { return Ok(()) };
    let view = overflow.view()?;
    options.memory = MemoryFrom::Passages(match std::mem::take(&mut options.memory) {
        MemoryFrom::Passages(from) => {
            // Each chunk is asked of one after the other: the view here knows its own without asking another machine.
            let both: Arc<dyn Recall> = Arc::new(UnionRecall::new(vec![view, from.recall])?);
            // What the user wrote is not left out.
            let options = PassageOptions { always: true, ..from.options };
            PassagesFrom { recall: both, options, ..from }
        }
        _ => PassagesFrom {
            recall: view,
            profile: Arc::clone(profile),
            options: PassageOptions { always: true, ..PassageOptions::default() },
            select: Select::Heads,
        },
    });
    Ok(())
}
