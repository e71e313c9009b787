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
use std::sync::{Arc, Mutex, RwLock};

use mnemon_memory::{ChunkId, ChunkInfo, ChunkKv, Fingerprint, KvData, KvGeometry, Turn};

use crate::engine::blob_file::BlobFile;
use crate::error::{Error, Result};
use crate::format::chunk_blob::{
    ChunkHeader, ChunkMeta, FIXED, HEADER_MAX, Layout, Part, chunks_blob_name, decode_meta, footer_bytes,
};
use crate::format::codec::Decoder;
use crate::format::geometry::KeySource;
use crate::format::kv_codec::decode_side;
use crate::format::records::{ChunkOffset, ExtentRecord};
use crate::index::embeddings::{EmbeddingIndex, blob_name, is_named_for};
use crate::index::words::WordIndex;
use crate::storage::Storage;
use crate::sync::{lock, read, write};

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
    pub(crate) places: Box<[ChunkOffset]>,
    /// Blobs of its embeddings, one for each embedder. They are deleted with it.
    embeddings: RwLock<Vec<BlobFile>>,
    /// Held while embeddings are written.
    embedding: Mutex<()>,
}

impl Drop for Extent {
    fn drop(&mut self) {
        if self.file.is_marked_for_deletion() {
            write(&self.embeddings).iter().for_each(BlobFile::mark_for_deletion);
        }
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
            embedding: Mutex::default(),
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
        read(&self.embeddings).iter().any(|blob| is_named_for(&blob.name, embedder))
    }

    /// Writes embeddings of all chunks durably, unless there are such already.
    pub(crate) fn write_embeddings(
        &self,
        storage: &Arc<dyn Storage>,
        embedder: &Fingerprint,
        index: &EmbeddingIndex,
    ) -> Result<()> {
        // Of two that write the same, one waits. Readers do not.
        let _writing = lock(&self.embedding);
        if self.has_embeddings(embedder) {
            return Ok(());
        }
        let bytes = index.encode(self.number, embedder);
        let name = blob_name(self.number, embedder);
        storage.write_blob(&name, &[&bytes])?;
        write(&self.embeddings).push(BlobFile::new(Arc::clone(storage), name, bytes.len() as u64));
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
            let Some(blob) = blobs.iter().find(|blob| is_named_for(&blob.name, embedder)) else {
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
            let is_damaged = is_named_for(&blob.name, embedder);
            if is_damaged {
                blob.mark_for_deletion();
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
                    tracing::warn!(%error, "words are indexed again from their text; check and repair the data folder");
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

/// Reads and verifies the header of blob `name`, which has `bytes` bytes.
pub(crate) fn read_chunk_header(storage: &dyn Storage, name: &str, bytes: u64) -> Result<ChunkHeader> {
    let what = format!("blob {name} in {}", storage.location());
    let len = storage.read_blob(name, 0, FIXED.min(bytes as usize))?;
    let total = len.get(12..16).map_or(0, |len| Decoder::new(len, &what).u32().unwrap_or(0)) as usize;
    let header = ChunkHeader::decode(&storage.read_blob(name, 0, total.min(HEADER_MAX).min(bytes as usize))?, &what)?;
    if chunks_blob_name(header.blob) != name {
        let why = format!("its header names blob {}", header.blob);
        return Err(Error::Damaged { what, why });
    }
    Ok(header)
}
