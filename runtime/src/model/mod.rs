//! Models: where they come from, how they are loaded, and the one forward pass.

mod adapter;
mod fingerprint;
mod folder;
mod forward;
mod gguf;
pub mod hub;
mod load;
mod profile;
mod shard;
mod weights;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, DeviceLocation, Tensor};
use mnemon_memory::{EntryPolicy, Fingerprint, KeyHead, KvDtype, KvGeometry};

pub use self::hub::HubName;
use crate::attention::prefixes::Prefixes;
use crate::chat::{ChatTemplate, Shield};
use crate::config::ModelConfig;
use crate::device::DeviceChoice;
use crate::error::{Error, Result};
use crate::profile::{Profile, RecallMode};
use crate::rotary::Rotary;
use crate::vocabulary::Terms;

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder in the layout of the Hugging Face hub.
    Directory(PathBuf),
    /// A model of the hub, from the usual cache if it is there.
    Hub(HubName),
    /// A GGUF file.
    Gguf(PathBuf),
    /// The default model, built into the program.
    Embedded,
}

impl ModelSource {
    /// An existing folder, a `.gguf` file (or a folder with nothing else of a model than one), or else a [name](HubName) of the hub.
    pub fn parse(text: &str) -> Result<Self> {
        let path = PathBuf::from(text);
        if path.is_dir() {
            return Ok(match gguf::only_file(&path) {
                Some(file) => Self::Gguf(file),
                None => Self::Directory(path),
            });
        }
        match (gguf::is_named(&path), path.exists()) {
            (true, true) => return Ok(Self::Gguf(path)),
            (false, true) => {
                return Err(Error::ForeignFile {
                    path,
                    what: "is no model that can be read".into(),
                    advice: "give the folder that holds config.json and the weights, or a .gguf file".into(),
                });
            }
            (_, false) => {}
        }
        match text.parse() {
            Ok(name) => Ok(Self::Hub(name)),
            Err(_) if gguf::is_named(&path) => {
                Err(Error::MissingFile { path, advice: "give an existing .gguf file".into() })
            }
            Err(error) => Err(error),
        }
    }
}

/// What to change of a model's own settings.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Where to compute.
    pub device: DeviceChoice,
    /// Type to compute in; f32 on the CPU and bf16 on a GPU when `None`.
    pub dtype: Option<DType>,
    /// Tokens of the local window; sliding windows of the model that are narrower are lifted.
    pub window: Option<usize>,
    /// First tokens of a sequence that stay visible.
    pub sinks: Option<usize>,
    /// Decoder layers that attend to memory.
    pub memory_layers: Option<Vec<u32>>,
    /// Key heads that have entries in memories; every key/value head of the memory layers when `None`. With them there may
    /// be no memory layer at all.
    pub key_heads: Option<Vec<KeyHead>>,
    /// Type in which keys and values are stored; 8-bit codes when `None`, which cost nothing that `mnemon bench pareto`
    /// could measure.
    pub kv_dtype: Option<KvDtype>,
    /// Tokens of a chunk.
    pub chunk_tokens: Option<u32>,
    /// Which vectors become search keys.
    pub entry_policy: Option<EntryPolicy>,
    /// A file that gives memory to a pretrained model (see `docs/format.md`).
    pub memory_adapter: Option<PathBuf>,
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
    /// Projected key of the previous token, before shift and norm, `[1, n_kv_heads * head_dim]` for each layer; none
    /// at the beginning, where it counts as zero. Empty for models without key shift.
    previous_keys: Vec<Option<Tensor>>,
}

impl SequenceState {
    /// The beginning of a sequence.
    pub fn new(model: &Model) -> Self {
        let layers = if model.config.memory.key_shift { model.config.layers } else { 0 };
        Self { position: 0, previous_keys: vec![None; layers] }
    }
}

/// A loaded model. Shared by all sequences; it does not change.
#[derive(Debug)]
pub struct Model {
    name: String,
    config: ModelConfig,
    geometry: KvGeometry,
    /// Hash of everything but the geometry.
    base: blake3::Hasher,
    fingerprint: Fingerprint,
    profile: Option<Arc<Profile>>,
    /// Words behind tokens, once asked for.
    terms: OnceLock<Terms>,
    /// Beginnings of prompts that were read before.
    prefixes: Prefixes,
    parameters: u64,
    tokenizer: tokenizers::Tokenizer,
    /// Why not, if there is none that can be used.
    chat_template: std::result::Result<ChatTemplate, String>,
    shield: Shield,
    device: Device,
    rotary: Rotary,
    /// Slopes of the heads, `[n_heads]`, for ALiBi.
    slopes: Option<Vec<f32>>,
    decoder: forward::Decoder,
}

