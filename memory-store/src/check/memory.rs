//! One memory: its records, its blobs, and what they are to become.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mnemon_memory::{KvGeometry, ResumePoint};

use super::document::{Doubts, Part, parts};
use super::{Finding, Loss, Work, parts_of};
use crate::engine::catalog_scan::{CatalogScan, MemoryRecords};
use crate::engine::extent_builder::{ExtentBuilder, ExtentOwner};
use crate::engine::inspection::{inspect, restored_chunk};
use crate::error::{Error, Result};
use crate::format::chunk_blob::{ChunkHeader, chunks_blob_name};
use crate::format::records::{
    DocumentRecord, NameRecord, SegmentRecord, document_key, encode_sequence, extent_key, memory_key, name_key,
    segment_key,
};
use crate::index::vectors::{GraphOwner, VectorIndex as _, graph_blob_name, read_graph};
use crate::storage::{InMemoryStorage, Storage};
use crate::types::limits::MemoryLimits;

/// Faults told of one blob.
const FAULTS_TOLD: usize = 3;

/// A memory by name, and how sure that is.
struct Named {
    tenant: String,
    name: String,
    record: NameRecord,
    /// Its record cannot be read.
    rebuilt: bool,
}

impl Named {
    fn owner(&self) -> (String, String) {
        (self.tenant.clone(), self.name.clone())
    }

    fn label(&self) -> String {
        format!("memory {}/{}", self.tenant, self.name)
    }
}

/// Checks every memory of the catalog.
pub(super) fn check_all(work: &mut Work<'_>, scan: &mut CatalogScan, catalog_lost: bool) -> Result<()> {
    let memories = named(work, scan, catalog_lost);
    work.report.memories = memories.len() as u64;
    for memory in &memories {
        let records = scan.memories.remove(&memory.record.number).unwrap_or_default();
        let headers = scan.headers.remove(&memory.record.number).unwrap_or_default();
        check_memory(work, scan, memory, &records, &headers, catalog_lost)?;
    }
    for (name, error) in &scan.headless {
        if !work.used.contains(name) && !work.bad_blobs.contains(name) {
            let (what, why) = parts_of(error);
            let remedy = "it is moved aside: no record refers to it, so that nobody knows whose it was".into();
            work.bad_blobs.insert(name.clone());
            work.find(Finding { what, why, remedy, ..Finding::default() });
        }
    }
    // What is left belongs to no memory: only a deletion that the next opening ends may leave records.
    let strays: Vec<u64> = scan.memories.keys().copied().filter(|number| !scan.deleted.contains(number)).collect();
    for number in strays {
        let records = scan.memories.remove(&number).unwrap_or_default();
        discard(work, number, &records);
    }
    Ok(())
}

/// Records of a memory that nothing names.
fn discard(work: &mut Work<'_>, number: u64, records: &MemoryRecords) {
    let reads = records.documents.values().map(|read| (&read.key, &read.value));
    let reads = reads.chain(records.extents.values().map(|read| (&read.key, &read.value)));
    let reads = reads.chain(records.segments.values().map(|read| (&read.key, &read.value)));
    let reads: Vec<_> = reads.chain(records.sequence.iter().map(|read| (&read.key, &read.value))).collect();
    for (key, value) in &reads {
        work.bad_record(key, value);
    }
    work.find(Finding {
        what: format!("{} records of memory number {number}", reads.len()),
        why: "no record names this memory".into(),
        remedy: "they are moved aside".into(),
        ..Finding::default()
    });
}

