//! Where records and blobs live.
//!
//! | implementation | records | blobs | for |
//! |---|---|---|---|
//! | [`SledStorage`] | sled | files beside it | serving |
//! | [`InMemoryStorage`] | map | map | tests, throw-away stores |
//! | [`FaultyStorage`] | of another | of another | tests of what happens when writing fails |
//! | [`SimulatedStorage`] | map | map | simulations of everything that a disk may do |
//!
//! Nothing above this seam may assume a local disk.

mod catalog;
mod copy;
mod faulty;
mod files;
mod folder;
mod memory;
mod simulated;
mod sled;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::copy::parse as parse_copy;
pub use self::faulty::{Fault, FaultPlan, FaultyStorage};
pub(crate) use self::folder::ClosedFolder;
pub use self::memory::InMemoryStorage;
pub use self::simulated::{SimulatedStorage, Trouble};
pub use self::sled::{SledOptions, SledStorage};

use mnemon_memory::Invalid;

use crate::error::{Error, Result};

/// A key and its value.
pub type Record = (Vec<u8>, Vec<u8>);

/// Changes of records that take effect together or not at all. The last change of a key counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// Writes a record.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.push((key, Some(value)));
    }

    /// Removes a record; removing what is not there is no error.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.changes.push((key, None));
    }

    /// The changes in order; `None` removes.
    pub fn changes(&self) -> &[(Vec<u8>, Option<Vec<u8>>)] {
        &self.changes
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// A stored blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Name.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// Ordered records with atomic batches, and immutable blobs. All methods may be called from many threads at once.
///
/// Small values belong in records, large ones in blobs. Keys are at most 1 KiB, values of records some hundred KiB.
pub trait Storage: Send + Sync {
    /// The value of `key`, as left by the last [`apply`](Storage::apply), flushed or not.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Records whose keys start with `prefix`, ascending by key, only those after the key `after` (exclusive;
    /// a whole key, prefix included), at most `limit`. Each record is as it was at some moment during the call.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Record>>;

    /// Applies all changes of `batch` or none, visible to later reads at once. Survives a crash only after the next
    /// successful [`flush`](Storage::flush); a crash before it keeps the whole batch or nothing of it, and batches
    /// are lost from the last one backwards. After an error nothing was applied.
    fn apply(&self, batch: &Batch) -> Result<()>;

    /// Returns when everything applied before the call survives the death of the process and loss of power.
    /// After an error it is unknown which of the batches since the last successful flush would.
    fn flush(&self) -> Result<()>;

    /// Stores the concatenation of `parts` as blob `name` and returns when it survives loss of power. Names are
    /// 1 to 64 of `[a-z0-9.-]`, not starting with a dot. A blob of this name is replaced. After an error the blob may
    /// be absent, or present whole or in part: readers must not trust a blob that no record refers to.
    fn write_blob(&self, name: &str, parts: &[&[u8]]) -> Result<()>;

    /// `len` bytes of blob `name` from `offset`. A range that ends past the blob, or a missing blob, is
    /// [`Error::Damaged`] naming it.
    fn read_blob(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>>;

    /// As [`read_blob`](Storage::read_blob), into memory of the caller's.
    fn read_blob_into(&self, name: &str, offset: u64, into: &mut [u8]) -> Result<()> {
        into.copy_from_slice(&self.read_blob(name, offset, into.len())?);
        Ok(())
    }

    /// Deletes a blob; deleting what is not there is no error. May come back after a crash.
    fn delete_blob(&self, name: &str) -> Result<()>;

    /// All blobs, in any order. Part-written ones may be among them.
    fn list_blobs(&self) -> Result<Vec<BlobInfo>>;

    /// Keeps `bytes` that cannot be used any more where nothing but a person looks, under `name` or one like it.
    fn set_aside(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// Gives back what deleted and replaced records still take, so that no byte of them is left.
    fn compact(&self) -> Result<()> {
        Ok(())
    }

    /// Where it is, for messages.
    fn location(&self) -> String;
}

/// Refuses blob names that an implementation could not store.
pub(crate) fn check_blob_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.' || byte == b'-';
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(allowed) {
        let why = format!("'{}' must be 1 to 64 of [a-z0-9.-], not starting with a dot", name.escape_debug());
        return Err(Error::Invalid(Invalid { what: "blob name", why }));
    }
    Ok(())
}

/// Records read at once.
const PAGE: usize = 1024;

/// All records under `prefix`, page by page.
pub(crate) fn for_each_record(
    storage: &dyn Storage,
    prefix: &[u8],
    mut visit: impl FnMut(Record) -> Result<()>,
) -> Result<()> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = storage.scan(prefix, after.as_deref(), PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        page.into_iter().try_for_each(&mut visit)?;
    }
}
