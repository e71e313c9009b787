//! Stores and what documents look like in them.

use std::path::Path;
use std::sync::Arc;

use mnemon_encoder::{DocumentEncoder, Progress};
use mnemon_memory::{ChunkId, ChunkInfo, ChunkKv, Recall};
use mnemon_memory_store::{
    InMemoryStorage, Memory, MemorySpec, SledOptions, SledStorage, Storage, Store, StoreOptions,
};
use mnemon_runtime::Model;

/// A store on disk.
pub fn on_disk(folder: &Path) -> Store {
    let storage = SledStorage::open(folder, SledOptions::default()).unwrap();
    Store::open(Arc::new(storage), StoreOptions::default(), Arc::new(|| 1_700_000_000_000)).unwrap()
}

/// A store that lasts as long as it is held.
pub fn in_memory() -> Store {
    over(Arc::new(InMemoryStorage::default()))
}

pub fn over(storage: Arc<dyn Storage>) -> Store {
    Store::open(storage, StoreOptions::default(), Arc::new(|| 1_700_000_000_000)).unwrap()
}

/// A memory for a model.
pub fn memory_for(store: &Store, model: &Model, name: &str) -> Memory {
    let spec = MemorySpec {
        fingerprint: model.fingerprint(),
        geometry: model.geometry().clone(),
        model_name: model.name().to_owned(),
        description: String::new(),
    };
    store.create_memory("tests", name, spec).unwrap()
}

/// Everything stored of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub chunks: Vec<(ChunkInfo, Vec<ChunkKv>)>,
}

impl Stored {
    pub fn text(&self) -> String {
        self.chunks.iter().map(|(info, _)| info.text.as_str()).collect()
    }

    pub fn tokens(&self) -> Vec<u32> {
        self.chunks.iter().flat_map(|(info, _)| info.tokens.iter().copied()).collect()
    }
}

/// Reads a document back, without what tells it from another of the same content (identifiers).
pub fn stored(memory: &Memory, document: &str) -> Stored {
    let snapshot = memory.snapshot().unwrap();
    let infos = memory.document_chunks(document, 0, usize::MAX).unwrap();
    let ids: Vec<ChunkId> = infos.iter().map(|info| info.id).collect();
    let layers: Vec<_> = (0..memory.geometry().layers.len()).map(|slot| snapshot.fetch(slot, &ids).unwrap()).collect();
    let chunks = infos.into_iter().enumerate().map(|(at, info)| {
        let kv = layers.iter().map(|layer| ChunkKv { id: ChunkId(0), document: 0, ..ChunkKv::clone(&layer[at]) });
        let (memory, document_id) = (String::new(), String::new());
        (ChunkInfo { id: ChunkId(0), memory, document: 0, document_id, ..info }, kv.collect())
    });
    Stored { chunks: chunks.collect() }
}

/// Pushes `text` in pieces of `size` bytes, as far as `until` (given each progress) lets it.
pub fn feed(encoder: &mut DocumentEncoder, text: &[u8], size: usize, mut until: impl FnMut(&Progress) -> bool) -> bool {
    for piece in text.chunks(size) {
        while !encoder.wants_input() {
            if let Some(progress) = encoder.step().unwrap()
                && until(&progress)
            {
                return false;
            }
        }
        encoder.push(piece).unwrap();
    }
    true
}

/// Reads a whole text.
pub fn read_all(mut encoder: DocumentEncoder, text: &[u8], size: usize) -> Progress {
    feed(&mut encoder, text, size, |_| false);
    encoder.finish().unwrap()
}