/// Every memory: by its record or, where that cannot be read, by its blobs.
fn named(work: &mut Work<'_>, scan: &CatalogScan, catalog_lost: bool) -> Vec<Named> {
    let mut memories = Vec::new();
    let mut claimed = scan.deleted.clone();
    for ((tenant, name), read) in &scan.names {
        if let Ok(record) = &read.parsed {
            claimed.insert(record.number);
            let (tenant, name) = (tenant.clone(), name.clone());
            memories.push(Named { tenant, name, record: record.clone(), rebuilt: false });
        }
    }
    // Of two numbers of a name the lower one was deleted before the other was created.
    let mut by_blobs: BTreeMap<(String, String), &ChunkHeader> = BTreeMap::new();
    for headers in scan.headers.iter().filter(|(number, _)| !claimed.contains(number)).map(|(_, headers)| headers) {
        let Some(header) = headers.last() else { continue };
        let names = (header.tenant.clone(), header.memory.clone());
        let is_named = scan.names.get(&names).is_some_and(|read| read.parsed.is_ok());
        if !is_named {
            by_blobs.insert(names, header);
        }
    }
    for ((tenant, name), header) in by_blobs {
        if !catalog_lost && !scan.names.contains_key(&(tenant.clone(), name.clone())) {
            work.find(Finding {
                what: format!("memory {tenant}/{name}"),
                why: "the catalog does not know it, but blobs do, and it was not deleted".into(),
                memory: Some((tenant.clone(), name.clone())),
                remedy: "it is rebuilt from the blobs".into(),
                ..Finding::default()
            });
        }
        // Of its limits the blobs do not tell.
        let limits = MemoryLimits::default();
        let record = NameRecord { number: header.memory_number, created_unix_ms: 0, spec: header.spec.clone(), limits };
        work.batch.put(name_key(&tenant, &name), record.encode());
        memories.push(Named { tenant, name, record, rebuilt: true });
    }
    for ((tenant, name), read) in &scan.names {
        let Err(error) = &read.parsed else { continue };
        let rebuilt = memories.iter().any(|memory| (&memory.tenant, &memory.name) == (tenant, name));
        let (_, why) = parts_of(error);
        let remedy = if rebuilt {
            "it is rebuilt from the blobs; when it was created, and its times to live and quotas, are not known any more"
        } else {
            work.bad_record(&read.key, &read.value);
            "it is removed: it has no chunks that would tell what it was made for; create it again"
        };
        work.find(Finding {
            what: format!("the record of memory {tenant}/{name}"),
            why,
            memory: Some((tenant.clone(), name.clone())),
            remedy: remedy.into(),
            ..Finding::default()
        });
    }
    memories
}

fn check_memory(
    work: &mut Work<'_>,
    scan: &CatalogScan,
    memory: &Named,
    records: &MemoryRecords,
    headers: &[ChunkHeader],
    catalog_lost: bool,
) -> Result<()> {
    let sequence = check_sequence(work, memory, records, headers, catalog_lost);
    let stale = sequence.is_none();
    for (id, read) in &records.documents {
        if let Err(error) = &read.parsed {
            work.bad_record(&read.key, &read.value);
            let remedy = "it is rebuilt from the blobs; the document counts as interrupted".into();
            record_finding(work, memory, &format!("the record of document {id}"), error, Some(id.clone()), remedy);
        }
    }
    for (first, read) in &records.extents {
        if let Err(error) = &read.parsed {
            work.bad_record(&read.key, &read.value);
            let document = headers.iter().find(|header| header.first_chunk == *first);
            let document = document.map(|header| header.document_id.clone());
            let remedy = "it is rebuilt from its blob".into();
            record_finding(work, memory, &format!("the record of chunk {first}"), error, document, remedy);
        }
    }
    let doubts = Doubts::of(records, catalog_lost || stale || memory.rebuilt && records.extents.is_empty());
    let documents = parts(work, records, headers, &doubts)?;
    let mut changed = BTreeSet::new();
    let mut kept: BTreeMap<u64, Vec<Part>> = BTreeMap::new();
    let identities = identities(records, headers);
    for (number, parts) in documents {
        let Some(identity) = identities.get(&number) else {
            // Its record is gone and no header names it.
            for part in parts.iter().filter(|part| part.known) {
                work.batch.delete(extent_key(memory.record.number, part.first_chunk));
                work.bad_blobs.insert(chunks_blob_name(part.record.blob));
                changed.insert(part.first_chunk);
            }
            work.find(Finding {
                what: format!("document number {number} of {}", memory.label()),
                why: "neither a record nor a blob names it".into(),
                memory: Some(memory.owner()),
                remedy: "its blobs are moved aside".into(),
                ..Finding::default()
            });
            continue;
        };
        let mut whole = Vec::new();
        for part in parts {
            check_part(work, scan, memory, identity, part, &mut whole, &mut changed)?;
        }
        for part in &whole {
            let stored = records.extents.get(&part.first_chunk).and_then(|read| read.parsed.as_ref().ok());
            if stored != Some(&part.record) {
                work.batch.put(extent_key(memory.record.number, part.first_chunk), part.record.encode());
            }
        }
        kept.insert(number, whole);
    }
    // Records whose extents were replaced by what came later.
    let alive: BTreeSet<u64> = kept.values().flatten().map(|part| part.first_chunk).collect();
    for (first, read) in &records.extents {
        if read.parsed.is_ok() && !alive.contains(first) && changed.insert(*first) {
            work.batch.delete(extent_key(memory.record.number, *first));
        }
    }
    let last = check_documents(work, memory, records, &identities, &kept, stale || catalog_lost);
    check_segments(work, scan, memory, records, &changed)?;
    if sequence.is_none_or(|sequence| sequence < last) {
        let after = headers.iter().map(|header| header.after + 1).max().unwrap_or(0);
        let key = memory_key(b'm', memory.record.number);
        work.batch.put(key, encode_sequence(last.max(after).max(sequence.unwrap_or(0))));
    }
    Ok(())
}

