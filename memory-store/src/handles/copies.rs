//! Memories that are becoming copies of others, in another form: made by another model, from the same text.
//!
//! Until it is complete, such a memory says what it is made from, so that work on it can go on after an interruption, and
//! nothing else is taken for it.

use crate::error::Result;
use crate::format::records::{COPY_KIND, decode_sequence, memory_key};
use crate::handles::memory::Memory;
use crate::handles::store::Store;
use crate::storage::Batch;
use crate::types::info::MemorySpec;

impl Store {
    /// Creates a memory that is to become a copy of `source`, as [`create_memory`](Self::create_memory) does. It is one
    /// like any other, has the limits of `source`, and remembers what it is made from until [`Memory::end_copy`].
    pub fn create_copy(&self, tenant: &str, name: &str, spec: MemorySpec, source: &Memory) -> Result<Memory> {
        self.create(tenant, name, spec, source.limits(), Some(source.memory_entry.number))
    }
}

impl Memory {
    /// Whether it is becoming a copy of `source`: of that very memory, not of one that had its name before.
    pub fn is_becoming(&self, source: &Memory) -> Result<bool> {
        self.memory_entry.check_alive()?;
        let found = self.shared.engine.storage.get(&memory_key(COPY_KIND, self.memory_entry.number))?;
        let what = || format!("the origin of memory {}", self.memory_entry.name);
        let from = found.map(|value| decode_sequence(&value, &what())).transpose()?;
        Ok(from == Some(source.memory_entry.number))
    }

    /// It is complete: a memory like any other, durably.
    pub fn end_copy(&self) -> Result<()> {
        self.memory_entry.check_alive()?;
        let mut batch = Batch::default();
        batch.delete(memory_key(COPY_KIND, self.memory_entry.number));
        self.shared.engine.commit(&batch)
    }
}
