//! Passages that a search by the text of the question found: by words in other forms, or by meaning, which the heads of a pretrained model
//! do not see.

use mnemon_memory::{ChunkId, Recall};

use super::select::add;
use super::{Attended, Passage, PassageOptions};
use crate::error::Result;
use crate::profile::Profile;

/// A passage that a search found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FoundPassage {
    /// Consecutive chunks of a document.
    pub chunks: Vec<ChunkId>,
    /// Where the sentence stands that matters most, if that is known: a chunk, and how far in it, 0 to 1.
    pub place: Option<(ChunkId, f32)>,
}

/// What a search found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Best first.
    pub passages: Vec<FoundPassage>,
    /// Whether the best of them is more like the question than chance makes one.
    pub tells: bool,
    /// Whether that is so by its meaning, while words tell nothing.
    pub only_by_meaning: bool,
}

/// By what passages are chosen.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Select {
    /// The heads of the profile, and the words of the question.
    #[default]
    Heads,
    /// What a search found.
    Search(Found),
    /// Heads and words; where what they choose says nothing on the question, or words tell nothing and meaning does, what a search found.
    Both(Found),
}

impl Select {
    /// What a search found, if it may be used.
    pub(super) fn found(&self) -> Option<&Found> {
        match self {
            Self::Heads => None,
            Self::Search(found) | Self::Both(found) => Some(found),
        }
    }
}

/// What was found, with its neighbours; none has a chunk of another.
pub(super) fn passages(
    recall: &dyn Recall,
    profile: &Profile,
    found: &Found,
    options: &PassageOptions,
) -> Result<Vec<Passage>> {
    let wanted = options.passages.unwrap_or(profile.passages);
    let neighbours = options.neighbours.unwrap_or(profile.neighbours);
    let mut passages = Vec::with_capacity(wanted);
    for (rank, FoundPassage { chunks, place }) in found.passages.iter().take(wanted).enumerate() {
        // Where one sentence matters, only its chunk is shown.
        let core = place.map_or_else(|| chunks.clone(), |(chunk, _)| vec![chunk]);
        let Some(first) = core.first().copied() else { continue };
        let mut ids: Vec<ChunkId> = recall.neighbours(&core, neighbours, neighbours)?.concat();
        ids.sort_unstable();
        ids.dedup();
        let infos = recall.describe(&ids)?;
        let tokens = |chunk: ChunkId| infos.iter().find(|info| info.id == chunk).map_or(0, |info| info.tokens.len());
        let attended = place.map(|(chunk, far)| {
            let token = ((tokens(chunk) as f32 * far) as usize).min(tokens(chunk).saturating_sub(1));
            Attended { chunk, token, mass: 1.0 }
        });
        let core = if options.neighbours.is_some() { ids } else { core };
        add(&mut passages, first, core, infos, 1.0 / (1.0 + rank as f32));
        if let (Some(attended), Some(passage)) = (attended, passages.iter_mut().find(|passage| passage.holds(first))) {
            passage.attended.push(attended);
        }
    }
    Ok(passages)
}
