//! Models: loading and the forward pass.

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use mnemon_memory_store::{EntryPolicy, Fingerprint, KvDtype, KvGeometry};

use crate::{Attention, ChatTemplate, DeviceChoice, Error, ModelConfig, Result};

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder in the layout of the Hugging Face hub.
    Directory(PathBuf),
    /// A model of the hub, from the usual cache if it is there.
    Hub {
        /// `organisation/name`.
        id: String,
        /// Branch, tag or commit; `main` when `None`.
        revision: Option<String>,
    },
    /// The default model, built into the program.
    Embedded,
}

impl ModelSource {
    /// An existing folder, or else a hub identifier `organisation/name`, with `@revision` if wanted.
    pub fn parse(text: &str) -> Result<Self> {
        Err(Error::UnknownSource { given: text.into() })
    }
}

/// What to change of a model's own settings.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Where to compute.
    pub device: DeviceChoice,
    /// Type to compute in; f32 on the CPU and bf16 on a GPU when `None`.
    pub dtype: Option<DType>,
    /// Tokens of the local window.
    pub window: Option<usize>,
    /// First tokens of a sequence that stay visible.
    pub sinks: Option<usize>,
    /// Decoder layers that attend to memory.
    pub memory_layers: Option<Vec<u32>>,
    /// Type in which keys and values are stored.
    pub kv_dtype: Option<KvDtype>,
    /// Tokens of a chunk.
    pub chunk_tokens: Option<u32>,
    /// Which vectors become search keys.
    pub entry_policy: Option<EntryPolicy>,
}

/// Which logits a forward pass returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// None.
    None,
    /// Those after the last token.
    Last,
    /// Those after every token.
    All,
}

/// What a sequence carries from call to call, beside the attention's own state.
#[derive(Debug, Clone)]
pub struct SequenceState {
    /// Position of the next token.
    pub position: usize,
}

impl SequenceState {
    /// The beginning of a sequence.
    pub fn new(model: &Model) -> Self {
        let _ = model;
        Self { position: 0 }
    }
}

/// A loaded model. Shared by all sequences; it does not change.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    geometry: KvGeometry,
    tokenizer: tokenizers::Tokenizer,
    device: Device,
}

impl Model {
    /// Loads a model.
    pub fn load(source: &ModelSource, options: &LoadOptions) -> Result<Self> {
        let _ = (source, options);
        Err(Error::NoEmbeddedModel)
    }

    /// Name for people.
    pub fn name(&self) -> &'static str {
        ""
    }

    /// Sizes and switches.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Trained parameters.
    pub fn parameters(&self) -> u64 {
        0
    }

    /// Hash over weights, tokenizer, rotary settings and memory geometry.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint([0; 32])
    }

    /// What memories of this model store.
    pub fn geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &tokenizers::Tokenizer {
        &self.tokenizer
    }

    /// The chat template, if the model has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        None
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// One forward pass over the next `tokens` of a sequence.
    ///
    /// Returns f32 logits `[n, vocab]`: nothing for [`Logits::None`], n = 1 for `Last`, n = `tokens` for `All`.
    /// After an error, `state` and `attention` must be thrown away.
    pub fn forward(
        &self,
        tokens: &[u32],
        state: &mut SequenceState,
        attention: &mut dyn Attention,
        want: Logits,
    ) -> Result<Option<Tensor>> {
        let _ = (tokens, state, attention, want);
        Err(Error::EmptyPrompt)
    }
}