fn record_finding(
    work: &mut Work<'_>,
    memory: &Named,
    what: &str,
    error: &Error,
    document: Option<String>,
    remedy: String,
) {
    let (_, why) = parts_of(error);
    let what = format!("{what} in {}", memory.label());
    work.find(Finding { what, why, memory: Some(memory.owner()), document, remedy, lost: Vec::new() });
}

/// The sequence number; `None` when there is none that can be trusted.
fn check_sequence(
    work: &mut Work<'_>,
    memory: &Named,
    records: &MemoryRecords,
    headers: &[ChunkHeader],
    catalog_lost: bool,
) -> Option<u64> {
    if catalog_lost {
        return None;
    }
    let what = format!("the sequence number of {}", memory.label());
    let found = match records.sequence.as_ref().map(|read| (read, &read.parsed)) {
        Some((_, Ok(sequence))) => Ok(*sequence),
        Some((read, Err(error))) => {
            work.bad_record(&read.key, &read.value);
            Err(parts_of(error).1)
        }
        None => Err("it is missing".into()),
    };
    let remedy = "it is told by the documents".to_owned();
    match found {
        Err(why) => {
            work.find(Finding { what, why, memory: Some(memory.owner()), remedy, ..Finding::default() });
            // As far as documents tell; commits may be missing, which their blobs tell.
            let known = records.documents.values().filter_map(|read| read.parsed.as_ref().ok());
            let known = known.map(|record| record.sequence).max().unwrap_or(0);
            let sequence = headers.iter().map(|header| header.after).max().unwrap_or(0).max(known);
            work.batch.put(memory_key(b'm', memory.record.number), encode_sequence(sequence + 1));
            Some(sequence + 1)
        }
        Ok(sequence) => {
            let newest = headers.iter().map(|header| header.after).max().unwrap_or(0);
            if newest <= sequence {
                return Some(sequence);
            }
            work.find(Finding {
                what: format!("the records of {}", memory.label()),
                why: format!("they end at change {sequence}, but blobs know of change {newest}"),
                memory: Some(memory.owner()),
                remedy: "they are rebuilt from the blobs".into(),
                ..Finding::default()
            });
            None
        }
    }
}

/// Who a document is.
struct Identity {
    id: String,
    metadata: BTreeMap<String, String>,
}

fn identities(records: &MemoryRecords, headers: &[ChunkHeader]) -> HashMap<u64, Identity> {
    let mut identities = HashMap::new();
    for header in headers {
        // The last blob has the last metadata.
        let identity = Identity { id: header.document_id.clone(), metadata: header.metadata.clone() };
        identities.insert(header.document, identity);
    }
    for (id, read) in &records.documents {
        if let Ok(record) = &read.parsed {
            identities.insert(record.number, Identity { id: id.clone(), metadata: record.metadata.clone() });
        }
    }
    identities
}

