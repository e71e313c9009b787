//! Writing fails at every position of a workload: what was acknowledged stays, what was not is absent, and the store
//! opens again.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{chunk, clock, open, options, queries, search, small_spec, texts};
use mnemon_memory::{KvChunk, Recall, ResumePoint};
use mnemon_memory_store::storage::{Fault, FaultPlan, FaultyStorage};
use mnemon_memory_store::{
    Error, InMemoryStorage, Memory, Result, SledOptions, SledStorage, Storage, Store, StoreOptions, Writer,
};

/// What the workload was told: text of each document's chunks, as far as it was acknowledged.
#[derive(Default)]
struct Acknowledged {
    created: bool,
    documents: BTreeMap<String, Vec<String>>,
    /// Documents whose last change failed: their state after it is as good as before it.
    uncertain: BTreeMap<String, Option<Vec<String>>>,
}

impl Acknowledged {
    fn changed<T>(&mut self, id: &str, to: Option<Vec<String>>, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => {
                self.uncertain.remove(id);
                match to {
                    Some(texts) => _ = self.documents.insert(id.into(), texts),
                    None => _ = self.documents.remove(id),
                }
            }
            Err(_) => _ = self.uncertain.insert(id.into(), to),
        }
        result
    }
}

fn append(memory: &Memory, writer: &mut Writer, at: &mut (u64, u64), seed: u64) -> Result<KvChunk> {
    let chunk = chunk(memory.geometry(), *at, 8, seed);
    writer.append(chunk.clone())?;
    *at = (chunk.span.token_end, chunk.span.byte_end);
    Ok(chunk)
}

/// Writes, truncates, deletes, seals; stops at the first failure.
fn workload(storage: Arc<dyn Storage>, told: &mut Acknowledged) -> Result<()> {
    let options = StoreOptions { seal_entries: 32, m: 4, ef_construction: 16, writer_buffer_bytes: 3000, ..options() };
    let store = Store::open(storage, options, clock())?;
    let memory = store.create_memory("tenant", "books", small_spec())?;
    told.created = true;
    for (id, seed) in [("a", 0), ("b", 100)] {
        let mut writer = memory.writer(id, BTreeMap::new())?;
        let (mut at, mut texts) = ((0, 0), Vec::new());
        for round in 0..3 {
            for index in 0..3 {
                texts.push(append(&memory, &mut writer, &mut at, seed + round * 10 + index)?.text);
            }
            let resume = ResumePoint { safe_byte: at.1, safe_token: at.0, complete: round == 2 };
            told.changed(id, Some(texts.clone()), writer.commit(resume))?;
        }
        let state = writer.state();
        writer.truncate(state.chunks - 1)?;
        texts.pop();
        let before: u64 = texts.iter().map(|text| text.len() as u64).sum();
        let mut at = (state.tokens - 8, before);
        texts.push(append(&memory, &mut writer, &mut at, seed + 77)?.text);
        told.changed(id, Some(texts.clone()), writer.commit(ResumePoint::default()))?;
    }
    told.changed("a", None, memory.delete_document("a"))?;
    Ok(())
}

fn documents(memory: &Memory) -> BTreeMap<String, Vec<String>> {
    let documents = memory.list_documents(None, 100).unwrap();
    let texts = |id: &str| memory.document_chunks(id, 0, 1000).unwrap().into_iter().map(|info| info.text).collect();
    documents.into_iter().map(|document| (document.id.clone(), texts(&document.id))).collect()
}

/// The reopened store shows what was acknowledged, answers searches, and holds no blob without use.
fn check(inner: &Arc<InMemoryStorage>, told: &Acknowledged, name: &str) {
    let store = open(Arc::clone(inner) as Arc<dyn Storage>);
    let memory = match store.memory("tenant", "books") {
        Ok(memory) => memory,
        Err(error) => {
            assert!(!told.created, "{name}: {error}");
            return;
        }
    };
    let found = documents(&memory);
    let ids: BTreeSet<_> = found.keys().chain(told.documents.keys()).collect();
    for id in ids {
        let either = [told.documents.get(id), told.uncertain.get(id).and_then(Option::as_ref)];
        let gone = told.uncertain.get(id).is_some_and(Option::is_none);
        let shown = found.get(id);
        assert!(
            shown == either[0] || (shown.is_some() && shown == either[1]) || (shown.is_none() && gone),
            "{name}: {id}"
        );
    }
    let snapshot = memory.snapshot().unwrap();
    let info = memory.info();
    assert_eq!(texts(&snapshot).len(), found.values().map(Vec::len).sum::<usize>(), "{name}");
    assert_eq!(info.documents, found.len() as u64, "{name}");
    let ids = snapshot.chunks(1000).unwrap();
    assert_eq!(snapshot.fetch(0, &ids).unwrap().len() as u64, info.chunks, "{name}");
    for exact in [true, false] {
        let hits = &search(&snapshot, 1, &queries(1, 2, 8, 1), 2, 10, exact)[0];
        assert_eq!(hits.len() as u64, info.entries.min(10), "{name}");
        assert!(hits.iter().all(|hit| ids.contains(&hit.chunk)), "{name}");
    }
    // What the catalog says it holds is all there is.
    let bytes: u64 = inner.list_blobs().unwrap().iter().map(|blob| blob.bytes).sum();
    assert_eq!(bytes, info.stored_bytes + info.index_bytes, "{name}");
    // And it can go on.
    let mut writer = memory.writer("later", BTreeMap::new()).unwrap();
    append(&memory, &mut writer, &mut (0, 0), 5).unwrap();
    writer.commit(ResumePoint::default()).unwrap();
}

