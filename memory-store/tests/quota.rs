//! Quotas of memories and tenants: what they refuse, and what they leave alone.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{chunk, extend, open, small_spec, texts, write_document};
use mnemon_memory::{Recall, ResumePoint};
use mnemon_memory_store::{Error, InMemoryStorage, Memory, MemoryLimits, Quota, Storage, Store, Writer};

fn tokens(max_tokens: u64) -> MemoryLimits {
    MemoryLimits { max_tokens: Some(max_tokens), ..MemoryLimits::default() }
}

fn fresh(limits: MemoryLimits) -> (Store, Memory) {
    let store = open(Arc::new(InMemoryStorage::new()));
    let memory = store.create_memory_with("tenant", "books", small_spec(), limits).unwrap();
    (store, memory)
}

/// Appends chunks of 8 tokens to the durable end of a document until one is refused, or all are there.
fn append(memory: &Memory, writer: &mut Writer, count: usize, seed: u64) -> Result<(), Error> {
    let state = writer.state();
    let mut at = (state.tokens, state.bytes);
    for index in 0..count {
        let chunk = chunk(memory.geometry(), at, 8, seed + index as u64);
        at = (chunk.span.token_end, chunk.span.byte_end);
        writer.append(chunk)?;
    }
    writer.commit(ResumePoint { safe_byte: at.1, safe_token: at.0, complete: true }).map(|_| ())
}

