//! Verifies every byte of a store that is not open, and rebuilds what can be rebuilt.
//!
//! | file | idea |
//! |---|---|
//! | `memory` | one memory: what is wrong with it, and what it is to become |
//! | `document` | which blobs make up a document when records do not tell |
//!
//! A check holds the catalog in memory, and one blob at a time. It changes nothing; a repair writes new blobs first,
//! then all records at once, and moves what it could not use into `damaged/` at the end: it may be cut short and run
//! again.
//!
//! What stands only in the catalog cannot be rebuilt from blobs: times, limits, resume points (a rebuilt document counts as
//! interrupted: ingest it again with `resume`), memories without chunks, and that a document was deleted if its blobs are
//! still there. Of these the safe side is taken: such a document comes back, and the report names it.

mod document;
mod memory;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::engine::catalog_scan::CatalogScan;
use crate::engine::ids::{FAR, RESERVE};
use crate::error::{Error, Result};
use crate::format::chunk_blob::chunks_blob_name;
use crate::format::records::{RESERVED_KEY, VERSION_KEY, encode_reserved, encode_version};
use crate::index::embeddings::{EmbeddingIndex, chunk_blob_of, is_named_for};
use crate::storage::{Batch, ClosedFolder, Storage};

/// Changes applied at once.
const STEP: usize = 64;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Memories.
    pub memories: u64,
    /// Documents.
    pub documents: u64,
    /// Records of the catalog.
    pub records: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes of the blobs.
    pub bytes: u64,
    /// Blobs that no record refers to: a crash leaves such, and the next opening removes them.
    pub unused_blobs: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Whether it was repaired.
    pub repaired: bool,
}

impl CheckReport {
    /// Nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Something that is wrong, and what a repair makes of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finding {
    /// File or record.
    pub what: String,
    /// The check that failed.
    pub why: String,
    /// Tenant and name of the memory concerned.
    pub memory: Option<(String, String)>,
    /// Identifier of the document concerned.
    pub document: Option<String>,
    /// What a repair does (or did).
    pub remedy: String,
    /// What is lost for good; everything else can be rebuilt.
    pub lost: Vec<Loss>,
}

/// A part of a document that is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Chunks, counted within the document.
    pub chunks: Range<u64>,
    /// Tokens of the document.
    pub tokens: Range<u64>,
    /// Bytes of the document.
    pub bytes: Range<u64>,
}

/// Checks the data folder `directory`, which no server may have open, and repairs it if `repair`.
pub fn check_folder(directory: impl AsRef<Path>, repair: bool) -> Result<CheckReport> {
    let mut folder = ClosedFolder::open(directory.as_ref())?;
    let mut findings = Vec::new();
    let lost = folder.catalog_lost;
    for fault in folder.faults.iter().map(ToString::to_string).zip(&folder.faults) {
        let (what, why) = parts_of(fault.1);
        let remedy = if lost { "all records are rebuilt from the blobs" } else { "it is written anew" };
        findings.push(Finding { what, why, remedy: remedy.into(), ..Finding::default() });
    }
    folder.catalog_lost = false;
    let must_write = !findings.is_empty();
    let storage: Arc<dyn Storage> = Arc::new(folder);
    run(&storage, repair, lost, must_write, findings)
}

/// As [`check_folder`], of any storage that no [`Store`](crate::Store) has open.
pub fn check(storage: &Arc<dyn Storage>, repair: bool) -> Result<CheckReport> {
    run(storage, repair, false, false, Vec::new())
}

/// A check, and the repair that it prepares.
struct Work<'a> {
    storage: &'a Arc<dyn Storage>,
    repair: bool,
    report: CheckReport,
    /// Records as they are to become.
    batch: Batch,
    /// Blobs that cannot be used.
    bad_blobs: BTreeSet<String>,
    /// Records that cannot be used: key and value.
    bad_records: Vec<(Vec<u8>, Vec<u8>)>,
    /// Blobs that a record refers to.
    used: BTreeSet<String>,
    /// Numbers that are not in use, of each kind.
    next: [u64; crate::format::records::ID_KINDS],
}

impl Work<'_> {
    fn find(&mut self, finding: Finding) {
        self.report.findings.push(finding);
    }

    /// Notes a record that cannot be read; it is to be replaced or removed.
    fn bad_record(&mut self, key: &[u8], value: &[u8]) {
        self.batch.delete(key.to_vec());
        self.bad_records.push((key.to_vec(), value.to_vec()));
    }

    fn apply(&mut self) -> Result<()> {
        for step in self.batch.changes().chunks(STEP) {
            let mut batch = Batch::default();
            for (key, value) in step {
                match value {
                    Some(value) => batch.put(key.clone(), value.clone()),
                    None => batch.delete(key.clone()),
                }
            }
            self.storage.apply(&batch)?;
        }
        self.storage.flush()?;
        for (key, value) in &self.bad_records {
            let mut name = String::from("record-");
            for byte in key.iter().take(24) {
                // Writing to a string does not fail.
                let _ = write!(name, "{byte:02x}");
            }
            self.storage.set_aside(&name, value)?;
        }
        let sizes: std::collections::HashMap<_, _> =
            self.storage.list_blobs()?.into_iter().map(|blob| (blob.name, blob.bytes)).collect();
        for name in &self.bad_blobs {
            if let Some(bytes) = sizes.get(name) {
                self.storage.set_aside(name, &self.storage.read_blob(name, 0, *bytes as usize)?)?;
                self.storage.delete_blob(name)?;
            }
        }
        Ok(())
    }
}

