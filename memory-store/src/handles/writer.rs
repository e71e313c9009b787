//! The only way to change a document.

use std::collections::BTreeMap;
use std::sync::Arc;

use mnemon_memory::{ChunkId, Committed, EntryPolicy, Invalid, KvChunk, KvGeometry, ResumePoint, WriterState};

use crate::engine::document_record;
use crate::engine::extent::Extent;
use crate::engine::extent_builder::{ExtentBuilder, ExtentOwner};
use crate::engine::ids::IdKind;
use crate::engine::quota::{Growth, Held};
use crate::engine::registry::MemoryEntry;
use crate::engine::state::{LiveExtent, MemoryState, entries_of};
use crate::engine::transaction::Transaction;
use crate::error::{Error, Result};
use crate::format::geometry::StoredGeometry as _;
use crate::format::records::{DocumentRecord, document_key};
use crate::handles::shared::Shared;
use crate::sync::lock;
use crate::types::limits::check_ttl;
use crate::types::names::check_turns;

/// Most bytes of keys and values of one chunk.
const MAX_CHUNK_BYTES: usize = 1 << 30;

/// Appends to one document. Nothing of it is visible or durable before [`commit`](Self::commit) returns; dropping it
/// loses only what was not committed.
pub struct Writer {
    shared: Arc<Shared>,
    memory_entry: Arc<MemoryEntry>,
    document_id: Arc<str>,
    metadata: BTreeMap<String, String>,
    /// Time to live that the next commit gives the document.
    ttl_ms: Option<u64>,
    /// The document as it is durable; `None` before its first commit.
    record: Option<DocumentRecord>,
    /// Number to use; given out when first needed.
    number: Option<u64>,
    /// Chunks, tokens and bytes of the durable document that the next commit keeps.
    kept: (u64, u64, u64),
    /// Written blobs that the next commit attaches, with the chunks to keep of each.
    pending: Vec<(Arc<Extent>, u32)>,
    buffer: ExtentBuilder,
    last_chunk: Option<ChunkId>,
    /// Whether a chunk that was appended is of a turn.
    has_turns: bool,
    /// A commit failed: whether records refer to the pending blobs is for the next opening to tell.
    uncertain: bool,
}

impl Writer {
    pub(crate) fn open(
        shared: Arc<Shared>,
        memory_entry: Arc<MemoryEntry>,
        document_id: &str,
        metadata: BTreeMap<String, String>,
    ) -> Result<Self> {
        let document_id: Arc<str> = Arc::from(document_id);
        memory_entry.check_alive()?;
        memory_entry.active_writers.take(&document_id)?;
        let mut writer = Self {
            document_id: Arc::clone(&document_id),
            metadata,
            ttl_ms: None,
            record: None,
            number: None,
            kept: (0, 0, 0),
            pending: Vec::new(),
            buffer: ExtentBuilder::new(0, 0, 0),
            last_chunk: None,
            has_turns: false,
            uncertain: false,
            shared,
            memory_entry,
        };
        // From here on a failure drops the writer, which frees the document.
        writer.memory_entry.check_alive()?;
        writer.record = document_record(&writer.shared.engine, &writer.memory_entry, &document_id)?;
        match &writer.record {
            None => writer.check_document_limit()?,
            Some(record) if record.lost_chunks > 0 => {
                let (what, lost) = (format!("document {document_id}"), record.lost_chunks);
                let why = format!("it lost {lost} chunks; delete it and ingest it again to continue it");
                return Err(Error::Damaged { what, why });
            }
            Some(record) => {
                writer.number = Some(record.number);
                writer.ttl_ms = record.ttl_ms;
                let state = writer.memory_entry.state();
                let last = state.document_extents(record.number).into_iter().next_back().cloned();
                writer.last_chunk = last.map(|last| ChunkId(last.extent.first_chunk + last.live as u64 - 1));
            }
        }
        writer.reset();
        Ok(writer)
    }

    fn check_document_limit(&self) -> Result<()> {
        let limit = self.shared.engine.options.max_documents_per_memory;
        if self.memory_entry.state().documents >= limit {
            let advice = "delete documents that are no longer needed, or use another memory".into();
            return Err(Error::Limit { what: "documents in a memory", limit, advice });
        }
        Ok(())
    }

