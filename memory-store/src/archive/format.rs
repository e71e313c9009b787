//! Sections of an archive, and what each says.
//!
//! A reader ignores what follows the fields that it knows in `SPEC`, `DOCU` and `ENDS`: later versions may add to them
//! without a new format. What must not be ignored raises [`ARCHIVE_FORMAT`].

use std::collections::BTreeMap;

use mnemon_memory::ResumePoint;

use crate::error::Result;
use crate::format::codec::{Decoder, Encoder};
use crate::format::records::{ChunkOffset, decode_limits, encode_limits};
use crate::types::info::{MemorySpec, check_spec};
use crate::types::limits::{MemoryLimits, check_ttl};
use crate::types::names::{check_document_id, check_metadata, check_name};

/// Version of archives that this code writes, and the latest that it reads.
pub const ARCHIVE_FORMAT: u32 = 2;
/// Bytes of the contents of one section at most. A memory whose chunks are larger cannot be exported.
pub const SECTION_BYTES_MAX: usize = 256 << 20;

pub(crate) const MAGIC: &[u8; 8] = b"MNMNARCH";
/// Magic, format, checksum.
pub(crate) const HEADER_BYTES: usize = 8 + 4 + 4;
/// Kind, length, checksum of both.
pub(crate) const HEAD_BYTES: usize = 4 + 4 + 4;
/// Bytes after the last section: BLAKE3 of everything before.
pub(crate) const DIGEST_BYTES: usize = 32;
/// Bytes of the contents of a section without chunks at most.
pub(crate) const SMALL_SECTION_BYTES_MAX: usize = 1 << 20;

/// Kinds of sections, as they stand in the file.
pub(crate) const SPEC: [u8; 4] = *b"SPEC";
pub(crate) const DOCUMENT: [u8; 4] = *b"DOCU";
pub(crate) const CHUNKS: [u8; 4] = *b"CHNK";
pub(crate) const END: [u8; 4] = *b"ENDS";

/// What a memory holds, in sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArchiveTotals {
    /// Documents.
    pub documents: u64,
    /// Chunks.
    pub chunks: u64,
    /// Tokens of these chunks.
    pub tokens: u64,
    /// Bytes of text of these chunks.
    pub text_bytes: u64,
}

/// The memory that an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSpec {
    /// Name that it had.
    pub name: String,
    /// Model, shape, description.
    pub spec: MemorySpec,
    /// When it was created, milliseconds since 1970-01-01 UTC.
    pub created_unix_ms: u64,
    /// Number of its last change.
    pub sequence: u64,
    /// How long it and its documents live, and how much it may hold.
    pub limits: MemoryLimits,
    /// What follows.
    pub totals: ArchiveTotals,
}

/// A document of an archive; its chunks follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveDocument {
    /// Identifier, as given by the user.
    pub id: String,
    /// What the user attached to it.
    pub metadata: BTreeMap<String, String>,
    /// First commit, milliseconds since 1970-01-01 UTC.
    pub created_unix_ms: u64,
    /// Last commit, milliseconds since 1970-01-01 UTC.
    pub updated_unix_ms: u64,
    /// Number of the memory's change that was its last commit.
    pub sequence: u64,
    /// Chunks, lost ones included.
    pub chunks: u64,
    /// Tokens, likewise.
    pub tokens: u64,
    /// Bytes of text, likewise.
    pub bytes: u64,
    /// From where to go on.
    pub resume: ResumePoint,
    /// Of the chunks, those that damage took: they are not in the archive either.
    pub lost_chunks: u64,
    /// Its own time to live, in milliseconds.
    pub ttl_ms: Option<u64>,
}

/// Makes the bytes of an archive, in order.
#[derive(Default)]
pub(crate) struct SectionWriter {
    digest: blake3::Hasher,
}

impl SectionWriter {
    fn hashed(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        self.digest.update(&bytes);
        bytes
    }

    pub(crate) fn header(&mut self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.bytes.extend_from_slice(MAGIC);
        out.u32(ARCHIVE_FORMAT);
        self.hashed(out.checked())
    }

