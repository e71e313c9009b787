//! Searches, and what they find: plain data with bounds.

use crate::chunk::ChunkId;
use crate::geometry::Fingerprint;
use crate::invalid::Invalid;

/// A batch of queries: some heads of one or many tokens.
#[derive(Debug, Clone, Copy)]
pub struct SearchRequest<'a> {
    /// For each query head the key head whose entries it searches: an index into [`KvGeometry::key_heads`](crate::KvGeometry::key_heads). At least
    /// one; a key head may be searched by several. [`KvGeometry::searched_by`](crate::KvGeometry::searched_by) tells them for a layer.
    pub key_heads: &'a [usize],
    /// Query vectors before rotary encoding, `[n_queries, key_heads.len(), head_dim]` row-major.
    pub queries: &'a [f32],
    /// Entries wanted for each query and head, at least 1.
    pub top_k: usize,
    /// Breadth of the graph search, never below `top_k`. When `None`, small memories are scanned, and large ones are
    /// searched with the store's default.
    pub ef: Option<usize>,
    /// Scan every entry instead of walking the graph.
    pub exact: bool,
}

/// One entry found by a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Inner product of query and entry.
    pub score: f32,
    /// Chunk that the entry points into.
    pub chunk: ChunkId,
    /// First token, within the chunk, of the block that the entry stands for.
    pub start: u16,
    /// Tokens of that block.
    pub len: u16,
}

/// A search by words.
#[derive(Debug, Clone, Copy)]
pub struct TermRequest<'a> {
    /// What is looked for: each term is a set of token ids that count as the same word (upper and lower case, with and
    /// without a space before it). At most [`TERMS_MAX`] terms with 65536 tokens together; a term without tokens counts nothing.
    pub terms: &'a [Vec<u32>],
    /// Chunks wanted, 1 to 4096.
    pub top_k: usize,
    /// How fast further occurrences of a term in a chunk count less, 0 or more; 1.2 is usual.
    pub k1: f32,
    /// How much long chunks are held back, 0 to 1; 0.75 is usual.
    pub b: f32,
}

impl TermRequest<'_> {
    /// Refuses numbers that are out of range.
    pub fn validate(&self) -> Result<(), Invalid> {
        let invalid = |why: String| Err(Invalid { what: "search by terms", why });
        let tokens: usize = self.terms.iter().map(Vec::len).sum();
        if self.terms.len() > TERMS_MAX || tokens > TERM_TOKENS_MAX {
            let terms = self.terms.len();
            return invalid(format!(
                "{terms} terms with {tokens} tokens; at most {TERMS_MAX} with {TERM_TOKENS_MAX} are accepted"
            ));
        }
        if self.top_k == 0 || self.top_k > TERM_TOP_K_MAX {
            return invalid(format!("{} chunks wanted; 1 to {TERM_TOP_K_MAX} are accepted", self.top_k));
        }
        if !(0.0..=1e6).contains(&self.k1) || !(0.0..=1.0).contains(&self.b) {
            let (k1, b) = (self.k1, self.b);
            return invalid(format!("k1 of {k1} and b of {b}; 0 to 1000000, and 0 to 1, are accepted"));
        }
        Ok(())
    }
}

/// Most terms of a [`TermRequest`].
pub const TERMS_MAX: usize = 1024;
/// Tokens of all of them, and chunks wanted.
const TERM_TOKENS_MAX: usize = 1 << 16;
const TERM_TOP_K_MAX: usize = 4096;

/// One chunk found by its words.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TermHit {
    /// The chunk.
    pub chunk: ChunkId,
    /// BM25, above 0.
    pub score: f32,
}

/// What a search by words found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TermHits {
    /// Best first, equal ones in the order of their identifiers.
    pub hits: Vec<TermHit>,
    /// In how many chunks each term of the request occurs; empty where that is not known.
    pub chunks_with: Vec<u64>,
}

/// A search by the words of a text.
#[derive(Debug, Clone, Copy)]
pub struct WordRequest<'a> {
    /// What is asked: at most [`QUERY_BYTES_MAX`] bytes of UTF-8. Without words it finds nothing.
    pub query: &'a str,
    /// Chunks wanted, 1 to 4096.
    pub top_k: usize,
    /// As in [`TermRequest`]. Chunks of 64 tokens have most words once, so less than the usual 1.2 does better (0.4).
    pub k1: f32,
    /// As in [`TermRequest`].
    pub b: f32,
    /// How much of the score of the chunks right before and after it in its document a chunk gets, 0 to 1.
    pub neighbours: f32,
}