    fn geometry(&self) -> &KvGeometry {
        &self.memory_entry.spec.geometry
    }

    /// What is durable.
    pub fn state(&self) -> WriterState {
        self.record.as_ref().map_or_else(WriterState::default, |record| WriterState {
            chunks: record.chunks,
            tokens: record.tokens,
            bytes: record.bytes,
            resume: record.resume,
            sequence: record.sequence,
            last_chunk: self.last_chunk,
        })
    }

    /// Gives the document a time to live, in milliseconds after its last commit, from the next commit on. `None` takes
    /// it away: that of the memory is in force then, if it has one.
    pub fn set_ttl_ms(&mut self, ttl_ms: Option<u64>) -> Result<()> {
        check_ttl("ttl", ttl_ms)?;
        self.ttl_ms = ttl_ms;
        Ok(())
    }

    /// Refuses a commit of `tokens` tokens of the document, with blobs of `bytes` beside the pending ones, that would not
    /// fit the memory or the tenant.
    fn check_room(&self, state: &MemoryState, tokens: u64, bytes: u64) -> Result<()> {
        // Before looking at all extents: this is asked for each chunk.
        if !self.memory_entry.is_bounded() {
            return Ok(());
        }
        let record = self.record.as_ref();
        let pending: u64 = self.pending.iter().map(|(extent, _)| extent.file.bytes).sum();
        let replaced = match record.filter(|record| self.kept.0 < record.chunks) {
            Some(record) => {
                let extents = state.document_extents(record.number).into_iter();
                let replaced = extents.filter(|extent| extent.extent.first_ordinal >= self.kept.0);
                replaced.map(|extent| extent.extent.file.bytes).sum()
            }
            None => 0,
        };
        let growth = Growth {
            tokens: tokens.saturating_sub(record.map_or(0, |record| record.tokens)),
            bytes: (pending + bytes).saturating_sub(replaced),
        };
        self.memory_entry.check_quotas(Held::of(&state.totals), growth)
    }

    /// Identifier of the document.
    pub fn document_id(&self) -> &str {
        &self.document_id
    }

    /// Chunks, tokens and bytes of the document if everything appended so far were committed.
    fn end(&self) -> (u64, u64, u64) {
        let (tokens, bytes) = self.buffer.ends_at(self.buffer.chunks());
        (self.buffer.first_ordinal + self.buffer.chunks() as u64, tokens, bytes)
    }

    /// Forgets what was not committed.
    fn reset(&mut self) {
        self.discard_pending(0);
        self.kept = self.record.as_ref().map_or((0, 0, 0), |record| (record.chunks, record.tokens, record.bytes));
        self.buffer = ExtentBuilder::new(self.kept.0, self.kept.1, self.kept.2);
    }

    /// Lets go of the pending blobs from `from` on.
    fn discard_pending(&mut self, from: usize) {
        for (extent, _) in self.pending.drain(from..) {
            if !self.uncertain {
                extent.file.mark_for_deletion();
            }
        }
    }

    /// Buffers a chunk. It must start where the document ends (after [`truncate`](Self::truncate), at its new end),
    /// fit the geometry, and hold numbers that are finite in the stored type. When the buffer is full it is written
    /// to a blob, which the next commit attaches. After an error the writer is as before the call.
    #[expect(clippy::needless_pass_by_value, reason = "its f32 numbers are not needed again: free them here")]
    pub fn append(&mut self, chunk: KvChunk) -> Result<()> {
        check_chunk(self.geometry(), &chunk)?;
        let (_, tokens, bytes) = self.end();
        if (chunk.span.token_start, chunk.span.byte_start) != (tokens, bytes) {
            return invalid(format!(
                "it starts at token {} and byte {}, but the document ends at token {tokens} and byte {bytes}",
                chunk.span.token_start, chunk.span.byte_start
            ));
        }
        self.check_room(&self.memory_entry.state(), chunk.span.token_end, 0)?;
        let options = &self.shared.engine.options;
        let entries = entries_of(self.geometry().entry_policy, chunk.tokens.len());
        // A segment covers whole extents: small ones fill it better.
        let most_chunks = (options.seal_entries / 4 / entries.max(1)).max(1);
        if self.buffer.bytes() >= options.writer_buffer_bytes || self.buffer.chunks() as usize >= most_chunks {
            self.spill()?;
        }
        let starts = representative_starts(self.geometry(), &chunk);
        self.buffer.push(&self.memory_entry.spec.geometry, &chunk, &starts)?;
        self.has_turns |= !chunk.turns.is_empty();
        Ok(())
    }