/// Verifies the blob of a part. What of it can be used goes to `whole`, in new blobs if something is wrong.
fn check_part(
    work: &mut Work<'_>,
    scan: &CatalogScan,
    memory: &Named,
    identity: &Identity,
    part: Part,
    whole: &mut Vec<Part>,
    changed: &mut BTreeSet<u64>,
) -> Result<()> {
    let number = memory.record.number;
    let geometry = &memory.record.spec.geometry;
    let name = chunks_blob_name(part.record.blob);
    let what = format!("blob {name} of document {} in {}", identity.id, memory.label());
    let finding = |why: String, lost: Vec<Loss>, remedy: &str| Finding {
        what: what.clone(),
        why,
        memory: Some(memory.owner()),
        document: Some(identity.id.clone()),
        remedy: remedy.into(),
        lost,
    };
    let Some(bytes) = scan.blobs.get(&name) else {
        work.batch.delete(extent_key(number, part.first_chunk));
        changed.insert(part.first_chunk);
        let lost = vec![loss(&part, 0, part.record.live as usize)];
        work.find(finding("it is missing".into(), lost, "its chunks are taken off the document"));
        return Ok(());
    };
    let bytes = work.storage.read_blob(&name, 0, *bytes as usize)?;
    let found = inspect(&bytes, &part.record, part.first_chunk, geometry);
    if found.faults.is_empty() {
        work.used.insert(name);
        if !part.known {
            changed.insert(part.first_chunk);
        }
        whole.push(part);
        return Ok(());
    }
    work.batch.delete(extent_key(number, part.first_chunk));
    changed.insert(part.first_chunk);
    work.bad_blobs.insert(name);
    let live = part.record.live as usize;
    let lost: Vec<_> = runs(&found.sound[..live], false).map(|run| loss(&part, run.start, run.end)).collect();
    let mut why = found.faults[..found.faults.len().min(FAULTS_TOLD)].join("; ");
    if found.faults.len() > FAULTS_TOLD {
        why = format!("{why}; and {} more", found.faults.len() - FAULTS_TOLD);
    }
    let remedy = if lost.is_empty() {
        "its chunks are whole and are written anew"
    } else {
        "the other chunks are written anew; these are taken off the document"
    };
    work.find(finding(why, lost, remedy));
    for run in runs(&found.sound[..live], true) {
        let part = rewrite(work, memory, identity, &part, &bytes, run)?;
        work.used.insert(chunks_blob_name(part.record.blob));
        changed.insert(part.first_chunk);
        whole.push(part);
    }
    Ok(())
}

/// Ranges of neighbours that are `wanted`.
fn runs(flags: &[bool], wanted: bool) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + flags[at..].iter().position(|flag| *flag == wanted)?;
        let len = flags[start..].iter().position(|flag| *flag != wanted).unwrap_or(flags.len() - start);
        at = start + len;
        Some(start..at)
    })
}

fn loss(part: &Part, from: usize, to: usize) -> Loss {
    let (record, places) = (&part.record, &part.record.places);
    Loss {
        chunks: record.first_ordinal + from as u64..record.first_ordinal + to as u64,
        tokens: record.token_start + places[from].tokens as u64..record.token_start + places[to].tokens as u64,
        bytes: record.byte_start + places[from].bytes as u64..record.byte_start + places[to].bytes as u64,
    }
}

