//! Keys and values of the catalog (see `docs/format.md`).
//!
//! | key | value |
//! |---|---|
//! | `v` | version of the format |
//! | `r` | the numbers that may be in use |
//! | `n` tenant 0 name | a memory: number, creation time, spec, limits |
//! | `g` memory | a deleted memory: empty while its records are being removed, then 1 |
//! | `m` memory | its last change: sequence number, time |
//! | `d` memory, document id | a document |
//! | `e` memory, first chunk | an extent: the chunks of one blob |
//! | `x` memory, segment | a sealed segment: its extents and graphs |
//! | `c` memory | it is becoming a copy: number of the memory that it is made from |
//! | `s` memory, segment | the same, with graphs of version 1: removed at opening |
//!
//! Numbers in keys are big-endian, so that scans ascend.

use std::collections::BTreeMap;

use mnemon_memory::ResumePoint;

use crate::error::Result;
use crate::format::codec::{Decoder, Encoder, NUMBER_MAX};
use crate::types::info::{DocumentInfo, MemorySpec};
use crate::types::limits::MemoryLimits;

/// Version of records and blobs that this code writes and reads.
pub(crate) const FORMAT_VERSION: u32 = 1;
pub(crate) const VERSION_KEY: &[u8] = b"v";
/// Kind of the records of segments. `s` was the kind while graphs were of version 1.
pub(crate) const SEGMENT_KIND: u8 = b'x';
pub(crate) const OLD_SEGMENT_KIND: u8 = b's';
/// Kind of the records of memories that are not yet the copy that they become; the value is as that of `m`.
pub(crate) const COPY_KIND: u8 = b'c';
pub(crate) const RESERVED_KEY: &[u8] = b"r";
/// Kinds of numbers: memories, documents, chunks, blobs, segments.
pub(crate) const ID_KINDS: usize = 5;

/// The record `v`.
pub(crate) fn encode_version() -> Vec<u8> {
    let mut out = Encoder::default();
    out.u32(FORMAT_VERSION);
    out.checked()
}

/// Reads the record `v`, which was four bytes without a checksum once.
pub(crate) fn decode_version(bytes: &[u8]) -> Result<u32> {
    match <[u8; 4]>::try_from(bytes) {
        Ok(bytes) => Ok(u32::from_le_bytes(bytes)),
        Err(_) => Decoder::checked(bytes, "the version of the catalog")?.u32(),
    }
}

/// The record `m`: the last change of a memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ChangeRecord {
    /// Its sequence number.
    pub(crate) sequence: u64,
    /// Time of the last change that somebody asked for; 0 when it is not known. Absent then, and in older records.
    pub(crate) changed_unix_ms: u64,
}

impl ChangeRecord {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u64(self.sequence);
        if self.changed_unix_ms > 0 {
            out.u64(self.changed_unix_ms);
        }
        out.checked()
    }

    /// Reads the record, which was eight bytes without a checksum once.
    pub(crate) fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        if bytes.len() == 8 {
            return Ok(Self { sequence: Decoder::new(bytes, what).number()?, changed_unix_ms: 0 });
        }
        let mut input = Decoder::checked(bytes, what)?;
        let sequence = input.number()?;
        let record = Self { sequence, changed_unix_ms: if input.is_empty() { 0 } else { input.u64()? } };
        input.end()?;
        Ok(record)
    }
}

/// The record `m` of a memory of which the time of the last change is not known.
pub(crate) fn encode_sequence(sequence: u64) -> Vec<u8> {
    ChangeRecord { sequence, changed_unix_ms: 0 }.encode()
}

/// The sequence number of the record `m`.
pub(crate) fn decode_sequence(bytes: &[u8], what: &str) -> Result<u64> {
    Ok(ChangeRecord::decode(bytes, what)?.sequence)
}

/// The record `r`: numbers of each kind below these may be in use.
pub(crate) fn encode_reserved(reserved: [u64; ID_KINDS]) -> Vec<u8> {
    let mut out = Encoder::default();
    for number in reserved {
        out.u64(number);
    }
    out.checked()
}

pub(crate) fn decode_reserved(bytes: &[u8]) -> Result<[u64; ID_KINDS]> {
    let mut input = Decoder::checked(bytes, "the record of reserved numbers")?;
    let mut reserved = [0; ID_KINDS];
    for number in &mut reserved {
        *number = input.number()?;
    }
    input.end()?;
    Ok(reserved)
}

/// The number that stands in a key from byte `at` on.
pub(crate) fn number_in_key(key: &[u8], at: usize) -> Option<u64> {
    let number = key.get(at..)?.first_chunk::<8>().map(|number| u64::from_be_bytes(*number))?;
    (number < NUMBER_MAX).then_some(number)
}

