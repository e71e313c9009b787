//! A process killed with -9 in the middle of writing loses nothing that it was told is durable.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::{chunk, options, queries, search, small_spec};
use mnemon_memory_store::{Error, Memory, ResumePoint, SledOptions, SledStorage, Store, StoreOptions};

const FOLDER: &str = "MNEMON_KILL_TEST_FOLDER";

fn open_store(folder: &Path) -> Store {
    let options = StoreOptions { seal_entries: 256, writer_buffer_bytes: 4000, ..options() };
    Store::open(Arc::new(SledStorage::open(folder, SledOptions::default()).unwrap()), options).unwrap()
}

fn open_memory(store: &Store) -> Memory {
    match store.memory("tenant", "books") {
        Err(Error::UnknownMemory { .. }) => store.create_memory("tenant", "books", small_spec()).unwrap(),
        other => other.unwrap(),
    }
}

/// The child: appends for ever and tells each acknowledged number of chunks.
#[test]
#[ignore = "run by the other test, in a process that is killed"]
fn writes_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let store = open_store(Path::new(&folder));
    let memory = open_memory(&store);
    let mut writer = memory.writer("a", BTreeMap::new()).unwrap();
    loop {
        let state = writer.state();
        let mut at = (state.tokens, state.bytes);
        for index in 0..3 {
            let chunk = chunk(memory.geometry(), at, 8, state.chunks + index);
            at = (chunk.span.token_end, chunk.span.byte_end);
            writer.append(chunk).unwrap();
        }
        let resume = ResumePoint { safe_byte: at.1, safe_token: at.0, complete: false };
        let committed = writer.commit(resume).unwrap();
        println!("acknowledged {}", committed.chunks);
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writes_until_killed", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = acknowledged + 3 + round * 7;
        while acknowledged < wanted {
            let Some(Ok(line)) = lines.next() else { panic!("the child writes until it is killed") };
            if let Some((_, chunks)) = line.split_once("acknowledged ") {
                acknowledged = chunks.parse::<u64>().unwrap();
            }
        }
        child.kill().unwrap();
        // What it said between the last line read and its death counts too.
        for line in lines.map_while(Result::ok) {
            if let Some(chunks) = line.strip_prefix("acknowledged ").and_then(|chunks| chunks.parse().ok()) {
                acknowledged = chunks;
            }
        }
        child.wait().unwrap();

        let store = open_store(folder.path());
        let memory = open_memory(&store);
        let document = memory.document("a").unwrap();
        assert!(document.chunks >= acknowledged, "{} of {acknowledged}", document.chunks);
        assert_eq!(document.resume.safe_token, document.tokens);
        let infos = memory.document_chunks("a", 0, usize::MAX).unwrap();
        assert_eq!(infos.len() as u64, document.chunks);
        for (ordinal, info) in infos.iter().enumerate() {
            let expected = chunk(memory.geometry(), (info.span.token_start, info.span.byte_start), 8, ordinal as u64);
            assert_eq!((&info.text, &info.tokens), (&expected.text, &expected.tokens));
        }
        let snapshot = memory.snapshot().unwrap();
        assert_eq!(search(&snapshot, 0, &queries(1, 2, 8, 1), 2, 10, false)[0].len(), 10);
        acknowledged = document.chunks;
    }
}
