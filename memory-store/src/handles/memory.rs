//! One memory: its documents, its snapshots.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use mnemon_memory::{ChunkInfo, Fingerprint, KvGeometry, OpenMemory};

use crate::engine::deletion::delete_documents;
use crate::engine::quota::{Growth, Held};
use crate::engine::registry::MemoryEntry;
use crate::engine::state::{LiveExtent, MemoryState};
use crate::engine::update::update_limits;
use crate::engine::{Engine, document_record};
use crate::error::{Error, Result};
use crate::format::records::{DocumentRecord, document_key, memory_key};
use crate::handles::shared::Shared;
use crate::handles::snapshot::Snapshot;
use crate::handles::writer::Writer;
use crate::maintenance::compact::{Compacted, compact};
use crate::maintenance::expire::{expire, make_room};
use crate::types::info::{DocumentInfo, MemoryInfo, MemorySpec};
use crate::types::limits::MemoryLimits;
use crate::types::names::{check_document_id, check_metadata};

/// A memory of a [`Store`](crate::Store). Clones share everything.
#[derive(Clone)]
pub struct Memory {
    pub(crate) shared: Arc<Shared>,
    pub(crate) memory_entry: Arc<MemoryEntry>,
}

/// What a memory holds, of which `state` is shown.
pub(crate) fn info_of(memory_entry: &MemoryEntry, state: &MemoryState) -> MemoryInfo {
    let totals = state.totals;
    let (limits, expires_unix_ms) = {
        let times = memory_entry.ttl.times();
        (times.limits, times.expires_unix_ms())
    };
    MemoryInfo {
        limits,
        expires_unix_ms,
        name: memory_entry.name.clone(),
        model_name: memory_entry.spec.model_name.clone(),
        description: memory_entry.spec.description.clone(),
        fingerprint: memory_entry.spec.fingerprint,
        geometry: memory_entry.spec.geometry.clone(),
        created_unix_ms: memory_entry.created_unix_ms,
        documents: state.documents,
        chunks: totals.chunks,
        tokens: totals.tokens,
        text_bytes: totals.text_bytes,
        stored_bytes: totals.stored_bytes,
        index_bytes: totals.index_bytes,
        word_bytes: totals.word_bytes,
        embedding_bytes: totals.embedding_bytes,
        entries: totals.entries,
        unsealed_entries: totals.tail_entries,
        sequence: state.sequence,
        damaged: memory_entry.damaged.clone(),
    }
}

impl Memory {
    pub(crate) fn new(shared: Arc<Shared>, memory_entry: Arc<MemoryEntry>) -> Self {
        Self { shared, memory_entry }
    }

    fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.memory_entry.name
    }

    /// What it is made for.
    pub fn spec(&self) -> &MemorySpec {
        &self.memory_entry.spec
    }

    /// Shape of what is stored.
    pub fn geometry(&self) -> &KvGeometry {
        &self.memory_entry.spec.geometry
    }

    /// What it holds now.
    pub fn info(&self) -> MemoryInfo {
        match self.memory_entry.shown(self.engine().now_unix_ms()) {
            Ok(state) => info_of(&self.memory_entry, &state),
            // Nothing but its name, as of any that was deleted.
            Err(_) => info_of(&self.memory_entry, &MemoryState::new(0, 0, Vec::new(), [])),
        }
    }

    /// How long it and its documents live, and how much it may hold.
    pub fn limits(&self) -> MemoryLimits {
        self.memory_entry.ttl.limits()
    }

    /// Changes how long it and its documents live, and how much it may hold; durable when this returns. It counts as a
    /// change of the memory, so that a new time to live begins now. That of documents holds for those that are there,
    /// too: older ones go at once. A limit below what is held is accepted: nothing can be added then.
    pub fn update_limits(&self, change: impl FnOnce(&mut MemoryLimits)) -> Result<MemoryInfo> {
        // Under the old limits, so that new ones bring nothing back.
        expire(self.engine(), &self.memory_entry)?;
        update_limits(self.engine(), &self.memory_entry, change)?;
        Ok(self.info())
    }

    /// Refuses with [`Error::Quota`] when not even one token more can be stored: what can be known before any work is
    /// done for a document.
    pub fn check_room(&self) -> Result<()> {
        self.memory_entry.check_alive()?;
        // What is due in any memory of the tenant makes room.
        make_room(self.engine(), &self.memory_entry.tenant);
        self.memory_entry.check_quotas(Held::of(&self.memory_entry.state().totals), Growth { tokens: 1, bytes: 1 })
    }

    /// Entries, of one key head, that no graph indexes yet.
    pub fn unsealed_entries(&self) -> u64 {
        self.memory_entry.state().totals.tail_entries
    }

    /// Refuses a model other than the one it was created for, naming both.
    pub fn require_fingerprint(&self, given: &Fingerprint) -> mnemon_memory::Result<()> {
        OpenMemory::require_fingerprint(self, given)
    }

    /// An immutable view of what is committed now.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.memory_entry.check_alive()?;
        let state = self.memory_entry.shown(self.engine().now_unix_ms())?;
        Ok(Snapshot::new(Arc::clone(&self.shared.engine), Arc::clone(&self.memory_entry), state))
    }

    /// Creates or continues a document. A document comes into being with its first commit. Metadata that is not
    /// empty replaces what the document has, with the next commit. [`Error::DocumentBusy`] while another writer of
    /// it lives; different documents may be written at the same time.
    pub fn writer(&self, document_id: &str, metadata: BTreeMap<String, String>) -> Result<Writer> {
        check_document_id(document_id)?;
        check_metadata(&metadata)?;
        // What expired makes room. An expired document is deleted before it is written again.
        if !self.expired()?.is_empty()
            && let Err(error) = expire(self.engine(), &self.memory_entry)
            && self.memory_entry.hides(document_id, self.engine().now_unix_ms())?
        {
            return Err(error);
        }
        Writer::open(Arc::clone(&self.shared), Arc::clone(&self.memory_entry), document_id, metadata)
    }

    /// Documents that expired, to be hidden from readers.
    fn expired(&self) -> Result<Vec<Arc<str>>> {
        self.memory_entry.check_alive()?;
        self.memory_entry.expired(self.engine().now_unix_ms())
    }

    /// The record of a document that has not expired.
    fn existing(&self, id: &str) -> Result<DocumentRecord> {
        self.memory_entry.check_alive()?;
        if self.memory_entry.hides(id, self.engine().now_unix_ms())? {
            return Err(self.unknown(id));
        }
        check_document_id(id)?;
        document_record(self.engine(), &self.memory_entry, id)?.ok_or_else(|| self.unknown(id))
    }

    fn unknown(&self, id: &str) -> Error {
        Error::UnknownDocument { memory: self.memory_entry.name.clone(), document: id.to_owned() }
    }

    /// Documents, ascending by identifier, those after `after`, at most `limit`.
    pub fn list_documents(&self, after: Option<&str>, limit: usize) -> Result<Vec<DocumentInfo>> {
        let hidden: HashSet<Arc<str>> = self.expired()?.into_iter().collect();
        self.engine().check_whole()?;
        let prefix = memory_key(b'd', self.memory_entry.number);
        let mut after = after.map(|id| document_key(self.memory_entry.number, id));
        let limits = self.limits();
        let mut documents = Vec::new();
        while documents.len() < limit {
            let records = self.engine().storage.scan(&prefix, after.as_deref(), limit - documents.len())?;
            let Some((last, _)) = records.last() else { break };
            after = Some(last.clone());
            for (key, value) in records {
                let id = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
                if hidden.contains(id.as_str()) {
                    continue;
                }
                let record = DocumentRecord::decode(&value, &format!("the record of document {id}"))?;
                documents.push(record.info(id, &limits));
            }
        }
        Ok(documents)
    }

    /// One document.
    pub fn document(&self, id: &str) -> Result<DocumentInfo> {
        Ok(self.existing(id)?.info(id.to_owned(), &self.limits()))
    }

    /// Tokens and text of a document's chunks in order, from chunk `from_ordinal` on, at most `limit`.
    pub fn document_chunks(&self, id: &str, from_ordinal: u64, limit: usize) -> Result<Vec<ChunkInfo>> {
        let record = self.existing(id)?;
        let (number, metadata) = (record.number, Arc::new(record.metadata));
        let state = self.memory_entry.state();
        let mut chunks = Vec::new();
        for LiveExtent { extent, live, .. } in state.document_extents(number) {
            let skip = from_ordinal.saturating_sub(extent.first_ordinal).min(*live as u64);
            for index in skip as usize..*live as usize {
                if chunks.len() >= limit {
                    return Ok(chunks);
                }
                chunks.push(extent.read_info(self.geometry(), &self.memory_entry.name, index, &metadata)?);
            }
        }
        Ok(chunks)
    }

    /// Deletes a document, durably, and returns what it was. New snapshots do not show it; its bytes are freed when
    /// no snapshot shows them any more. [`Error::DocumentBusy`] while a writer of it lives.
    pub fn delete_document(&self, id: &str) -> Result<DocumentInfo> {
        // What is due is not there any more.
        self.memory_entry.check_alive()?;
        if self.memory_entry.hides(id, self.engine().now_unix_ms())? {
            return Err(self.unknown(id));
        }
        check_document_id(id)?;
        let document: Arc<str> = Arc::from(id);
        let taken = self.memory_entry.active_writers.take_for_deletion(&document)?;
        let now = self.engine().now_unix_ms();
        let (records, outcome) = delete_documents(self.engine(), &self.memory_entry, &taken, Some(now), |_| true)?;
        outcome?;
        let record = records.into_iter().next().ok_or_else(|| self.unknown(id))?;
        Ok(record.info(id.to_owned(), &self.limits()))
    }

    /// Rewrites graphs and blobs with dead chunks, and joins small blobs of neighbouring chunks. What was deleted may still be in the catalog:
    /// [`Store::compact`](crate::Store::compact) rewrites that as well.
    pub fn compact(&self) -> Result<Compacted> {
        let compacted = compact(self.engine(), &self.memory_entry)?;
        self.shared.sealer.notify(&self.shared.engine, &self.memory_entry);
        Ok(compacted)
    }
}