impl WordRequest<'_> {
    /// Refuses numbers that are out of range.
    pub fn validate(&self) -> Result<(), Invalid> {
        let invalid = |why: String| Err(Invalid { what: "search by words", why });
        if self.query.len() > QUERY_BYTES_MAX {
            let bytes = self.query.len();
            return invalid(format!("a query of {bytes} bytes; at most {QUERY_BYTES_MAX} are accepted"));
        }
        if self.top_k == 0 || self.top_k > TERM_TOP_K_MAX {
            return invalid(format!("{} chunks wanted; 1 to {TERM_TOP_K_MAX} are accepted", self.top_k));
        }
        let is_share = |number: f32| (0.0..=1.0).contains(&number);
        if !(0.0..=1e6).contains(&self.k1) || !is_share(self.b) || !is_share(self.neighbours) {
            let (k1, b, neighbours) = (self.k1, self.b, self.neighbours);
            return invalid(format!(
                "k1 of {k1}, b of {b} and neighbours of {neighbours}; 0 to 1000000, 0 to 1, and 0 to 1, are accepted"
            ));
        }
        Ok(())
    }
}

/// Longest query of a [`WordRequest`], in bytes.
pub const QUERY_BYTES_MAX: usize = 1 << 16;

/// What a search by the words of a text found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WordHits {
    /// Best first, equal ones in the order of their identifiers.
    pub hits: Vec<TermHit>,
    /// What a chunk of mean length would score that has each word of the query once.
    pub whole: f32,
    /// Summed weights of the query's words that the best chunk has.
    pub matched: f32,
}

/// A search by meaning.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingRequest<'a> {
    /// Whose vectors are searched.
    pub embedder: &'a Fingerprint,
    /// The query's vector, of length 1.
    pub query: &'a [f32],
    /// How much the vector of a whole chunk counts beside that of its best sentence, 0 to 1.
    pub chunk_weight: f32,
    /// How much of its likeness to what is most like it in the memory is taken off that of a sentence, 0 to 1: some sentences are near to every query.
    pub common_weight: f32,
    /// Chunks wanted, 1 to 4096.
    pub top_k: usize,
    /// Chunks whose scores are wanted in any case.
    pub also: &'a [ChunkId],
}

impl EmbeddingRequest<'_> {
    /// Refuses numbers that are out of range.
    pub fn validate(&self) -> Result<(), Invalid> {
        let invalid = |why: String| Err(Invalid { what: "search by meaning", why });
        if self.top_k == 0 || self.top_k > TERM_TOP_K_MAX {
            return invalid(format!("{} chunks wanted; 1 to {TERM_TOP_K_MAX} are accepted", self.top_k));
        }
        if !self.query.iter().all(|value| value.is_finite()) {
            return invalid("the query is not finite".into());
        }
        for (what, weight) in [("chunks", self.chunk_weight), ("what is common", self.common_weight)] {
            if !(0.0..=1.0).contains(&weight) {
                return invalid(format!("a weight of {weight} for {what}; 0 to 1 is accepted"));
            }
        }
        Ok(())
    }
}

/// How a chunk answers a query, by meaning.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Meaning {
    /// What it is ranked by: `likeness`, less the part of it that [`EmbeddingRequest::common_weight`] takes off.
    pub score: f32,
    /// The mean of two cosines, weighted by [`EmbeddingRequest::chunk_weight`]: that of the chunk, with a quarter of the vectors beside it, and that
    /// of its best sentence.
    pub likeness: f32,
    /// Place of its best sentence among those of which most stands in the chunk, and how many these are; `None` where there are none.
    pub sentence: Option<(u32, u32)>,
}

/// A chunk that a search by meaning found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmbeddingHit {
    /// The chunk.
    pub chunk: ChunkId,
    /// How it answers.
    pub meaning: Meaning,
}

/// What a search by meaning found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EmbeddingHits {
    /// Best first, equal ones in the order of their identifiers.
    pub hits: Vec<EmbeddingHit>,
    /// How the chunks of [`EmbeddingRequest::also`] answer, in its order; `None` for chunks without vectors.
    pub also: Vec<Option<Meaning>>,
    /// The least score of any chunk.
    pub least: f32,
    /// Chunks that have vectors.
    pub embedded: u64,
}

/// What a term counts that `with` of `chunks` chunks have: its inverse document frequency, with 1 added so that it is positive even for
/// terms of most chunks.
pub fn term_weight(chunks: u64, with: u64) -> f64 {
    let (all, with) = (chunks as f64, with as f64);
    ((all - with + 0.5) / (with + 0.5)).ln_1p()
}