/// Tenant and name in the key of a memory.
pub(crate) fn names_of(key: &[u8]) -> Option<(String, String)> {
    let (tenant, name) = str::from_utf8(key.get(1..)?).ok()?.split_once('\0')?;
    Some((tenant.to_owned(), name.to_owned()))
}

pub(crate) fn name_key(tenant: &str, name: &str) -> Vec<u8> {
    [b"n", tenant.as_bytes(), b"\0", name.as_bytes()].concat()
}

pub(crate) fn memory_key(kind: u8, memory: u64) -> Vec<u8> {
    [&[kind][..], &memory.to_be_bytes()].concat()
}

pub(crate) fn document_key(memory: u64, id: &str) -> Vec<u8> {
    [&memory_key(b'd', memory), id.as_bytes()].concat()
}

pub(crate) fn extent_key(memory: u64, first_chunk: u64) -> Vec<u8> {
    [memory_key(b'e', memory), first_chunk.to_be_bytes().to_vec()].concat()
}

pub(crate) fn segment_key(memory: u64, segment: u64) -> Vec<u8> {
    [memory_key(SEGMENT_KIND, memory), segment.to_be_bytes().to_vec()].concat()
}

/// A memory as the catalog names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameRecord {
    pub(crate) number: u64,
    pub(crate) created_unix_ms: u64,
    pub(crate) spec: MemorySpec,
    /// Absent when there are none, and in older records.
    pub(crate) limits: MemoryLimits,
}

impl NameRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u64(self.number).u64(self.created_unix_ms).spec(&self.spec);
        if self.limits != MemoryLimits::default() {
            encode_limits(&mut out, &self.limits);
        }
        out.checked()
    }

    pub(crate) fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let mut input = Decoder::checked(bytes, what)?;
        let record = Self {
            number: input.number()?,
            created_unix_ms: input.u64()?,
            spec: input.spec()?,
            limits: if input.is_empty() { MemoryLimits::default() } else { decode_limits(&mut input)? },
        };
        input.end()?;
        Ok(record)
    }
}

pub(crate) fn encode_limits(out: &mut Encoder, limits: &MemoryLimits) {
    for limit in [limits.ttl_ms, limits.document_ttl_ms, limits.max_tokens, limits.max_bytes] {
        out.u64(limit.unwrap_or(0));
    }
}

pub(crate) fn decode_limits(input: &mut Decoder<'_>) -> Result<MemoryLimits> {
    let mut limit = || -> Result<Option<u64>> { Ok(Some(input.u64()?).filter(|limit| *limit > 0)) };
    Ok(MemoryLimits { ttl_ms: limit()?, document_ttl_ms: limit()?, max_tokens: limit()?, max_bytes: limit()? })
}

/// A document; its identifier is in the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DocumentRecord {
    pub(crate) number: u64,
    pub(crate) created_unix_ms: u64,
    pub(crate) updated_unix_ms: u64,
    pub(crate) sequence: u64,
    pub(crate) chunks: u64,
    pub(crate) tokens: u64,
    pub(crate) bytes: u64,
    pub(crate) resume: ResumePoint,
    pub(crate) metadata: BTreeMap<String, String>,
    /// Of the chunks, those that damage took. Absent in older records.
    pub(crate) lost_chunks: u64,
    /// Its own time to live. Absent when there is none, and in older records.
    pub(crate) ttl_ms: Option<u64>,
    /// Whether any of its chunks may be of a turn. Absent when none is, and in older records.
    pub(crate) has_turns: bool,
}

impl DocumentRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u64(self.number).u64(self.created_unix_ms).u64(self.updated_unix_ms).u64(self.sequence);
        out.u64(self.chunks).u64(self.tokens).u64(self.bytes);
        out.u64(self.resume.safe_byte).u64(self.resume.safe_token).u8(u8::from(self.resume.complete));
        out.map(&self.metadata);
        if self.lost_chunks > 0 || self.ttl_ms.is_some() || self.has_turns {
            out.u64(self.lost_chunks);
        }
        if self.ttl_ms.is_some() || self.has_turns {
            out.u64(self.ttl_ms.unwrap_or(0));
        }
        if self.has_turns {
            out.u8(1);
        }
        out.checked()
    }

    pub(crate) fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let mut input = Decoder::checked(bytes, what)?;
        let record = Self {
            number: input.number()?,
            created_unix_ms: input.u64()?,
            updated_unix_ms: input.u64()?,
            sequence: input.number()?,
            chunks: input.number()?,
            tokens: input.number()?,
            bytes: input.number()?,
            resume: ResumePoint { safe_byte: input.u64()?, safe_token: input.u64()?, complete: input.u8()? != 0 },
            metadata: input.map()?,
            lost_chunks: if input.is_empty() { 0 } else { input.number()? },
            ttl_ms: if input.is_empty() { None } else { Some(input.u64()?).filter(|ttl_ms| *ttl_ms > 0) },
            has_turns: !input.is_empty() && input.u8()? != 0,
        };
        input.end()?;
        Ok(record)
    }

    /// What is told of it in a memory with these limits.
    pub(crate) fn info(self, id: String, limits: &MemoryLimits) -> DocumentInfo {
        DocumentInfo {
            id,
            ttl_ms: self.ttl_ms,
            expires_unix_ms: self.expires_unix_ms(limits.document_ttl_ms),
            number: self.number,
            metadata: self.metadata,
            tokens: self.tokens,
            chunks: self.chunks,
            bytes: self.bytes,
            sequence: self.sequence,
            created_unix_ms: self.created_unix_ms,
            updated_unix_ms: self.updated_unix_ms,
            complete: self.resume.complete,
            resume: self.resume,
            lost_chunks: self.lost_chunks,
        }
    }
}

