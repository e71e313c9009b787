//! Chunk blobs: one for each commit (or for each full buffer of a long one), called an extent. The bytes are
//! specified in `docs/format.md`.
//!
//! | part | contents |
//! |---|---|
//! | header | whose chunks these are: enough to rebuild the catalog |
//! | body | for each chunk: keys and values of each slot, lone keys, then span, tokens, text |
//! | words | which words stand in which chunk |
//! | footer | where each chunk starts |

use std::collections::BTreeMap;

use mnemon_memory::{KvGeometry, SourceSpan, Turn};

use crate::error::{Error, Result};
use crate::format::codec::{Decoder, Encoder, NUMBER_MAX};
use crate::format::geometry::{KeySource, StoredGeometry as _};
use crate::format::quant::Shape;
use crate::format::records::{ChunkOffset, ExtentRecord};
use crate::types::info::MemorySpec;
use crate::types::names::check_turns;

/// Version of chunk blobs that are written. Blobs of version 1 end their header with the length of the body; before version 3 they
/// have no words, before version 4 chunks have no turns.
pub(crate) const CHUNKS_FORMAT: u32 = 4;
pub(crate) const CHUNKS_MAGIC: &[u8; 8] = b"MNMNCHNK";
pub(crate) const FOOTER_MAGIC: &[u8; 8] = b"MNMNEND1";
pub(crate) const META_MAGIC: u32 = u32::from_le_bytes(*b"META");
/// Bytes of a chunk's meta part before its tokens.
pub(crate) const META_FIXED: usize = 4 + 4 + 8 + 4 * 8 + 3 * 4;

pub(crate) fn chunks_blob_name(number: u64) -> String {
    format!("chunks-{number:016x}")
}

/// The number in the name of a blob; 0 when there is none.
pub(crate) fn number_of(name: &str) -> u64 {
    let number = name.split_once('-').and_then(|(_, number)| u64::from_str_radix(number, 16).ok());
    number.filter(|number| *number < NUMBER_MAX).unwrap_or(0)
}

/// Bytes of the header before its fields: magic, format, length with padding, length of the fields.
pub(crate) const FIXED: usize = 8 + 4 + 4 + 4;
/// No header is longer: names, metadata and descriptions are bounded.
pub(crate) const HEADER_MAX: usize = 1 << 20;

/// The part of a chunk that is not keys and values.
pub(crate) struct ChunkMeta {
    /// Place of the chunk in its document.
    pub(crate) ordinal: u64,
    pub(crate) span: SourceSpan,
    pub(crate) tokens: Vec<u32>,
    pub(crate) text: String,
    /// First tokens of entries, `[slots, kv_heads, entries]`; only of `Representative`.
    pub(crate) entry_starts: Vec<u16>,
    pub(crate) turns: Vec<Turn>,
}

/// Where the parts of a chunk of `tokens` tokens stand.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    /// Of the keys, and of the values, of a slot.
    shape: Shape,
    lone_shape: Shape,
    /// Of keys and of values of a slot, without checksum and padding.
    side_bytes: [usize; 2],
    /// Of the keys of a lone key head, likewise.
    lone_bytes: usize,
    pub(crate) slots: usize,
    lone: usize,
}

/// Keys or values of a slot, or the keys of a lone key head.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// Byte of the chunk at which it starts.
    pub(crate) offset: usize,
    /// Bytes of its numbers; their checksum and padding follow.
    pub(crate) bytes: usize,
    pub(crate) shape: Shape,
    /// Keys are side 0, values side 1.
    pub(crate) side: usize,
    /// Whose keys or values they are.
    pub(crate) source: KeySource,
}

impl Part {
    /// Bytes with checksum and padding.
    pub(crate) fn stride(self) -> usize {
        stride(self.bytes)
    }
}

fn stride(bytes: usize) -> usize {
    (bytes + 4).next_multiple_of(8)
}

impl Layout {
    pub(crate) fn new(geometry: &KvGeometry, tokens: usize) -> Self {
        Self {
            shape: geometry.shape(tokens),
            lone_shape: geometry.lone_shape(tokens),
            side_bytes: geometry.side_bytes(tokens),
            lone_bytes: geometry.lone_key_bytes(tokens),
            slots: geometry.layers.len(),
            lone: geometry.lone_key_heads().count(),
        }
    }

