//! The probe: what a pretrained model is like as a user of memory, measured on text of our own.
//!
//! | file | idea |
//! |---|---|
//! | `text` | the text, with facts and questions |
//! | `heads` | which query heads find a fact's chunk when its question is asked |
//! | `trials` | which ways of using passages lead to right answers |
//!
//! The text is read as a document is, into a memory that keeps everything, in this process. Nothing is trained.

mod heads;
mod text;
mod trials;

use std::sync::Arc;

use mnemon_memory::{ChunkId, CreateScratch, EntryPolicy, Invalid, KvDtype, KvGeometry, OpenMemory, Recall};
use mnemon_runtime::{
    Conversation, DateTime, Extents, Measured, Message, Model, PROFILE_VERSION, Profile, Prompt, RecallMode,
};

use self::text::{Fact, ProbeText};
use crate::error::Result;
use crate::scratch::scratch;

const DOCUMENT: &str = "text";
/// Bytes of text handed over at once.
const PIECE_BYTES: usize = 4096;
/// Passages shown at most: how many of them a question wants is a matter of coverage.
const PASSAGES: usize = 3;
/// Chunks on each side out of which sentences are completed: most misses straddle a border of chunks.
const NEIGHBOURS: usize = 1;

/// What the probe does.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeOptions {
    /// Seed of the text: the same seed gives the same profile, on one machine and build.
    pub seed: u64,
    /// Bytes of text.
    pub text_bytes: usize,
    /// Questions by which heads are chosen, 1 to 48.
    pub questions: usize,
    /// Of them, those that are answered in each trial.
    pub answered: usize,
    /// Type in which the memory keeps keys and values; as memories of this model will.
    pub kv_dtype: KvDtype,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self { seed: 1, text_bytes: 24_000, questions: 40, answered: 16, kv_dtype: KvDtype::Int8 }
    }
}

/// How far the probe has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeStage {
    /// Bytes of the text that were read, and all of them.
    Reading(usize, usize),
    /// Questions asked to find heads, and all of them.
    Asking(usize, usize),
    /// Answers tried, and how many there will be at most.
    Answering(usize, usize),
}

/// What the parts of the probe share.
struct Probed {
    model: Arc<Model>,
    recall: Arc<dyn Recall>,
    facts: Vec<Fact>,
    /// Chunks that hold each fact.
    right: Vec<Vec<ChunkId>>,
}

/// Measures a pretrained model and makes its profile. `create` makes the memory that the text is read into; `tell` hears how far it has come. Takes minutes on a CPU.
///
/// # Errors
/// What reading a document and generating text may fail with; [`Error::Invalid`](crate::Error::Invalid) for a model that was trained with
/// memory.
pub fn probe(
    create: CreateScratch,
    model: &Arc<Model>,
    options: &ProbeOptions,
    tell: &mut dyn FnMut(ProbeStage),
) -> Result<Profile> {
    if model.config().memory.fusion.is_some() {
        let why = "the model was trained with memory and needs no profile".into();
        return Err(crate::error::Error::Invalid(Invalid { what: "model", why }));
    }
    let text = ProbeText::new(options.seed, options.text_bytes, options.questions.max(1));
    let (memory, tokens) = read(create, model, &text.text, options.kv_dtype, tell)?;
    let recall = memory.view()?;
    let right = text.facts.iter().map(|fact| chunks_of(memory.as_ref(), fact)).collect::<Result<_>>()?;
    let probed = Probed { model: Arc::clone(model), recall, facts: text.facts, right };
    let found = heads::find(&probed, tell)?;
    let config = model.config();
    let mut profile = Profile {
        version: PROFILE_VERSION,
        model: model.base_fingerprint(),
        model_name: model.name().to_owned(),
        seed: options.seed,
        kv_layers: (0..config.layers as u32).collect(),
        search: found.search,
        attention_weight: found.attention_weight,
        lexical_weight: found.lexical_weight,
        passages: PASSAGES,
        neighbours: NEIGHBOURS,
        mode: RecallMode::Attend,
        mode_of_several: None,
        extents: Extents::default(),
        measured: Measured { tokens, questions: probed.facts.len(), ..Measured::default() },
    };
    trials::choose(&probed, &mut profile, options.answered, tell)?;
    Ok(profile)
}

/// Reads the text into a memory that keeps the keys and values of all layers, with entries for every key head. Returns its tokens as well.
fn read(
    create: CreateScratch,
    model: &Arc<Model>,
    text: &str,
    dtype: KvDtype,
    tell: &mut dyn FnMut(ProbeStage),
) -> Result<(Arc<dyn OpenMemory>, usize)> {
    let config = model.config();
    let layers: Vec<u32> = (0..config.layers as u32).collect();
    let geometry = KvGeometry {
        key_heads: KvGeometry::all_key_heads(&layers, config.kv_heads as u32),
        layers,
        kv_heads: config.kv_heads as u32,
        head_dim: config.head_dim as u32,
        dtype,
        chunk_tokens: config.memory.chunk_tokens,
        entry_policy: EntryPolicy::PerToken,
    };
    let (memory, mut encoder) = scratch(create, model, &geometry, DOCUMENT)?;
    for (index, piece) in text.as_bytes().chunks(PIECE_BYTES).enumerate() {
        tell(ProbeStage::Reading(index * PIECE_BYTES, text.len()));
        encoder.push(piece)?;
        while encoder.step()?.is_some() {}
    }
    let tokens = encoder.finish()?.durable_tokens as usize;
    tell(ProbeStage::Reading(text.len(), text.len()));
    Ok((memory, tokens))
}

/// Chunks that hold a part of a fact's statement.
fn chunks_of(memory: &dyn OpenMemory, fact: &Fact) -> Result<Vec<ChunkId>> {
    let infos = memory.document_chunks(DOCUMENT, 0, usize::MAX)?;
    let (start, end) = (fact.span.start as u64, fact.span.end as u64);
    let holds = infos.iter().filter(|info| info.span.byte_start < end && info.span.byte_end > start);
    Ok(holds.map(|info| info.id).collect())
}

/// The question as a user would ask it, with a place for passages.
fn ask(model: &Model, question: &str, for_passages: bool) -> Result<Prompt> {
    if model.chat_template().is_ok() {
        // The same at any time.
        let then = DateTime::constant(2026, 1, 1, 0, 0, 0, 0);
        let conversation = Conversation::new(vec![Message::new("user", question)], then);
        match Prompt::chat(model, &conversation, for_passages) {
            // A template that does not take a single question is not used for one.
            Err(mnemon_runtime::Error::ChatTemplate { .. }) => {}
            prompt => return Ok(prompt?),
        }
    }
    Ok(Prompt::text(model, &format!("\nQuestion: {question}\nAnswer:"), false)?)
}

impl Probed {
    /// Query heads to a key head.
    fn group(&self) -> usize {
        self.model.config().heads / self.model.config().kv_heads
    }

    fn head_dim(&self) -> usize {
        self.recall.geometry().head_dim as usize
    }
}
