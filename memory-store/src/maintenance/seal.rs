//! Sealing: from the unsealed tail of a memory to a segment with one graph for each key head.
//!
//! A segment is built beside readers and writers from extents that are already durable; only its commit takes a turn
//! of the memory. Failing or being interrupted costs nothing but time: the entries stay in the tail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use mnemon_memory::ChunkId;

use crate::engine::Engine;
use crate::engine::blob_file::BlobFile;
use crate::engine::ids::IdKind;
use crate::engine::registry::MemoryEntry;
use crate::engine::state::{LiveExtent, MemoryState, Segment};
use crate::engine::transaction::Transaction;
use crate::error::{Error, Result};
use crate::format::geometry::StoredGeometry as _;
use crate::format::records::{GraphRecord, SegmentRecord};
use crate::index::vectors::{
    BuildParams, EntryRef, FlatIndex, GraphIndex, GraphOwner, build_graph, graph_blob_name, write_graph,
};
use crate::sync::lock;
use crate::types::options::Sealing;

/// Memories that may wait; those that find no place are notified again by their next commit.
const QUEUE: usize = 1024;

/// The thread that seals, and how it is reached.
pub(crate) struct Sealer {
    sender: Option<SyncSender<Arc<MemoryEntry>>>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Sealer {
    pub(crate) fn start(engine: &Arc<Engine>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        if engine.options.sealing != Sealing::Background {
            return Ok(Self { sender: None, thread: None, stop });
        }
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = {
            let (engine, stop) = (Arc::clone(engine), Arc::clone(&stop));
            let builder = std::thread::Builder::new().name("mnemon-sealer".into());
            builder.spawn(move || run(&engine, &receiver, &stop))
        };
        let thread = thread.map_err(|source| Error::Io { what: "start the sealing thread".into(), source })?;
        Ok(Self { sender: Some(sender), thread: Some(thread), stop })
    }

    /// Tells that the tail of a memory has grown.
    pub(crate) fn notify(&self, engine: &Arc<Engine>, memory_entry: &Arc<MemoryEntry>) {
        if memory_entry.state().totals.tail_entries < engine.options.seal_entries as u64 {
            return;
        }
        if let Some(sender) = &self.sender {
            let waits = memory_entry.queued.swap(true, Ordering::AcqRel);
            if !waits && sender.try_send(Arc::clone(memory_entry)).is_err() {
                memory_entry.queued.store(false, Ordering::Release);
            }
        } else if engine.options.sealing == Sealing::Inline {
            seal_or_warn(engine, memory_entry, &self.stop);
        }
    }
}

impl Drop for Sealer {
    /// Waits for the thread, which stops within about a thousand insertions.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.sender = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sealing thread panicked");
        }
    }
}

fn run(engine: &Arc<Engine>, receiver: &Receiver<Arc<MemoryEntry>>, stop: &AtomicBool) {
    while let Ok(memory_entry) = receiver.recv() {
        memory_entry.queued.store(false, Ordering::Release);
        seal_or_warn(engine, &memory_entry, stop);
    }
}

fn seal_or_warn(engine: &Arc<Engine>, memory_entry: &MemoryEntry, stop: &AtomicBool) {
    match seal_due(engine, memory_entry, stop) {
        Ok(()) | Err(Error::UnknownMemory { .. }) => {}
        Err(error) => {
            tracing::warn!(memory = memory_entry.name, %error, "sealing failed; entries are searched one by one");
        }
    }
}

/// Seals while the tail of a memory holds enough for a segment.
pub(crate) fn seal_due(engine: &Engine, memory_entry: &MemoryEntry, stop: &AtomicBool) -> Result<()> {
    let _builder = lock(&memory_entry.sealing);
    while !stop.load(Ordering::Relaxed) {
        let state = memory_entry.state();
        let most = engine.options.most_segment_entries(memory_entry.spec.geometry.head_dim as usize);
        let Some(plan) = Plan::new(&state, engine.options.seal_entries, most) else { break };
        let Some((segment, record)) = build(engine, memory_entry, &plan, stop)? else { break };
        commit(engine, memory_entry, segment, &record, &plan.absorbed)?;
    }
    Ok(())
}