    pub(crate) fn slot_stride(self) -> usize {
        stride(self.side_bytes[0]) + stride(self.side_bytes[1])
    }

    /// The keys (side 0) or values (side 1) of a slot.
    pub(crate) fn side(self, slot: usize, side: usize) -> Part {
        let before = if side == 0 { 0 } else { stride(self.side_bytes[0]) };
        let offset = slot * self.slot_stride() + before;
        Part { offset, bytes: self.side_bytes[side], shape: self.shape, side, source: KeySource::Slot(slot) }
    }

    fn lone_key(self, lone: usize) -> Part {
        let offset = self.slots * self.slot_stride() + lone * stride(self.lone_bytes);
        Part { offset, bytes: self.lone_bytes, shape: self.lone_shape, side: 0, source: KeySource::Lone(lone) }
    }

    /// The keys at `source`.
    pub(crate) fn keys(self, source: KeySource) -> Part {
        match source {
            KeySource::Slot(slot) => self.side(slot, 0),
            KeySource::Lone(lone) => self.lone_key(lone),
        }
    }

    /// All parts before the meta part, in order.
    pub(crate) fn parts(self) -> impl Iterator<Item = Part> {
        let sides = (0..self.slots).flat_map(move |slot| [0, 1].map(|side| self.side(slot, side)));
        sides.chain((0..self.lone).map(move |lone| self.lone_key(lone)))
    }

    pub(crate) fn meta_offset(self) -> usize {
        self.lone_key(self.lone).offset
    }
}

/// What a chunk blob says about itself.
#[derive(Debug, Clone)]
pub(crate) struct ChunkHeader {
    /// Version of the blob.
    pub(crate) format: u32,
    pub(crate) body_start: u32,
    pub(crate) blob: u64,
    pub(crate) memory_number: u64,
    pub(crate) tenant: String,
    pub(crate) memory: String,
    pub(crate) spec: MemorySpec,
    pub(crate) document: u64,
    pub(crate) document_id: String,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) first_chunk: u64,
    pub(crate) first_ordinal: u64,
    pub(crate) token_start: u64,
    pub(crate) byte_start: u64,
    pub(crate) chunks: u32,
    pub(crate) body_bytes: u64,
    /// Sequence number of the memory when the blob was written; 0 in blobs of version 1.
    pub(crate) after: u64,
}

impl ChunkHeader {
    /// Verifies and parses the beginning of a blob, padding included.
    pub(crate) fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let mut fixed = Decoder::new(bytes, what);
        let (magic, format) = (fixed.take(8)?, fixed.u32()?);
        let (total, fields) = (fixed.u32()? as usize, fixed.u32()? as usize);
        if magic != CHUNKS_MAGIC || !(1..=CHUNKS_FORMAT).contains(&format) {
            return Err(fixed.damaged("its header is not that of chunks in a known format"));
        }
        let end = fields.saturating_add(FIXED + 4);
        if total != end.next_multiple_of(64) || bytes.len() < total {
            return Err(fixed.damaged("the lengths in its header are inconsistent"));
        }
        if bytes[end..total].iter().any(|byte| *byte != 0) {
            return Err(fixed.damaged("the padding of its header is not zero"));
        }
        let mut input = Decoder::checked(&bytes[..end], what)?;
        input.take(FIXED)?;
        let header = Self {
            format,
            body_start: total as u32,
            blob: input.number()?,
            memory_number: input.number()?,
            tenant: input.text()?,
            memory: input.text()?,
            spec: input.spec()?,
            document: input.number()?,
            document_id: input.text()?,
            metadata: input.map()?,
            first_chunk: input.number()?,
            first_ordinal: input.number()?,
            token_start: input.number()?,
            byte_start: input.number()?,
            chunks: input.u32()?,
            body_bytes: input.number()?,
            after: if format == 1 { 0 } else { input.number()? },
        };
        input.end()?;
        Ok(header)
    }

    /// The record of the extent, if the end of the blob tells its places.
    pub(crate) fn record(&self, bytes: &[u8], what: &str) -> Result<ExtentRecord> {
        let damaged = |why: &str| Error::Damaged { what: what.to_owned(), why: why.to_owned() };
        let start = self.body_start as u64 + self.body_bytes;
        let Some(rest) = usize::try_from(start).ok().and_then(|start| bytes.get(start..)) else {
            return Err(damaged("it is shorter than its header says"));
        };
        // Before it stand the words.
        let footer = footer_bytes((self.chunks as usize).saturating_add(1));
        let Some(footer) = rest.len().checked_sub(footer).map(|from| &rest[from..]) else {
            return Err(damaged("it has no footer"));
        };
        let Some((checked, magic)) = footer.split_last_chunk::<8>() else { return Err(damaged("it has no footer")) };
        let mut input = Decoder::checked(checked, what)?;
        let mut places = Vec::new();
        for _ in 0..=self.chunks {
            places.push(ChunkOffset { offset: input.u32()?, tokens: input.u32()?, bytes: input.u32()? });
        }
        let count = input.u32()? as usize;
        input.end()?;
        if magic != FOOTER_MAGIC || count != places.len() {
            return Err(damaged("its footer is inconsistent"));
        }
        let record = ExtentRecord {
            blob: self.blob,
            blob_bytes: bytes.len() as u64,
            body_start: self.body_start,
            document: self.document,
            first_ordinal: self.first_ordinal,
            token_start: self.token_start,
            byte_start: self.byte_start,
            live: self.chunks,
            places,
        };
        // The rules for places are those of records.
        ExtentRecord::decode(&record.encode(), what)
    }
}

