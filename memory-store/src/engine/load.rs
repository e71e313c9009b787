//! The catalog of a store that is being opened becomes memories.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mnemon_memory::{EntryPolicy, Fingerprint, KvDtype, KvGeometry};

use crate::engine::Engine;
use crate::engine::blob_file::BlobFile;
use crate::engine::deletion::SWEEP;
use crate::engine::extent::{Extent, read_chunk_header};
use crate::engine::registry::MemoryEntry;
use crate::engine::state::{LiveExtent, MemoryState, Segment};
use crate::engine::ttl::Times;
use crate::error::{Error, Result};
use crate::format::records::{
    ChangeRecord, DocumentRecord, ExtentRecord, FORMAT_VERSION, GraphRecord, NameRecord, OLD_SEGMENT_KIND,
    SEGMENT_KIND, SegmentRecord, VERSION_KEY, decode_version, encode_version, memory_key, names_of, number_in_key,
};
use crate::index::embeddings::chunk_blob_of;
use crate::index::vectors::graph_blob_name;
use crate::storage::{Batch, BlobInfo, Storage, for_each_record};
use crate::types::info::MemorySpec;
use crate::types::limits::MemoryLimits;

pub(crate) fn load_memories(engine: &Engine) -> Result<Vec<MemoryEntry>> {
    let mut memories = Vec::new();
    for_each_record(engine.storage.as_ref(), b"n", |(key, value)| {
        let Some(names) = names_of(&key) else {
            tracing::error!(key = %key.escape_ascii(), "a record of the catalog names no memory");
            return Ok(());
        };
        let what = format!("the record of memory {}", names.1);
        let (record, loaded) = match NameRecord::decode(&value, &what) {
            Ok(record) => {
                let state = load_state(engine, &names.1, &record);
                (record, state)
            }
            Err(error) => (unknown_memory(), Err(error)),
        };
        let memory_entry = match loaded {
            Ok((state, times)) => MemoryEntry::new(engine.accounts.of(&names.0), names, record, state, times),
            Err(Error::Damaged { what, why }) => {
                let empty = MemoryState::new(0, 0, Vec::new(), []);
                let times = Times { limits: record.limits, ..Times::default() };
                MemoryEntry {
                    damaged: Some(format!("{what}: {why}")),
                    ..MemoryEntry::new(engine.accounts.of(&names.0), names, record, empty, times)
                }
            }
            Err(error) => return Err(error),
        };
        memories.push(memory_entry);
        Ok(())
    })?;
    Ok(memories)
}

/// Stands for a record that cannot be read.
pub(crate) fn unknown_memory() -> NameRecord {
    let geometry = KvGeometry {
        layers: Vec::new(),
        key_heads: Vec::new(),
        kv_heads: 0,
        head_dim: 0,
        dtype: KvDtype::F32,
        chunk_tokens: 0,
        entry_policy: EntryPolicy::PerToken,
    };
    let (model_name, description) = (String::new(), String::new());
    let spec = MemorySpec { fingerprint: Fingerprint([0; 32]), geometry, model_name, description };
    NameRecord { number: 0, created_unix_ms: 0, spec, limits: MemoryLimits::default() }
}

/// Blobs that no record refers to. Embeddings are given to the chunks that they belong to, and counted.
pub(crate) fn unused_blobs(engine: &Engine, memories: &[MemoryEntry]) -> Result<Vec<BlobInfo>> {
    let mut used = HashSet::new();
    for memory_entry in memories {
        let state = memory_entry.state();
        used.extend(state.extents.iter().map(|extent| extent.extent.file.name.clone()));
        for segment in state.segments() {
            used.extend(segment.graphs.iter().map(|graph| graph.name.clone()));
        }
    }
    let mut blobs = engine.storage.list_blobs()?;
    let states: Vec<_> = memories.iter().map(MemoryEntry::state).collect();
    let extents = states.iter().flat_map(|state| &state.extents).map(|extent| (extent.extent.number, &extent.extent));
    let extents: HashMap<u64, &Arc<Extent>> = extents.collect();
    blobs.retain(|blob| {
        if used.contains(&blob.name) {
            return false;
        }
        let extent = chunk_blob_of(&blob.name).and_then(|number| extents.get(&number));
        if let Some(extent) = extent {
            extent.attach_embeddings(&engine.storage, &blob.name, blob.bytes);
        }
        extent.is_none()
    });
    memories.iter().filter(|memory_entry| memory_entry.state().has_embeddings()).for_each(MemoryEntry::recount);
    Ok(blobs)
}