/// Puts segments without dead chunks in the place of those that have some. The caller holds `sealing` of the memory.
pub(crate) fn renew_worn(engine: &Engine, memory_entry: &MemoryEntry) -> Result<()> {
    let state = memory_entry.state();
    for worn in state.segments.iter().filter(|segment| !segment.all_live()) {
        // Deleted from, or truncated, meanwhile: the plan is of what is there now.
        let Some(plan) = Plan::renewal(&memory_entry.state(), &worn.segment) else { continue };
        if let Some((segment, record)) = build(engine, memory_entry, &plan, &AtomicBool::new(false))? {
            commit(engine, memory_entry, segment, &record, &plan.absorbed)?;
        }
    }
    Ok(())
}

/// What becomes one segment.
struct Plan {
    /// Ascending by first chunk.
    extents: Vec<LiveExtent>,
    /// Segments whose extents are among them.
    absorbed: Vec<Arc<Segment>>,
}

/// Segments this many times as large as what is to be sealed are left alone. So each segment is larger than four times
/// all later ones together: there are few, and an entry is written again only when its segment grows by a fourth.
const ABSORB: u64 = 4;

impl Plan {
    /// The oldest extents of the tail, and the latest segments as far as they are not much larger; `None` when the tail
    /// does not hold `seal_entries`.
    fn new(state: &MemoryState, seal_entries: usize, most_entries: u64) -> Option<Self> {
        if state.totals.tail_entries < seal_entries as u64 {
            return None;
        }
        // A long tail is sealed in steps, so that stopping in the middle does not lose all of it.
        let most_of_tail = most_entries.min(ABSORB * seal_entries as u64);
        let mut entries = 0;
        let mut extents: Vec<LiveExtent> = Vec::new();
        for extent in state.tail() {
            if entries + u64::from(extent.entries) > most_of_tail && !extents.is_empty() {
                break;
            }
            entries += u64::from(extent.entries);
            extents.push(extent.clone());
        }
        let mut absorbed = Vec::new();
        let mut segments: Vec<_> = state.segments.iter().map(|segment| &segment.segment).collect();
        segments.sort_by_key(|segment| std::cmp::Reverse(segment.number));
        for segment in segments {
            let of_segment = state.extents.iter().filter(|extent| extent.segment == segment.number);
            let live: u64 = of_segment.clone().map(|extent| u64::from(extent.entries)).sum();
            if live > ABSORB * entries || live + entries > most_entries {
                break;
            }
            entries += live;
            extents.extend(of_segment.cloned());
            absorbed.push(Arc::clone(segment));
        }
        extents.sort_by_key(|extent| extent.extent.first_chunk);
        Some(Self { extents, absorbed })
    }

    /// The live extents of `segment`; `None` when it has none.
    fn renewal(state: &MemoryState, segment: &Arc<Segment>) -> Option<Self> {
        let of_segment = state.extents.iter().filter(|extent| extent.segment == segment.number);
        let extents: Vec<LiveExtent> = of_segment.cloned().collect();
        (!extents.is_empty()).then(|| Self { extents, absorbed: vec![Arc::clone(segment)] })
    }

    /// The absorbed segment whose links are worth most.
    fn base(&self) -> Option<&Arc<Segment>> {
        self.absorbed.iter().max_by_key(|segment| segment.entries)
    }
}

