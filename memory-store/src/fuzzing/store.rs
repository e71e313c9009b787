//! A whole store with some bytes changed and all checksums right: opened, read, checked, repaired.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use mnemon_memory::{
    EntryPolicy, Fingerprint, KeyHead, KvChunk, KvDtype, KvGeometry, Recall as _, ResumePoint, SearchRequest,
    SourceSpan, TermRequest, Turn, WordRequest,
};

use super::reseal;
use crate::check::check;
use crate::error::Result;
use crate::format::chunk_blob::chunks_blob_name;
use crate::format::records::ExtentRecord;
use crate::handles::memory::Memory;
use crate::handles::store::Store;
use crate::storage::{Batch, InMemoryStorage, Record, Storage};
use crate::types::info::MemorySpec;
use crate::types::names::MAX_NAME_BYTES;
use crate::types::options::{Sealing, StoreOptions};

/// Bytes of one change: item, width, two of the offset, eight of the value.
const CHANGE: usize = 12;
/// More changes at once bring nothing new.
const CHANGES_MAX: usize = 16;

/// Records and blobs, in order.
type Items = (Vec<Record>, Vec<(String, Vec<u8>)>);

fn geometry() -> KvGeometry {
    KvGeometry {
        layers: vec![1],
        key_heads: KvGeometry::all_key_heads(&[1], 1),
        kv_heads: 1,
        head_dim: 4,
        dtype: KvDtype::Int8,
        chunk_tokens: 4,
        entry_policy: EntryPolicy::PerToken,
    }
}

/// Two layers of which one is searched, and a key head of a third one.
fn chosen() -> KvGeometry {
    let key_heads = [(0, 0), (3, 0)].map(|(layer, head)| KeyHead { layer, head }).to_vec();
    KvGeometry { layers: vec![1, 3], key_heads, ..geometry() }
}

/// Number of the memory with that geometry.
const CHOSEN: u64 = 3;

fn options() -> StoreOptions {
    StoreOptions {
        seal_entries: 16,
        m: 4,
        ef_construction: 8,
        sealing: Sealing::Manual,
        seal_threads: 1,
        scan_entries: 0,
        index_cache_bytes: 1 << 20,
        chunk_cache_bytes: 1 << 20,
        ..StoreOptions::default()
    }
}

fn turn(number: u64) -> Turn {
    Turn { start: (number % 2) as u32, metadata: BTreeMap::from([("speaker".to_owned(), number.to_string())]) }
}

fn chunk(geometry: &KvGeometry, at: (u64, u64), number: u64) -> KvChunk {
    let text = format!("w{number:02}.");
    let numbers = |shift: u64| (0..16).map(|i| ((i * 7 + number * 5 + shift) % 13) as f32 - 6.0).collect::<Vec<_>>();
    let layers = geometry.layers.len().min(4) as u64;
    KvChunk {
        turns: if number.is_multiple_of(3) { vec![turn(number)] } else { Vec::new() },
        span: SourceSpan {
            token_start: at.0,
            token_end: at.0 + 4,
            byte_start: at.1,
            byte_end: at.1 + text.len() as u64,
        },
        tokens: vec![number as u32; 4],
        text,
        keys: (0..layers).map(numbers).collect(),
        values: (0..layers).map(|slot| numbers(slot + 3)).collect(),
        importance: vec![vec![1.0; 4]; layers as usize],
        lone_keys: geometry.lone_key_heads().take(4).map(|_| numbers(5)).collect(),
    }
}

fn write(memory: &Memory, id: &str, chunks: std::ops::Range<u64>) -> Result<()> {
    let metadata = BTreeMap::from([("title".to_owned(), id.to_owned())]);
    let mut writer = memory.writer(id, metadata)?;
    let state = writer.state();
    let mut at = (state.tokens, state.bytes);
    for number in chunks {
        let chunk = chunk(memory.geometry(), at, number);
        at = (chunk.span.token_end, chunk.span.byte_end);
        writer.append(chunk)?;
    }
    writer.commit(ResumePoint { safe_byte: at.1, safe_token: at.0, complete: true })?;
    Ok(())
}