    /// Writes the buffer to a blob.
    fn spill(&mut self) -> Result<()> {
        if self.buffer.chunks() == 0 {
            return Ok(());
        }
        self.memory_entry.check_alive()?;
        self.check_room(&self.memory_entry.state(), self.end().1, self.buffer.bytes() as u64)?;
        let engine = Arc::clone(&self.shared.engine);
        let document = match self.number {
            Some(number) => number,
            None => *self.number.insert(engine.new_ids(IdKind::Document, 1)?),
        };
        let blob = engine.new_ids(IdKind::Blob, 1)?;
        let first_chunk = engine.new_ids(IdKind::Chunk, self.buffer.chunks() as u64)?;
        let metadata = match &self.record {
            Some(record) if self.metadata.is_empty() => &record.metadata,
            _ => &self.metadata,
        };
        let owner = ExtentOwner {
            tenant: &self.memory_entry.tenant,
            memory: &self.memory_entry.name,
            memory_number: self.memory_entry.number,
            spec: &self.memory_entry.spec,
            document,
            document_id: &self.document_id,
            metadata,
            after: self.memory_entry.state().sequence,
        };
        let extent = self.buffer.write(&engine.storage, &owner, blob, first_chunk)?;
        let (chunks, tokens, bytes) = self.end();
        self.pending.push((Arc::new(extent), self.buffer.chunks()));
        self.buffer = ExtentBuilder::new(chunks, tokens, bytes);
        Ok(())
    }

    /// Drops all but the first `keep_chunks` chunks of the document, counted over what is durable and what was
    /// appended: for a tail that has to be tokenised again. Takes effect with the next commit, together with what is
    /// appended until then. Refuses to keep more than there is.
    pub fn truncate(&mut self, keep_chunks: u64) -> Result<()> {
        let (chunks, ..) = self.end();
        if keep_chunks > chunks {
            let why = format!("{keep_chunks} chunks are to be kept, but the document has {chunks}");
            return Err(Error::Invalid(Invalid { what: "truncation", why }));
        }
        if keep_chunks >= self.buffer.first_ordinal {
            self.buffer.truncate((keep_chunks - self.buffer.first_ordinal) as u32);
            return Ok(());
        }
        // The buffer goes; so do pending blobs past the new end.
        let keep_pending = self.pending.partition_point(|(extent, _)| extent.first_ordinal < keep_chunks);
        self.discard_pending(keep_pending);
        let (tokens, bytes) = if keep_chunks <= self.kept.0 {
            let (tokens, bytes) = self.durable_end(keep_chunks)?;
            self.kept = (keep_chunks, tokens, bytes);
            (tokens, bytes)
        } else if let Some((extent, live)) = self.pending.last_mut() {
            *live = (keep_chunks - extent.first_ordinal) as u32;
            let (tokens, bytes) = extent.lengths(*live);
            (extent.token_start + tokens, extent.byte_start + bytes)
        } else {
            return Err(Error::Catalog("pending chunks of a writer are missing".into()));
        };
        self.buffer = ExtentBuilder::new(keep_chunks, tokens, bytes);
        Ok(())
    }

