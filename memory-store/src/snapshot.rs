//! An immutable view of one memory.
use std::sync::Arc;
use crate::{ChunkId, ChunkInfo, ChunkKv, Error, Hit, KvGeometry, Recall, Result, SearchRequest};

/// An immutable view of one memory. Clones share it.
#[derive(Clone)]
pub struct Snapshot { geometry: Arc<KvGeometry> }

fn later<T>() -> Result<T> { Err(Error::Catalog("not built yet".into())) }

impl Snapshot {
    /// Sequence number of the last change that it shows.
    pub fn sequence(&self) -> u64 { 0 }
}

impl Recall for Snapshot {
    fn geometry(&self) -> &KvGeometry { &self.geometry }
    fn search(&self, _request: &SearchRequest<'_>) -> Result<Vec<Vec<Hit>>> { later() }
    fn fetch(&self, _slot: usize, _chunks: &[ChunkId]) -> Result<Vec<Arc<ChunkKv>>> { later() }
    fn describe(&self, _chunks: &[ChunkId]) -> Result<Vec<ChunkInfo>> { later() }
    fn chunks(&self, _limit: usize) -> Result<Vec<ChunkId>> { later() }
    fn len(&self) -> u64 { 0 }
}