/// An extent; its first chunk is in the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExtentRecord {
    pub(crate) blob: u64,
    pub(crate) blob_bytes: u64,
    pub(crate) body_start: u32,
    pub(crate) document: u64,
    pub(crate) first_ordinal: u64,
    pub(crate) token_start: u64,
    pub(crate) byte_start: u64,
    pub(crate) live: u32,
    pub(crate) places: Vec<ChunkOffset>,
}

impl ExtentRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u64(self.blob).u64(self.blob_bytes).u32(self.body_start).u64(self.document).u64(self.first_ordinal);
        out.u64(self.token_start).u64(self.byte_start).u32(self.live).u32(self.places.len() as u32);
        for place in &self.places {
            out.u32(place.offset).u32(place.tokens).u32(place.bytes);
        }
        out.checked()
    }

    /// Tokens of its longest chunk.
    pub(crate) fn longest_chunk(&self) -> u32 {
        self.places.windows(2).map(|pair| pair[1].tokens.saturating_sub(pair[0].tokens)).max().unwrap_or(0)
    }

    pub(crate) fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let mut input = Decoder::checked(bytes, what)?;
        let mut record = Self {
            blob: input.number()?,
            blob_bytes: input.number()?,
            body_start: input.u32()?,
            document: input.number()?,
            first_ordinal: input.number()?,
            token_start: input.number()?,
            byte_start: input.number()?,
            live: input.u32()?,
            places: Vec::new(),
        };
        let count = input.count(12)?;
        for _ in 0..count {
            record.places.push(ChunkOffset { offset: input.u32()?, tokens: input.u32()?, bytes: input.u32()? });
        }
        input.end()?;
        let ascending = record.places.windows(2).all(|pair| {
            pair[0].offset < pair[1].offset && pair[0].tokens < pair[1].tokens && pair[0].bytes <= pair[1].bytes
        });
        let from_start = record.places.first() == Some(&ChunkOffset::default());
        if count < 2 || record.live as usize >= count || !ascending || !from_start {
            return Err(input.damaged("its table of chunks is inconsistent"));
        }
        Ok(record)
    }
}

/// A graph blob of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GraphRecord {
    pub(crate) blob: u64,
    pub(crate) blob_bytes: u64,
}

/// A sealed segment; its number is in the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentRecord {
    /// Chunks that were indexed, dead ones included.
    pub(crate) chunks: u64,
    /// Entries of each graph.
    pub(crate) entries: u32,
    /// First chunks of the extents covered, ascending.
    pub(crate) extents: Vec<u64>,
    /// One for each key head, in the order of the geometry.
    pub(crate) graphs: Vec<GraphRecord>,
}

impl SegmentRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u64(self.chunks).u32(self.entries).u32(self.extents.len() as u32);
        for extent in &self.extents {
            out.u64(*extent);
        }
        out.u32(self.graphs.len() as u32);
        for graph in &self.graphs {
            out.u64(graph.blob).u64(graph.blob_bytes);
        }
        out.checked()
    }

    pub(crate) fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let mut input = Decoder::checked(bytes, what)?;
        let (chunks, entries) = (input.number()?, input.u32()?);
        let count = input.count(8)?;
        let extents = (0..count).map(|_| input.u64()).collect::<Result<_>>()?;
        let count = input.count(16)?;
        let graphs = (0..count)
            .map(|_| Ok(GraphRecord { blob: input.number()?, blob_bytes: input.number()? }))
            .collect::<Result<_>>()?;
        input.end()?;
        Ok(Self { chunks, entries, extents, graphs })
    }
}

/// Where a chunk starts, relative to its extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ChunkOffset {
    /// Byte of the body.
    pub(crate) offset: u32,
    /// Tokens before it.
    pub(crate) tokens: u32,
    /// Bytes of text before it.
    pub(crate) bytes: u32,
}
