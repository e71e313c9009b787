//! An extent in the making: chunks in their stored form, written as one blob.

use std::collections::BTreeMap;
use std::sync::Arc;

use mnemon_memory::{Invalid, KvChunk, KvGeometry};

use crate::engine::extent::Extent;
use crate::error::{Error, Result};
use crate::format::chunk_blob::{
    CHUNKS_FORMAT, CHUNKS_MAGIC, Layout, META_FIXED, META_MAGIC, chunks_blob_name, decode_meta, footer_of,
};
use crate::format::codec::Encoder;
use crate::format::kv_codec::encode_side;
use crate::format::records::{ChunkOffset, ExtentRecord};
use crate::index::words::WordIndex;
use crate::storage::Storage;
use crate::types::info::MemorySpec;

/// Whose chunks a blob holds.
pub(crate) struct ExtentOwner<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) memory: &'a str,
    pub(crate) memory_number: u64,
    pub(crate) spec: &'a MemorySpec,
    pub(crate) document: u64,
    pub(crate) document_id: &'a Arc<str>,
    pub(crate) metadata: &'a BTreeMap<String, String>,
    /// Sequence number of the memory when the blob is written: a catalog that knows only lower ones lost changes.
    pub(crate) after: u64,
}

/// Collects the chunks of an extent in their stored form.
pub(crate) struct ExtentBuilder {
    body: Encoder,
    places: Vec<ChunkOffset>,
    pub(crate) first_ordinal: u64,
    pub(crate) token_start: u64,
    pub(crate) byte_start: u64,
}

impl ExtentBuilder {
    pub(crate) fn new(first_ordinal: u64, token_start: u64, byte_start: u64) -> Self {
        let places = vec![ChunkOffset::default()];
        Self { body: Encoder::default(), places, first_ordinal, token_start, byte_start }
    }

    pub(crate) fn chunks(&self) -> u32 {
        self.places.len() as u32 - 1
    }

    pub(crate) fn bytes(&self) -> usize {
        self.body.bytes.len()
    }

    /// End of the chunk before `index`: tokens and bytes of the document.
    pub(crate) fn ends_at(&self, index: u32) -> (u64, u64) {
        let place = self.places[index as usize];
        (self.token_start + place.tokens as u64, self.byte_start + place.bytes as u64)
    }

    /// Appends a chunk whose shape was checked. `entry_starts` as in [`ChunkMeta`]. When it cannot be stored (a
    /// number that is not finite in the stored type) the builder stays as it was.
    pub(crate) fn push(&mut self, geometry: &KvGeometry, chunk: &KvChunk, entry_starts: &[u16]) -> Result<()> {
        let start = self.body.bytes.len();
        let layout = Layout::new(geometry, chunk.tokens.len());
        let mut finite = true;
        let sides = chunk.keys.iter().zip(&chunk.values).flat_map(|(keys, values)| [keys, values]);
        for (part, numbers) in layout.parts().zip(sides.chain(&chunk.lone_keys)) {
            let part_start = self.body.bytes.len();
            finite &= encode_side(&mut self.body.bytes, numbers, part.shape, geometry.dtype, part.side);
            let checksum = crc32fast::hash(&self.body.bytes[part_start..]);
            self.body.u32(checksum).align(8);
        }
        if !finite {
            self.body.bytes.truncate(start);
            let why = format!("a key or value is not finite when stored as {}", geometry.dtype);
            return Err(Error::Invalid(Invalid { what: "chunk", why }));
        }
        debug_assert_eq!(self.body.bytes.len() - start, layout.meta_offset());
        let meta = self.encode_meta(chunk, entry_starts);
        self.body.bytes.extend_from_slice(&meta);
        self.body.align(8);
        self.places.push(ChunkOffset {
            offset: self.body.bytes.len() as u32,
            tokens: (chunk.span.token_end - self.token_start) as u32,
            bytes: (chunk.span.byte_end - self.byte_start) as u32,
        });
        Ok(())
    }

    /// Appends a chunk as it was stored before ([`restored_chunk`](crate::blob::restored_chunk)).
    pub(crate) fn push_stored(&mut self, stored: &[u8], tokens: u32, text_bytes: u32) {
        self.body.bytes.extend_from_slice(stored);
        let end = self.places.last().copied().unwrap_or_default();
        self.places.push(ChunkOffset {
            offset: self.body.bytes.len() as u32,
            tokens: end.tokens + tokens,
            bytes: end.bytes + text_bytes,
        });
    }

