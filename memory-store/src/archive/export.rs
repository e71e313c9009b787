//! A memory as it is at one moment, piece by piece.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use mnemon_memory::Invalid;

use super::format::{
    ArchiveDocument, ArchiveSpec, ArchiveTotals, CHUNKS, DOCUMENT, END, SECTION_BYTES_MAX, SPEC, SectionWriter,
    encode_places,
};
use crate::engine::history::History;
use crate::engine::inspection::{inspect_chunk, restored_chunk};
use crate::engine::state::{LiveExtent, MemoryState};
use crate::error::{Error, Result};
use crate::format::codec::Encoder;
use crate::format::records::{ChunkOffset, DocumentRecord, ExtentRecord, memory_key};
use crate::handles::memory::Memory;
use crate::sync::lock;
use crate::types::limits::MemoryLimits;

/// Bytes of chunks that are put into one section, unless one chunk is larger.
const SECTION_BYTES: usize = 1 << 20;

impl Memory {
    /// Begins to export what is committed now. Writing, deleting and compacting go on meanwhile and do not change what is
    /// exported.
    pub fn export(&self) -> Result<Export> {
        let (engine, memory_entry) = (&self.shared.engine, &self.memory_entry);
        let (state, history, hidden, limits) = {
            let _commit = lock(&memory_entry.commit_lock);
            memory_entry.check_alive()?;
            engine.check_whole()?;
            // Under the lock, so that all of them are of one moment.
            let hidden = memory_entry.expired(engine.now_unix_ms())?;
            let history = engine.histories.begin(memory_key(b'd', memory_entry.number));
            (memory_entry.state(), history, hidden, memory_entry.ttl.limits())
        };
        let state = if hidden.is_empty() { state } else { Arc::new(state.without(&hidden)) };
        let mut order: Vec<u32> = (0..state.extents.len() as u32).collect();
        order.sort_unstable_by_key(|at| {
            let extent = &state.extents[*at as usize].extent;
            (extent.document, extent.first_ordinal)
        });
        let totals = ArchiveTotals {
            documents: state.documents,
            chunks: state.totals.chunks,
            tokens: state.totals.tokens,
            text_bytes: state.totals.text_bytes,
        };
        Ok(Export {
            memory: self.clone(),
            hidden: hidden.into_iter().collect(),
            limits,
            state,
            history,
            order,
            totals,
            writer: SectionWriter::default(),
            stage: Stage::Start,
            page: VecDeque::new(),
            documents: 0,
        })
    }
}

enum Stage {
    Start,
    Documents,
    /// Chunks of a document: places in `order` still to come, the extent at hand and its next chunk.
    Chunks(std::ops::Range<usize>, u32),
    Done,
    /// An error ended it.
    Failed,
}

/// An export under way. Holds, besides what a snapshot holds, 4 bytes for each commit of the memory, one section, and at
/// most 64 MiB of records that were replaced since it began.
pub struct Export {
    memory: Memory,
    /// Documents that had expired when it began.
    hidden: HashSet<Arc<str>>,
    limits: MemoryLimits,
    state: Arc<MemoryState>,
    history: Arc<History>,
    /// Places of extents in the state, by document and ordinal.
    order: Vec<u32>,
    totals: ArchiveTotals,
    writer: SectionWriter,
    stage: Stage,
    page: VecDeque<(String, DocumentRecord)>,
    documents: u64,
}

impl Export {
    /// What is exported.
    pub fn totals(&self) -> ArchiveTotals {
        self.totals
    }

    /// Bytes of the archive, about: documents' metadata is not counted.
    pub fn bytes_about(&self) -> u64 {
        let body = |extent: &LiveExtent| extent.extent.places[extent.live as usize].offset as u64;
        self.state.extents.iter().map(body).sum::<u64>() + 12 * self.totals.chunks + 128 * self.totals.documents
    }

