//! Chunks of an archive, verified as a writer would.

use mnemon_memory::{EntryPolicy, KvGeometry};

use super::format::ArchiveDocument;
use crate::engine::inspection::inspect_chunk;
use crate::engine::state::entries_of;
use crate::error::{Error, Result};
use crate::format::chunk_blob::{Layout, decode_meta};
use crate::format::codec::Decoder;
use crate::format::kv_codec::side_is_finite;
use crate::format::records::{ChunkOffset, ExtentRecord};

/// The document at hand, as far as its chunks came.
pub(super) struct Current {
    pub(super) document: ArchiveDocument,
    /// Chunks, tokens and bytes up to the end of the last chunk.
    pub(super) end: (u64, u64, u64),
    pub(super) lost: u64,
}

/// Consecutive chunks of one document as they are stored.
pub struct ArchiveChunks {
    pub(super) first_ordinal: u64,
    pub(super) token_start: u64,
    pub(super) byte_start: u64,
    pub(super) places: Vec<ChunkOffset>,
    pub(super) body: Vec<u8>,
    /// Whether any of them is of a turn.
    pub(super) has_turns: bool,
}

impl std::fmt::Debug for ArchiveChunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ArchiveChunks({} from {} on)", self.len(), self.first_ordinal)
    }
}

impl ArchiveChunks {
    /// Number of chunks; at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.places.len().saturating_sub(1)
    }

    /// Sizes in tokens, bytes of text, and stored bytes, of each chunk.
    pub(super) fn chunks(&self) -> impl Iterator<Item = (u32, u32, &[u8])> {
        self.places.windows(2).map(|pair| {
            let stored = &self.body[pair[0].offset as usize..pair[1].offset as usize];
            (pair[1].tokens - pair[0].tokens, pair[1].bytes - pair[0].bytes, stored)
        })
    }
}

/// Consecutive chunks that must follow what came before of the document at hand.
pub(super) fn decode_chunks(contents: &[u8], current: &mut Current, geometry: &KvGeometry) -> Result<ArchiveChunks> {
    let mut input = Decoder::new(contents, "chunks");
    let (first_ordinal, token_start, byte_start) = (input.number()?, input.number()?, input.number()?);
    let places = input.count(12)?;
    let places: Vec<ChunkOffset> = (0..places)
        .map(|_| Ok(ChunkOffset { offset: input.u32()?, tokens: input.u32()?, bytes: input.u32()? }))
        .collect::<Result<_>>()?;
    let body = input.rest();
    let ascending = places.windows(2).all(|pair| {
        pair[0].offset < pair[1].offset && pair[0].tokens < pair[1].tokens && pair[0].bytes <= pair[1].bytes
    });
    let ends = places.first() == Some(&ChunkOffset::default())
        && places.last().is_some_and(|end| end.offset as usize == body.len());
    if places.len() < 2 || !ascending || !ends {
        return refused("the places of chunks are inconsistent");
    }
    let (chunks, tokens, bytes) = current.end;
    let gap = first_ordinal.checked_sub(chunks);
    let follows = match gap {
        Some(0) => (token_start, byte_start) == (tokens, bytes),
        // Chunks that were lost had a token at least.
        Some(lost) => token_start >= tokens + lost && byte_start >= bytes,
        None => false,
    };
    if !follows {
        return refused("chunks do not follow each other");
    }
    let live = places.len() as u64 - 1;
    let end = places[places.len() - 1];
    current.end = (first_ordinal + live, token_start + u64::from(end.tokens), byte_start + u64::from(end.bytes));
    current.lost += gap.unwrap_or(0);
    let document = &current.document;
    if current.end.0 > document.chunks || current.end.1 > document.tokens || current.end.2 > document.bytes {
        return refused("chunks lie past the end of their document");
    }
    check_chunks(body, places, (first_ordinal, token_start, byte_start), geometry)
}

/// Verifies every byte of the chunks.
fn check_chunks(
    body: &[u8],
    places: Vec<ChunkOffset>,
    (first_ordinal, token_start, byte_start): (u64, u64, u64),
    geometry: &KvGeometry,
) -> Result<ArchiveChunks> {
    // What is said of an extent is what `inspect_chunk` goes by.
    let live = places.len() as u32 - 1;
    let (document, blob, blob_bytes, body_start) = (0, 0, 0, 0);
    let record =
        ExtentRecord { blob, blob_bytes, body_start, document, first_ordinal, token_start, byte_start, live, places };
    let mut has_turns = false;
    for (index, pair) in record.places.windows(2).enumerate() {
        let tokens = (pair[1].tokens - pair[0].tokens) as usize;
        if tokens > geometry.chunk_tokens as usize {
            return refused("a chunk has more tokens than the shape of the memory allows");
        }
        let stored = &body[pair[0].offset as usize..pair[1].offset as usize];
        let mut faults = Vec::new();
        inspect_chunk(stored, &record, index, geometry, &mut faults);
        if let Some(fault) = faults.into_iter().next() {
            return refused(&format!("a chunk: {fault}"));
        }
        has_turns |= check_chunk(stored, tokens, geometry)?;
    }
    let body = body.to_vec();
    Ok(ArchiveChunks { first_ordinal, token_start, byte_start, places: record.places, body, has_turns })
}

/// What a writer checks of a chunk and a checksum does not tell; whether it is of a turn.
fn check_chunk(stored: &[u8], tokens: usize, geometry: &KvGeometry) -> Result<bool> {
    let layout = Layout::new(geometry, tokens);
    for part in layout.parts() {
        let data = &stored[part.offset..][..part.bytes];
        if !side_is_finite(data, part.shape, geometry.dtype, part.side) {
            return refused("a key or value is not finite");
        }
    }
    let (meta, _) = decode_meta(&stored[layout.meta_offset()..], "meta")?;
    let starts = &meta.entry_starts;
    let sound = match geometry.entry_policy {
        EntryPolicy::Representative { .. } => {
            let entries = entries_of(geometry.entry_policy, tokens);
            starts.len() == entries * layout.slots * geometry.kv_heads as usize
                && starts.chunks(entries.max(1)).all(|starts| {
                    starts.windows(2).all(|pair| pair[0] < pair[1])
                        && starts.iter().all(|start| usize::from(*start) < tokens)
                })
        }
        _ => starts.is_empty(),
    };
    if sound { Ok(!meta.turns.is_empty()) } else { refused("the entries of a chunk are inconsistent") }
}

/// The archive cannot be used; its reader adds where.
pub(super) fn refused<T>(why: &str) -> Result<T> {
    Err(Error::Archive { byte: 0, why: why.into() })
}
