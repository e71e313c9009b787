//! Chunk blobs: one for each commit (or for each full buffer of a long one), called an extent. The bytes are
//! specified in `docs/format.md`.
//!
//! | part | contents |
//! |---|---|
//! | header | whose chunks these are: enough to rebuild the catalog |
//! | body | for each chunk: keys and values of each slot, lone keys, then span, tokens, text |
//! | words | which words stand in which chunk |
//! | footer | where each chunk starts |
//!
//! In memory an extent takes 12 bytes for each chunk and about 200 of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use crate::codec::{Decoder, Encoder, NUMBER_MAX};
use crate::embeddings::{self, EmbeddingIndex};
use crate::geometry::KeySource;
use crate::names::check_turns;
use crate::numbers::{decode_side, encode_side};
use crate::quant::Shape;
use crate::records::ExtentRecord;
use crate::storage::Storage;
use crate::sync::{read, write};
use crate::words::WordIndex;
use crate::{
    ChunkId, ChunkInfo, ChunkKv, Error, Fingerprint, KvData, KvGeometry, MemorySpec, Result, SourceSpan, Turn,
};

/// Version of chunk blobs that are written. Blobs of version 1 end their header with the length of the body; before version 3 they
/// have no words, before version 4 chunks have no turns.
pub(crate) const CHUNKS_FORMAT: u32 = 4;
pub(crate) const CHUNKS_MAGIC: &[u8; 8] = b"MNMNCHNK";
pub(crate) const FOOTER_MAGIC: &[u8; 8] = b"MNMNEND1";
const META_MAGIC: u32 = u32::from_le_bytes(*b"META");
/// Bytes of a chunk's meta part before its tokens.
const META_FIXED: usize = 4 + 4 + 8 + 4 * 8 + 3 * 4;

pub(crate) fn chunks_blob_name(number: u64) -> String {
    format!("chunks-{number:016x}")
}

/// The number in the name of a blob; 0 when there is none.
pub(crate) fn number_of(name: &str) -> u64 {
    let number = name.split_once('-').and_then(|(_, number)| u64::from_str_radix(number, 16).ok());
    number.filter(|number| *number < NUMBER_MAX).unwrap_or(0)
}

/// A blob that is deleted when it is doomed and nobody can see it any more.
pub(crate) struct BlobFile {
    storage: Arc<dyn Storage>,
    pub(crate) name: String,
    pub(crate) bytes: u64,
    doomed: AtomicBool,
}

impl BlobFile {
    pub(crate) fn new(storage: Arc<dyn Storage>, name: String, bytes: u64) -> Self {
        Self { storage, name, bytes, doomed: AtomicBool::new(false) }
    }

    /// The number in its name.
    pub(crate) fn number(&self) -> u64 {
        number_of(&self.name)
    }

    /// No record refers to it any more: it goes with its last reader.
    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::Relaxed);
    }

    fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Relaxed)
    }

    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.storage.read_blob(&self.name, offset, len)
    }

    pub(crate) fn damaged(&self, why: impl Into<String>) -> Error {
        Error::Damaged { what: format!("blob {} in {}", self.name, self.storage.location()), why: why.into() }
    }
}

impl Drop for BlobFile {
    fn drop(&mut self) {
        if *self.doomed.get_mut()
            && let Err(error) = self.storage.delete_blob(&self.name)
        {
            tracing::warn!(blob = self.name, %error, "a blob without use stays until the store is opened again");
        }
    }
}

/// Where a chunk starts, relative to its extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ChunkPlace {
    /// Byte of the body.
    pub(crate) offset: u32,
    /// Tokens before it.
    pub(crate) tokens: u32,
    /// Bytes of text before it.
    pub(crate) bytes: u32,
}

/// Consecutive chunks of one document in one blob. Chunk ids are consecutive as well.
pub(crate) struct Extent {
    pub(crate) file: BlobFile,
    pub(crate) number: u64,
    pub(crate) body_start: u32,
    pub(crate) first_chunk: u64,
    pub(crate) document: u64,
    pub(crate) document_id: Arc<str>,
    pub(crate) first_ordinal: u64,
    pub(crate) token_start: u64,
    pub(crate) byte_start: u64,
    /// One for each chunk and one for the end.
    pub(crate) places: Box<[ChunkPlace]>,
    /// Blobs of its embeddings, one for each embedder. They are deleted with it.
    embeddings: RwLock<Vec<BlobFile>>,
}