    /// The next piece of the archive: some 1 MiB, or one chunk if that is larger; `None` after the last. Reads and
    /// verifies stored bytes; [`Error::Damaged`] if they are not as they were written.
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>> {
        match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Start => Ok(Some(self.start())),
            Stage::Documents => self.document().map(Some),
            Stage::Chunks(extents, next) => self.chunks(extents, next).map(Some),
            Stage::Done => {
                self.stage = Stage::Done;
                Ok(None)
            }
            Stage::Failed => {
                Err(Error::Invalid(Invalid { what: "export", why: "it failed before; begin a new one".into() }))
            }
        }
    }

    fn start(&mut self) -> Vec<u8> {
        let memory_entry = &self.memory.memory_entry;
        let spec = ArchiveSpec {
            name: memory_entry.name.clone(),
            spec: memory_entry.spec.clone(),
            created_unix_ms: memory_entry.created_unix_ms,
            sequence: self.state.sequence,
            limits: self.limits,
            totals: self.totals,
        };
        let mut out = self.writer.header();
        out.append(&mut self.writer.section(SPEC, &[&spec.encode()]));
        self.stage = Stage::Documents;
        out
    }

    /// The next document's section, or the end.
    fn document(&mut self) -> Result<Vec<u8>> {
        let (id, record) = loop {
            match self.page.pop_front() {
                Some((id, _)) if self.hidden.contains(id.as_str()) => {}
                Some(document) => break document,
                None if self.next_page()? => {}
                None => return self.end(),
            }
        };
        let document = |at: &u32| self.state.extents[*at as usize].extent.document;
        let first = self.order.partition_point(|at| document(at) < record.number);
        let last = self.order.partition_point(|at| document(at) <= record.number);
        let found: u64 =
            self.order[first..last].iter().map(|at| u64::from(self.state.extents[*at as usize].live)).sum();
        if found + record.lost_chunks != record.chunks {
            let why = format!("it should have {} chunks, but has {found}", record.chunks);
            return Err(Error::Damaged { what: format!("document {id} of memory {}", self.memory.name()), why });
        }
        let section = ArchiveDocument {
            id,
            metadata: record.metadata,
            created_unix_ms: record.created_unix_ms,
            updated_unix_ms: record.updated_unix_ms,
            sequence: record.sequence,
            chunks: record.chunks,
            tokens: record.tokens,
            bytes: record.bytes,
            resume: record.resume,
            lost_chunks: record.lost_chunks,
            ttl_ms: record.ttl_ms,
        };
        self.documents += 1;
        self.stage = if first < last { Stage::Chunks(first..last, 0) } else { Stage::Documents };
        Ok(self.writer.section(DOCUMENT, &[&section.encode()]))
    }

    /// Reads records of documents; `false` after the last.
    fn next_page(&mut self) -> Result<bool> {
        let (engine, memory_entry) = (&self.memory.shared.engine, &self.memory.memory_entry);
        let records = {
            let _commit = lock(&memory_entry.commit_lock);
            engine.check_whole()?;
            self.history.page(engine.storage.as_ref())?
        };
        let Some(records) = records else { return Ok(false) };
        for (key, value) in records {
            let what = || format!("the record of a document in memory {}", memory_entry.name);
            let id = key.get(9..).and_then(|id| str::from_utf8(id).ok());
            let id = id.ok_or_else(|| Error::Damaged { what: what(), why: "its key is not UTF-8".into() })?;
            self.page.push_back((id.to_owned(), DocumentRecord::decode(&value, &what())?));
        }
        Ok(true)
    }

    /// As many chunks of one extent as fit a section, from chunk `next` of the first of `extents` on.
    fn chunks(&mut self, mut extents: std::ops::Range<usize>, next: u32) -> Result<Vec<u8>> {
        let live = &self.state.extents[self.order[extents.start] as usize];
        let (extent, places) = (&live.extent, &live.extent.places);
        let first = places[next as usize];
        let mut end = next + 1;
        let bytes_to = |end: u32| (places[end as usize].offset - first.offset) as usize;
        while end < live.live && bytes_to(end + 1) <= SECTION_BYTES {
            end += 1;
        }
        let stored = extent.file.read(u64::from(extent.body_start) + u64::from(first.offset), bytes_to(end))?;
        let (body, places) = self.verified(live, next..end, &stored)?;
        let table = encode_places(
            extent.first_ordinal + u64::from(next),
            extent.token_start + u64::from(first.tokens),
            extent.byte_start + u64::from(first.bytes),
            &places,
        );
        if table.len() + body.len() > SECTION_BYTES_MAX {
            let advice = "re-encode the memory with smaller chunks".into();
            return Err(Error::Limit { what: "bytes of an exported chunk", limit: SECTION_BYTES_MAX as u64, advice });
        }
        let mut next = end;
        if end == live.live {
            extents.start += 1;
            next = 0;
        }
        self.stage = if extents.is_empty() { Stage::Documents } else { Stage::Chunks(extents, next) };
        Ok(self.writer.section(CHUNKS, &[&table, &body]))
    }

    /// Chunks `range` of an extent, of which `stored` are the bytes, and their places.
    fn verified(
        &self,
        live: &LiveExtent,
        range: std::ops::Range<u32>,
        stored: &[u8],
    ) -> Result<(Vec<u8>, Vec<ChunkOffset>)> {
        let (extent, geometry) = (&live.extent, self.memory.geometry());
        let first = extent.places[range.start as usize];
        let all = &extent.places[range.start as usize..=range.end as usize];
        let relative = |place: &ChunkOffset| ChunkOffset {
            offset: place.offset - first.offset,
            tokens: place.tokens - first.tokens,
            bytes: place.bytes - first.bytes,
        };
        let record = ExtentRecord {
            first_ordinal: extent.first_ordinal + u64::from(range.start),
            token_start: extent.token_start + u64::from(first.tokens),
            byte_start: extent.byte_start + u64::from(first.bytes),
            places: all.iter().map(relative).collect(),
            ..extent.record(live.live)
        };
        let (mut body, mut places) = (Vec::with_capacity(stored.len()), vec![ChunkOffset::default()]);
        for (index, pair) in record.places.windows(2).enumerate() {
            let bytes = &stored[pair[0].offset as usize..pair[1].offset as usize];
            let mut faults = Vec::new();
            if !inspect_chunk(bytes, &record, index, geometry, &mut faults) {
                let chunk = extent.first_chunk + u64::from(range.start) + index as u64;
                return Err(extent.file.damaged(format!("chunk {chunk}: {}", faults.join("; "))));
            }
            // As it was written: padding that is not zero costs nothing.
            body.append(&mut restored_chunk(bytes, (pair[1].tokens - pair[0].tokens) as usize, geometry)?);
            places.push(ChunkOffset { offset: body.len() as u32, ..pair[1] });
        }
        Ok((body, places))
    }

    fn end(&mut self) -> Result<Vec<u8>> {
        if self.documents != self.totals.documents {
            let why = format!("it should have {} documents, but has {}", self.totals.documents, self.documents);
            return Err(Error::Damaged { what: format!("memory {}", self.memory.name()), why });
        }
        let mut totals = Encoder::default();
        self.totals.encode(&mut totals);
        let mut out = self.writer.section(END, &[&totals.bytes]);
        out.extend_from_slice(&self.writer.digest());
        self.stage = Stage::Done;
        Ok(out)
    }
}