#[track_caller]
fn is_quota(result: Result<(), Error>, owner_of: &str, counted: &str, at_most: u64) {
    match result {
        Err(Error::Quota { owner, what, limit, .. }) => {
            assert_eq!((owner.as_str(), what, limit), (owner_of, counted, at_most));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_memory_holds_no_more_tokens_than_it_may() {
    let (_, memory) = fresh(tokens(40));
    write_document(&memory, "a", 3, 1);
    let mut writer = memory.writer("b", BTreeMap::new()).unwrap();
    is_quota(append(&memory, &mut writer, 3, 50), "memory 'books'", "tokens", 40);
    drop(writer);
    // What was acknowledged stays; up to the last token there is room.
    assert_eq!((memory.info().tokens, memory.info().documents), (24, 1));
    memory.check_room().unwrap();
    write_document(&memory, "b", 2, 50);
    is_quota(memory.check_room(), "memory 'books'", "tokens", 40);
    // Reading, metadata and resume points are free.
    assert_eq!(texts(&memory.snapshot().unwrap()).len(), 5);
    memory.writer("b", BTreeMap::new()).unwrap().commit(ResumePoint::default()).unwrap();

    // Writing the tail again is no growth, more than that is.
    let mut writer = memory.writer("b", BTreeMap::new()).unwrap();
    writer.truncate(1).unwrap();
    let end = memory.document_chunks("b", 0, 1).unwrap()[0].span;
    writer.append(chunk(memory.geometry(), (end.token_end, end.byte_end), 8, 70)).unwrap();
    writer.commit(ResumePoint::default()).unwrap();
    is_quota(append(&memory, &mut writer, 1, 80), "memory 'books'", "tokens", 40);
    drop(writer);

    // Room is made by deleting, or by another limit; a lower one forbids growth only.
    memory.delete_document("a").unwrap();
    let mut writer = memory.writer("b", BTreeMap::new()).unwrap();
    extend(&mut writer, memory.geometry(), 3, 90, true);
    is_quota(append(&memory, &mut writer, 1, 99), "memory 'books'", "tokens", 40);
    memory.update_limits(|limits| limits.max_tokens = Some(8)).unwrap();
    writer.truncate(4).unwrap();
    writer.commit(ResumePoint::default()).unwrap();
    assert_eq!(memory.info().tokens, 32);
    is_quota(append(&memory, &mut writer, 1, 99), "memory 'books'", "tokens", 8);
    memory.update_limits(|limits| limits.max_tokens = None).unwrap();
    drop(writer);
    let mut writer = memory.writer("b", BTreeMap::new()).unwrap();
    append(&memory, &mut writer, 4, 99).unwrap();
}

#[test]
fn a_refused_commit_can_be_repeated_when_there_is_room() {
    let (_, memory) = fresh(MemoryLimits::default());
    write_document(&memory, "a", 3, 1);
    let mut writer = memory.writer("b", BTreeMap::new()).unwrap();
    writer.append(chunk(memory.geometry(), (0, 0), 8, 5)).unwrap();
    // Set while the document is being written.
    memory.update_limits(|limits| limits.max_tokens = Some(24)).unwrap();
    for _ in 0..2 {
        is_quota(writer.commit(ResumePoint::default()).map(|_| ()), "memory 'books'", "tokens", 24);
    }
    assert_eq!(memory.info().documents, 1);
    memory.delete_document("a").unwrap();
    assert_eq!(writer.commit(ResumePoint::default()).unwrap().chunks, 1);
    assert_eq!(memory.document("b").unwrap().tokens, 8);
}

#[test]
fn bytes_are_those_that_are_told() {
    let storage = Arc::new(InMemoryStorage::new());
    let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    write_document(&memory, "a", 12, 1);
    let info = memory.info();
    let held = info.stored_bytes + info.index_bytes;
    assert!(info.index_bytes > 0);
    memory.update_limits(|limits| limits.max_bytes = Some(held)).unwrap();
    let mut writer = memory.writer("b", BTreeMap::new()).unwrap();
    is_quota(append(&memory, &mut writer, 1, 50), "memory 'books'", "bytes", held);
    drop(writer);
    assert_eq!(storage.list_blobs().unwrap().iter().map(|blob| blob.bytes).sum::<u64>(), held, "nothing was written");
    memory.delete_document("a").unwrap();
    write_document(&memory, "b", 1, 50);
    memory.compact().unwrap();
    assert!(memory.info().stored_bytes < held);
}

#[test]
fn tenants_have_quotas_of_their_own() {
    let storage: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
    let store = open(Arc::clone(&storage));
    let quota = Quota { max_memories: Some(2), max_tokens: Some(40), max_bytes: None };
    store.set_quota("anna", quota);
    let one = store.create_memory("anna", "one", small_spec()).unwrap();
    let two = store.create_memory("anna", "two", small_spec()).unwrap();
    is_quota(store.create_memory("anna", "three", small_spec()).map(|_| ()), "tenant 'anna'", "memories", 2);
    write_document(&one, "a", 3, 1);
    write_document(&two, "b", 2, 20);
    for memory in [&one, &two] {
        is_quota(memory.check_room(), "tenant 'anna'", "tokens", 40);
        let mut writer = memory.writer("c", BTreeMap::new()).unwrap();
        is_quota(append(memory, &mut writer, 1, 50), "tenant 'anna'", "tokens", 40);
    }
    // Another tenant is not affected, whatever the names.
    let other = store.create_memory("anna2", "one", small_spec()).unwrap();
    write_document(&other, "a", 9, 1);
    other.check_room().unwrap();

    // What is held is known after opening, too.
    drop((one, two, other, store));
    let store = open(Arc::clone(&storage));
    store.set_quota("anna", quota);
    let two = store.memory("anna", "two").unwrap();
    is_quota(two.check_room(), "tenant 'anna'", "tokens", 40);
    store.delete_memory("anna", "one").unwrap();
    write_document(&two, "c", 3, 50);
    is_quota(two.check_room(), "tenant 'anna'", "tokens", 40);
    store.set_quota("anna", Quota { max_bytes: Some(1), ..Quota::default() });
    is_quota(two.check_room(), "tenant 'anna'", "bytes", 1);
    assert_eq!(two.snapshot().unwrap().len(), 5);
    two.delete_document("b").unwrap();
}

#[test]
fn commits_of_a_tenant_do_not_slip_past_its_quota_together() {
    let store = open(Arc::new(InMemoryStorage::new()));
    store.set_quota("tenant", Quota { max_tokens: Some(80), ..Quota::default() });
    let memories: Vec<_> =
        (0..4).map(|n| store.create_memory("tenant", &format!("m{n}"), small_spec()).unwrap()).collect();
    std::thread::scope(|scope| {
        for (n, memory) in memories.iter().enumerate() {
            scope.spawn(move || {
                for index in 0..10 {
                    let mut writer = memory.writer(&format!("d{index}"), BTreeMap::new()).unwrap();
                    let _ = append(memory, &mut writer, 1, (n * 100 + index) as u64);
                }
            });
        }
    });
    assert_eq!(memories.iter().map(|memory| memory.info().tokens).sum::<u64>(), 80);
}