impl Drop for Extent {
    fn drop(&mut self) {
        if self.file.is_doomed() {
            write(&self.embeddings).iter().for_each(BlobFile::doom);
        }
    }
}

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

    fn slot_stride(self) -> usize {
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

impl Extent {
    pub(crate) fn from_record(
        storage: &Arc<dyn Storage>,
        first_chunk: u64,
        document_id: Arc<str>,
        record: ExtentRecord,
    ) -> Self {
        Self {
            file: BlobFile::new(Arc::clone(storage), chunks_blob_name(record.blob), record.blob_bytes),
            number: record.blob,
            body_start: record.body_start,
            first_chunk,
            document: record.document,
            document_id,
            first_ordinal: record.first_ordinal,
            token_start: record.token_start,
            byte_start: record.byte_start,
            places: record.places.into_boxed_slice(),
            embeddings: RwLock::default(),
        }
    }

    pub(crate) fn record(&self, live: u32) -> ExtentRecord {
        ExtentRecord {
            blob: self.number,
            blob_bytes: self.file.bytes,
            body_start: self.body_start,
            document: self.document,
            first_ordinal: self.first_ordinal,
            token_start: self.token_start,
            byte_start: self.byte_start,
            live,
            places: self.places.to_vec(),
        }
    }

    pub(crate) fn chunks(&self) -> u32 {
        self.places.len() as u32 - 1
    }

    /// Tokens of the chunk at `index`.
    pub(crate) fn chunk_tokens(&self, index: usize) -> usize {
        (self.places[index + 1].tokens - self.places[index].tokens) as usize
    }

    /// Bytes of text of the chunk at `index`.
    pub(crate) fn chunk_text_bytes(&self, index: usize) -> usize {
        (self.places[index + 1].bytes - self.places[index].bytes) as usize
    }

    /// Tokens and text bytes of the first `live` chunks.
    pub(crate) fn lengths(&self, live: u32) -> (u64, u64) {
        let end = self.places[live as usize];
        (end.tokens as u64, end.bytes as u64)
    }

    fn chunk_start(&self, index: usize) -> u64 {
        self.body_start as u64 + self.places[index].offset as u64
    }

    fn checked_part(&self, bytes: &[u8], geometry: &KvGeometry, index: usize, part: Part) -> Result<KvData> {
        let (data, rest) = bytes.split_at(part.bytes);
        if rest.first_chunk::<4>().is_none_or(|stored| u32::from_le_bytes(*stored) != crc32fast::hash(data)) {
            let chunk = self.first_chunk + index as u64;
            return Err(self.file.damaged(format!("keys or values of chunk {chunk} fail their checksum")));
        }
        Ok(decode_side(data, part.shape, geometry.dtype, part.side))
    }

    /// Keys of the chunk at `index`, `[heads, tokens, head_dim]`: all heads of a slot, or a lone one.
    pub(crate) fn read_keys(&self, geometry: &KvGeometry, source: KeySource, index: usize) -> Result<KvData> {
        let part = Layout::new(geometry, self.chunk_tokens(index)).keys(source);
        let bytes = self.file.read(self.chunk_start(index) + part.offset as u64, part.stride())?;
        self.checked_part(&bytes, geometry, index, part)
    }

    /// Keys and values of the chunk at `index`.
    pub(crate) fn read_kv(&self, geometry: &KvGeometry, slot: usize, index: usize) -> Result<ChunkKv> {
        let len = self.chunk_tokens(index);
        let layout = Layout::new(geometry, len);
        let parts = [0, 1].map(|side| layout.side(slot, side));
        let bytes = self.file.read(self.chunk_start(index) + parts[0].offset as u64, layout.slot_stride())?;
        let (keys, values) = bytes.split_at(parts[0].stride());
        Ok(ChunkKv {
            id: ChunkId(self.first_chunk + index as u64),
            document: self.document,
            token_start: self.token_start + self.places[index].tokens as u64,
            len,
            keys: self.checked_part(keys, geometry, index, parts[0])?,
            values: self.checked_part(values, geometry, index, parts[1])?,
        })
    }

    /// Span, tokens, text and entries of the chunk at `index`.
    pub(crate) fn read_meta(&self, geometry: &KvGeometry, index: usize) -> Result<ChunkMeta> {
        let layout = Layout::new(geometry, self.chunk_tokens(index));
        let start = self.chunk_start(index) + layout.meta_offset() as u64;
        let end = self.body_start as u64 + self.places[index + 1].offset as u64;
        let Some(len) = end.checked_sub(start) else {
            return Err(self.file.damaged("its table of chunks is inconsistent"));
        };
        let bytes = self.file.read(start, len as usize)?;
        decode_meta(&bytes, &self.file.name)
            .map(|(meta, _)| meta)
            .map_err(|error| self.file.damaged(format!("chunk {}: {error}", self.first_chunk + index as u64)))
    }

    /// Tokens of all chunks, one after the other.
    pub(crate) fn read_tokens(&self, geometry: &KvGeometry) -> Result<Vec<u32>> {
        let mut all = Vec::with_capacity(self.lengths(self.chunks()).0 as usize);
        for index in 0..self.chunks() as usize {
            let tokens = self.read_meta(geometry, index)?.tokens;
            if tokens.len() != self.chunk_tokens(index) {
                let chunk = self.first_chunk + index as u64;
                return Err(self.file.damaged(format!("chunk {chunk} has other tokens than its record says")));
            }
            all.extend(tokens);
        }
        Ok(all)
    }

    /// Takes a blob that holds embeddings of these chunks.
    pub(crate) fn attach_embeddings(&self, storage: &Arc<dyn Storage>, name: &str, bytes: u64) {
        write(&self.embeddings).push(BlobFile::new(Arc::clone(storage), name.to_owned(), bytes));
    }

    pub(crate) fn has_embeddings(&self, embedder: &Fingerprint) -> bool {
        read(&self.embeddings).iter().any(|blob| embeddings::is_named_for(&blob.name, embedder))
    }

    /// Writes embeddings of all chunks durably, unless there are such already.
    pub(crate) fn write_embeddings(
        &self,
        storage: &Arc<dyn Storage>,
        embedder: &Fingerprint,
        index: &EmbeddingIndex,
    ) -> Result<()> {
        let mut blobs = write(&self.embeddings);
        if blobs.iter().any(|blob| embeddings::is_named_for(&blob.name, embedder)) {
            return Ok(());
        }
        let bytes = index.encode(self.number, embedder);
        let name = embeddings::blob_name(self.number, embedder);
        storage.write_blob(&name, &[&bytes])?;
        blobs.push(BlobFile::new(Arc::clone(storage), name, bytes.len() as u64));
        Ok(())
    }

    /// Bytes of its embeddings.
    pub(crate) fn embedding_bytes(&self) -> u64 {
        read(&self.embeddings).iter().map(|blob| blob.bytes).sum()
    }

    /// Whose embeddings it has: those of damaged blobs are left out.
    pub(crate) fn embedders(&self) -> Result<Vec<Fingerprint>> {
        let blobs = read(&self.embeddings);
        let mut embedders = Vec::new();
        for blob in blobs.iter() {
            let bytes = blob.read(0, blob.bytes as usize)?;
            embedders.extend(EmbeddingIndex::decode(&bytes, self.number, &blob.name).ok().map(|(of, _)| of));
        }
        Ok(embedders)
    }

    /// The embeddings of all chunks; `None` where there are none of `embedder`. Damaged ones are forgotten, so that they are made again.
    pub(crate) fn read_embeddings(&self, embedder: &Fingerprint) -> Result<Option<EmbeddingIndex>> {
        let decoded = {
            let blobs = read(&self.embeddings);
            let Some(blob) = blobs.iter().find(|blob| embeddings::is_named_for(&blob.name, embedder)) else {
                return Ok(None);
            };
            let bytes = blob.read(0, blob.bytes as usize)?;
            EmbeddingIndex::decode(&bytes, self.number, &blob.name)
        };
        match decoded {
            Ok((of, index)) if of == *embedder && index.chunks() == self.chunks() as usize => return Ok(Some(index)),
            Ok(_) => tracing::warn!(
                blob = self.file.name,
                "embeddings of other chunks, or of another embedder, are made again"
            ),
            Err(error) => tracing::warn!(%error, "damaged embeddings are made again"),
        }
        write(&self.embeddings).retain(|blob| {
            let is_damaged = embeddings::is_named_for(&blob.name, embedder);
            if is_damaged {
                blob.doom();
            }
            !is_damaged
        });
        Ok(None)
    }

    /// Where the words stand in the blob, and their bytes: none in old blobs.
    pub(crate) fn words_section(&self) -> (u64, u64) {
        let start = self.body_start as u64 + self.places.last().map_or(0, |place| u64::from(place.offset));
        (start, self.file.bytes.saturating_sub(start + footer_bytes(self.places.len()) as u64))
    }

    /// The index of the words of all chunks, made of their text where the blob has none that can be used.
    pub(crate) fn read_words(&self, geometry: &KvGeometry) -> Result<WordIndex> {
        let (start, len) = self.words_section();
        if len > 0 {
            let bytes = self.file.read(start, len as usize)?;
            let read = WordIndex::decode(&bytes, &self.file.name).and_then(|words| {
                words.map(|words| words.check_chunks(self.chunks(), &self.file.name).map(|()| words)).transpose()
            });
            match read {
                Ok(Some(words)) => return Ok(words),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "words are indexed again from their text; run `mnemon check --repair`");
                }
            }
        }
        let texts = (0..self.chunks() as usize).map(|index| Ok(self.read_meta(geometry, index)?.text));
        Ok(WordIndex::of_texts(&texts.collect::<Result<Vec<String>>>()?))
    }

    /// The turns of those chunks that are of some, by the chunks' indices.
    pub(crate) fn read_turns(&self, geometry: &KvGeometry) -> Result<Vec<(u32, Vec<Turn>)>> {
        let turns = (0..self.chunks()).map(|index| Ok((index, self.read_meta(geometry, index as usize)?.turns)));
        turns.filter(|of_chunk| of_chunk.as_ref().map_or(true, |(_, turns)| !turns.is_empty())).collect()
    }

    /// What a citation shows of the chunk at `index`, with its document's metadata.
    pub(crate) fn read_info(
        &self,
        geometry: &KvGeometry,
        memory: &str,
        index: usize,
        metadata: &Arc<BTreeMap<String, String>>,
    ) -> Result<ChunkInfo> {
        let meta = self.read_meta(geometry, index)?;
        Ok(ChunkInfo {
            id: ChunkId(self.first_chunk + index as u64),
            memory: memory.to_owned(),
            document: self.document,
            document_id: self.document_id.to_string(),
            metadata: Arc::clone(metadata),
            span: meta.span,
            tokens: meta.tokens,
            text: meta.text,
            turns: meta.turns,
        })
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
    places: Vec<ChunkPlace>,
    pub(crate) first_ordinal: u64,
    pub(crate) token_start: u64,
    pub(crate) byte_start: u64,
}

