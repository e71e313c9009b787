//! The one error type of the crate.

use std::path::PathBuf;

use mnemon_memory::Invalid;

/// What went wrong, with what, and what the caller can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text given as a model is neither a folder, a GGUF file nor a hub identifier.
    #[error(
        "'{given}' is neither an existing folder or .gguf file nor the name of a model of the hub, ORG/NAME[:FILE][@REVISION]"
    )]
    UnknownSource {
        /// The text as given.
        given: String,
    },
    /// A file that a model needs is not there.
    #[error("{path} is missing; {advice}", path = path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
        /// What to do.
        advice: String,
    },
    /// A file could not be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file ends too early.
    #[error("{path} is truncated: {got} bytes of {expected}; download or copy it again", path = path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that its header announces.
        expected: u64,
        /// Bytes that are there.
        got: u64,
    },
    /// A file cannot be understood.
    #[error("{path} is damaged: {why}; download or copy it again", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The check that failed.
        why: String,
    },
    /// A file is whole, but not of the kind that is needed.
    #[error("{path} {what}; {advice}", path = path.display())]
    ForeignFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What to do.
        advice: String,
    },
    /// The weights are packed in a way that is not read.
    #[error("the weights are quantized with {method}, which is not read; {advice}")]
    UnsupportedQuantization {
        /// As named by `config.json`.
        method: String,
        /// What to do.
        advice: &'static str,
    },
    /// A value in the metadata of a GGUF file is missing, contradictory or outside of what is accepted.
    #[error("{path}: metadata: {key}: {why}", path = path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is accepted.
        why: String,
    },
    /// The weight files lack a tensor.
    #[error(
        "tensor '{name}' is not in the weight files of {model}; the files are incomplete or the configuration belongs to another model"
    )]
    MissingTensor {
        /// The tensor.
        name: String,
        /// Where the model was loaded from.
        model: String,
    },
    /// A tensor does not have the shape that the configuration demands.
    #[error(
        "tensor '{name}' has shape {got:?}, but the configuration demands {expected:?}; the files belong to different models"
    )]
    WrongShape {
        /// The tensor.
        name: String,
        /// Shape from the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        got: Vec<usize>,
    },
    /// A tensor is stored in a type that is not read.
    #[error(
        "tensor '{name}' is stored as {got}, which is not read; F32, F16, BF16, matrices of U8 with scales, and in GGUF files Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K are: take or make the weights in one of these"
    )]
    UnsupportedDtype {
        /// The tensor.
        name: String,
        /// Its type.
        got: String,
    },
    /// The model is not of the supported family.
    #[error("architecture '{name}' is not supported; supported are {supported}")]
    UnsupportedArchitecture {
        /// As named by `config.json`.
        name: String,
        /// The supported ones.
        supported: &'static str,
    },
    /// A value in a configuration is missing, contradictory or outside of what is accepted.
    #[error("config.json: {key}: {why}")]
    Config {
        /// The key.
        key: String,
        /// What is accepted.
        why: String,
    },
    /// The tokenizer cannot be loaded or used.
    #[error("tokenizer: {why}")]
    Tokenizer {
        /// What it reported.
        why: String,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A profile does not fit the model.
    #[error("profile: {why}")]
    Profile {
        /// What does not fit, and what to do.
        why: String,
    },
    /// The chat template cannot be parsed or rendered.
    #[error("chat template: {why}")]
    ChatTemplate {
        /// What the template engine reported.
        why: String,
    },
    /// A model could not be fetched.
    #[error("model '{id}' could not be fetched: {why}; check the name and the network, or give a local folder")]
    Hub {
        /// Name of the model.
        id: String,
        /// What happened.
        why: String,
    },
    /// The device cannot be used.
    #[error("device {device} cannot be used: {why}")]
    Device {
        /// As asked for.
        device: String,
        /// Why not.
        why: String,
    },
    /// An argument is outside of what is accepted.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The prompt has no token.
    #[error("the prompt is empty; give at least one token of text")]
    EmptyPrompt,
    /// The prompt is longer than accepted.
    #[error("the prompt has {tokens} tokens, at most {limit} are accepted; ingest long texts into a memory instead")]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// A token id that the model does not have.
    #[error("token {id} is outside of the vocabulary of {vocabulary}; the tokenizer belongs to another model")]
    TokenOutOfRange {
        /// The token.
        id: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// Tokens were given to an attention strategy out of order.
    #[error(
        "the attention state stands at position {expected}, but tokens at {got} were given; use one state for one sequence"
    )]
    Position {
        /// Next position of the state.
        expected: usize,
        /// Position given.
        got: usize,
    },
    /// A memory whose shape is not that of the model.
    #[error("the memory stores {stored}, but the model needs {needed}; recall only memories made with this model")]
    Geometry {
        /// What the memory stores.
        stored: String,
        /// What the model computes.
        needed: String,
    },
    /// The model computed something that is not a number.
    #[error("the model produced logits that are not finite; its weights are damaged or the number type is too narrow")]
    NotFinite,
    /// The engine's queue is full.
    #[error("{limit} tasks are waiting or running already; try again later")]
    Overloaded {
        /// Tasks that the engine accepts at once.
        limit: usize,
    },
    /// The engine does not take tasks any more.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The memory failed.
    #[error(transparent)]
    Memory(#[from] mnemon_memory::Error),
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] mnemon_kernels::Error),
    /// A tensor operation failed.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;
