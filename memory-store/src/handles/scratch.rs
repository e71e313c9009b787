//! Memories in this process that are gone with their last handle.

use std::sync::Arc;

use mnemon_memory::{Fingerprint, KvGeometry, OpenMemory};

use crate::handles::store::Store;
use crate::storage::InMemoryStorage;
use crate::types::info::MemorySpec;
use crate::types::options::{Sealing, StoreOptions};

const TENANT: &str = "scratch";
/// Bytes of each cache at most: room for the keys of all heads of a probe's text. A prompt's memory takes a tenth of it.
const CACHE_BYTES: usize = 256 << 20;

/// A memory of a store of its own, in this process and gone with its last handle: a [`CreateScratch`](mnemon_memory::CreateScratch).
/// Entries are scanned, never sealed.
pub fn create_scratch(
    name: &str,
    fingerprint: Fingerprint,
    geometry: &KvGeometry,
) -> mnemon_memory::Result<Arc<dyn OpenMemory>> {
    let options = StoreOptions {
        sealing: Sealing::Manual,
        index_cache_bytes: CACHE_BYTES,
        chunk_cache_bytes: CACHE_BYTES,
        ..StoreOptions::default()
    };
    let store = Store::open(Arc::new(InMemoryStorage::new()), options, Arc::new(|| 0))?;
    let (model_name, description) = (String::new(), String::new());
    let spec = MemorySpec { fingerprint, geometry: geometry.clone(), model_name, description };
    Ok(Arc::new(store.create_memory(TENANT, name, spec)?))
}
