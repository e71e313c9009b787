//! Verification of whole chunk blobs, byte by byte: for checks, repairs and compaction. Readers of single chunks use `extent`.

use mnemon_memory::{KeyHead, KvGeometry};

use crate::error::{Error, Result};
use crate::format::chunk_blob::{ChunkHeader, Layout, Part, decode_meta, footer_of};
use crate::format::geometry::KeySource;
use crate::format::records::ExtentRecord;
use crate::index::words::WordIndex;

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
