//! The vectors of one extent. The bytes are specified in `docs/format.md`.

use std::ops::Range;

use mnemon_memory::{EMBEDDING_DIM_MAX, Embeddings, Fingerprint};

use crate::error::Result;
use crate::format::chunk_blob::number_of;
use crate::format::codec::{Decoder, Encoder};

const MAGIC: &[u8; 8] = b"MNMNVECT";
const FORMAT: u32 = 1;
/// How much of the vectors beside it a chunk's vector gets.
const NEIGHBOURS: f32 = 0.25;
const PREFIX: &str = "vectors-";

/// The name of the blob of an embedder's vectors for the chunk blob `chunks`.
pub(crate) fn blob_name(chunks: u64, embedder: &Fingerprint) -> String {
    format!("{PREFIX}{chunks:016x}-{}", short(embedder))
}

fn short(embedder: &Fingerprint) -> String {
    embedder.to_hex().chars().take(16).collect()
}

/// The number of the chunk blob whose vectors a blob of this name holds; `None` for other blobs.
pub(crate) fn chunk_blob_of(name: &str) -> Option<u64> {
    let (number, embedder) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let is_hex = |text: &str| text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_hex(number) && is_hex(embedder)).then(|| number_of(&format!("{PREFIX}{number}")))
}

/// Whether a blob of this name is of `embedder`, as far as a name tells.
pub(crate) fn is_named_for(name: &str, embedder: &Fingerprint) -> bool {
    name.ends_with(&short(embedder))
}

/// Vectors as codes of 8 bits: `scale * code`.
#[derive(Debug, PartialEq)]
pub(crate) struct EmbeddingIndex {
    pub(crate) dim: usize,
    /// Of chunks, then of sentences.
    scales: Box<[f32]>,
    /// Lengths of each chunk's vector with a part of those beside it.
    norms: Box<[f32]>,
    pub(crate) chunk_of_sentence: Box<[u32]>,
    /// `[chunks + sentences, dim]`.
    codes: Box<[i8]>,
}

/// How a chunk is like a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ChunkLikeness {
    /// Cosine of the chunk's vector with a quarter of those beside it.
    pub(crate) whole: f32,
    /// The best one of its sentences.
    pub(crate) sentence: f32,
    /// The place of that sentence among those of the chunk, and how many these are; `None` where there are none.
    pub(crate) place: Option<(u32, u32)>,
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Lengths of the vectors of consecutive chunks, each with a part of those beside it.
fn norms(vectors: &[&[f32]]) -> Box<[f32]> {
    let norm = |at: usize| {
        let beside = [at.checked_sub(1), Some(at + 1)].into_iter().flatten().filter_map(|at| vectors.get(at));
        let mut sum = vectors[at].to_vec();
        for other in beside {
            sum.iter_mut().zip(*other).for_each(|(sum, value)| *sum += NEIGHBOURS * value);
        }
        dot(&sum, &sum).sqrt()
    };
    (0..vectors.len()).map(norm).collect()
}

impl EmbeddingIndex {
    /// Of vectors that were checked.
    pub(crate) fn new(embeddings: &Embeddings) -> Self {
        let Embeddings { dim, chunks, sentences, chunk_of_sentence } = embeddings;
        let (mut scales, mut codes) = (Vec::new(), Vec::new());
        for vector in chunks.chunks_exact(*dim).chain(sentences.chunks_exact(*dim)) {
            let most = vector.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            let scale = most / 127.0;
            scales.push(scale);
            let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
            codes.extend(vector.iter().map(|value| (value * inverse).round().clamp(-127.0, 127.0) as i8));
        }
        let vectors: Vec<&[f32]> = chunks.chunks_exact(*dim).collect();
        Self {
            dim: *dim,
            scales: scales.into(),
            norms: norms(&vectors),
            chunk_of_sentence: chunk_of_sentence.clone().into(),
            codes: codes.into(),
        }
    }

