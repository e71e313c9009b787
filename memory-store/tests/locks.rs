//! Readers and other tenants go on while a change is being made durable.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{clock, options, small_spec, write_document};
use mnemon_memory::Recall as _;
use mnemon_memory_store::storage::{Batch, BlobInfo, Record};
use mnemon_memory_store::{InMemoryStorage, MemoryLimits, Quota, Result, Storage, Store};

/// A storage in memory of which one flush can be held up.
struct Gated {
    inner: InMemoryStorage,
    armed: AtomicBool,
    /// How long every flush takes.
    pause: Duration,
    entered: SyncSender<()>,
    release: Mutex<Receiver<()>>,
}

impl Storage for Gated {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner.get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Record>> {
        self.inner.scan(prefix, after, limit)
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        self.inner.apply(batch)
    }

    fn flush(&self) -> Result<()> {
        if self.armed.swap(false, Ordering::AcqRel) {
            self.entered.send(()).unwrap();
            self.release.lock().unwrap().recv().unwrap();
        }
        thread::sleep(self.pause);
        self.inner.flush()
    }

    fn write_blob(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        self.inner.write_blob(name, parts)
    }

    fn read_blob(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.inner.read_blob(name, offset, len)
    }

    fn delete_blob(&self, name: &str) -> Result<()> {
        self.inner.delete_blob(name)
    }

    fn list_blobs(&self) -> Result<Vec<BlobInfo>> {
        self.inner.list_blobs()
    }

