//! Which blobs make up the documents of a memory when records do not tell.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Work, parts_of};
use crate::engine::catalog_scan::MemoryRecords;
use crate::error::{Error, Result};
use crate::format::chunk_blob::{ChunkHeader, chunks_blob_name};
use crate::format::records::ExtentRecord;

/// Consecutive chunks in one blob, from a record or from the blob.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) first_chunk: u64,
    pub(super) record: ExtentRecord,
    /// Whether the catalog has this record.
    pub(super) known: bool,
}

impl Part {
    fn chunks(&self) -> u64 {
        self.record.places.len() as u64 - 1
    }

    /// One past the ordinal of its last chunk that counts.
    pub(super) fn end(&self) -> u64 {
        self.record.first_ordinal + self.record.live as u64
    }
}

/// What may be asked of the blobs of a memory.
pub(super) struct Doubts {
    /// The records are gone, or older than the blobs.
    pub(super) all: bool,
    /// Documents (by number) whose records do not agree with their extents.
    pub(super) documents: BTreeSet<u64>,
    /// Identifiers of documents whose record is damaged.
    pub(super) identifiers: BTreeSet<String>,
    /// First chunks of extents whose record is damaged.
    pub(super) extents: BTreeSet<u64>,
}

impl Doubts {
    pub(super) fn of(records: &MemoryRecords, all: bool) -> Self {
        let mut live: BTreeMap<u64, u64> = BTreeMap::new();
        let mut extents = BTreeSet::new();
        for (first, read) in &records.extents {
            match &read.parsed {
                Ok(record) => *live.entry(record.document).or_default() += record.live as u64,
                Err(_) => _ = extents.insert(*first),
            }
        }
        let mut documents = BTreeSet::new();
        let mut identifiers = BTreeSet::new();
        for (id, read) in &records.documents {
            match &read.parsed {
                Ok(record) => {
                    let found = live.remove(&record.number).unwrap_or(0);
                    if found + record.lost_chunks != record.chunks {
                        documents.insert(record.number);
                    }
                }
                Err(_) => _ = identifiers.insert(id.clone()),
            }
        }
        // Extents of no document that can be read.
        documents.extend(live.into_keys());
        Self { all, documents, identifiers, extents }
    }

    /// Whether a blob that no record refers to may be part of the memory.
    fn concern(&self, header: &ChunkHeader) -> bool {
        self.all
            || self.documents.contains(&header.document)
            || self.identifiers.contains(&header.document_id)
            || self.extents.contains(&header.first_chunk)
    }
}

/// The parts of each document (by number), in order.
pub(super) fn parts(
    work: &mut Work<'_>,
    records: &MemoryRecords,
    headers: &[ChunkHeader],
    doubts: &Doubts,
) -> Result<BTreeMap<u64, Vec<Part>>> {
    let mut documents: BTreeMap<u64, Vec<Part>> = BTreeMap::new();
    let mut referred = BTreeSet::new();
    for (first, read) in &records.extents {
        if let Ok(record) = &read.parsed {
            referred.insert(record.blob);
            let part = Part { first_chunk: *first, record: record.clone(), known: true };
            documents.entry(record.document).or_default().push(part);
        }
    }
    for header in headers.iter().filter(|header| !referred.contains(&header.blob) && doubts.concern(header)) {
        let name = chunks_blob_name(header.blob);
        let what = format!("blob {name} in {}", work.storage.location());
        let bytes = work.storage.list_blobs()?.into_iter().find(|blob| blob.name == name).map_or(0, |blob| blob.bytes);
        let bytes = work.storage.read_blob(&name, 0, bytes as usize)?;
        match header.record(&bytes, &what) {
            Ok(record) => {
                let part = Part { first_chunk: header.first_chunk, record, known: false };
                documents.entry(header.document).or_default().push(part);
            }
            Err(error @ Error::Damaged { .. }) => {
                let (what, why) = parts_of(&error);
                work.bad_blobs.insert(name);
                work.find(Finding {
                    what,
                    why,
                    memory: Some((header.tenant.clone(), header.memory.clone())),
                    document: Some(header.document_id.clone()),
                    remedy: "it is moved aside: neither a record nor its end tells where its chunks begin".into(),
                    lost: Vec::new(),
                });
            }
            Err(error) => return Err(error),
        }
    }
    for (number, parts) in &mut documents {
        let complete = parts.iter().filter(|part| part.known).map(|part| part.record.live as u64).sum();
        let wanted = records.documents.values().filter_map(|read| read.parsed.as_ref().ok());
        let wanted = wanted.filter(|record| record.number == *number).map(|record| record.chunks).next();
        if !doubts.all && wanted == Some(complete) {
            // Blobs beside these were replaced, or never committed.
            parts.retain(|part| part.known);
        }
        *parts = in_order(std::mem::take(parts), if doubts.all { None } else { wanted });
    }
    Ok(documents)
}

/// Leaves out what was replaced: ids of chunks ascend with time, and a merged blob keeps the ids of its parts.
fn in_order(mut parts: Vec<Part>, wanted: Option<u64>) -> Vec<Part> {
    parts.sort_by_key(|part| (part.first_chunk, part.record.blob));
    let mut kept: Vec<Part> = Vec::new();
    for part in parts {
        match kept.last_mut() {
            Some(last) if part.first_chunk < last.first_chunk + last.chunks() => {
                let better = (part.known, part.record.blob) > (last.known, last.record.blob);
                if better {
                    *last = part;
                }
            }
            _ => kept.push(part),
        }
    }
    let mut ordered: Vec<Part> = Vec::new();
    for part in kept {
        // What was written later replaces what stood from there on.
        while let Some(last) = ordered.last_mut()
            && last.end() > part.record.first_ordinal
        {
            match part.record.first_ordinal.checked_sub(last.record.first_ordinal) {
                Some(live) if live > 0 => last.record.live = live as u32,
                _ => _ = ordered.pop(),
            }
        }
        ordered.push(part);
    }
    if let Some(wanted) = wanted {
        ordered.retain(|part| part.record.first_ordinal < wanted);
        if let Some(last) = ordered.last_mut()
            && last.end() > wanted
        {
            last.record.live = (wanted - last.record.first_ordinal) as u32;
        }
    }
    ordered
}