fn run(
    storage: &Arc<dyn Storage>,
    repair: bool,
    catalog_lost: bool,
    must_write: bool,
    findings: Vec<Finding>,
) -> Result<CheckReport> {
    let mut scan = CatalogScan::read(storage.as_ref())?;
    let used = scan.used_ids();
    let mut work = Work {
        storage,
        repair,
        report: CheckReport {
            records: scan.records,
            blobs: scan.blobs.len() as u64,
            bytes: scan.blobs.values().sum(),
            findings,
            ..CheckReport::default()
        },
        batch: Batch::default(),
        bad_blobs: BTreeSet::new(),
        bad_records: Vec::new(),
        used: BTreeSet::new(),
        next: used,
    };
    check_root(&mut work, &scan, catalog_lost)?;
    let first = work.next;
    memory::check_all(&mut work, &mut scan, catalog_lost)?;
    check_unknown_records(&mut work, &scan);
    check_embeddings(&mut work, &scan)?;
    if work.next != first {
        work.batch.put(RESERVED_KEY.to_vec(), encode_reserved(work.next.map(|next| next + RESERVE)));
    }
    work.report.unused_blobs =
        scan.blobs.keys().filter(|name| !work.used.contains(*name) && !work.bad_blobs.contains(*name)).count() as u64;
    if repair && (must_write || !work.report.is_sound()) {
        work.apply()?;
        work.report.repaired = true;
    }
    Ok(work.report)
}

/// Embeddings of chunks that are there. They can be made again, so damaged ones are only moved aside.
fn check_embeddings(work: &mut Work<'_>, scan: &CatalogScan) -> Result<()> {
    for (name, bytes) in &scan.blobs {
        let Some(chunks) = chunk_blob_of(name).filter(|number| work.used.contains(&chunks_blob_name(*number))) else {
            continue;
        };
        match EmbeddingIndex::decode(&work.storage.read_blob(name, 0, *bytes as usize)?, chunks, name) {
            Ok((embedder, _)) if is_named_for(name, &embedder) => _ = work.used.insert(name.clone()),
            other => {
                let why = other
                    .err()
                    .map_or_else(|| "it is of another embedder than its name says".into(), |error| parts_of(&error).1);
                work.bad_blobs.insert(name.clone());
                let remedy = "it is moved aside; a server with this embedder makes it again".into();
                work.find(Finding { what: format!("blob {name}"), why, remedy, ..Finding::default() });
            }
        }
    }
    Ok(())
}

/// The version and the reserved numbers.
fn check_root(work: &mut Work<'_>, scan: &CatalogScan, catalog_lost: bool) -> Result<()> {
    let empty = scan.records == 0 && scan.blobs.is_empty();
    match &scan.version {
        Some(Ok(version)) if *version == crate::format::records::FORMAT_VERSION => {}
        Some(Ok(version)) => {
            return Err(Error::UnknownFormat {
                path: work.storage.location(),
                found: version.to_string(),
                known: crate::format::records::FORMAT_VERSION,
            });
        }
        None if empty => {}
        other => {
            let why = match other {
                Some(Err(error)) => parts_of(error).1,
                _ => "it is missing".into(),
            };
            if !catalog_lost {
                work.find(Finding {
                    what: "the version in the catalog".into(),
                    why,
                    remedy: "it is written anew".into(),
                    ..Finding::default()
                });
            }
            work.batch.put(VERSION_KEY.to_vec(), encode_version());
        }
    }
    let used = work.next;
    let (reserved, why) = match &scan.reserved {
        Some(Ok(reserved)) => {
            let low = reserved.iter().zip(&used).any(|(reserved, used)| reserved < used);
            (*reserved, low.then(|| "numbers above them are in use".to_owned()))
        }
        Some(Err(error)) => ([0; 5], Some(parts_of(error).1)),
        None => ([0; 5], (!empty && used != [1; 5]).then(|| "they are missing".to_owned())),
    };
    if let Some(why) = why {
        let far = used.map(|used| used + FAR);
        for (next, (reserved, far)) in work.next.iter_mut().zip(reserved.iter().zip(far)) {
            *next = far.max(*reserved);
        }
        work.batch.put(RESERVED_KEY.to_vec(), encode_reserved(work.next));
        if !catalog_lost {
            let what = "the reserved numbers in the catalog".into();
            let remedy = "numbers are given out from far above all that are in use".into();
            work.find(Finding { what, why, remedy, ..Finding::default() });
        }
    } else {
        for (next, reserved) in work.next.iter_mut().zip(reserved) {
            *next = (*next).max(reserved);
        }
    }
    Ok(())
}

/// Keys that the catalog never has.
fn check_unknown_records(work: &mut Work<'_>, scan: &CatalogScan) {
    for (key, value) in &scan.unknown_records {
        work.bad_record(key, value);
        work.find(Finding {
            what: format!("record {}", key.escape_ascii()),
            why: "the catalog has no such records".into(),
            remedy: "it is moved aside".into(),
            ..Finding::default()
        });
    }
}

/// Subject and reason of an error, without advice.
fn parts_of(error: &Error) -> (String, String) {
    match error {
        Error::Damaged { what, why } => (what.clone(), why.clone()),
        other => ("the catalog".into(), other.to_string()),
    }
}
