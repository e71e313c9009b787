//! One memory.
use std::collections::BTreeMap;
use crate::{ChunkInfo, DocumentInfo, Error, Fingerprint, KvGeometry, MemoryInfo, Result, Snapshot, Writer};

/// A memory of a [`Store`](crate::Store). Clones share everything.
#[derive(Clone)]
pub struct Memory { geometry: KvGeometry }

fn later<T>() -> Result<T> { Err(Error::Catalog("not built yet".into())) }

impl Memory {
    /// Its name.
    pub fn name(&self) -> &str { "" }
    /// What it holds now.
    pub fn info(&self) -> MemoryInfo { { let g = self.geometry.clone(); MemoryInfo { name: String::new(), model_name: String::new(), description: String::new(), fingerprint: Fingerprint([0; 32]), geometry: g, created_unix_ms: 0, documents: 0, chunks: 0, tokens: 0, text_bytes: 0, stored_bytes: 0, index_bytes: 0, entries: 0, sequence: 0 } } }
    /// Shape of what is stored.
    pub fn geometry(&self) -> &KvGeometry { &self.geometry }
    /// Refuses a model other than the one it was created for.
    pub fn require_fingerprint(&self, _given: &Fingerprint) -> Result<()> { later() }
    /// An immutable view of what is committed now.
    pub fn snapshot(&self) -> Result<Snapshot> { later() }
    /// Creates or continues a document.
    pub fn writer(&self, _document_id: &str, _metadata: BTreeMap<String, String>) -> Result<Writer> { later() }
    /// Documents, ascending by identifier, those after `after`.
    pub fn list_documents(&self, _after: Option<&str>, _limit: usize) -> Result<Vec<DocumentInfo>> { later() }
    /// One document.
    pub fn document(&self, _id: &str) -> Result<DocumentInfo> { later() }
    /// Deletes a document; returns what it was.
    pub fn delete_document(&self, _id: &str) -> Result<DocumentInfo> { later() }
    /// Tokens and text of a document's chunks in order.
    pub fn document_chunks(&self, _id: &str, _from_ordinal: u64, _limit: usize) -> Result<Vec<ChunkInfo>> { later() }
}
