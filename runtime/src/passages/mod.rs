//! Passages of memory for models that were not trained with one: chosen once for a question, placed where a reader would paste
//! them, used by their stored keys and values or read again.
//!
//! | file | idea |
//! |---|---|
//! | `found` | [`Select`]: by heads, by what a search found, or both |
//! | `prompt` | [`Prompt`]: tokens before and after the place of passages, and those that ask |
//! | `select` | [`select`]: which chunks, by the heads of a profile and by words |
//! | `silence` | when memory has nothing to say |
//! | `split` | what of a long prompt stays in sight |
//! | `trim` | how much of what was found is shown |
//! | `reader` | [`PassageReader`]: a prompt read with passages in it, then one token at a time |

mod found;
mod prompt;
mod reader;
mod select;
mod silence;
mod split;
#[cfg(test)]
mod tests;
mod trim;

use std::sync::Arc;

use mnemon_memory::{Invalid, Recall};

pub use found::{Found, FoundPassage, Select};
pub use prompt::Prompt;
pub(crate) use prompt::encode;
pub(crate) use reader::{PassageReader, ReadStep};
pub use select::{Passage, Selected, Selection, select};
pub use split::{split_chat, split_text};
pub(crate) use trim::Attended;
pub use trim::Cut;
use trim::{tokens_before, trim};

use crate::error::{Error, Result};
use crate::profile::{Profile, RecallMode};

/// Largest number of passages and of neighbours that may be asked for.
pub const PASSAGES_MAX: usize = 64;
/// See [`PASSAGES_MAX`].
pub const NEIGHBOURS_MAX: usize = 16;

/// How passages are found and used.
#[derive(Debug, Clone, PartialEq)]
pub struct PassageOptions {
    /// How they reach the model; what memory allows and the profile prefers when `None`.
    pub mode: Option<RecallMode>,
    /// Passages at most; the profile's number when `None`.
    pub passages: Option<usize>,
    /// Whole chunks on each side that belong to a passage; when `None`, whole sentences, as many as the profile's
    /// [`extents`](Profile::extents) say.
    pub neighbours: Option<usize>,
    /// Passages stand in the prompt even if memory seems to have nothing to say: otherwise a chat reads then as without memory.
    pub always: bool,
    /// Scan every entry, of however many tokens.
    pub exact: bool,
    /// Breadth of a walk through the graph; when `None`, a scan of all but very large memories.
    pub ef: Option<usize>,
    /// Tokens generated between two choices of passages; never again when `None`.
    pub choose_again_after: Option<usize>,
}

impl Default for PassageOptions {
    fn default() -> Self {
        Self {
            mode: None,
            passages: None,
            neighbours: None,
            always: false,
            exact: false,
            ef: None,
            choose_again_after: Some(64),
        }
    }
}

impl PassageOptions {
    /// Refuses numbers that no prompt has room for.
    pub fn validate(&self) -> Result<()> {
        for (what, value, least, most) in [
            ("passages", self.passages, 1, PASSAGES_MAX),
            ("neighbours", self.neighbours, 0, NEIGHBOURS_MAX),
            ("choose_again_after", self.choose_again_after, 1, 1 << 20),
        ] {
            if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
                return Err(Error::Invalid(Invalid { what, why: format!("{value}; {least} to {most} is accepted") }));
            }
        }
        Ok(())
    }
}

/// A memory, what is known of its model, and how passages of it are used.
#[derive(Clone)]
pub struct PassagesFrom {
    /// The memory.
    pub recall: Arc<dyn Recall>,
    /// What was measured of the model.
    pub profile: Arc<Profile>,
    /// How passages are found and used.
    pub options: PassageOptions,
    /// By what the first ones are chosen, and all of them unless heads choose.
    pub select: Select,
}

impl PassagesFrom {
    /// The mode in which so many passages will be used: the one asked for, or the profile's where the memory keeps what it needs.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the mode asked for needs keys and values that the memory does not keep.
    pub fn mode(&self, passages: usize) -> Result<RecallMode> {
        let kept = self.recall.geometry().layers.len();
        match self.options.mode {
            Some(RecallMode::Attend) if kept == 0 => Err(Error::Invalid(Invalid {
                what: "mode",
                why: "attend, but the memory keeps no keys and values; use reread, or re-encode the memory".into(),
            })),
            Some(mode) => Ok(mode),
            // A model reads little from a third of its layers, as memories had before there were profiles.
            None if 4 * kept >= 3 * self.profile.kv_layers.len() => Ok(self.profile.mode_for(passages)),
            None => Ok(RecallMode::Reread),
        }
    }
}