#[test]
fn every_position_of_every_fault() {
    let counting = FaultyStorage::new(Arc::new(InMemoryStorage::new()));
    let counting = Arc::new(counting);
    workload(Arc::clone(&counting) as Arc<dyn Storage>, &mut Acknowledged::default()).unwrap();
    let writes = counting.writes();
    assert!(writes > 50, "{writes}");
    for fault in [Fault::Refused, Fault::NoSpace, Fault::Torn, Fault::LostAnswer] {
        for at in 0..writes {
            // A dead device, or a crash right after one failure.
            for sticky in [true, false] {
                let name = format!("{fault:?} at {at} of {writes}, sticky: {sticky}");
                let inner = Arc::new(InMemoryStorage::new());
                let faulty = Arc::new(FaultyStorage::new(Arc::clone(&inner) as Arc<dyn Storage>));
                faulty.set_plan(Some(FaultPlan { at, fault, sticky }));
                let mut told = Acknowledged::default();
                let result = workload(Arc::clone(&faulty) as Arc<dyn Storage>, &mut told);
                if let Err(error) = &result {
                    let right = matches!(error, Error::Io { .. } | Error::NoSpace { .. } | Error::Catalog(_));
                    assert!(right, "{name}: {error}");
                }
                faulty.crash();
                check(&inner, &told, &name);
            }
        }
    }
}

#[test]
fn a_failed_commit_leaves_the_store_as_before_and_can_be_repeated() {
    for fault in [Fault::Refused, Fault::NoSpace, Fault::Torn, Fault::LostAnswer] {
        for at in 0..3 {
            let inner = Arc::new(InMemoryStorage::new());
            let faulty = Arc::new(FaultyStorage::new(Arc::clone(&inner) as Arc<dyn Storage>));
            let store = open(Arc::clone(&faulty) as Arc<dyn Storage>);
            let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
            common::write_document(&memory, "a", 2, 1);
            let before = (memory.info(), memory.document("a").unwrap());
            let mut writer = memory.writer("a", BTreeMap::new()).unwrap();
            let state = writer.state();
            let mut at_end = (state.tokens, state.bytes);
            append(&memory, &mut writer, &mut at_end, 50).unwrap();
            faulty.set_plan(Some(FaultPlan { at, fault, sticky: false }));
            let resume = ResumePoint { safe_byte: at_end.1, safe_token: at_end.0, complete: true };
            if writer.commit(resume).is_err() {
                assert_eq!((memory.info(), memory.document("a").unwrap()), before, "{fault:?} at {at}");
                assert_eq!(writer.state(), state);
                writer.commit(resume).unwrap();
            }
            assert_eq!(memory.document("a").unwrap().chunks, 3, "{fault:?} at {at}");
            drop(writer);
            faulty.crash();
            let store = open(Arc::clone(&inner) as Arc<dyn Storage>);
            let document = store.memory("tenant", "books").unwrap().document("a").unwrap();
            assert_eq!((document.chunks, document.resume), (3, resume), "{fault:?} at {at}");
        }
    }
}

#[test]
fn a_disk_that_is_nearly_full_can_be_freed() {
    let folder = tempfile::tempdir().unwrap();
    let storage = |min_free_bytes| {
        let options = SledOptions { min_free_bytes, ..SledOptions::default() };
        Arc::new(SledStorage::open(folder.path(), options).unwrap())
    };
    let write = |memory: &Memory, id: &str| -> Result<()> {
        let mut writer = memory.writer(id, BTreeMap::new())?;
        append(memory, &mut writer, &mut (0, 0), 1)?;
        writer.commit(ResumePoint::default()).map(|_| ())
    };
    {
        let store = open(storage(0));
        for name in ["kept", "gone"] {
            let memory = store.create_memory("tenant", name, small_spec()).unwrap();
            write(&memory, "a").unwrap();
            write(&memory, "b").unwrap();
        }
    }
    // More than is free is to be kept free; a fourth of it is there.
    let space = rustix::fs::statvfs(folder.path()).unwrap();
    let store = open(storage(space.f_bavail * space.f_frsize * 2));
    let memory = store.memory("tenant", "kept").unwrap();
    assert!(matches!(write(&memory, "c"), Err(Error::NoSpace { .. })));
    memory.delete_document("a").unwrap();
    store.delete_memory("tenant", "gone").unwrap();
    store.compact("tenant", None).unwrap();
    assert!(matches!(write(&memory, "c"), Err(Error::NoSpace { .. })));
    drop((memory, store));
    let store = open(storage(space.f_bavail * space.f_frsize * 2));
    let left = store.memory("tenant", "kept").unwrap().list_documents(None, 9).unwrap();
    assert_eq!(left.iter().map(|document| document.id.as_str()).collect::<Vec<_>>(), ["b"]);
    assert!(store.memory("tenant", "gone").is_err());
}