    fn set_aside(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.inner.set_aside(name, bytes)
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

impl Gated {
    /// The storage, what tells that the flush is held up, and what lets it go.
    fn new(pause: Duration) -> (Arc<Self>, Receiver<()>, SyncSender<()>) {
        let ((entered, enters), (release, released)) = (sync_channel(1), sync_channel(1));
        let (inner, armed, release_on) = (InMemoryStorage::new(), AtomicBool::new(false), Mutex::new(released));
        (Arc::new(Self { inner, armed, pause, entered, release: release_on }), enters, release)
    }
}

/// Everything that another tenant, and readers of the same one, may want meanwhile.
fn others_go_on(store: &Store) {
    let books = store.memory("anna", "books").unwrap();
    assert_eq!(books.snapshot().unwrap().len(), 3);
    assert_eq!(books.list_documents(None, 9).unwrap().len(), 1);
    assert!(books.document("a").is_ok() && books.info().documents == 1);
    assert!(!store.list_memories("anna", None, 9).unwrap().is_empty());
    assert!(store.list_memories("bert", None, 9).unwrap().len() >= 2);
    let other = store.memory("bert", "books").unwrap();
    write_document(&other, "more", 2, 7);
    other.delete_document("more").unwrap();
    store.create_memory("bert", "new", small_spec()).unwrap();
    store.delete_memory("bert", "new").unwrap();
    store.create_copy("bert", "copy", small_spec(), &other).unwrap();
    store.replace_memory("bert", "copy", "kept", None).unwrap();
    store.create_memory("bert", "copy", small_spec()).unwrap();
    store.replace_memory("bert", "copy", "kept", None).unwrap();
    store.expire().unwrap();
}

#[test]
fn a_change_under_way_holds_up_no_reader_and_no_other_tenant() {
    type Change = fn(&Store) -> Result<()>;
    let changes: [(&str, Change); 4] = [
        ("create", |store| store.create_memory("anna", "new", small_spec()).map(|_| ())),
        ("delete", |store| store.delete_memory("anna", "old")),
        ("delete a document", |store| store.memory("anna", "old")?.delete_document("a").map(|_| ())),
        ("replace", |store| store.replace_memory("anna", "old", "older", None).map(|_| ())),
    ];
    for (name, change) in changes {
        let (gated, enters, release) = Gated::new(Duration::ZERO);
        let store = Store::open(Arc::clone(&gated) as Arc<dyn Storage>, options(), clock()).unwrap();
        for (tenant, memory) in
            [("anna", "books"), ("anna", "old"), ("anna", "older"), ("bert", "books"), ("bert", "kept")]
        {
            write_document(&store.create_memory(tenant, memory, small_spec()).unwrap(), "a", 3, 1);
        }
        if name == "create" || name == "delete" {
            store.delete_memory("anna", "older").unwrap();
        }
        if name == "create" {
            store.delete_memory("anna", "old").unwrap();
        }
        gated.armed.store(true, Ordering::Release);
        let changing = {
            let store = store.clone();
            thread::spawn(move || change(&store))
        };
        enters.recv_timeout(Duration::from_secs(60)).unwrap();
        let (done, ends) = sync_channel(1);
        let others = {
            let store = store.clone();
            thread::spawn(move || {
                others_go_on(&store);
                done.send(()).unwrap();
            })
        };
        let went_on = ends.recv_timeout(Duration::from_secs(60));
        release.send(()).unwrap();
        changing.join().unwrap().unwrap();
        others.join().unwrap();
        assert!(went_on.is_ok(), "{name}: others waited");
    }
}

#[test]
fn of_two_memories_of_one_name_one_is_created() {
    for _ in 0..20 {
        let store = Store::open(Arc::new(InMemoryStorage::new()), options(), clock()).unwrap();
        let create = |store: &Store| {
            let store = store.clone();
            thread::spawn(move || store.create_memory("anna", "books", small_spec()).is_ok())
        };
        let both = [create(&store), create(&store)].map(|thread| thread.join().unwrap());
        assert_eq!(both.iter().filter(|created| **created).count(), 1);
        store.delete_memory("anna", "books").unwrap();
        assert!(store.memory("anna", "books").is_err());
        store.create_memory("anna", "books", small_spec()).unwrap();
    }
}

#[test]
fn what_expired_stays_hidden_while_it_is_being_deleted() {
    let (gated, enters, release) = Gated::new(Duration::ZERO);
    let now = Arc::new(AtomicU64::new(1000));
    let clock = {
        let now = Arc::clone(&now);
        Arc::new(move || now.load(Ordering::Acquire))
    };
    let store = Store::open(Arc::clone(&gated) as Arc<dyn Storage>, options(), clock).unwrap();
    let limits = MemoryLimits { document_ttl_ms: Some(10), ..MemoryLimits::default() };
    let memory = store.create_memory_with("anna", "books", small_spec(), limits).unwrap();
    write_document(&memory, "old", 3, 1);
    now.store(1005, Ordering::Release);
    write_document(&memory, "new", 2, 2);
    now.store(1010, Ordering::Release);
    gated.armed.store(true, Ordering::Release);
    let sweep = {
        let store = store.clone();
        thread::spawn(move || store.expire())
    };
    enters.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(memory.snapshot().unwrap().len(), 2);
    assert_eq!(memory.list_documents(None, 9).unwrap().len(), 1);
    assert!(memory.document("old").is_err() && memory.info().documents == 1);
    // A writer of it waits, and begins it again.
    let writer = {
        let memory = memory.clone();
        thread::spawn(move || memory.writer("old", std::collections::BTreeMap::new()).map(|writer| writer.state()))
    };
    release.send(()).unwrap();
    assert_eq!(sweep.join().unwrap().unwrap().documents, 1);
    assert_eq!(writer.join().unwrap().unwrap().sequence, 0);
    assert_eq!(memory.snapshot().unwrap().len(), 2);
}

#[test]
fn imports_and_commits_of_a_tenant_with_a_quota_do_not_wait_for_each_other() {
    // Slow enough that locks are always waited for.
    let (slow, ..) = Gated::new(Duration::from_micros(300));
    let store = Store::open(slow as Arc<dyn Storage>, options(), clock()).unwrap();
    store.set_quota("anna", Quota { max_tokens: Some(1 << 40), ..Quota::default() });
    let memory = store.create_memory("anna", "books", small_spec()).unwrap();
    write_document(&memory, "a", 3, 1);
    let archive = common::archive::export(&memory).unwrap();
    let (done, ends) = sync_channel(4);
    for document in [None, Some("b"), Some("c"), Some("d")] {
        let (store, archive, done) = (store.clone(), archive.clone(), done.clone());
        thread::spawn(move || {
            for seed in 0..100 {
                let Some(document) = document else {
                    let mut import = store.import("anna", Some("books"), true).unwrap();
                    import.push(&archive).unwrap();
                    // Refused while a document is being written.
                    let _ = import.finish();
                    continue;
                };
                if let Ok(memory) = store.memory("anna", "books")
                    && let Ok(mut writer) = memory.writer(document, std::collections::BTreeMap::new())
                {
                    let state = writer.state();
                    let chunk = common::chunk(memory.geometry(), (state.tokens, state.bytes), 4, seed);
                    let _ = writer.append(chunk).and_then(|()| writer.commit(state.resume));
                }
            }
            done.send(()).unwrap();
        });
    }
    for _ in 0..4 {
        assert!(ends.recv_timeout(Duration::from_secs(60)).is_ok(), "calls wait for each other");
    }
}