/// Writes the chunks of `run` to a blob of their own; a check only says what it would be.
fn rewrite(
    work: &mut Work<'_>,
    memory: &Named,
    identity: &Identity,
    part: &Part,
    bytes: &[u8],
    run: std::ops::Range<usize>,
) -> Result<Part> {
    let geometry = &memory.record.spec.geometry;
    let (record, places) = (&part.record, &part.record.places);
    let (first, start) = (places[run.start], record.body_start as usize);
    let mut builder = ExtentBuilder::new(
        record.first_ordinal + run.start as u64,
        record.token_start + first.tokens as u64,
        record.byte_start + first.bytes as u64,
    );
    for pair in places[run.start..=run.end].windows(2) {
        let tokens = pair[1].tokens - pair[0].tokens;
        let stored = &bytes[start + pair[0].offset as usize..start + pair[1].offset as usize];
        let stored = restored_chunk(stored, tokens as usize, geometry)?;
        builder.push_stored(&stored, tokens, pair[1].bytes - pair[0].bytes);
    }
    let blob = work.next[3];
    work.next[3] += 1;
    let first_chunk = part.first_chunk + run.start as u64;
    let document_id = Arc::from(identity.id.as_str());
    let owner = ExtentOwner {
        tenant: &memory.tenant,
        memory: &memory.name,
        memory_number: memory.record.number,
        spec: &memory.record.spec,
        document: record.document,
        document_id: &document_id,
        metadata: &identity.metadata,
        after: 0,
    };
    let scratch: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
    let storage = if work.repair { work.storage } else { &scratch };
    let extent = builder.write(storage, &owner, blob, first_chunk)?;
    Ok(Part { first_chunk, record: extent.record(extent.chunks()), known: false })
}

/// Makes the records of documents agree with what is there; returns the highest sequence number.
fn check_documents(
    work: &mut Work<'_>,
    memory: &Named,
    records: &MemoryRecords,
    identities: &HashMap<u64, Identity>,
    kept: &BTreeMap<u64, Vec<Part>>,
    from_blobs: bool,
) -> u64 {
    let mut known: BTreeMap<u64, (&String, &DocumentRecord)> = BTreeMap::new();
    for (id, read) in &records.documents {
        if let Ok(record) = &read.parsed {
            known.insert(record.number, (id, record));
        }
    }
    let numbers: BTreeSet<u64> = known.keys().chain(kept.keys()).copied().collect();
    let mut last = 0;
    for number in numbers {
        let parts = kept.get(&number).map_or(&[][..], Vec::as_slice);
        let old = known.get(&number).map(|(_, record)| *record);
        let Some(identity) = identities.get(&number) else { continue };
        let key = document_key(memory.record.number, &identity.id);
        let Some(end) = parts.last() else {
            if let Some(old) = old.filter(|old| old.chunks == 0) {
                work.report.documents += 1;
                last = last.max(old.sequence);
            } else {
                work.batch.delete(key);
                let what = format!("document {} of {}", identity.id, memory.label());
                let chunks = old.map_or(0, |old| old.chunks);
                let told = work.report.findings.iter().any(|finding| {
                    finding.document.as_ref() == Some(&identity.id)
                        && finding.memory.as_ref() == Some(&memory.owner())
                        && !finding.lost.is_empty()
                });
                let lost = old.map(|old| Loss { chunks: 0..chunks, tokens: 0..old.tokens, bytes: 0..old.bytes });
                let lost = lost.filter(|_| !told);
                work.find(Finding {
                    what,
                    why: "none of its chunks is left".into(),
                    memory: Some(memory.owner()),
                    document: Some(identity.id.clone()),
                    remedy: "it is removed; ingest it again".into(),
                    lost: lost.into_iter().collect(),
                });
            }
            continue;
        };
        work.report.documents += 1;
        let (tokens, bytes) = (end.record.places[end.record.live as usize], end.end());
        let (chunks, tokens, text) =
            (bytes, end.record.token_start + tokens.tokens as u64, end.record.byte_start + tokens.bytes as u64);
        let live: u64 = parts.iter().map(|part| part.record.live as u64).sum();
        let mut record = old.cloned().unwrap_or_else(|| DocumentRecord {
            number,
            created_unix_ms: 0,
            updated_unix_ms: 0,
            sequence: 1,
            chunks: 0,
            tokens: 0,
            bytes: 0,
            resume: ResumePoint::default(),
            metadata: identity.metadata.clone(),
            lost_chunks: 0,
            ttl_ms: None,
            // They are in the blobs, where there are any.
            has_turns: true,
        });
        last = last.max(record.sequence);
        if record.chunks != chunks {
            // Where tokenising is final is known of the old end only.
            record.resume = ResumePoint::default();
        }
        (record.chunks, record.tokens, record.bytes, record.lost_chunks) = (chunks, tokens, text, chunks - live);
        if old != Some(&record) {
            let told = work.report.findings.iter().any(|finding| finding.document.as_ref() == Some(&identity.id));
            if !told && !from_blobs {
                work.find(Finding {
                    what: format!("the record of document {} in {}", identity.id, memory.label()),
                    why: format!("it does not agree with its {live} chunks"),
                    memory: Some(memory.owner()),
                    document: Some(identity.id.clone()),
                    remedy: "it is rebuilt; the document counts as interrupted".into(),
                    lost: Vec::new(),
                });
            }
            work.batch.put(key, record.encode());
        }
    }
    // Records of documents that cannot be read and have no blobs.
    for (id, read) in &records.documents {
        let found = identities.iter().any(|(number, identity)| identity.id == *id && kept.contains_key(number));
        if read.parsed.is_err() && !found {
            work.find(Finding {
                what: format!("document {id} of {}", memory.label()),
                why: "its record is damaged and it has no chunks".into(),
                memory: Some(memory.owner()),
                document: Some(id.clone()),
                remedy: "it is removed; ingest it again".into(),
                lost: Vec::new(),
            });
        }
    }
    last
}

