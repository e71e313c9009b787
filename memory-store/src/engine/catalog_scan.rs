//! All that a storage holds, as far as it can be read.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::extent::read_chunk_header;
use crate::error::{Error, Result};
use crate::format::chunk_blob::{ChunkHeader, number_of};
use crate::format::records::{
    COPY_KIND, DocumentRecord, ExtentRecord, ID_KINDS, NameRecord, OLD_SEGMENT_KIND, SEGMENT_KIND, SegmentRecord,
    decode_reserved, decode_sequence, decode_version, names_of, number_in_key,
};
use crate::storage::{Record, Storage};

/// Records read at once.
const PAGE: usize = 1024;

/// A record as it is, and what it says.
pub(crate) struct Read<T> {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) parsed: Result<T>,
}

/// The records of one memory.
#[derive(Default)]
pub(crate) struct MemoryRecords {
    pub(crate) sequence: Option<Read<u64>>,
    /// By identifier.
    pub(crate) documents: BTreeMap<String, Read<DocumentRecord>>,
    /// By first chunk.
    pub(crate) extents: BTreeMap<u64, Read<ExtentRecord>>,
    /// By number.
    pub(crate) segments: BTreeMap<u64, Read<SegmentRecord>>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct CatalogScan {
    pub(crate) records: u64,
    pub(crate) version: Option<Result<u32>>,
    pub(crate) reserved: Option<Result<[u64; ID_KINDS]>>,
    /// By tenant and name.
    pub(crate) names: BTreeMap<(String, String), Read<NameRecord>>,
    pub(crate) memories: BTreeMap<u64, MemoryRecords>,
    /// Memories whose deletion is to be finished by the next opening.
    pub(crate) deleted: BTreeSet<u64>,
    /// Records that are nothing of the above.
    pub(crate) unknown_records: Vec<Record>,
    /// Bytes of each blob.
    pub(crate) blobs: BTreeMap<String, u64>,
    /// Headers of chunk blobs, by the number of their memory, ascending by blob.
    pub(crate) headers: BTreeMap<u64, Vec<ChunkHeader>>,
    /// Chunk blobs whose header cannot be read.
    pub(crate) headless: BTreeMap<String, Error>,
}

impl CatalogScan {
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self> {
        let mut scan = Self::default();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = storage.scan(b"", after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value) in page {
                scan.records += 1;
                scan.add(key, value);
            }
        }
        for blob in storage.list_blobs()? {
            if blob.name.starts_with("chunks-") {
                match read_chunk_header(storage, &blob.name, blob.bytes) {
                    Ok(header) => scan.headers.entry(header.memory_number).or_default().push(header),
                    Err(error @ Error::Damaged { .. }) => _ = scan.headless.insert(blob.name.clone(), error),
                    Err(error) => return Err(error),
                }
            }
            scan.blobs.insert(blob.name, blob.bytes);
        }
        for headers in scan.headers.values_mut() {
            headers.sort_by_key(|header| header.blob);
        }
        Ok(scan)
    }

    fn add(&mut self, key: Vec<u8>, value: Vec<u8>) {
        let what = format!("record {}", key.escape_ascii());
        let (memory, second, len) = (number_in_key(&key, 1), number_in_key(&key, 9), key.len());
        match (key.first().copied(), memory, second) {
            (Some(b'v'), ..) if len == 1 => self.version = Some(decode_version(&value)),
            (Some(b'r'), ..) if len == 1 => self.reserved = Some(decode_reserved(&value)),
            (Some(b'n'), ..) => match names_of(&key) {
                Some(names) => {
                    let parsed = NameRecord::decode(&value, &what);
                    self.names.insert(names, Read { key, value, parsed });
                }
                None => self.unknown_records.push((key, value)),
            },
            (Some(b'g'), Some(memory), _) if len == 9 => _ = self.deleted.insert(memory),
            (Some(b'm'), Some(memory), _) if len == 9 => {
                let parsed = decode_sequence(&value, &what);
                self.memory(memory).sequence = Some(Read { key, value, parsed });
            }
            (Some(b'd'), Some(memory), _) if len > 9 => match str::from_utf8(&key[9..]).map(str::to_owned) {
                Ok(id) => {
                    let parsed = DocumentRecord::decode(&value, &what);
                    self.memory(memory).documents.insert(id, Read { key, value, parsed });
                }
                Err(_) => self.unknown_records.push((key, value)),
            },
            (Some(b'e'), Some(memory), Some(first)) if len == 17 => {
                let parsed = ExtentRecord::decode(&value, &what);
                self.memory(memory).extents.insert(first, Read { key, value, parsed });
            }
            (Some(SEGMENT_KIND), Some(memory), Some(segment)) if len == 17 => {
                let parsed = SegmentRecord::decode(&value, &what);
                self.memory(memory).segments.insert(segment, Read { key, value, parsed });
            }
            // A copy that was not completed is a memory like any other.
            (Some(COPY_KIND), Some(_), _) if len == 9 => {}
            // Opening removes it, and the graphs that it names.
            (Some(OLD_SEGMENT_KIND), ..) => {}
            _ => self.unknown_records.push((key, value)),
        }
    }

    fn memory(&mut self, number: u64) -> &mut MemoryRecords {
        self.memories.entry(number).or_default()
    }

    /// The least numbers above all that are in use: memories, documents, chunks, blobs, segments.
    pub(crate) fn used_ids(&self) -> [u64; ID_KINDS] {
        let [mut memories, mut documents, mut chunks, mut blobs, mut segments] = [0; ID_KINDS];
        let names = self.names.values().filter_map(|name| name.parsed.as_ref().ok()).map(|record| record.number);
        for number in names.chain(self.memories.keys().copied()).chain(self.deleted.iter().copied()) {
            memories = memories.max(number);
        }
        for records in self.memories.values() {
            for record in records.documents.values().filter_map(|read| read.parsed.as_ref().ok()) {
                documents = documents.max(record.number);
            }
            for (first, read) in &records.extents {
                let (len, document) =
                    read.parsed.as_ref().map_or((0, 0), |record| (record.places.len() as u64, record.document));
                chunks = chunks.max(first.saturating_add(len));
                documents = documents.max(document);
            }
            segments = segments.max(records.segments.keys().next_back().copied().unwrap_or(0));
        }
        for header in self.headers.values().flatten() {
            memories = memories.max(header.memory_number);
            documents = documents.max(header.document);
            chunks = chunks.max(header.first_chunk.saturating_add(header.chunks as u64));
        }
        for name in self.blobs.keys() {
            blobs = blobs.max(number_of(name));
        }
        [memories, documents, chunks, blobs, segments].map(|last| last.saturating_add(1))
    }
}