pub(crate) fn load_state(engine: &Engine, name: &str, record: &NameRecord) -> Result<(MemoryState, Times)> {
    let (storage, memory) = (engine.storage.as_ref(), record.number);
    let damaged = |why: String| Error::Damaged { what: format!("the catalog of memory {name}"), why };
    let sequence = storage.get(&memory_key(b'm', memory))?;
    let sequence = sequence.ok_or_else(|| damaged("its sequence number is missing".into()))?;
    let last = ChangeRecord::decode(&sequence, &format!("the sequence number of memory {name}"))?;
    let mut times = Times { limits: record.limits, changed_unix_ms: last.changed_unix_ms, ..Times::default() };

    let mut documents: HashMap<u64, (Arc<str>, DocumentRecord)> = HashMap::new();
    for_each_record(storage, &memory_key(b'd', memory), |(key, value)| {
        let id = str::from_utf8(&key[9..]).map_err(|_| damaged("a document id is not UTF-8".into()))?;
        let document = DocumentRecord::decode(&value, &format!("the record of document {id} in memory {name}"))?;
        documents.insert(document.number, (Arc::from(id), document));
        Ok(())
    })?;

    let mut extents = Vec::new();
    let mut chunks: HashMap<u64, u64> = HashMap::new();
    for_each_record(storage, &memory_key(b'e', memory), |(key, value)| {
        let first_chunk = trailing_number(&key)?;
        let extent = ExtentRecord::decode(&value, &format!("the record of chunk {first_chunk} in memory {name}"))?;
        let live = extent.live;
        if extent.longest_chunk() > record.spec.geometry.chunk_tokens {
            return Err(damaged(format!("chunk {first_chunk} or one after it is longer than a chunk may be")));
        }
        let Some((id, _)) = documents.get(&extent.document) else {
            return Err(damaged(format!("chunk {first_chunk} belongs to no document")));
        };
        *chunks.entry(extent.document).or_default() += live as u64;
        let extent = Arc::new(Extent::from_record(&engine.storage, first_chunk, Arc::clone(id), extent));
        extents.push(LiveExtent::new(&record.spec.geometry, extent, live));
        Ok(())
    })?;
    for (id, document) in documents.values() {
        times.documents.set(Arc::clone(id), document.expires_unix_ms(record.limits.document_ttl_ms));
        let found = chunks.get(&document.number).copied().unwrap_or(0);
        if found + document.lost_chunks != document.chunks {
            return Err(damaged(format!("document {id} should have {} chunks, but has {found}", document.chunks)));
        }
    }

    let mut segments = Vec::new();
    let graphs = record.spec.geometry.key_heads.len();
    for_each_record(storage, &memory_key(SEGMENT_KIND, memory), |(key, value)| {
        let number = trailing_number(&key)?;
        let segment = SegmentRecord::decode(&value, &format!("the record of segment {number} in memory {name}"))?;
        if segment.graphs.len() != graphs {
            return Err(damaged(format!("segment {number} has {} graphs, not {graphs}", segment.graphs.len())));
        }
        segments.push(Arc::new(load_segment(engine, number, segment)));
        Ok(())
    })?;
    Ok((MemoryState::new(last.sequence, documents.len() as u64, extents, segments), times))
}

pub(crate) fn load_segment(engine: &Engine, number: u64, record: SegmentRecord) -> Segment {
    let file =
        |graph: &GraphRecord| BlobFile::new(Arc::clone(&engine.storage), graph_blob_name(graph.blob), graph.blob_bytes);
    Segment {
        number,
        chunks: record.chunks,
        entries: record.entries,
        graphs: record.graphs.iter().map(file).collect(),
        extents: record.extents,
    }
}

/// Marks memories whose blobs know of later changes than their records: such records lost what was acknowledged. Returns
/// whether all blobs are of memories that are known, or were `deleted`.
pub(crate) fn find_stale(
    storage: &dyn Storage,
    unused: &[BlobInfo],
    memories: &mut [MemoryEntry],
    deleted: &HashSet<u64>,
) -> Result<bool> {
    let mut known = true;
    for blob in unused.iter().filter(|blob| blob.name.starts_with("chunks-")) {
        let header = match read_chunk_header(storage, &blob.name, blob.bytes) {
            Ok(header) => header,
            // Torn by the crash that left it without a record.
            Err(Error::Damaged { .. }) => continue,
            Err(error) => return Err(error),
        };
        let Some(memory_entry) = memories.iter_mut().find(|memory_entry| memory_entry.number == header.memory_number)
        else {
            if !deleted.contains(&header.memory_number) {
                known = false;
                let (blob, memory) = (&blob.name, &header.memory);
                tracing::error!(blob, memory, "a blob is of a memory that the catalog lost; check the data folder");
            }
            continue;
        };
        let sequence = memory_entry.state().sequence;
        if memory_entry.damaged.is_none() && header.after > sequence {
            let why = format!("its records end at change {sequence}, but blobs know of change {}", header.after);
            memory_entry.damaged = Some(why);
        }
    }
    Ok(known)
}

pub(crate) fn check_version(storage: &dyn Storage) -> Result<()> {
    let Some(bytes) = storage.get(VERSION_KEY)? else {
        if !storage.scan(b"", None, 1)?.is_empty() {
            return Err(Error::Damaged {
                what: format!("the catalog in {}", storage.location()),
                why: "it has no version of its format".into(),
            });
        }
        let mut batch = Batch::default();
        batch.put(VERSION_KEY.to_vec(), encode_version());
        storage.apply(&batch)?;
        return storage.flush();
    };
    match decode_version(&bytes)? {
        FORMAT_VERSION => Ok(()),
        version => {
            let found = version.to_string();
            Err(Error::UnknownFormat { path: storage.location(), found, known: FORMAT_VERSION })
        }
    }
}

/// Deletes segments whose graphs have an older version, so that they are rebuilt. Their blobs, to which no record refers then, are
/// deleted at the end of opening.
pub(crate) fn remove_old_segments(engine: &Engine) -> Result<()> {
    loop {
        let page = engine.storage.scan(&[OLD_SEGMENT_KIND], None, SWEEP)?;
        let mut batch = Batch::default();
        for (key, _) in page {
            batch.delete(key);
        }
        if batch.is_empty() {
            return Ok(());
        }
        engine.commit(&batch)?;
    }
}

pub(crate) fn trailing_number(key: &[u8]) -> Result<u64> {
    let number = key.len().checked_sub(8).and_then(|at| number_in_key(key, at));
    number.ok_or_else(|| Error::Damaged { what: "a key of the catalog".into(), why: "its number is missing".into() })
}
