//! Likeness by keys: how alike the keys of a query's own tokens are to those of chunks.
//!
//! The query is read as a document would be. Each of its tokens looks for entries with a large inner product, at every
//! key head; the chunks that turn up high in most of these lists are candidates. They are then
//! ranked by late interaction (`ColBERT`, Khattab and Zaharia 2020, section 3.3): for each token of the query the best
//! cosine with a key of the chunk, averaged over tokens, heads and layers. Since tokens are stored too, literal
//! agreement counts as well: the share of the query's tokens that stand in the chunk between the same neighbours. So a
//! passage finds itself even where a model's keys tell little, and a paraphrase is ranked by its keys alone. Where a memory
//! keeps no layer that has key heads, so that there are no keys to compare, the place in the lists stands for likeness.

use std::collections::{HashMap, HashSet};

use mnemon_memory::{ChunkId, Invalid, KeyHead, KvGeometry, Recall, SearchRequest};
use mnemon_runtime::{CaptureAttention, CaptureOptions, Captured, LocalMask, Logits, Model, SequenceState};
use tokenizers::Tokenizer;

use super::{QUERY_TOKENS_MAX, best};
use crate::error::{Error, Result};
use crate::tokenizer::StreamTokenizer;

/// Tokens of one forward pass.
const SEGMENT_TOKENS: usize = 512;

/// Tokens of the query that look for entries and are compared, evenly spread if it has more.
const VOICES_MAX: usize = 96;

/// Key heads that are used, evenly spread if the model has more.
const VIEWS_MAX: usize = 16;

/// Entries that each token looks for.
const ENTRIES: usize = 32;

/// What literal agreement of the whole query counts, where likeness of all keys counts 1.
const LITERAL_WEIGHT: f32 = 0.25;

/// Softens the weight of first ranks (reciprocal rank fusion).
const RANK_OFFSET: f32 = 8.0;

/// A query as its keys see it.
pub(super) struct KeyQuery {
    tokens: Vec<u32>,
    views: Views,
}

impl KeyQuery {
    /// Reads the query's tokens with the model.
    pub(super) fn read(model: &Model, recall: &dyn Recall, tokens: Vec<u32>) -> Result<Self> {
        // What the memory keeps, which need not be what new memories of the model keep.
        let geometry = recall.geometry();
        let views = Views::of(geometry, &read(model, geometry, &tokens)?);
        Ok(Self { tokens, views })
    }

    /// Up to `most` chunks whose entries stand high in the lists of many tokens, with their votes, most first. With
    /// `exact`, entries are scanned instead of searched in the graph.
    pub(super) fn candidates(&self, recall: &dyn Recall, most: usize, exact: bool) -> Result<Vec<(ChunkId, f32)>> {
        candidates(recall, &self.views, most, exact)
    }

    /// Likeness and literal agreement of chunks with these votes, in their order: at most 1, for a passage read in its own context.
    pub(super) fn likeness(&self, recall: &dyn Recall, voted: &[(ChunkId, f32)]) -> Result<Vec<f32>> {
        score(recall, &self.views, &self.tokens, voted)
    }
}

/// A borrowed tokenizer.
struct Borrowed<'a>(&'a Tokenizer);

impl AsRef<Tokenizer> for Borrowed<'_> {
    fn as_ref(&self) -> &Tokenizer {
        self.0
    }
}

/// The tokens of a query, at least one and at most [`QUERY_TOKENS_MAX`].
pub(super) fn tokenize(model: &Model, query: &str) -> Result<Vec<u32>> {
    let mut stream = StreamTokenizer::new(Borrowed(model.tokenizer()));
    let mut tokens = stream.push(query)?;
    tokens.extend(stream.finish()?);
    match tokens.len() {
        0 => Err(Error::EmptyQuery),
        1..=QUERY_TOKENS_MAX => Ok(tokens.iter().map(|token| token.id).collect()),
        more => {
            let why = format!("{more} tokens; at most {QUERY_TOKENS_MAX} are accepted, so search for a part of it");
            Err(Error::Invalid(Invalid { what: "query", why }))
        }
    }
}

