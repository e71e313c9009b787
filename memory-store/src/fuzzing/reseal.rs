//! Checksums put right, so that a change below them is looked at.

use mnemon_memory::KvGeometry;

use crate::archive::format::{ArchiveSpec, CHUNKS, END, HEAD_BYTES, HEADER_BYTES, SPEC};
use crate::error::Result;
use crate::format::chunk_blob::{ChunkHeader, Layout, footer_bytes};
use crate::format::records::{ChunkOffset, ExtentRecord};

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk::<4>().map(|number| u32::from_le_bytes(*number) as usize)
}

/// Writes the CRC-32 of the bytes `from..to` to `to..to + 4`, if all of them are there.
fn put_crc(bytes: &mut [u8], from: usize, to: usize) {
    let Some(end) = to.checked_add(4) else { return };
    if from <= to && end <= bytes.len() {
        let crc = crc32fast::hash(&bytes[from..to]);
        bytes[to..end].copy_from_slice(&crc.to_le_bytes());
    }
}

/// What ends with the CRC-32 of everything before it: records and graphs.
pub(super) fn ending(bytes: &mut [u8]) {
    if let Some(to) = bytes.len().checked_sub(4) {
        put_crc(bytes, 0, to);
    }
}

/// The copy of the catalog.
pub(super) fn copy(bytes: &mut [u8]) {
    if let Some((body, sum)) = bytes.split_last_chunk_mut::<32>() {
        *sum = *blake3::hash(body).as_bytes();
    }
}

/// Header, footer and each part of each chunk of a blob, as far as the blob tells where they are. Returns what it says.
pub(super) fn chunk_blob(bytes: &mut [u8]) -> Result<(ChunkHeader, ExtentRecord)> {
    if let Some(fields) = u32_at(bytes, 16) {
        put_crc(bytes, 0, fields.saturating_add(20));
    }
    let header = ChunkHeader::decode(bytes, "blob")?;
    let words = usize::try_from(u64::from(header.body_start).saturating_add(header.body_bytes)).unwrap_or(usize::MAX);
    let footer = bytes.len().saturating_sub(footer_bytes((header.chunks as usize).saturating_add(1)));
    if let Some(end) = bytes.len().checked_sub(12) {
        put_crc(bytes, footer, end);
    }
    let lengths = [16, 20].map(|at| u32_at(bytes, words.saturating_add(at)));
    if let (3.., [Some(lists), Some(postings)]) = (header.format, lengths) {
        put_crc(bytes, words, words.saturating_add(24).saturating_add(lists).saturating_add(postings));
    }
    let record = header.record(bytes, "blob")?;
    chunks(bytes, &record, &header.spec.geometry);
    Ok((header, record))
}

/// Every section of an archive, the chunks in it, and the sum at its end, as far as it tells where they are.
pub(super) fn archive(bytes: &mut [u8]) {
    put_crc(bytes, 0, HEADER_BYTES - 4);
    let (mut at, mut geometry) = (HEADER_BYTES, None);
    while let Some(len) = u32_at(bytes, at.saturating_add(4)) {
        put_crc(bytes, at, at + 8);
        let contents = at + HEAD_BYTES;
        let Some(end) = contents.checked_add(len).filter(|end| end + 4 <= bytes.len()) else { break };
        let kind = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        match (kind, &geometry) {
            (SPEC, _) => geometry = ArchiveSpec::decode(&bytes[contents..end]).ok().map(|spec| spec.spec.geometry),
            (CHUNKS, Some(geometry)) => archived_chunks(&mut bytes[contents..end], geometry),
            _ => {}
        }
        put_crc(bytes, contents, end);
        at = end + 4;
        if kind == END {
            break;
        }
    }
    copy(bytes);
}

/// The chunks of one section of an archive.
fn archived_chunks(contents: &mut [u8], geometry: &KvGeometry) {
    let Some(count) = u32_at(contents, 24).filter(|count| *count <= contents.len() / 12) else { return };
    let number = |at: usize| u32_at(contents, at).map(|number| number as u32);
    let place = |at: usize| Some(ChunkOffset { offset: number(at)?, tokens: number(at + 4)?, bytes: number(at + 8)? });
    let Some(places) = (0..count).map(|index| place(28 + 12 * index)).collect() else { return };
    let record = ExtentRecord {
        blob: 0,
        blob_bytes: 0,
        body_start: (28 + 12 * count) as u32,
        document: 0,
        first_ordinal: 0,
        token_start: 0,
        byte_start: 0,
        live: 0,
        places,
    };
    chunks(contents, &record, geometry);
}

/// Every part of every chunk that `record` describes.
pub(super) fn chunks(bytes: &mut [u8], record: &ExtentRecord, geometry: &KvGeometry) {
    for pair in record.places.windows(2) {
        let start = record.body_start as usize + pair[0].offset as usize;
        let Some(tokens) = pair[1].tokens.checked_sub(pair[0].tokens) else { return };
        if tokens > geometry.chunk_tokens {
            return;
        }
        let layout = Layout::new(geometry, tokens as usize);
        let end = bytes.len();
        for part in layout.parts().take_while(|part| start + part.offset < end) {
            let from = start + part.offset;
            put_crc(bytes, from, from + part.bytes);
        }
        let meta = start + layout.meta_offset();
        if let Some(to) = u32_at(bytes, meta.saturating_add(4)).and_then(|len| (meta + len).checked_sub(4)) {
            put_crc(bytes, meta, to);
        }
    }
}