/// What a model is, told without loading it.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// As of [`Model::name`].
    pub name: String,
    /// Sizes and switches.
    pub config: ModelConfig,
    /// Whether its chat template can be used, or why not; `None` if it has none.
    pub chat_template: Option<std::result::Result<(), String>>,
}

impl Model {
    /// What a model is; its tensors are not read.
    pub fn inspect(source: &ModelSource) -> Result<ModelInfo> {
        load::inspect(source)
    }

    /// Loads a model; the fingerprint is computed on the way.
    pub fn load(source: &ModelSource, options: &LoadOptions) -> Result<Self> {
        load::load(source, options)
    }

    /// Name for people: the hub identifier, the folder's name, the name of a GGUF file without `.gguf`, or
    /// `mnemon-default`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sizes and switches, with the load options applied.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Trained parameters.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Gives a pretrained model what was measured of it: new memories keep what the profile says.
    ///
    /// # Errors
    /// [`Error::Profile`] when it is the profile of another model, or the model was trained with memory.
    pub fn set_profile(&mut self, profile: Profile) -> Result<()> {
        if self.config.memory.fusion.is_some() {
            return Err(Error::Profile { why: "the model was trained with memory and needs none".into() });
        }
        self.check_profile(&profile)?;
        let group = self.config.heads / self.config.kv_heads;
        let geometry = KvGeometry {
            layers: profile.kv_layers.clone(),
            key_heads: profile.key_heads(group),
            entry_policy: EntryPolicy::PerToken,
            ..self.geometry.clone()
        };
        geometry.validate()?;
        self.fingerprint = fingerprint::with_geometry(&self.base, &geometry);
        self.config.memory.layers.clone_from(&geometry.layers);
        self.geometry = geometry;
        self.profile = Some(Arc::new(profile));
        // Not while the first question waits.
        self.terms();
        Ok(())
    }

    /// What was measured of it, if it is a pretrained model.
    pub fn profile(&self) -> Option<&Arc<Profile>> {
        self.profile.as_ref()
    }

    /// Hash over weights, tokenizer and rotary settings, whatever memories keep.
    pub fn base_fingerprint(&self) -> Fingerprint {
        Fingerprint(*self.base.finalize().as_bytes())
    }

    /// The fingerprint of memories of `geometry`: a pretrained model reads memories of any shape that it made, one trained
    /// with memory those of its own shape.
    pub fn fingerprint_for(&self, geometry: &KvGeometry) -> Fingerprint {
        if self.profile.is_some() { fingerprint::with_geometry(&self.base, geometry) } else { self.fingerprint }
    }

    /// What new memories keep that are made for a way of using passages.
    pub fn geometry_for(&self, mode: RecallMode) -> KvGeometry {
        match (mode, &self.profile) {
            (RecallMode::Reread, Some(_)) => KvGeometry { layers: Vec::new(), ..self.geometry.clone() },
            _ => self.geometry.clone(),
        }
    }

    pub(crate) fn prefixes(&self) -> &Prefixes {
        &self.prefixes
    }

    pub(crate) fn terms(&self) -> &Terms {
        self.terms.get_or_init(|| Terms::new(&self.tokenizer))
    }

    /// Hash over weights, tokenizer, rotary settings and memory geometry.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// What memories of this model store.
    pub fn geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &tokenizers::Tokenizer {
        &self.tokenizer
    }

    /// The chat template.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if the model has none, or one that cannot be used.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        self.chat_template.as_ref().map_err(|why| Error::ChatTemplate { why: why.clone() })
    }

    /// Tokens of a text as a document has them: control tokens that it spells are text. With what the tokenizer puts around a text.
    pub fn encode(&self, text: &str) -> Result<tokenizers::Encoding> {
        self.shield.encode_text(&self.tokenizer, text, true)
    }

    pub(crate) fn shield(&self) -> &Shield {
        &self.shield
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Where it computes, such as `cpu` or `cuda:0`.
    pub fn device_name(&self) -> String {
        match self.device.location() {
            DeviceLocation::Cpu => "cpu".into(),
            DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        }
    }

    /// Rotary position encoding.
    pub fn rotary(&self) -> &Rotary {
        &self.rotary
    }
}