/// Builds and writes the graphs of a segment; `None` when it was stopped.
fn build(
    engine: &Engine,
    memory_entry: &MemoryEntry,
    plan: &Plan,
    stop: &AtomicBool,
) -> Result<Option<(Segment, SegmentRecord)>> {
    let geometry = &memory_entry.spec.geometry;
    let extents = &plan.extents;
    let live = |extent: &LiveExtent| {
        (0..extent.live as u64).map(|index| ChunkId(extent.extent.first_chunk + index)).collect::<Vec<_>>()
    };
    let chunks: Vec<ChunkId> = extents.iter().flat_map(live).collect();
    let number = engine.new_ids(IdKind::Segment, 1)?;
    // Marked for deletion until committed: whatever happens below leaves no blob behind.
    let mut graphs = UncommittedFiles(Vec::new());
    let mut record = SegmentRecord {
        chunks: chunks.len() as u64,
        entries: 0,
        extents: extents.iter().map(|extent| extent.extent.first_chunk).collect(),
        graphs: Vec::new(),
    };
    let params = BuildParams { m: engine.options.m, ef_construction: engine.options.ef_construction };
    for key_head in 0..geometry.key_heads.len() {
        let flat = gather(engine, memory_entry, extents, key_head)?;
        record.entries = flat.entries().len() as u32;
        let base = match plan.base() {
            Some(base) => usable(engine.read_graph(memory_entry, base, key_head), memory_entry)?,
            None => None,
        };
        let built = engine.pool.install(|| build_graph(flat, &chunks, base.as_ref(), params, stop))?;
        let Some(graph) = built else { return Ok(None) };
        let owner = GraphOwner::new(memory_entry.number, number, geometry, key_head);
        let blob = engine.new_ids(IdKind::Blob, 1)?;
        let blob_bytes = write_graph(engine.storage.as_ref(), blob, &graph, owner)?;
        graphs.0.push(BlobFile::new(Arc::clone(&engine.storage), graph_blob_name(blob), blob_bytes));
        record.graphs.push(GraphRecord { blob, blob_bytes });
        // The next search wants it: so it need not be read again. It is never looked up if the commit fails.
        engine.keep_graph(number, key_head, &Arc::new(graph));
    }
    let segment = Segment {
        number,
        chunks: record.chunks,
        entries: record.entries,
        extents: record.extents.clone(),
        graphs: std::mem::take(&mut graphs.0).into(),
    };
    Ok(Some((segment, record)))
}

/// A graph to extend; none when it is damaged: its entries are then linked again, which repairs it.
fn usable(graph: Result<GraphIndex>, memory_entry: &MemoryEntry) -> Result<Option<GraphIndex>> {
    match graph {
        Ok(graph) => Ok(Some(graph)),
        Err(error @ Error::Damaged { .. }) => {
            tracing::warn!(memory = memory_entry.name, %error, "a damaged graph is rebuilt");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Blobs that go when they are dropped.
struct UncommittedFiles(Vec<BlobFile>);

impl Drop for UncommittedFiles {
    fn drop(&mut self) {
        for file in &self.0 {
            file.mark_for_deletion();
        }
    }
}

/// Live entries of `extents` at a key head; chunks are numbered in the order of the segment.
fn gather(engine: &Engine, memory_entry: &MemoryEntry, extents: &[LiveExtent], key_head: usize) -> Result<FlatIndex> {
    let geometry = &memory_entry.spec.geometry;
    let source = geometry.source_of(key_head);
    let place = key_head - geometry.key_heads_at(source).start;
    let dim = geometry.head_dim as usize;
    let mut all = FlatIndex::new(dim, geometry.dtype);
    let mut first = 0;
    for LiveExtent { extent, live, entries: live_entries, .. } in extents {
        let entries = engine.tail_entries(geometry, source, extent, false)?;
        let count = *live_entries as usize;
        let flat = &entries.heads[place];
        // Entries are in the order of chunks, so the live ones come first.
        let moved = flat.entries()[..count].iter().map(|entry| EntryRef { chunk: first + entry.chunk, ..*entry });
        all.extend(flat.vectors(), 0..count * dim, moved);
        first += live;
    }
    Ok(all)
}

fn commit(
    engine: &Engine,
    memory_entry: &MemoryEntry,
    segment: Segment,
    record: &SegmentRecord,
    absorbed: &[Arc<Segment>],
) -> Result<()> {
    let segment = Arc::new(segment);
    let _commit = lock(&memory_entry.commit_lock);
    let committed = memory_entry.check_alive().and_then(|()| {
        let state = memory_entry.state();
        let mut transaction = Transaction::new(memory_entry, &state);
        // Readers see the same chunks as before.
        transaction.sequence = state.sequence;
        transaction.replace_segments(absorbed, Arc::clone(&segment), record);
        transaction.commit(engine)
    });
    match committed {
        Ok(_) => {
            for segment in absorbed {
                engine.forget_graphs(segment);
            }
            Ok(())
        }
        Err(error @ Error::UnknownMemory { .. }) => {
            segment.mark_for_deletion();
            Err(error)
        }
        // Whether a record refers to the blobs is for the next opening to tell.
        Err(error) => Err(error),
    }
}
