//! Search by text: the passages that a query asks for.
//!
//! | file | idea |
//! |---|---|
//! | `keys.rs` | likeness of the query's keys to those of chunks |
//! | `fusion.rs` | all scores of each candidate as one |
//! | `passages.rs` | chunks that stand side by side become one passage |
//!
//! Words are searched by BM25 over all chunks ([`Recall::search_words`]), each with a quarter of the scores of the chunks beside it, since
//! a chunk ends anywhere. A model that was trained with memory compares its keys as well; those of pretrained models tell
//! less than words do (`ARCHITECTURE.md`), so only a request that names them uses them. With an [`Embedder`] and a memory that has its
//! vectors, chunks are found by meaning as well, and keys, which go by words too, are not compared: they
//! would outvote what is said in other words.

mod fusion;
mod keys;
mod passages;

use std::collections::{HashMap, HashSet};

use mnemon_memory::{ChunkId, EmbeddingRequest, Invalid, Recall, WordRequest};
use mnemon_runtime::Model;

use self::fusion::{Scores, Weights};
use self::keys::KeyQuery;
pub use self::passages::Passage;
use crate::embedder::Embedder;
use crate::error::{Error, Result};

/// Tokens of a query at most.
pub const QUERY_TOKENS_MAX: usize = 4096;

/// Passages that may be asked for at most.
pub const SEARCH_PASSAGES_MAX: usize = 1000;

/// Candidates that are ranked: this many for each passage asked for, and at least so many.
const CANDIDATES: (usize, usize) = (4, 64);
/// So many times as many where passages are spread over documents.
const SPREAD: usize = 4;

/// Candidates of each kind where words and embeddings are fused: both are compared over as many chunks as a search may ask for.
const BESIDE_MEANING: usize = 1024;

/// See [`Found::only_by_meaning`].
const FEW_CHUNKS: u64 = 256;

/// BM25 over chunks of 64 tokens, most of which have a word once or not at all: further occurrences, and lengths, tell little.
const WORDS: WordRequest<'_> = WordRequest { query: "", top_k: 1, k1: 0.4, b: 0.3, neighbours: 0.25 };

/// What a search goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SearchBy {
    /// Words, and embeddings where there is an embedder; else keys where the model was trained with memory.
    #[default]
    Both,
    /// Words alone.
    Words,
    /// Keys alone.
    Keys,
    /// Sentence embeddings alone.
    Meaning,
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
    /// Passages of one document at most, 1 to [`SEARCH_PASSAGES_MAX`]; `None`: all may be of one.
    pub per_document: Option<usize>,
}

/// What a search found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Best first.
    pub passages: Vec<Passage>,
    /// Whether the best of them is more like the query than chance makes one of so many chunks: by the rarity of the words that it shares, or by its
    /// meaning. Where keys alone are compared, and always in an empty memory, false.
    pub tells: bool,
    /// Whether that is so by meaning, while words tell nothing; in a memory of few chunks never, since no word is known to be rare there.
    pub only_by_meaning: bool,
}

/// The passages that answer `query` best.
///
/// # Errors
/// [`Error::EmptyQuery`], [`Error::Invalid`] for `k` out of range and for queries of more than [`QUERY_TOKENS_MAX`] tokens,
/// [`Error::NoEmbedder`] for a search by meaning without one.
pub fn search_text(
    model: &Model,
    embedder: Option<&Embedder>,
    recall: &dyn Recall,
    query: &str,
    options: SearchOptions,
) -> Result<Found> {
    let SearchOptions { k, by, exact, per_document } = options;
    if k == 0 || k > SEARCH_PASSAGES_MAX {
        return Err(Error::Invalid(Invalid { what: "k", why: format!("{k}; 1 to {SEARCH_PASSAGES_MAX} is accepted") }));
    }
    if let Some(most) = per_document.filter(|most| !(1..=SEARCH_PASSAGES_MAX).contains(most)) {
        let why = format!("{most}; 1 to {SEARCH_PASSAGES_MAX} is accepted");
        return Err(Error::Invalid(Invalid { what: "passages per document", why }));
    }
    if by == SearchBy::Meaning && embedder.is_none() {
        return Err(Error::NoEmbedder);
    }
    let tokens = keys::tokenize(model, query)?;
    if recall.is_empty() {
        return Ok(Found::default());
    }
    let (for_each, least) = CANDIDATES;
    // The best of one document may stand before all others.
    let spread = if per_document.is_some() { SPREAD } else { 1 };
    let most = spread * (for_each * k).max(least);
    let weights = if by == SearchBy::Meaning { Weights::of_meaning() } else { Weights::default() };
    let mut search =
        Search { recall, query, most, scores: HashMap::new(), weights, words_tell: false, meaning_tells: false };
    let embedder = embedder.filter(|_| matches!(by, SearchBy::Both | SearchBy::Meaning));
    if matches!(by, SearchBy::Both | SearchBy::Words) {
        search.by_words(embedder.is_some())?;
    }
    let is_embedded = embedder.map_or(Ok(false), |embedder| search.by_meaning(embedder))?;
    if by == SearchBy::Keys || by == SearchBy::Both && model.profile().is_none() && !is_embedded {
        search.by_keys(model, tokens, exact)?;
    }
    let ranked = best(fusion::fuse(&search.scores, search.weights), most);
    Ok(Found {
        passages: passages::join(recall, &ranked, &search.scores, k, per_document)?,
        tells: search.words_tell || search.meaning_tells,
        only_by_meaning: search.meaning_tells && !search.words_tell && recall.len() >= FEW_CHUNKS,
    })
}