    /// Those of consecutive extents as those of one, which holds all of their chunks. A sentence that stands across a border stays two.
    /// `None` unless they have vectors of one length.
    pub(crate) fn join(parts: &[Self]) -> Option<Self> {
        let dim = parts.first()?.dim;
        if parts.iter().any(|part| part.dim != dim) {
            return None;
        }
        let (mut scales, mut codes, mut chunk_of_sentence) = (Vec::new(), Vec::new(), Vec::new());
        let of_chunks = parts.iter().map(|part| (part, 0..part.chunks()));
        let of_sentences = parts.iter().map(|part| (part, part.chunks()..part.scales.len()));
        for (part, Range { start, end }) in of_chunks.chain(of_sentences) {
            scales.extend_from_slice(&part.scales[start..end]);
            codes.extend_from_slice(&part.codes[start * dim..end * dim]);
        }
        let mut before = 0;
        for part in parts {
            chunk_of_sentence.extend(part.chunk_of_sentence.iter().map(|chunk| chunk + before));
            before += part.chunks() as u32;
        }
        let chunks: Vec<Vec<f32>> =
            parts.iter().flat_map(|part| (0..part.chunks()).map(|at| part.vector(at))).collect();
        let norms = norms(&chunks.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let (scales, codes, chunk_of_sentence) = (scales.into(), codes.into(), chunk_of_sentence.into());
        Some(Self { dim, scales, norms, chunk_of_sentence, codes })
    }

    pub(crate) fn chunks(&self) -> usize {
        self.norms.len()
    }

    fn product(&self, at: usize, query: &[f32]) -> f32 {
        let codes = &self.codes[at * self.dim..(at + 1) * self.dim];
        // In eight lanes, which compilers vectorise.
        let mut lanes = [0.0_f32; 8];
        let (codes, code_rest) = codes.as_chunks::<8>();
        let (values, value_rest) = query.as_chunks::<8>();
        for (codes, values) in codes.iter().zip(values) {
            for ((lane, code), value) in lanes.iter_mut().zip(codes).zip(values) {
                *lane += f32::from(*code) * value;
            }
        }
        let rest: f32 = code_rest.iter().zip(value_rest).map(|(code, value)| f32::from(*code) * value).sum();
        self.scales[at] * (lanes.iter().sum::<f32>() + rest)
    }

    /// For each of the first `live` chunks its likeness to `query`, which has length 1. A chunk without a sentence of its own gets the least
    /// of all sentences, if there are any.
    pub(crate) fn scores(&self, query: &[f32], live: usize) -> Vec<ChunkLikeness> {
        let live = live.min(self.chunks());
        let own: Vec<f32> = (0..live).map(|at| self.product(at, query)).collect();
        // Of each chunk the best score, its place, and how many sentences there are.
        let mut best = vec![(f32::NEG_INFINITY, 0, 0); live];
        let mut least = f32::INFINITY;
        for (at, chunk) in self.chunk_of_sentence.iter().enumerate().take_while(|(_, chunk)| (**chunk as usize) < live)
        {
            let score = self.product(self.chunks() + at, query);
            least = least.min(score);
            let (best, place, count) = &mut best[*chunk as usize];
            if score > *best {
                (*best, *place) = (score, *count);
            }
            *count += 1;
        }
        let score = |at: usize| {
            let before = at.checked_sub(1).map_or(0.0, |before| own[before]);
            let after = own.get(at + 1).copied().unwrap_or(0.0);
            let whole = (own[at] + NEIGHBOURS * (before + after)) / self.norms[at].max(f32::MIN_POSITIVE);
            let other = if least.is_finite() { least } else { whole };
            let (sentence, place, count) = best[at];
            if count == 0 {
                return ChunkLikeness { whole, sentence: other, place: None };
            }
            ChunkLikeness { whole, sentence, place: Some((place, count)) }
        };
        (0..live).map(score).collect()
    }

    /// The sentences of which most stands in a chunk.
    pub(crate) fn sentences_of(&self, chunk: usize) -> Range<usize> {
        let first = |chunk: usize| self.chunk_of_sentence.partition_point(|of| (*of as usize) < chunk);
        first(chunk)..first(chunk + 1)
    }

    /// Cosine of a sentence with a vector of length 1.
    pub(crate) fn likeness(&self, sentence: usize, vector: &[f32]) -> f32 {
        self.product(self.chunks() + sentence, vector)
    }

    /// The vector of a sentence.
    pub(crate) fn sentence(&self, at: usize) -> Vec<f32> {
        self.vector(self.chunks() + at)
    }

    fn vector(&self, at: usize) -> Vec<f32> {
        self.codes[at * self.dim..(at + 1) * self.dim].iter().map(|code| self.scales[at] * f32::from(*code)).collect()
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        4 * (self.scales.len() + self.norms.len() + self.chunk_of_sentence.len()) + self.codes.len() + 160
    }

    /// The blob for the chunk blob `chunks`.
    pub(crate) fn encode(&self, chunks: u64, embedder: &Fingerprint) -> Vec<u8> {
        let mut out = Encoder::default();
        out.bytes.extend_from_slice(MAGIC);
        out.u32(FORMAT).u64(chunks).fingerprint(embedder);
        out.u32(self.dim as u32).u32(self.norms.len() as u32).u32(self.chunk_of_sentence.len() as u32);
        for value in self.scales.iter().chain(&self.norms) {
            out.u32(value.to_bits());
        }
        for chunk in &self.chunk_of_sentence {
            out.u32(*chunk);
        }
        out.bytes.extend(self.codes.iter().map(|code| *code as u8));
        out.checked()
    }

    /// Verifies and parses a blob of any embedder, and tells which one's it is.
    pub(crate) fn decode(bytes: &[u8], chunks: u64, what: &str) -> Result<(Fingerprint, Self)> {
        let mut input = Decoder::checked(bytes, what)?;
        if input.take(8)? != MAGIC || input.u32()? != FORMAT {
            return Err(input.damaged("it does not hold embeddings in a known format"));
        }
        if input.u64()? != chunks {
            return Err(input.damaged("it is of other chunks"));
        }
        let embedder = input.fingerprint()?;
        let (dim, count, sentences) = (input.u32()? as usize, input.u32()? as usize, input.u32()? as usize);
        let vectors = count.saturating_add(sentences);
        let rest = 4_usize.saturating_mul(vectors + count + sentences).saturating_add(vectors.saturating_mul(dim));
        if !(1..=EMBEDDING_DIM_MAX).contains(&dim) || rest != input.rest().len() {
            return Err(input.damaged("its lengths are inconsistent"));
        }
        let mut floats =
            |count: usize| -> Result<Box<[f32]>> { (0..count).map(|_| Ok(f32::from_bits(input.u32()?))).collect() };
        let (scales, norms) = (floats(vectors)?, floats(count)?);
        let chunk_of_sentence: Box<[u32]> = (0..sentences).map(|_| input.u32()).collect::<Result<_>>()?;
        let codes = input.take(vectors * dim)?.iter().map(|code| *code as i8).collect();
        input.end()?;
        let is_sound = scales.iter().chain(&norms).all(|value| value.is_finite() && *value >= 0.0)
            && chunk_of_sentence.is_sorted()
            && chunk_of_sentence.last().is_none_or(|last| (*last as usize) < count);
        if !is_sound {
            return Err(input.damaged("its numbers are inconsistent"));
        }
        Ok((embedder, Self { dim, scales, norms, chunk_of_sentence, codes }))
    }
}