/// Two documents in a sealed segment, one in the tail, one truncated; a memory that was deleted.
fn build() -> Result<Items> {
    let storage: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
    let store = Store::open(Arc::clone(&storage), options(), Arc::new(|| 1_700_000_000_000))?;
    let (model_name, description) = ("model".to_owned(), "text".to_owned());
    let spec = MemorySpec { fingerprint: Fingerprint([7; 32]), geometry: geometry(), model_name, description };
    let memory = store.create_memory("t", "a", spec.clone())?;
    write(&memory, "one", 0..3)?;
    write(&memory, "two", 3..5)?;
    store.seal_all()?;
    write(&memory, "two", 5..7)?;
    let mut writer = memory.writer("two", BTreeMap::new())?;
    writer.truncate(3)?;
    writer.commit(ResumePoint::default())?;
    drop(writer);
    store.create_memory("t", "gone", spec.clone())?;
    store.delete_memory("t", "gone")?;
    let heads = store.create_memory("t", "heads", MemorySpec { geometry: chosen(), ..spec.clone() })?;
    write(&heads, "three", 0..4)?;
    store.seal_all()?;
    write(&heads, "four", 4..5)?;
    store.create_memory("t", "empty", spec)?;
    drop((memory, heads, store));
    let mut blobs = Vec::new();
    for blob in storage.list_blobs()? {
        let bytes = storage.read_blob(&blob.name, 0, blob.bytes as usize)?;
        blobs.push((blob.name, bytes));
    }
    blobs.sort();
    Ok((storage.scan(b"", None, usize::MAX)?, blobs))
}

/// What is changed; nothing when it cannot be built, which a test would notice.
pub(super) fn template() -> &'static Items {
    static TEMPLATE: OnceLock<Items> = OnceLock::new();
    TEMPLATE.get_or_init(|| build().unwrap_or_default())
}

/// Writes `width` bytes of `value` at `offset`, cuts the bytes off there (width 0), or doubles what follows (any other).
fn change(bytes: &mut Vec<u8>, width: u8, offset: usize, value: [u8; 8]) {
    let at = offset % bytes.len().max(1);
    match width % 8 {
        0 => bytes.truncate(at),
        7 => bytes.extend_from_within(at..),
        6 => bytes.insert(at, value[0]),
        width => {
            let width = [1, 1, 2, 4, 8, 8][width as usize];
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&value[..end - at]);
        }
    }
}

/// Twelve bytes for each change: which item, how, where (two bytes), and eight of what.
pub(super) fn store(input: &[u8]) {
    let (mut records, mut blobs) = template().clone();
    let items = records.len() + blobs.len();
    if items == 0 {
        return;
    }
    for edit in input.as_chunks::<CHANGE>().0.iter().take(CHANGES_MAX) {
        let &[item, width, low, high, ref value @ ..] = edit;
        let (item, offset) = (item as usize % items, usize::from(u16::from_le_bytes([low, high])));
        if let Some((key, record)) = records.get_mut(item) {
            // Beyond the value the key is meant.
            let bytes = if offset & 0x8000 == 0 { record } else { key };
            change(bytes, width, offset & 0x7fff, *value);
        } else if let Some((_, blob)) = blobs.get_mut(item - records.len()) {
            change(blob, width, offset, *value);
        }
    }
    let storage: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
    if fill(&storage, records, blobs).is_err() {
        return;
    }
    use_it(&storage);
    let _ = check(&storage, false);
    if check(&storage, true).is_ok() {
        use_it(&storage);
    }
}

fn fill(storage: &Arc<dyn Storage>, records: Vec<Record>, blobs: Vec<(String, Vec<u8>)>) -> Result<()> {
    let mut batch = Batch::default();
    let mut extents = Vec::new();
    for (key, mut value) in records {
        if key.first() != Some(&b'g') {
            reseal::ending(&mut value);
        }
        if key.first() == Some(&b'e') {
            extents.extend(ExtentRecord::decode(&value, "extent"));
        }
        batch.put(key, value);
    }
    storage.apply(&batch)?;
    for (name, mut bytes) in blobs {
        if name.starts_with("graph") {
            reseal::ending(&mut bytes);
        } else {
            let header = reseal::chunk_blob(&mut bytes).map(|(header, _)| header);
            let geometry =
                if header.is_ok_and(|header| header.memory_number == CHOSEN) { chosen() } else { geometry() };
            // Where the record and the blob differ, readers go by the record.
            for record in extents.iter().filter(|record| chunks_blob_name(record.blob) == name) {
                reseal::chunks(&mut bytes, record, &geometry);
            }
        }
        storage.write_blob(&name, &[&bytes])?;
    }
    Ok(())
}