/// Keys of all tokens, as they would be stored.
fn read(model: &Model, geometry: &KvGeometry, tokens: &[u32]) -> Result<Captured> {
    let memory = &model.config().memory;
    let options =
        CaptureOptions { window: memory.window, sinks: memory.sinks, local: LocalMask::Sliding, recall: None };
    let mut attention = CaptureAttention::for_geometry(model, geometry, options)?;
    let mut state = SequenceState::new(model);
    for segment in tokens.chunks(SEGMENT_TOKENS) {
        model.forward(segment, &mut state, &mut attention, Logits::None)?;
    }
    attention.drain(true)?.ok_or(Error::EmptyQuery)
}

/// Up to `most` of `count` things, evenly spread.
fn spread(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let taken = count.min(most);
    (0..taken).map(move |index| index * count / taken)
}

/// The query's keys as seen by some layers and heads.
struct Views {
    head_dim: usize,
    /// Tokens that speak.
    voices: usize,
    /// Key heads of a layer (indices), and what searches them, `[voices, key heads, head_dim]`.
    searched: Vec<(Vec<usize>, Vec<f32>)>,
    /// Memory layer, head, and keys of unit length, `[voices, head_dim]`.
    compared: Vec<(usize, usize, Vec<f32>)>,
}

/// The key of a token at a key head.
fn key_of<'a>(geometry: &KvGeometry, captured: &'a Captured, key_head: KeyHead, token: usize) -> &'a [f32] {
    let dim = geometry.head_dim as usize;
    let (keys, row) = if let Some(slot) = geometry.slot_of(key_head.layer) {
        (captured.keys.get(slot), key_head.head as usize * captured.len + token)
    } else {
        let lone = geometry.lone_key_heads().position(|lone| lone == key_head);
        (lone.and_then(|lone| captured.lone_keys.get(lone)), token)
    };
    keys.and_then(|keys| keys.get(row * dim..(row + 1) * dim)).unwrap_or_default()
}

impl Views {
    fn of(geometry: &KvGeometry, captured: &Captured) -> Self {
        let voices: Vec<usize> = spread(captured.len, VOICES_MAX).collect();
        let key = |key_head: KeyHead, token: usize| key_of(geometry, captured, key_head, token);
        let used: Vec<KeyHead> =
            spread(geometry.key_heads.len(), VIEWS_MAX).map(|index| geometry.key_heads[index]).collect();
        let mut layers: Vec<u32> = used.iter().map(|key_head| key_head.layer).collect();
        layers.dedup();
        let of_layer = |layer: u32| {
            let all = geometry.key_heads.iter().enumerate();
            let of_layer: Vec<(usize, KeyHead)> = all
                .filter(|(_, key_head)| key_head.layer == layer)
                .map(|(index, key_head)| (index, *key_head))
                .collect();
            let queries = voices.iter().flat_map(|&token| of_layer.iter().flat_map(move |(_, at)| key(*at, token)));
            (of_layer.iter().map(|(index, _)| *index).collect(), queries.copied().collect())
        };
        let compare = |key_head: &KeyHead| {
            let slot = geometry.slot_of(key_head.layer)?;
            let unit = voices.iter().flat_map(|&token| {
                let key = key(*key_head, token);
                let shorten = unit_factor(key);
                key.iter().map(move |value| value * shorten)
            });
            Some((slot, key_head.head as usize, unit.collect()))
        };
        Self {
            head_dim: geometry.head_dim as usize,
            voices: voices.len(),
            searched: layers.into_iter().map(of_layer).collect(),
            compared: used.iter().filter_map(compare).collect(),
        }
    }

    /// Memory layers that are compared.
    fn slots(&self) -> Vec<usize> {
        let mut slots: Vec<usize> = self.compared.iter().map(|(slot, ..)| *slot).collect();
        slots.dedup();
        slots
    }
}

fn unit_factor(vector: &[f32]) -> f32 {
    let length = dot(vector, vector).sqrt();
    if length > 0.0 { length.recip() } else { 0.0 }
}

