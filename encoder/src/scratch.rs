//! A memory in this process that is gone with its last handle, and one document on its way into it.

use std::collections::BTreeMap;
use std::sync::Arc;

use mnemon_memory_store::storage::InMemoryStorage;
use mnemon_memory_store::{KvGeometry, Memory, MemorySpec, Sealing, Store, StoreOptions};
use mnemon_runtime::Model;

use crate::{DocumentEncoder, EncodeOptions, Result};

const TENANT: &str = "scratch";
/// Bytes of each cache at most: room for the keys of all heads of the probe's text. A prompt's memory takes a tenth of it.
const CACHE_BYTES: usize = 256 << 20;

/// A memory that keeps what `geometry` says, and its only document, `document_id`. Entries are scanned, never sealed.
pub(crate) fn scratch(
    model: &Arc<Model>,
    geometry: KvGeometry,
    document_id: &str,
) -> Result<(Memory, DocumentEncoder)> {
    let options = StoreOptions {
        sealing: Sealing::Manual,
        index_cache_bytes: CACHE_BYTES,
        chunk_cache_bytes: CACHE_BYTES,
        ..StoreOptions::default()
    };
    let store = Store::open(Arc::new(InMemoryStorage::new()), options)?;
    let spec = MemorySpec {
        fingerprint: model.fingerprint_for(&geometry),
        geometry,
        model_name: String::new(),
        description: String::new(),
    };
    let memory = store.create_memory(TENANT, document_id, spec)?;
    let options = EncodeOptions::for_geometry(memory.geometry());
    let open = Arc::new(memory.clone());
    let encoder = DocumentEncoder::create(Arc::clone(model), open, document_id, BTreeMap::new(), options)?;
    Ok((memory, encoder))
}
