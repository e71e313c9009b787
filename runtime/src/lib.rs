//! Open decoder models with a memory: one forward pass for the family of Llama, Mistral, Qwen2 and Qwen3, in which
//! only the attention differs between reading documents and generating text.
//!
//! For those who load a model, read documents into a memory, or generate with one. Not for storing memories
//! (`mnemon-memory-store`), nor for cutting documents into segments (`mnemon-encoder`).
//!
//! # Layout
//!
//! From the lowest floor up; a module imports only from those above it in this table.
//!
//! | module | idea |
//! |---|---|
//! | `error` | the error type |
//! | `host` | values of tensors in host memory |
//! | `device` | the device that computes |
//! | `config` | `config.json` read, checked and limited |
//! | `rotary`, `position` | rotary position encoding and its scalings; sinusoidal tables and slopes of `ALiBi` |
//! | `attention` | the [`Attention`] seam, and what all strategies behind it share |
//! | `vocabulary` | words and ends of sentences behind tokens |
//! | `profile` | what is measured of a pretrained model: [`Profile`] |
//! | `chat` | conversations in a model's own words: [`Conversation`], [`ChatTemplate`] |
//! | `model` | weights from safetensors and GGUF files, loading, the forward pass |
//! | `strategies` | [`FullAttention`], [`LocalAttention`], [`CaptureAttention`], [`RecallAttention`], [`PassageAttention`] |
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
mod host;
mod model;
mod passages;
mod position;
mod profile;
mod rotary;
mod strategies;
mod vocabulary;

pub use attention::{Attention, LayerContext, LocalMask, MemoryParameters};
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
pub use strategies::{
    CaptureAttention, CaptureOptions, Captured, FullAttention, LocalAttention, PassageAttention, PositionScheme,
    RecallAttention, RecallFrom, RecallOptions, Stretch,
};