    /// Tokens and bytes of the first `chunks` durable chunks.
    fn durable_end(&self, chunks: u64) -> Result<(u64, u64)> {
        let Some(number) = self.number.filter(|_| chunks > 0) else { return Ok((0, 0)) };
        let state = self.memory_entry.state();
        for LiveExtent { extent, live, .. } in state.document_extents(number) {
            if chunks <= extent.first_ordinal + *live as u64 {
                let (tokens, bytes) = extent.lengths((chunks - extent.first_ordinal) as u32);
                return Ok((extent.token_start + tokens, extent.byte_start + bytes));
            }
        }
        Err(Error::Catalog(format!("document {} has fewer chunks than recorded", self.document_id)))
    }

    /// Makes everything appended and truncated so far durable, then visible. Without any of it, only the resume
    /// point (and metadata) is. Restarts the document's time to live. [`Error::Quota`] if the memory or the tenant would
    /// hold more than it may; what adds nothing is accepted. After an error nothing of it is visible; call again, or drop the writer.
    pub fn commit(&mut self, resume: ResumePoint) -> Result<Committed> {
        let (chunks, tokens, bytes) = self.end();
        if resume.safe_byte > bytes || resume.safe_token > tokens {
            let why = format!(
                "byte {} and token {} lie past the end of the document (byte {bytes}, token {tokens})",
                resume.safe_byte, resume.safe_token
            );
            return Err(Error::Invalid(Invalid { what: "resume point", why }));
        }
        self.spill()?;
        let (shared, memory_entry) = (Arc::clone(&self.shared), Arc::clone(&self.memory_entry));
        let engine = &shared.engine;
        let number = match self.number {
            Some(number) => number,
            None => *self.number.insert(engine.new_ids(IdKind::Document, 1)?),
        };
        let commit = lock(&memory_entry.commit_lock);
        memory_entry.check_alive()?;
        let state = memory_entry.state();
        let tenant_commit = memory_entry.account.commit_lock();
        self.check_room(&state, tokens, 0)?;
        let mut transaction = Transaction::new(&memory_entry, &state);
        if self.record.is_none() {
            self.check_document_limit()?;
            transaction.documents += 1;
        }
        for LiveExtent { extent, live, .. } in state.document_extents(number) {
            if extent.first_ordinal >= self.kept.0 {
                transaction.remove_extent(extent.first_chunk);
            } else if extent.first_ordinal + *live as u64 > self.kept.0 {
                transaction.shorten_extent(extent.first_chunk, (self.kept.0 - extent.first_ordinal) as u32);
            }
        }
        for (extent, live) in &self.pending {
            transaction.add_extent(LiveExtent::new(self.geometry(), Arc::clone(extent), *live));
        }
        transaction.changed_unix_ms = engine.now_unix_ms();
        let end = (chunks, tokens, bytes);
        let record = self.next_record(number, transaction.sequence, end, resume, transaction.changed_unix_ms);
        let expires_unix_ms = record.expires_unix_ms(memory_entry.ttl.limits().document_ttl_ms);
        transaction.expiries.push((Arc::clone(&self.document_id), expires_unix_ms));
        transaction.batch.put(document_key(memory_entry.number, &self.document_id), record.encode());
        let sequence = transaction.sequence;
        if let Err(error) = transaction.commit(engine) {
            self.uncertain = true;
            return Err(error);
        }
        drop((tenant_commit, commit));
        self.committed(record);
        shared.sealer.notify(engine, &memory_entry);
        Ok(Committed { sequence, document_tokens: tokens, document_bytes: bytes, chunks })
    }

    fn next_record(
        &self,
        number: u64,
        sequence: u64,
        (chunks, tokens, bytes): (u64, u64, u64),
        resume: ResumePoint,
        now_unix_ms: u64,
    ) -> DocumentRecord {
        let old = self.record.as_ref();
        let metadata = if self.metadata.is_empty() { old.map(|old| old.metadata.clone()) } else { None };
        DocumentRecord {
            number,
            created_unix_ms: old.map_or(now_unix_ms, |old| old.created_unix_ms),
            updated_unix_ms: now_unix_ms,
            sequence,
            chunks,
            tokens,
            bytes,
            resume,
            metadata: metadata.unwrap_or_else(|| self.metadata.clone()),
            lost_chunks: 0,
            ttl_ms: self.ttl_ms,
            has_turns: self.has_turns || old.is_some_and(|old| old.has_turns),
        }
    }

