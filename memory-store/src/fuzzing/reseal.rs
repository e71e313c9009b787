//! Checksums put right, so that a change below them is looked at.

use crate::blob::ChunkHeader;
use crate::extent::Layout;
use crate::records::ExtentRecord;
use crate::{KvGeometry, Result};

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
    let footer = usize::try_from(u64::from(header.body_start).saturating_add(header.body_bytes)).unwrap_or(usize::MAX);
    if let Some(end) = bytes.len().checked_sub(12) {
        put_crc(bytes, footer, end);
    }
    let record = header.record(bytes, "blob")?;
    chunks(bytes, &record, &header.spec.geometry);
    Ok((header, record))
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
        for slot in 0..layout.slots {
            for side in 0..2 {
                let from = start + layout.side_offset(slot, side);
                put_crc(bytes, from, from + layout.side_bytes[side]);
            }
        }
        let meta = start + layout.meta_offset();
        if let Some(to) = u32_at(bytes, meta.saturating_add(4)).and_then(|len| (meta + len).checked_sub(4)) {
            put_crc(bytes, meta, to);
        }
    }
}
