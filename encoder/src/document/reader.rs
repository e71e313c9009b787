//! The model reading one document, segment by segment.

use std::sync::Arc;

use mnemon_memory::KvGeometry;
use mnemon_runtime::{CaptureAttention, CaptureOptions, Captured, LocalMask, Logits, Model, RecallFrom, SequenceState};

use crate::error::Result;

/// At least the tokens of a page of the runtime's cache.
const CACHE_PAGE_TOKENS: usize = 64;

/// A model's state in the middle of a document.
pub(super) struct Reader {
    model: Arc<Model>,
    state: SequenceState,
    attention: CaptureAttention,
    /// The document's first segment and the position to go on from, when reading starts in its middle and the model
    /// keeps the first tokens visible.
    prelude: Option<(Vec<u32>, usize)>,
}

impl Reader {
    /// A reader at the start of a document, for a memory that keeps what `geometry` says.
    pub(super) fn new(model: Arc<Model>, geometry: &KvGeometry, since_handover: bool) -> Result<Self> {
        let memory = &model.config().memory;
        let (local, sinks) =
            if since_handover { (LocalMask::SinceHandover, 0) } else { (LocalMask::Sliding, memory.sinks) };
        let options = CaptureOptions { window: memory.window, sinks, local, recall: None };
        let attention = CaptureAttention::for_geometry(&model, geometry, options)?;
        Ok(Self { state: SequenceState::new(&model), attention, model, prelude: None })
    }

    /// The same state, kept apart; `None` where it cannot be.
    pub(super) fn duplicate(&self) -> Result<Option<Self>> {
        let Some(attention) = self.attention.duplicate()?.filter(|_| self.prelude.is_none()) else { return Ok(None) };
        Ok(Some(Self { model: Arc::clone(&self.model), state: self.state.clone(), attention, prelude: None }))
    }

    /// Index of the next token.
    pub(super) fn next_token(&self) -> u64 {
        self.state.position as u64
    }

    /// Index of the first token that was not returned by [`read`](Self::read) or [`flush`](Self::flush).
    pub(super) fn first_kept(&self) -> u64 {
        self.attention.handed_over().unwrap_or(self.state.position) as u64
    }

    /// Bytes of keys and values.
    pub(super) fn held_bytes(&self) -> usize {
        self.attention.held_bytes()
    }

    /// Goes on at `position` as if all tokens before had been read: right for tokens at least
    /// [`receptive_tokens`](Self::receptive_tokens) later. `first_segment` are the document's first tokens.
    pub(super) fn skip_to(&mut self, position: usize, first_segment: Vec<u32>) {
        if position > 0 {
            self.prelude = Some((first_segment, position));
        }
    }

    /// Reads the next tokens and returns what left the window.
    pub(super) fn read(&mut self, tokens: &[u32]) -> Result<Option<Captured>> {
        if let Some((first_segment, position)) = self.prelude.take() {
            if !first_segment.is_empty() {
                self.model.forward(&first_segment, &mut self.state, &mut self.attention, Logits::None)?;
            }
            self.attention.skip_to(position)?;
            self.state.position = position;
        }
        self.model.forward(tokens, &mut self.state, &mut self.attention, Logits::None)?;
        Ok(self.attention.drain(false)?)
    }

    /// Everything not yet handed over.
    pub(super) fn flush(&mut self) -> Result<Option<Captured>> {
        Ok(self.attention.drain(true)?)
    }

    /// Changes what is recalled.
    pub(super) fn set_recall(&mut self, recall: Option<RecallFrom>) -> Result<()> {
        Ok(self.attention.set_recall(recall)?)
    }

    /// Tokens back that what is computed for a token can depend on, the first ones of the document aside: each layer
    /// reaches a window back, and one more where keys mix with the one before. The runtime keeps its window in pages,
    /// and the oldest has to be whole for results to agree to the last bit.
    pub(super) fn receptive_tokens(model: &Model) -> usize {
        model.config().layers * (model.config().memory.window + 1) + CACHE_PAGE_TOKENS
    }
}
