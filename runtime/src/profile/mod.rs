//! What was measured of a pretrained model: which of its heads retrieve, what memories of it keep, and how passages are used.
//!
//! | file | idea |
//! |---|---|
//! | `file` | the JSON file: version, limits, checks against a model |
//!
//! It is made by `mnemon-encoder`'s probe. `kv_layers` and the key heads of [`Profile::search`] decide what new memories keep. All else concerns reading alone: a memory
//! that was made with another profile of the same model stays readable, by the heads that it has entries for.

mod file;

use mnemon_memory::{Fingerprint, KeyHead};

pub use file::VERSION as PROFILE_VERSION;

/// One query head of one decoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct QueryHead {
    /// Decoder layer, zero-based.
    pub layer: u32,
    /// Query head, zero-based.
    pub head: u32,
}

/// A query head that finds what a text asks for.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SearchHead {
    /// The head.
    #[serde(flatten)]
    pub query: QueryHead,
    /// What it counts among the others, above 0.
    pub weight: f32,
    /// Mean of its queries, before rotary encoding, `[head_dim]`: subtracted from each query.
    pub mean: Vec<f32>,
    /// Mean reciprocal rank of the right chunk in the probe, 0 to 1.
    pub reciprocal_rank: f32,
}

/// How passages reach the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecallMode {
    /// Stored keys and values take the place of the passages' tokens.
    Attend,
    /// The passages' tokens run through the model again.
    Reread,
}

/// How much of what was found a passage shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extent {
    /// The sentences of the chunk that was found.
    #[default]
    Chunk,
    /// Of them, those that the question is about: small models mistake the others for the answer.
    Sentence,
}

/// How much passages show in each mode. A stored sentence lacks what other tokens know of it, so that the better choice for one mode need
/// not be that for the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Extents {
    /// Of passages that are attended to.
    pub attend: Extent,
    /// Of passages that are read again.
    pub reread: Extent,
}

impl Extents {
    /// Of passages used in this mode.
    pub fn of(self, mode: RecallMode) -> Extent {
        match mode {
            RecallMode::Attend => self.attend,
            RecallMode::Reread => self.reread,
        }
    }
}

/// What the probe measured for one way of using passages.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Trial {
    /// How passages reached the model.
    pub mode: RecallMode,
    /// Facts that each question asks for.
    #[serde(default = "one")]
    pub facts: usize,
    /// Passages used at most.
    pub passages: usize,
    /// How much of what was found they showed.
    #[serde(default)]
    pub extent: Extent,
    /// First and last decoder layer that kept keys and values.
    pub layers: [u32; 2],
    /// Share of the probe's questions that were answered, 0 to 1.
    pub answered: f32,
}

fn one() -> usize {
    1
}

/// What to expect of the model, as the probe measured it on its own text.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Measured {
    /// Tokens of the probe's text.
    pub tokens: usize,
    /// Questions asked.
    pub questions: usize,
    /// Share of questions whose passage was the first found.
    pub found_first: f32,
    /// Share of questions whose passage was among those used.
    pub found: f32,
    /// Share of questions answered without memory.
    pub answered_without: f32,
    /// Ways of using passages that were tried.
    pub trials: Vec<Trial>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Profile {
    /// Format of the file.
    pub version: u32,
    /// The model, without the shape of its memories: [`Model::base_fingerprint`](crate::Model::base_fingerprint).
    #[serde(with = "file::hex")]
    pub model: Fingerprint,
    /// Name of the model, for people.
    pub model_name: String,
    /// Seed of the probe's text.
    pub seed: u64,
    /// Decoder layers whose keys and values memories keep, ascending.
    pub kv_layers: Vec<u32>,
    /// Heads that search, best first, at least one.
    pub search: Vec<SearchHead>,
    /// What the attention of these heads counts in finding passages, 0 to 1; 0 where no head is good enough.
    pub attention_weight: f32,
    /// What likeness of words (BM25) counts beside it, 0 to 1.
    pub lexical_weight: f32,
    /// Passages used by a request that does not say how many.
    pub passages: usize,
    /// Chunks on each side out of which a passage's first and last sentence are completed.
    pub neighbours: usize,
    /// How much of what was found a passage shows.
    #[serde(default)]
    pub extents: Extents,
    /// How one passage is used where the memory allows both ways.
    pub mode: RecallMode,
    /// How several passages are used then; as one when it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode_of_several: Option<RecallMode>,
    /// What to expect.
    pub measured: Measured,
}

impl QueryHead {
    /// The key head that it attends to, where `group` query heads share one.
    pub fn key_head(self, group: usize) -> KeyHead {
        KeyHead { layer: self.layer, head: self.head / group.max(1) as u32 }
    }
}

impl Profile {
    /// How so many passages are used where the memory allows both ways.
    pub fn mode_for(&self, passages: usize) -> RecallMode {
        self.mode_of_several.filter(|_| passages > 1).unwrap_or(self.mode)
    }

    /// Default mode of new memories: they keep keys and values only if passages are attended to.
    pub fn mode_of_memories(&self) -> RecallMode {
        let attends = [1, 2].into_iter().any(|passages| self.mode_for(passages) == RecallMode::Attend);
        if attends { RecallMode::Attend } else { RecallMode::Reread }
    }

    /// Key heads that the search heads look in, where `group` query heads share one; ascending.
    pub fn key_heads(&self, group: usize) -> Vec<KeyHead> {
        let mut heads: Vec<KeyHead> = self.search.iter().map(|head| head.query.key_head(group)).collect();
        heads.sort_unstable();
        heads.dedup();
        heads
    }
}