/// Inner product in eight lanes, which compilers vectorise.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (a_whole, b_whole) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a_whole.remainder().iter().zip(b_whole.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_whole.zip(b_whole) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Chunks whose entries stand high in the lists of many tokens, with their votes, most first.
fn candidates(recall: &dyn Recall, views: &Views, most: usize, exact: bool) -> Result<Vec<(ChunkId, f32)>> {
    let mut votes: HashMap<ChunkId, f32> = HashMap::new();
    let mut seen: Vec<ChunkId> = Vec::with_capacity(ENTRIES);
    for (key_heads, queries) in &views.searched {
        let request = SearchRequest { key_heads, queries, top_k: ENTRIES, ef: None, exact };
        for hits in recall.search(&request)? {
            seen.clear();
            for (rank, hit) in hits.iter().enumerate() {
                if !seen.contains(&hit.chunk) {
                    seen.push(hit.chunk);
                    *votes.entry(hit.chunk).or_default() += (RANK_OFFSET + rank as f32).recip();
                }
            }
        }
    }
    Ok(best(votes.into_iter().collect(), most))
}

fn score(recall: &dyn Recall, views: &Views, tokens: &[u32], voted: &[(ChunkId, f32)]) -> Result<Vec<f32>> {
    let candidates: Vec<ChunkId> = voted.iter().map(|(chunk, _)| *chunk).collect();
    let whole = 1.0 + LITERAL_WEIGHT;
    let literal = recall.describe(&candidates)?.into_iter().map(|info| agreement(tokens, &info.tokens));
    let mut scores: Vec<f32> = literal.map(|share| LITERAL_WEIGHT * share / whole).collect();
    if views.compared.is_empty() {
        let most = voted.iter().map(|(_, votes)| *votes).fold(f32::MIN_POSITIVE, f32::max);
        for (score, (_, votes)) in scores.iter_mut().zip(voted) {
            *score += votes / most / whole;
        }
    }
    let share = whole * (views.compared.len() * views.voices).max(1) as f32;
    for slot in views.slots() {
        for (score, kv) in scores.iter_mut().zip(recall.fetch(slot, &candidates)?) {
            let keys = kv.keys.to_f32();
            let wide = kv.len * views.head_dim;
            for (_, head, voices) in views.compared.iter().filter(|(view_slot, ..)| *view_slot == slot) {
                let Some(keys) = keys.get(head * wide..(head + 1) * wide) else { continue };
                *score += likeness(voices, keys, views.head_dim) / share;
            }
        }
    }
    Ok(scores)
}

/// Share of `tokens` that stand in `chunk` between the same neighbours.
fn agreement(tokens: &[u32], chunk: &[u32]) -> f32 {
    let around: HashSet<&[u32]> = chunk.windows(3).collect();
    let (mut agreeing, mut all) = (0_usize, 0_usize);
    for triple in tokens.windows(3) {
        all += 1;
        agreeing += usize::from(around.contains(triple));
    }
    if all == 0 { 0.0 } else { agreeing as f32 / all as f32 }
}

/// Sum over `voices` (of unit length) of the best cosine with one of `keys`.
fn likeness(voices: &[f32], keys: &[f32], head_dim: usize) -> f32 {
    let factors: Vec<f32> = keys.chunks_exact(head_dim).map(unit_factor).collect();
    let best = |voice: &[f32]| {
        let cosines = keys.chunks_exact(head_dim).zip(&factors).map(|(key, factor)| dot(voice, key) * factor);
        cosines.fold(f32::NEG_INFINITY, f32::max)
    };
    voices.chunks_exact(head_dim).map(best).filter(|cosine| cosine.is_finite()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_even_and_complete() {
        assert_eq!(spread(3, 8).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(spread(9, 3).collect::<Vec<_>>(), [0, 3, 6]);
        assert_eq!(spread(0, 3).count(), 0);
    }

    #[test]
    fn inner_products_have_no_remainder_left_out() {
        let a: Vec<f32> = (0..19_u8).map(f32::from).collect();
        assert!((dot(&a, &a) - 2109.0).abs() < f32::EPSILON);
    }

    #[test]
    fn agreement_is_the_share_of_triples() {
        assert!((agreement(&[1, 2, 3, 4], &[9, 1, 2, 3, 8, 4]) - 0.5).abs() < 1e-6);
        assert!(agreement(&[1, 2], &[1, 2, 3]).abs() < 1e-6);
    }

    #[test]
    fn a_chunk_that_holds_the_voices_is_most_like_them() {
        let voices = [1.0, 0.0, 0.0, 1.0];
        assert!((likeness(&voices, &[0.0, 5.0, 0.5, 0.0], 2) - 2.0).abs() < 1e-6);
        assert!((likeness(&voices, &[-1.0, 0.0, 0.0, 0.0], 2)).abs() < 1e-6);
    }
}