    /// A section with `parts` one after another as contents; these are at most [`SECTION_BYTES_MAX`].
    pub(crate) fn section(&mut self, kind: [u8; 4], parts: &[&[u8]]) -> Vec<u8> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut head = Encoder::default();
        head.bytes.extend_from_slice(&kind);
        head.u32(len as u32);
        let mut out = head.checked();
        out.reserve(len + 4);
        for part in parts {
            out.extend_from_slice(part);
        }
        let checksum = crc32fast::hash(&out[HEAD_BYTES..]);
        out.extend_from_slice(&checksum.to_le_bytes());
        self.hashed(out)
    }

    /// What follows the last section.
    pub(crate) fn digest(&self) -> [u8; DIGEST_BYTES] {
        *self.digest.finalize().as_bytes()
    }
}

impl ArchiveTotals {
    pub(crate) fn encode(&self, out: &mut Encoder) {
        out.u64(self.documents).u64(self.chunks).u64(self.tokens).u64(self.text_bytes);
    }

    pub(crate) fn decode(input: &mut Decoder<'_>) -> Result<Self> {
        Ok(Self {
            documents: input.number()?,
            chunks: input.number()?,
            tokens: input.number()?,
            text_bytes: input.number()?,
        })
    }
}

impl ArchiveSpec {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.text(&self.name).spec(&self.spec);
        out.u64(self.created_unix_ms).u64(self.sequence);
        self.totals.encode(&mut out);
        if self.limits != MemoryLimits::default() {
            encode_limits(&mut out, &self.limits);
        }
        out.bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes, "spec");
        let name = input.text()?;
        let spec = input.spec()?;
        let created_unix_ms = input.number()?;
        let sequence = input.number()?;
        let totals = ArchiveTotals::decode(&mut input)?;
        let limits = if input.is_empty() { MemoryLimits::default() } else { decode_limits(&mut input)? };
        limits.validate()?;
        check_name("memory name", &name)?;
        check_spec(&spec)?;
        Ok(Self { name, spec, created_unix_ms, sequence, limits, totals })
    }
}

impl ArchiveDocument {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.text(&self.id).u64(self.created_unix_ms).u64(self.updated_unix_ms).u64(self.sequence);
        out.u64(self.chunks).u64(self.tokens).u64(self.bytes);
        out.u64(self.resume.safe_byte).u64(self.resume.safe_token).u8(u8::from(self.resume.complete));
        out.map(&self.metadata).u64(self.lost_chunks);
        if let Some(ttl_ms) = self.ttl_ms {
            out.u64(ttl_ms);
        }
        out.bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes, "document");
        let document = Self {
            id: input.text()?,
            created_unix_ms: input.number()?,
            updated_unix_ms: input.number()?,
            sequence: input.number()?,
            chunks: input.number()?,
            tokens: input.number()?,
            bytes: input.number()?,
            resume: ResumePoint { safe_byte: input.number()?, safe_token: input.number()?, complete: input.u8()? != 0 },
            metadata: input.map()?,
            lost_chunks: input.number()?,
            ttl_ms: if input.is_empty() { None } else { Some(input.u64()?).filter(|ttl_ms| *ttl_ms > 0) },
        };
        check_ttl("ttl", document.ttl_ms)?;
        check_document_id(&document.id)?;
        check_metadata(&document.metadata)?;
        let resume = document.resume;
        if resume.safe_byte > document.bytes || resume.safe_token > document.tokens {
            return Err(input.damaged("its resume point lies past its end"));
        }
        Ok(document)
    }
}

/// Consecutive chunks of a document before their bytes.
pub(crate) fn encode_places(first_ordinal: u64, token_start: u64, byte_start: u64, places: &[ChunkOffset]) -> Vec<u8> {
    let mut out = Encoder::default();
    out.u64(first_ordinal).u64(token_start).u64(byte_start).u32(places.len() as u32);
    for place in places {
        out.u32(place.offset).u32(place.tokens).u32(place.bytes);
    }
    out.bytes
}
