//! Search by text: the passages that a query asks for.
//!
//! | file | idea |
//! |---|---|
//! | `keys.rs` | likeness of the query's keys to those of chunks |
//! | `fusion.rs` | both scores of each candidate as one |
//! | `passages.rs` | chunks that stand side by side become one passage |
//!
//! Words are searched by BM25 over all chunks ([`Recall::search_words`]), each with a quarter of the scores of the chunks beside it, since
//! a chunk ends anywhere. A model that was trained with memory compares its keys as well; those of pretrained models tell
//! less than words do (`ARCHITECTURE.md`), so only a request that names them uses them.

mod fusion;
mod keys;
mod passages;

use std::collections::HashMap;

use mnemon_memory_store::{ChunkId, Recall, WordRequest};
use mnemon_runtime::Model;

use self::keys::KeyQuery;
pub use self::passages::Passage;
use crate::{Error, Result};

/// Tokens of a query at most.
pub const QUERY_TOKENS_MAX: usize = 4096;

/// Passages that may be asked for at most.
pub const SEARCH_PASSAGES_MAX: usize = 1000;

/// Candidates that are ranked: this many for each passage asked for, and at least so many.
const CANDIDATES: (usize, usize) = (4, 64);

/// BM25 over chunks of 64 tokens, most of which have a word once or not at all: further occurrences, and lengths, tell little.
const WORDS: WordRequest<'_> = WordRequest { query: "", top_k: 1, k1: 0.4, b: 0.3, neighbours: 0.25 };

/// What a search goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SearchBy {
    /// Words, and keys where the model was trained with memory.
    #[default]
    Both,
    /// Words alone.
    Words,
    /// Keys alone.
    Keys,
}

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub struct SearchOptions {
    /// Passages wanted, 1 to [`SEARCH_PASSAGES_MAX`].
    pub k: usize,
    /// What it goes by.
    pub by: SearchBy,
    /// Scan entries of keys instead of walking their graphs.
    pub exact: bool,
}

/// The passages that answer `query` best, best first.
///
/// # Errors
/// [`Error::EmptyQuery`], [`Error::Invalid`] for `k` out of range and for queries of more than [`QUERY_TOKENS_MAX`] tokens.
pub fn search_text(model: &Model, recall: &dyn Recall, query: &str, options: SearchOptions) -> Result<Vec<Passage>> {
    let SearchOptions { k, by, exact } = options;
    if k == 0 || k > SEARCH_PASSAGES_MAX {
        return Err(Error::Invalid { what: "k", why: format!("{k}; 1 to {SEARCH_PASSAGES_MAX} is accepted") });
    }
    keys::tokenize(model, query)?;
    if recall.is_empty() {
        return Ok(Vec::new());
    }
    let (for_each, least) = CANDIDATES;
    let most = (for_each * k).max(least);
    let words = match by {
        SearchBy::Keys => None,
        SearchBy::Both | SearchBy::Words => Some(recall.search_words(&WordRequest { query, top_k: most, ..WORDS })?),
    };
    let uses_keys = by == SearchBy::Keys || by == SearchBy::Both && model.profile().is_none();
    let (mut candidates, mut scores) = (Vec::new(), HashMap::<ChunkId, fusion::Scores>::new());
    if uses_keys {
        let keys = KeyQuery::read(model, recall, query)?;
        candidates = keys.candidates(recall, most, exact)?;
        let known: std::collections::HashSet<ChunkId> = candidates.iter().map(|(chunk, _)| *chunk).collect();
        let found = words.iter().flat_map(|words| &words.hits).map(|hit| (hit.chunk, 0.0));
        candidates.extend(found.filter(|(chunk, _)| !known.contains(chunk)));
        for ((chunk, _), likeness) in candidates.iter().zip(keys.likeness(recall, &candidates)?) {
            scores.entry(*chunk).or_default().keys = Some(likeness);
        }
    }
    if let Some(words) = words {
        let whole = words.whole.max(f32::MIN_POSITIVE);
        for hit in words.hits {
            scores.entry(hit.chunk).or_default().words = Some(hit.score / whole);
        }
    }
    drop(candidates);
    let ranked = best(fusion::fuse(&scores), most);
    passages::join(recall, &ranked, &scores, k)
}

/// The `most` largest, descending; among equals the older chunk first.
fn best(mut scored: Vec<(ChunkId, f32)>, most: usize) -> Vec<(ChunkId, f32)> {
    scored.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scored.truncate(most);
    scored
}
