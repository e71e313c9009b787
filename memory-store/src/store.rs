//! The store: memories of many tenants over one storage.
use std::sync::Arc;
use crate::storage::Storage;
use crate::{Error, Memory, MemoryInfo, MemorySpec, Result, StoreOptions};

/// All memories of one data folder. Clones share everything.
#[derive(Clone)]
pub struct Store { _storage: Arc<dyn Storage> }

fn later<T>() -> Result<T> { Err(Error::Catalog("not built yet".into())) }

impl Store {
    /// Opens what `storage` holds and removes blobs that no record refers to.
    pub fn open(storage: Arc<dyn Storage>, options: StoreOptions) -> Result<Self> { options.validate()?; Ok(Self { _storage: storage }) }
    /// Creates a memory. Names (and tenants) are 1 to 128 of `[A-Za-z0-9._-]`.
    pub fn create_memory(&self, _tenant: &str, _name: &str, _spec: MemorySpec) -> Result<Memory> { later() }
    /// Opens a memory.
    pub fn memory(&self, _tenant: &str, _name: &str) -> Result<Memory> { later() }
    /// Memories of a tenant, ascending by name, those after `after`.
    pub fn list_memories(&self, _tenant: &str, _after: Option<&str>, _limit: usize) -> Result<Vec<MemoryInfo>> { later() }
    /// Deletes a memory with all its documents. Snapshots that are held keep working.
    pub fn delete_memory(&self, _tenant: &str, _name: &str) -> Result<()> { later() }
    /// Builds every graph that is due, and returns when all are durable.
    pub fn seal_all(&self) -> Result<()> { later() }
}