/// The candidates of a search, with what is known of each.
struct Search<'a> {
    recall: &'a dyn Recall,
    query: &'a str,
    /// Candidates of each kind.
    most: usize,
    scores: HashMap<ChunkId, Scores>,
    weights: Weights,
    /// See [`Found::tells`].
    words_tell: bool,
    meaning_tells: bool,
}

impl Search<'_> {
    /// `beside_meaning`: embeddings will be searched as well, and words count by what they tell.
    fn by_words(&mut self, beside_meaning: bool) -> Result<()> {
        let top_k = if beside_meaning { BESIDE_MEANING.max(self.most) } else { self.most };
        let words = self.recall.search_words(&WordRequest { query: self.query, top_k, ..WORDS })?;
        let whole = words.whole.max(f32::MIN_POSITIVE);
        for hit in &words.hits {
            self.scores.entry(hit.chunk).or_default().words = Some(hit.score / whole);
        }
        let chunks = self.recall.len();
        self.words_tell = fusion::words_tell(words.matched, chunks);
        if beside_meaning {
            self.weights = Weights::beside_meaning(words.matched, chunks);
        }
        Ok(())
    }

    fn by_keys(&mut self, model: &Model, tokens: Vec<u32>, exact: bool) -> Result<()> {
        let keys = KeyQuery::read(model, self.recall, tokens)?;
        let mut candidates = keys.candidates(self.recall, self.most, exact)?;
        let voted: HashSet<ChunkId> = candidates.iter().map(|(chunk, _)| *chunk).collect();
        let found = self.scores.iter().filter_map(|(chunk, scores)| Some((*chunk, scores.words?)));
        let found = best(found.filter(|(chunk, _)| !voted.contains(chunk)).collect(), self.most);
        candidates.extend(found.into_iter().map(|(chunk, _)| (chunk, 0.0)));
        for ((chunk, _), likeness) in candidates.iter().zip(keys.likeness(self.recall, &candidates)?) {
            self.scores.entry(*chunk).or_default().keys = Some(likeness);
        }
        Ok(())
    }

    /// Returns whether any chunk has embeddings; if none has, words count as without an embedder.
    fn by_meaning(&mut self, embedder: &Embedder) -> Result<bool> {
        let query = embedder.embed(&[self.query])?.pop().unwrap_or_default();
        let also: Vec<ChunkId> = self.scores.keys().copied().collect();
        let request = EmbeddingRequest {
            embedder: embedder.fingerprint(),
            query: &query,
            chunk_weight: self.weights.chunk,
            common_weight: self.weights.common,
            top_k: BESIDE_MEANING.max(self.most),
            also: &also,
        };
        let found = self.recall.search_embeddings(&request)?;
        if found.embedded == 0 {
            self.weights = Weights::default();
            return Ok(false);
        }
        if found.embedded < self.recall.len() {
            // What has no embeddings yet is found by its words alone.
            self.weights.words = 1.0;
        }
        for hit in &found.hits {
            self.scores.entry(hit.chunk).or_default().meaning = Some(hit.meaning);
        }
        for (chunk, meaning) in also.iter().zip(&found.also) {
            self.scores.entry(*chunk).or_default().meaning = *meaning;
        }
        self.weights.least_meaning = found.least;
        let likeness = found.hits.iter().map(|hit| hit.meaning.likeness);
        let best = likeness.fold(f32::NEG_INFINITY, f32::max);
        self.meaning_tells = best > embedder.best_by_chance(found.embedded);
        Ok(true)
    }
}

/// The `most` largest, descending; among equals the older chunk first.
fn best(mut scored: Vec<(ChunkId, f32)>, most: usize) -> Vec<(ChunkId, f32)> {
    scored.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scored.truncate(most);
    scored
}
