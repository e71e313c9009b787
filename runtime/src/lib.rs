//! Open decoder models with a memory: one forward pass for the family of Llama, Mistral, Qwen2 and Qwen3, in which
//! only the attention differs between reading documents and generating text.
//!
//! For those who load a model, read documents into a memory, or generate with one. Not for storing memories
//! (`mnemon-memory-store`), nor for cutting documents into segments (`mnemon-encoder`).
//!
//! | module | idea |
//! |---|---|
//! | `config` | `config.json` read, checked and limited |
//! | `model` | weights from safetensors and GGUF files, loading, the forward pass |
//! | `rotary`, `position` | rotary position encoding and its scalings; sinusoidal tables and ALiBi's slopes |
//! | `attention` | the [`Attention`] seam: [`FullAttention`], [`LocalAttention`], [`CaptureAttention`], [`RecallAttention`] over one backend |
//! | `profile` | what is measured of a pretrained model: [`Profile`] |
//! | `chat` | conversations in a model's own words: [`Conversation`], [`ChatTemplate`] |
//! | `passages` | passages of memory chosen for a question and placed in a prompt: [`Prompt`], [`select`] |
//! | `generate` | [`Generation`], [`Scoring`], the sampler, streaming text |
//! | `engine` | [`Engine`]: a bounded queue of tasks that take turns |
//!
//! Nothing here reads a clock or ambient randomness; nothing is asynchronous.

mod attention;
mod chat;
mod config;
mod device;
mod engine;
mod error;
mod generate;
mod model;
mod passages;
mod position;
mod profile;
mod rotary;

pub use attention::{
    Attention, CaptureAttention, CaptureOptions, Captured, FullAttention, LayerContext, LocalAttention, LocalMask,
    MemoryParameters, PassageAttention, PositionScheme, RecallAttention, RecallFrom, RecallOptions, Stretch,
};
pub use chat::{ChatTemplate, Conversation, Message, ROLES, ToolCall};
pub use config::{Architecture, Fusion, MemoryConfig, ModelConfig, PositionEncoding, RopeConfig, RopeScaling};
pub use device::DeviceChoice;
pub use engine::{Engine, EngineOptions, Task, Turn};
pub use error::{Error, Result};
pub use generate::{
    Detokenizer, FinishReason, GenerateOptions, GenerateStep, Generation, MemoryFrom, SamplingOptions, ScoreStep,
    Scoring,
};
pub use jiff::civil::DateTime;
pub use model::{HubName, LoadOptions, Logits, Model, ModelInfo, ModelSource, SequenceState, hub};
pub use passages::{
    Cut, Found, FoundPassage, NEIGHBOURS_MAX, PASSAGES_MAX, Passage, PassageOptions, PassagesFrom, Prompt, Select,
    Selected, Selection, select, split_chat, split_text,
};
pub use profile::{Extent, Extents, Measured, PROFILE_VERSION, Profile, QueryHead, RecallMode, SearchHead, Trial};
pub use rotary::Rotary;