/// Verifies and parses the meta part of a chunk; returns its length without padding as well.
pub(crate) fn decode_meta(bytes: &[u8], what: &str) -> Result<(ChunkMeta, usize)> {
    let mut input = Decoder::new(bytes, what);
    let (magic, len) = (input.u32()?, input.u32()? as usize);
    if magic != META_MAGIC || len > bytes.len() {
        return Err(input.damaged("not the meta part of a chunk"));
    }
    let mut input = Decoder::checked(&bytes[..len], what)?;
    // Magic and length.
    input.take(8)?;
    let ordinal = input.u64()?;
    let span = SourceSpan {
        byte_start: input.u64()?,
        byte_end: input.u64()?,
        token_start: input.u64()?,
        token_end: input.u64()?,
    };
    let (tokens, starts, text) = (input.u32()? as usize, input.u32()? as usize, input.u32()? as usize);
    let tokens = input.take(tokens.saturating_mul(4))?.as_chunks::<4>().0;
    let starts = input.take(starts.saturating_mul(2))?.as_chunks::<2>().0;
    let text = input.take(text)?.to_vec();
    let text = String::from_utf8(text).map_err(|_| input.damaged("its text is not UTF-8"))?;
    let turns = if input.is_empty() { Vec::new() } else { decode_turns(&mut input)? };
    check_turns(&text, &turns).map_err(|error| input.damaged(&error.to_string()))?;
    let meta = ChunkMeta {
        ordinal,
        span,
        tokens: tokens.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect(),
        entry_starts: starts.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect(),
        text,
        turns,
    };
    input.end()?;
    Ok((meta, len))
}

fn decode_turns(input: &mut Decoder<'_>) -> Result<Vec<Turn>> {
    let count = input.count(8)?;
    (0..count).map(|_| Ok(Turn { start: input.u32()?, metadata: input.map()? })).collect()
}

/// Bytes of the footer of a blob with `places` places.
pub(crate) fn footer_bytes(places: usize) -> usize {
    places.saturating_mul(12).saturating_add(4 + 4 + FOOTER_MAGIC.len())
}

/// The end of a blob whose chunks have these places.
pub(crate) fn footer_of(places: &[ChunkOffset]) -> Vec<u8> {
    let mut footer = Encoder::default();
    for place in places {
        footer.u32(place.offset).u32(place.tokens).u32(place.bytes);
    }
    footer.u32(places.len() as u32);
    let mut bytes = footer.checked();
    bytes.extend_from_slice(FOOTER_MAGIC);
    bytes
}