/// Segments whose record, extents and graphs are all whole stay; the entries of others are indexed again.
fn check_segments(
    work: &mut Work<'_>,
    scan: &CatalogScan,
    memory: &Named,
    records: &MemoryRecords,
    changed: &BTreeSet<u64>,
) -> Result<()> {
    for (number, read) in &records.segments {
        let what = format!("segment {number} in {}", memory.label());
        let verified = match &read.parsed {
            Ok(segment) => check_graphs(work, scan, memory, *number, segment),
            Err(Error::Damaged { why, .. }) => {
                Err(Error::Damaged { what: format!("the record of {what}"), why: why.clone() })
            }
            Err(error) => Err(Error::Catalog(error.to_string())),
        };
        let key = segment_key(memory.record.number, *number);
        match (&read.parsed, verified) {
            (Ok(segment), Ok(())) => {
                if segment.extents.iter().any(|extent| changed.contains(extent)) {
                    work.batch.delete(key);
                }
            }
            (parsed, Err(Error::Damaged { what: blob, why })) => {
                if parsed.is_err() {
                    work.bad_record(&read.key, &read.value);
                }
                work.batch.delete(key);
                work.find(Finding {
                    what: blob,
                    why,
                    memory: Some(memory.owner()),
                    document: None,
                    remedy: "the graphs of its segment are dropped; its entries are scanned, and indexed anew".into(),
                    lost: Vec::new(),
                });
            }
            (_, Err(error)) => return Err(error),
            (Err(_), Ok(())) => {}
        }
    }
    Ok(())
}

/// The one place that knows how to verify the index of a segment.
fn check_graphs(
    work: &mut Work<'_>,
    scan: &CatalogScan,
    memory: &Named,
    number: u64,
    segment: &SegmentRecord,
) -> Result<()> {
    let geometry: &KvGeometry = &memory.record.spec.geometry;
    let label = memory.label();
    let damaged = |what: String, why: String| Err(Error::Damaged { what, why });
    if segment.graphs.len() != geometry.key_heads.len() {
        let why = format!("it has {} graphs", segment.graphs.len());
        return damaged(format!("segment {number} in {label}"), why);
    }
    for (at, graph) in segment.graphs.iter().enumerate() {
        let name = graph_blob_name(graph.blob);
        let what = format!("blob {name} of segment {number} in {label}");
        work.used.insert(name.clone());
        match scan.blobs.get(&name) {
            None => return damaged(what, "it is missing".into()),
            Some(bytes) if *bytes != graph.blob_bytes => {
                return damaged(what, format!("it has {bytes} bytes instead of {}", graph.blob_bytes));
            }
            Some(_) => {}
        }
        let owner = GraphOwner::new(memory.record.number, number, geometry, at);
        let decoded = read_graph(work.storage.as_ref(), &name, graph.blob_bytes, &what, owner)?;
        if decoded.dim() != geometry.head_dim as usize || decoded.len() != segment.entries as usize {
            return damaged(what, "it has other entries than its segment".into());
        }
    }
    Ok(())
}