/// Imports a verified archive, which must give a sound store.
pub(super) fn import(archive: &[u8]) {
    let storage: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
    let Ok(store) = Store::open(Arc::clone(&storage), options(), Arc::new(|| 1_700_000_000_000)) else { return };
    let imported = store.import("t", Some("a"), false).and_then(|mut import| {
        for piece in archive.chunks(100) {
            import.push(piece)?;
        }
        import.finish()
    });
    if let Ok(memory) = imported {
        let _ = read(&memory);
    }
    drop(store);
    let sound = check(&storage, false).is_ok_and(|report| report.is_sound());
    assert!(sound, "what was imported, or refused, left a store that is not sound");
}

/// The archive of a memory of those that are changed elsewhere.
#[cfg(test)]
pub(super) fn archive(memory: &str) -> Result<Vec<u8>> {
    let storage: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
    let (records, blobs) = template().clone();
    fill(&storage, records, blobs)?;
    let mut export = Store::open(storage, options(), Arc::new(|| 1_700_000_000_000))?.memory("t", memory)?.export()?;
    let mut archive = Vec::new();
    while let Some(mut piece) = export.piece()? {
        archive.append(&mut piece);
    }
    Ok(archive)
}

/// Everything that a server would do.
fn use_it(storage: &Arc<dyn Storage>) {
    let Ok(store) = Store::open(Arc::clone(storage), options(), Arc::new(|| 1_700_000_000_000)) else { return };
    let memories = store.list_memories("t", None, 100).unwrap_or_default();
    for info in memories.iter().filter(|info| info.name.len() <= MAX_NAME_BYTES) {
        let Ok(memory) = store.memory("t", &info.name) else { continue };
        let _ = read(&memory);
        let _ = write(&memory, "new", 8..10);
        let _ = write(&memory, "one", 10..11);
        let _ = memory.delete_document("two");
        let _ = memory.compact();
        let _ = read(&memory);
    }
    let _ = store.seal_all();
    for info in memories {
        let _ = store.memory("t", &info.name).map(|memory| read(&memory));
    }
    let _ = store.create_memory("t", "new", MemorySpec { fingerprint: Fingerprint([1; 32]), ..spec() });
}

fn spec() -> MemorySpec {
    let (model_name, description) = (String::new(), String::new());
    MemorySpec { fingerprint: Fingerprint([7; 32]), geometry: geometry(), model_name, description }
}

fn read(memory: &Memory) -> mnemon_memory::Result<()> {
    let documents = memory.list_documents(None, 100)?;
    for document in documents {
        let _ = memory.document_chunks(&document.id, 0, 100);
        let _ = memory.document_chunks(&document.id, 1, 1);
    }
    let snapshot = memory.snapshot()?;
    let ids = snapshot.chunks(1000)?;
    let _ = snapshot.describe(&ids);
    for around in snapshot.neighbours(&ids, 1, 2).into_iter().flatten() {
        assert!((1..=4).contains(&around.len()) && around.iter().all(|chunk| ids.contains(chunk) || ids.len() == 1000));
    }
    let terms = [vec![0, 2], vec![4], Vec::new()];
    let _ = snapshot.search_terms(&TermRequest { terms: &terms, top_k: 9, k1: 1.2, b: 0.75 });
    let _ = snapshot.search_words(&WordRequest { query: "w1-3 of 7", top_k: 9, k1: 1.2, b: 0.75, neighbours: 0.5 });
    let geometry = memory.geometry();
    let (slots, dim) = (geometry.layers.len().min(4), geometry.head_dim as usize);
    let key_heads: Vec<usize> = (0..geometry.key_heads.len().min(4)).collect();
    if dim > 1 << 10 {
        return Ok(());
    }
    let queries: Vec<f32> = (0..key_heads.len() * dim).map(|at| (at % 5) as f32 - 2.0).collect();
    for slot in 0..slots {
        let _ = snapshot.fetch(slot, &ids);
    }
    for exact in [true, false] {
        let request = SearchRequest { key_heads: &key_heads, queries: &queries, top_k: 9, ef: Some(16), exact };
        for hit in snapshot.search(&request).into_iter().flatten().flatten() {
            let _ = snapshot.fetch_layers(&[hit.chunk]);
        }
    }
    Ok(())
}