    fn encode_meta(&self, chunk: &KvChunk, entry_starts: &[u16]) -> Vec<u8> {
        let ordinal = self.first_ordinal + self.chunks() as u64;
        let mut turns = Encoder::default();
        if !chunk.turns.is_empty() {
            turns.u32(chunk.turns.len() as u32);
            for turn in &chunk.turns {
                turns.u32(turn.start).map(&turn.metadata);
            }
        }
        let fixed = META_FIXED + 4 * chunk.tokens.len() + 2 * entry_starts.len();
        let len = fixed + chunk.text.len() + turns.bytes.len() + 4;
        let mut meta = Encoder::default();
        meta.u32(META_MAGIC).u32(len as u32).u64(ordinal);
        meta.u64(chunk.span.byte_start).u64(chunk.span.byte_end);
        meta.u64(chunk.span.token_start).u64(chunk.span.token_end);
        meta.u32(chunk.tokens.len() as u32).u32(entry_starts.len() as u32).u32(chunk.text.len() as u32);
        for token in &chunk.tokens {
            meta.u32(*token);
        }
        for start in entry_starts {
            meta.u16(*start);
        }
        meta.bytes.extend_from_slice(chunk.text.as_bytes());
        meta.bytes.append(&mut turns.bytes);
        meta.checked()
    }

    /// Drops all but the first `keep` chunks.
    pub(crate) fn truncate(&mut self, keep: u32) {
        self.places.truncate(keep as usize + 1);
        let end = self.places.last().map_or(0, |place| place.offset);
        self.body.bytes.truncate(end as usize);
    }

    /// Writes the blob durably. The chunks get the ids from `first_chunk` on.
    pub(crate) fn write(
        &self,
        storage: &Arc<dyn Storage>,
        owner: &ExtentOwner<'_>,
        number: u64,
        first_chunk: u64,
    ) -> Result<Extent> {
        let header = self.header(owner, number, first_chunk);
        let words = self.words(&owner.spec.geometry)?.encode();
        let footer = footer_of(&self.places);
        let name = chunks_blob_name(number);
        let parts = [&header[..], &self.body.bytes, &words, &footer];
        storage.write_blob(&name, &parts)?;
        let record = ExtentRecord {
            blob: number,
            blob_bytes: parts.iter().map(|part| part.len() as u64).sum(),
            body_start: header.len() as u32,
            document: owner.document,
            first_ordinal: self.first_ordinal,
            token_start: self.token_start,
            byte_start: self.byte_start,
            live: self.chunks(),
            places: self.places.clone(),
        };
        Ok(Extent::from_record(storage, first_chunk, Arc::clone(owner.document_id), record))
    }

    /// The index of the words of all chunks.
    fn words(&self, geometry: &KvGeometry) -> Result<WordIndex> {
        let texts = self.places.windows(2).map(|pair| {
            let meta = Layout::new(geometry, (pair[1].tokens - pair[0].tokens) as usize).meta_offset();
            let bytes = &self.body.bytes[pair[0].offset as usize + meta..pair[1].offset as usize];
            Ok(decode_meta(bytes, "a chunk to be written")?.0.text)
        });
        Ok(WordIndex::of_texts(&texts.collect::<Result<Vec<String>>>()?))
    }

    fn header(&self, owner: &ExtentOwner<'_>, number: u64, first_chunk: u64) -> Vec<u8> {
        let mut fields = Encoder::default();
        fields.u64(number).u64(owner.memory_number).text(owner.tenant).text(owner.memory);
        fields.spec(owner.spec);
        fields.u64(owner.document).text(owner.document_id).map(owner.metadata);
        fields.u64(first_chunk).u64(self.first_ordinal).u64(self.token_start).u64(self.byte_start);
        fields.u32(self.chunks()).u64(self.body.bytes.len() as u64).u64(owner.after);
        let mut header = Encoder::default();
        header.bytes.extend_from_slice(CHUNKS_MAGIC);
        // Magic, version, total length with padding, length of the fields, fields, checksum.
        let total = (8 + 4 + 4 + 4 + fields.bytes.len() + 4).next_multiple_of(64);
        header.u32(CHUNKS_FORMAT).u32(total as u32).u32(fields.bytes.len() as u32);
        header.bytes.append(&mut fields.bytes);
        let mut header = Encoder { bytes: header.checked() };
        header.align(64);
        header.bytes
    }
}
