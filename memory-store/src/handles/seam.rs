//! The traits of `mnemon-memory` over the handles of a store.

use std::collections::BTreeMap;
use std::sync::Arc;

use mnemon_memory::{
    ChunkInfo, Committed, DocumentWriter, Fingerprint, KvChunk, KvGeometry, OpenMemory, Recall, Result, ResumePoint,
    WriterState,
};

use crate::handles::memory::Memory;
use crate::handles::writer::Writer;

impl OpenMemory for Memory {
    fn name(&self) -> &str {
        self.name()
    }

    fn fingerprint(&self) -> Fingerprint {
        self.spec().fingerprint
    }

    fn geometry(&self) -> &KvGeometry {
        self.geometry()
    }

    fn writer(&self, document_id: &str, metadata: BTreeMap<String, String>) -> Result<Box<dyn DocumentWriter>> {
        Ok(Box::new(self.writer(document_id, metadata)?))
    }

    fn document_chunks(&self, id: &str, from_ordinal: u64, limit: usize) -> Result<Vec<ChunkInfo>> {
        Ok(self.document_chunks(id, from_ordinal, limit)?)
    }

    fn check_room(&self, _document_id: &str) -> Result<()> {
        Ok(self.check_room()?)
    }

    fn view(&self) -> Result<Arc<dyn Recall>> {
        Ok(Arc::new(self.snapshot()?))
    }
}

impl DocumentWriter for Writer {
    fn state(&self) -> WriterState {
        self.state()
    }

    fn set_ttl_ms(&mut self, ttl_ms: Option<u64>) -> Result<()> {
        Ok(self.set_ttl_ms(ttl_ms)?)
    }

    fn append(&mut self, chunk: KvChunk) -> Result<()> {
        Ok(self.append(chunk)?)
    }

    fn truncate(&mut self, keep_chunks: u64) -> Result<()> {
        Ok(self.truncate(keep_chunks)?)
    }

    fn commit(&mut self, resume: ResumePoint) -> Result<Committed> {
        Ok(self.commit(resume)?)
    }
}
