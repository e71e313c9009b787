//! Beginnings of prompts, kept: what a template and an instruction put before the passages is the same for most questions.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::sequence::Sequence;

/// Longest beginning that is kept, in tokens.
const PREFIX_TOKENS_MAX: usize = 512;
/// Tokens of all that are kept.
const TOKENS_MAX: usize = 2048;

/// Keys and values of beginnings that were read, those used last in front. They hold nothing of any memory.
#[derive(Default)]
pub(crate) struct Prefixes {
    kept: Mutex<VecDeque<Prefix>>,
}

struct Prefix {
    tokens: Vec<u32>,
    /// Tokens visible at one time: frequencies of rotary encoding may depend on it.
    window: usize,
    sequence: Arc<Sequence>,
}

impl fmt::Debug for Prefixes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Prefixes").finish_non_exhaustive()
    }
}

impl Prefixes {
    /// The sequence that has read exactly these tokens.
    pub(crate) fn find(&self, tokens: &[u32], window: usize) -> Option<Arc<Sequence>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|prefix| prefix.window == window && prefix.tokens == tokens)?;
        let prefix = kept.remove(at)?;
        let sequence = Arc::clone(&prefix.sequence);
        kept.push_front(prefix);
        Some(sequence)
    }

    /// Whether a beginning is short enough to be kept.
    pub(crate) fn accepts(tokens: &[u32]) -> bool {
        tokens.len() <= PREFIX_TOKENS_MAX
    }

    /// Keeps a sequence that has read `tokens`, in the place of what was not used for longest.
    pub(crate) fn keep(&self, tokens: &[u32], window: usize, sequence: Sequence) {
        let prefix = Prefix { tokens: tokens.to_vec(), window, sequence: Arc::new(sequence) };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|other| other.window != prefix.window || other.tokens != prefix.tokens);
        kept.push_front(prefix);
        let mut total = 0;
        kept.retain(|prefix| {
            total += prefix.tokens.len();
            total <= TOKENS_MAX
        });
    }
}
