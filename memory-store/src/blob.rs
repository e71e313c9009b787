//! A chunk blob as a whole, byte by byte: for whoever checks, repairs or compacts. Readers of single chunks use `extent`.

use std::collections::{BTreeMap, HashSet};

use crate::codec::Decoder;
use crate::core::Cell;
use crate::extent::{
    CHUNKS_FORMAT, CHUNKS_MAGIC, ChunkPlace, FOOTER_MAGIC, Layout, Part, chunks_blob_name, decode_meta, footer_bytes,
    footer_of,
};
use crate::geometry::KeySource;
use crate::records::ExtentRecord;
use crate::storage::{BlobInfo, Storage};
use crate::words::WordIndex;
use crate::{Error, KeyHead, KvGeometry, MemorySpec, Result};

/// Bytes of the header before its fields: magic, format, length with padding, length of the fields.
const FIXED: usize = 8 + 4 + 4 + 4;
/// No header is longer: names, metadata and descriptions are bounded.
const HEADER_MAX: usize = 1 << 20;

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
            spec: MemorySpec {
                fingerprint: input.fingerprint()?,
                geometry: input.geometry()?,
                model_name: input.text()?,
                description: input.text()?,
            },
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

    /// Reads and verifies the header of blob `name`, which has `bytes` bytes.
    pub(crate) fn read(storage: &dyn Storage, name: &str, bytes: u64) -> Result<Self> {
        let what = format!("blob {name} in {}", storage.location());
        let len = storage.read_blob(name, 0, FIXED.min(bytes as usize))?;
        let total = len.get(12..16).map_or(0, |len| Decoder::new(len, &what).u32().unwrap_or(0)) as usize;
        let header = Self::decode(&storage.read_blob(name, 0, total.min(HEADER_MAX).min(bytes as usize))?, &what)?;
        if chunks_blob_name(header.blob) != name {
            let why = format!("its header names blob {}", header.blob);
            return Err(Error::Damaged { what, why });
        }
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
            places.push(ChunkPlace { offset: input.u32()?, tokens: input.u32()?, bytes: input.u32()? });
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

/// Marks memories whose blobs know of later changes than their records: such records lost what was acknowledged. Returns
/// whether all blobs are of memories that are known, or were `deleted`.
pub(crate) fn find_stale(
    storage: &dyn Storage,
    unused: &[BlobInfo],
    cells: &mut [Cell],
    deleted: &HashSet<u64>,
) -> Result<bool> {
    let mut known = true;
    for blob in unused.iter().filter(|blob| blob.name.starts_with("chunks-")) {
        let header = match ChunkHeader::read(storage, &blob.name, blob.bytes) {
            Ok(header) => header,
            // Torn by the crash that left it without a record.
            Err(Error::Damaged { .. }) => continue,
            Err(error) => return Err(error),
        };
        let Some(cell) = cells.iter_mut().find(|cell| cell.number == header.memory_number) else {
            if !deleted.contains(&header.memory_number) {
                known = false;
                let (blob, memory) = (&blob.name, &header.memory);
                tracing::error!(blob, memory, "a blob is of a memory that the catalog lost; run `mnemon check`");
            }
            continue;
        };
        let sequence = cell.state().sequence;
        if cell.damaged.is_none() && header.after > sequence {
            let why = format!("its records end at change {sequence}, but blobs know of change {}", header.after);
            cell.damaged = Some(why);
        }
    }
    Ok(known)
}

/// What is wrong with a blob.
#[derive(Debug, Default)]
pub(crate) struct Inspection {
    /// Whether each chunk is whole: keys, values, tokens and text.
    pub(crate) sound: Vec<bool>,
    /// Everything that is not as it should be, in order. Chunks are counted within their document.
    pub(crate) faults: Vec<String>,
}

/// Verifies every byte of the blob whose chunks `record` describes, the first of them being `first_chunk`.
pub(crate) fn inspect(bytes: &[u8], record: &ExtentRecord, first_chunk: u64, geometry: &KvGeometry) -> Inspection {
    let mut found = Inspection::default();
    let mut has_words = true;
    match ChunkHeader::decode(bytes, "header") {
        Err(error) => found.faults.push(why(error)),
        Ok(header) => {
            has_words = header.format >= 3;
            let stored = (header.body_start, header.document, header.first_chunk, header.first_ordinal);
            let known = (record.body_start, record.document, first_chunk, record.first_ordinal);
            let stored = (stored, header.token_start, header.byte_start, header.blob, header.chunks as usize + 1);
            if stored != (known, record.token_start, record.byte_start, record.blob, record.places.len()) {
                found.faults.push("its header describes other chunks than its record".into());
            }
            if header.spec.geometry != *geometry {
                found.faults.push("its header tells another geometry than its memory has".into());
            }
        }
    }
    let start = record.body_start as usize;
    for (index, pair) in record.places.windows(2).enumerate() {
        let range = start.saturating_add(pair[0].offset as usize)..start.saturating_add(pair[1].offset as usize);
        let Some(chunk) = bytes.get(range) else {
            found.sound.push(false);
            found.faults.push(format!("chunk {} lies past its end", record.first_ordinal + index as u64));
            continue;
        };
        let faults = found.faults.len();
        let sound = inspect_chunk(chunk, record, index, geometry, &mut found.faults);
        for fault in &mut found.faults[faults..] {
            *fault = format!("chunk {}: {fault}", record.first_ordinal + index as u64);
        }
        found.sound.push(sound);
    }
    let end = start.saturating_add(record.places.last().map_or(0, |place| place.offset as usize));
    let footer = footer_of(&record.places);
    match bytes.get(end..).and_then(|rest| rest.strip_suffix(&footer[..])) {
        None => found.faults.push("its footer is not what its chunks need".into()),
        Some([]) if !has_words => {}
        Some(words) => {
            let chunks = record.places.len() as u32 - 1;
            let read = WordIndex::decode(words, "words");
            if let Err(error) = read.and_then(|words| words.map_or(Ok(()), |words| words.check_chunks(chunks, "words")))
            {
                found.faults.push(why(error));
            }
        }
    }
    if bytes.len() as u64 != record.blob_bytes {
        found.faults.push(format!("it has {} bytes instead of {}", bytes.len(), record.blob_bytes));
    }
    found
}

fn why(error: Error) -> String {
    match error {
        Error::Damaged { why, .. } => why,
        other => other.to_string(),
    }
}

/// Whether all of a chunk can be used; padding that is not zero is a fault that costs nothing.
pub(crate) fn inspect_chunk(
    bytes: &[u8],
    record: &ExtentRecord,
    index: usize,
    geometry: &KvGeometry,
    faults: &mut Vec<String>,
) -> bool {
    let (place, next) = (record.places[index], record.places[index + 1]);
    let tokens = next.tokens - place.tokens;
    if tokens > geometry.chunk_tokens {
        faults.push(format!("it should have {tokens} tokens, more than its memory allows"));
        return false;
    }
    let layout = Layout::new(geometry, tokens as usize);
    if bytes.len() < layout.meta_offset() {
        faults.push("it is too short".into());
        return false;
    }
    let mut sound = true;
    for part in layout.parts() {
        let (data, rest) = bytes[part.offset..][..part.stride()].split_at(part.bytes);
        let (checksum, padding) = rest.split_at(4);
        if checksum != crc32fast::hash(data).to_le_bytes() {
            faults.push(format!("its {} fail their checksum", name_of(part, geometry)));
            sound = false;
        } else if padding.iter().any(|byte| *byte != 0) {
            faults.push("padding is not zero".into());
        }
    }
    let meta = &bytes[layout.meta_offset()..];
    match decode_meta(meta, "meta") {
        Err(error) => {
            faults.push(format!("its text and tokens: {}", why(error)));
            sound = false;
        }
        Ok((found, len)) => {
            let span = (record.token_start + place.tokens as u64, record.token_start + next.tokens as u64);
            let bytes = (record.byte_start + place.bytes as u64, record.byte_start + next.bytes as u64);
            let found_span = (found.span.token_start, found.span.token_end);
            let lengths = (found.tokens.len() as u64, found.text.len() as u64);
            if (found_span, (found.span.byte_start, found.span.byte_end)) != (span, bytes)
                || found.ordinal != record.first_ordinal + index as u64
                || lengths != (span.1 - span.0, bytes.1 - bytes.0)
            {
                faults.push("it stands elsewhere than its record says".into());
                sound = false;
            }
            if meta.len() != len.next_multiple_of(8) || meta[len..].iter().any(|byte| *byte != 0) {
                faults.push("padding is not zero".into());
            }
        }
    }
    sound
}

fn name_of(part: Part, geometry: &KvGeometry) -> String {
    match (part.source, part.side) {
        (KeySource::Slot(slot), 0) => format!("keys of memory layer {}", geometry.layers[slot]),
        (KeySource::Slot(slot), _) => format!("values of memory layer {}", geometry.layers[slot]),
        (KeySource::Lone(lone), _) => match geometry.lone_key_heads().nth(lone) {
            Some(KeyHead { layer, head }) => format!("keys of head {head} of layer {layer}"),
            None => "keys".into(),
        },
    }
}

/// A sound chunk as it is to be stored again: the same bytes, with padding that is zero.
pub(crate) fn restored_chunk(bytes: &[u8], tokens: usize, geometry: &KvGeometry) -> Result<Vec<u8>> {
    let layout = Layout::new(geometry, tokens);
    let (_, len) = decode_meta(&bytes[layout.meta_offset()..], "meta")?;
    let mut restored = bytes[..layout.meta_offset() + len].to_vec();
    for part in layout.parts() {
        restored[part.offset + part.bytes + 4..part.offset + part.stride()].fill(0);
    }
    restored.resize(restored.len().next_multiple_of(8), 0);
    Ok(restored)
}