    fn committed(&mut self, record: DocumentRecord) {
        if let Some((extent, live)) = self.pending.last() {
            self.last_chunk = Some(ChunkId(extent.first_chunk + *live as u64 - 1));
        } else if self.record.as_ref().is_none_or(|old| old.chunks != record.chunks) {
            let state = self.memory_entry.state();
            let last = state.document_extents(record.number).into_iter().next_back().cloned();
            self.last_chunk = last.map(|last| ChunkId(last.extent.first_chunk + last.live as u64 - 1));
        }
        self.pending.clear();
        self.uncertain = false;
        self.record = Some(record);
        self.reset();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.discard_pending(0);
        self.memory_entry.active_writers.release(&self.document_id);
    }
}

fn invalid<T>(why: String) -> Result<T> {
    Err(Error::Invalid(Invalid { what: "chunk", why }))
}

fn check_chunk(geometry: &KvGeometry, chunk: &KvChunk) -> Result<()> {
    let (span, tokens) = (&chunk.span, chunk.tokens.len());
    if tokens == 0 || tokens > geometry.chunk_tokens as usize {
        return invalid(format!("{tokens} tokens; 1 to {} are accepted", geometry.chunk_tokens));
    }
    if geometry.chunk_bytes(tokens) > MAX_CHUNK_BYTES {
        return invalid(format!("more than {MAX_CHUNK_BYTES} bytes of keys and values"));
    }
    if span.token_end.checked_sub(span.token_start) != Some(tokens as u64) {
        return invalid(format!("{tokens} tokens, but a span from {} to {}", span.token_start, span.token_end));
    }
    if span.byte_end.checked_sub(span.byte_start) != Some(chunk.text.len() as u64) {
        let len = chunk.text.len();
        return invalid(format!("{len} bytes of text, but a span from {} to {}", span.byte_start, span.byte_end));
    }
    check_turns(&chunk.text, &chunk.turns)?;
    let (slots, heads, dim) = (geometry.layers.len(), geometry.kv_heads as usize, geometry.head_dim as usize);
    let check = |what: &str, layers: &[Vec<f32>], len: usize| {
        if layers.len() != slots {
            return invalid(format!("{what} of {} layers; the memory has {slots}", layers.len()));
        }
        match layers.iter().find(|layer| layer.len() != len) {
            Some(layer) => invalid(format!("{} {what} of a layer; {len} are expected", layer.len())),
            None => Ok(()),
        }
    };
    check("keys", &chunk.keys, heads * tokens * dim)?;
    check("values", &chunk.values, heads * tokens * dim)?;
    let lone = geometry.lone_key_heads().count();
    if chunk.lone_keys.len() != lone {
        return invalid(format!("keys of {} lone key heads; the memory has {lone}", chunk.lone_keys.len()));
    }
    if let Some(keys) = chunk.lone_keys.iter().find(|keys| keys.len() != tokens * dim) {
        return invalid(format!("{} keys of a lone key head; {} are expected", keys.len(), tokens * dim));
    }
    match geometry.entry_policy {
        EntryPolicy::Representative { .. } => check("importances", &chunk.importance, heads * tokens),
        _ if chunk.importance.is_empty() => Ok(()),
        _ => check("importances", &chunk.importance, heads * tokens),
    }
}

/// The tokens that received most attention, ascending, for each slot and head; empty for other policies.
fn representative_starts(geometry: &KvGeometry, chunk: &KvChunk) -> Vec<u16> {
    let EntryPolicy::Representative { .. } = geometry.entry_policy else { return Vec::new() };
    let tokens = chunk.tokens.len();
    let count = entries_of(geometry.entry_policy, tokens);
    let mut starts = Vec::new();
    for importance in chunk.importance.iter().flat_map(|layer| layer.chunks_exact(tokens)) {
        let mut order: Vec<u16> = (0..tokens as u16).collect();
        order.sort_by(|a, b| importance[*b as usize].total_cmp(&importance[*a as usize]));
        order.truncate(count);
        order.sort_unstable();
        starts.append(&mut order);
    }
    starts
}