impl ExtentBuilder {
    pub(crate) fn new(first_ordinal: u64, token_start: u64, byte_start: u64) -> Self {
        let places = vec![ChunkPlace::default()];
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
    pub(crate) fn push(&mut self, geometry: &KvGeometry, chunk: &crate::KvChunk, entry_starts: &[u16]) -> Result<()> {
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
            return Err(Error::Invalid { what: "chunk", why });
        }
        debug_assert_eq!(self.body.bytes.len() - start, layout.meta_offset());
        let meta = self.encode_meta(chunk, entry_starts);
        self.body.bytes.extend_from_slice(&meta);
        self.body.align(8);
        self.places.push(ChunkPlace {
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
        self.places.push(ChunkPlace {
            offset: self.body.bytes.len() as u32,
            tokens: end.tokens + tokens,
            bytes: end.bytes + text_bytes,
        });
    }

    fn encode_meta(&self, chunk: &crate::KvChunk, entry_starts: &[u16]) -> Vec<u8> {
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
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        Ok(Extent {
            file: BlobFile::new(Arc::clone(storage), name, bytes),
            number,
            body_start: header.len() as u32,
            first_chunk,
            document: owner.document,
            document_id: Arc::clone(owner.document_id),
            first_ordinal: self.first_ordinal,
            token_start: self.token_start,
            byte_start: self.byte_start,
            places: self.places.clone().into_boxed_slice(),
            embeddings: RwLock::default(),
        })
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
        fields.fingerprint(&owner.spec.fingerprint).geometry(&owner.spec.geometry);
        fields.text(&owner.spec.model_name).text(&owner.spec.description);
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

/// Bytes of the footer of a blob with `places` places.
pub(crate) fn footer_bytes(places: usize) -> usize {
    places.saturating_mul(12).saturating_add(4 + 4 + FOOTER_MAGIC.len())
}

/// The end of a blob whose chunks have these places.
pub(crate) fn footer_of(places: &[ChunkPlace]) -> Vec<u8> {
    let mut footer = Encoder::default();
    for place in places {
        footer.u32(place.offset).u32(place.tokens).u32(place.bytes);
    }
    footer.u32(places.len() as u32);
    let mut bytes = footer.checked();
    bytes.extend_from_slice(FOOTER_MAGIC);
    bytes
}
