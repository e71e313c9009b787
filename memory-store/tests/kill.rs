//! A process killed with -9 at any moment, opening included, loses nothing that it was told is durable.
//!
//! `MNEMON_KILLS=500 cargo test --release -p mnemon-memory-store --test kill -- --nocapture` kills more often and tells of
//! each. Its last line is the sum.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{chunk, clock, options, queries, search, small_spec};
use mnemon_memory::{Recall, ResumePoint};
use mnemon_memory_store::{Error, Memory, Sealing, SledOptions, SledStorage, Store, StoreOptions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const FOLDER: &str = "MNEMON_KILL_TEST_FOLDER";
const SEED: &str = "MNEMON_KILL_TEST_SEED";
const DOCUMENTS: u64 = 4;
/// Changes that must be acknowledged over all rounds.
const PROGRESS: u64 = 20;

fn open_store(folder: &Path) -> Store {
    let options =
        StoreOptions { seal_entries: 256, writer_buffer_bytes: 4000, sealing: Sealing::Background, ..options() };
    Store::open(Arc::new(SledStorage::open(folder, SledOptions::default()).unwrap()), options, clock()).unwrap()
}

fn open_memory(store: &Store) -> Memory {
    match store.memory("tenant", "books") {
        Err(Error::UnknownMemory { .. }) => store.create_memory("tenant", "books", small_spec()).unwrap(),
        other => other.unwrap(),
    }
}

fn id(document: u64) -> String {
    format!("document {document}")
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().unwrap();
}

/// The child: writes, deletes, compacts and searches for ever, and tells what it begins and what is acknowledged.
#[test]
#[ignore = "run by the other test, in a process that is killed"]
fn writes_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let store = open_store(Path::new(&folder));
    let memory = open_memory(&store);
    loop {
        let document = rng.random_range(0..DOCUMENTS);
        match rng.random_range(0..100) {
            0..8 => {
                say(&format!("begin delete {document} 0"));
                match memory.delete_document(&id(document)) {
                    Ok(_) | Err(Error::UnknownDocument { .. }) => say("acknowledged"),
                    Err(error) => panic!("{error}"),
                }
            }
            8..12 => _ = store.compact("tenant", Some("books")).unwrap(),
            12..20 => {
                let snapshot = memory.snapshot().unwrap();
                search(&snapshot, 1, &queries(1, 2, 8, 1), 2, 5, rng.random());
            }
            _ => {
                let mut writer = memory.writer(&id(document), BTreeMap::new()).unwrap();
                let state = writer.state();
                let count = rng.random_range(1..4);
                say(&format!("begin write {document} {}", state.chunks + count));
                let mut at = (state.tokens, state.bytes);
                for index in 0..count {
                    let chunk = chunk(memory.geometry(), at, 8, document * 1000 + state.chunks + index);
                    at = (chunk.span.token_end, chunk.span.byte_end);
                    writer.append(chunk).unwrap();
                }
                let resume = ResumePoint { safe_byte: at.1, safe_token: at.0, complete: false };
                writer.commit(resume).unwrap();
                say("acknowledged");
            }
        }
    }
}

/// Chunks of each document that are acknowledged, and what was begun after that.
#[derive(Default)]
struct Told {
    chunks: [u64; DOCUMENTS as usize],
    begun: Option<(usize, u64)>,
    commits: u64,
    deletions: u64,
    /// Killed before it had told of anything: while opening.
    silent: u64,
    /// Changes that were begun, never acknowledged, and are there all the same.
    unacknowledged: u64,
    /// Searches whose hits were compared with what is alive, and those of exact searches with an oracle.
    searches: u64,
    slowest_opening: Duration,
}

impl Told {
    fn hear(&mut self, line: &str) {
        // The test runner may have written to the same line.
        if let Some((_, begun)) = line.split_once("begin ") {
            let mut words = begun.split(' ').skip(1).map(|word| word.parse().unwrap());
            self.begun = Some((words.next().unwrap() as usize, words.next().unwrap()));
        } else if line.ends_with("acknowledged")
            && let Some((document, chunks)) = self.begun.take()
        {
            self.chunks[document] = chunks;
            *(if chunks == 0 { &mut self.deletions } else { &mut self.commits }) += 1;
        }
    }

    /// Compares with what is there, and goes by that from then on.
    fn check(&mut self, folder: &Path) {
        let began = Instant::now();
        let store = open_store(folder);
        let memory = open_memory(&store);
        self.slowest_opening = self.slowest_opening.max(began.elapsed());
        let mut keys = Vec::new();
        for document in 0..DOCUMENTS {
            let (told, at) = (self.chunks[document as usize], document as usize);
            let found = match memory.document(&id(document)) {
                Err(Error::UnknownDocument { .. }) => 0,
                other => other.unwrap().chunks,
            };
            let begun = self.begun.filter(|(begun, _)| *begun == at).map(|(_, chunks)| chunks);
            assert!(found == told || Some(found) == begun, "document {document}: {found} of {told}, begun: {begun:?}");
            self.unacknowledged += u64::from(found != told);
            self.chunks[at] = found;
            let infos = if found > 0 { memory.document_chunks(&id(document), 0, usize::MAX).unwrap() } else { vec![] };
            assert_eq!(infos.len() as u64, found);
            for (ordinal, info) in infos.iter().enumerate() {
                let at = (info.span.token_start, info.span.byte_start);
                let expected = chunk(memory.geometry(), at, 8, document * 1000 + ordinal as u64);
                assert_eq!((&info.text, &info.tokens), (&expected.text, &expected.tokens));
                keys.push(expected.keys[0].clone());
            }
        }
        self.begun = None;
        let snapshot = memory.snapshot().unwrap();
        let ids = snapshot.chunks(usize::MAX).unwrap();
        assert_eq!(snapshot.fetch(1, &ids).unwrap().len() as u64, self.chunks.iter().sum::<u64>());
        let live: HashSet<_> = ids.into_iter().collect();
        let query = queries(1, 2, 8, 1);
        for exact in [true, false] {
            let found = search(&snapshot, 0, &query, 2, 10, exact);
            assert!(found.iter().flatten().all(|hit| live.contains(&hit.chunk)));
            assert_eq!(found[0].len(), 10.min(live.len() * 8));
            for (head, found) in found.iter().enumerate().filter(|_| exact) {
                let best = best_scores(&keys, head, &query[head * 8..][..8]);
                for (hit, score) in found.iter().zip(best) {
                    assert!((hit.score - score).abs() < 1e-3, "score {} instead of {score}", hit.score);
                }
            }
            self.searches += 1;
        }
    }
}

/// Inner products of a query with the keys of a head, best first; each chunk has `[heads, 8, 8]`.
fn best_scores(chunks: &[Vec<f32>], head: usize, query: &[f32]) -> Vec<f32> {
    let keys = chunks.iter().flat_map(|keys| keys[head * 64..][..64].chunks_exact(8));
    let mut scores: Vec<f32> = keys.map(|key| key.iter().zip(query).map(|(a, b)| a * b).sum()).collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    scores
}

#[test]
fn nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let rounds = std::env::var("MNEMON_KILLS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(8);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut told = Told::default();
    for round in 0..rounds {
        let before = told.commits + told.deletions;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writes_until_killed", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .env(SEED, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        // It ends by being killed only; a panic of its own shows as too few acknowledgements over all rounds.
        let delay = Duration::from_micros(rng.random_range(0..150_000));
        // The last one gets on, however slow the machine is.
        let last = round + 1 == rounds;
        let (enough, heard) = std::sync::mpsc::channel();
        let killer = std::thread::spawn(move || {
            if last {
                let _ = heard.recv_timeout(Duration::from_secs(60));
            } else {
                std::thread::sleep(delay);
            }
            child.kill().unwrap();
            child.wait().unwrap().code()
        });
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            told.hear(&line);
            if told.commits + told.deletions >= before + PROGRESS {
                let _ = enough.send(());
            }
        }
        let code = killer.join().unwrap();
        assert_eq!(code, None, "round {round}: the child ended by itself");
        told.silent += u64::from(told.commits + told.deletions + u64::from(told.begun.is_some()) == before);
        told.check(folder.path());
        println!("round {round}: killed after {delay:?}, {} commits so far", told.commits);
    }
    let Told { commits, deletions, silent, unacknowledged, searches, slowest_opening, .. } = told;
    println!(
        "{rounds} kills ({silent} before the first change), {commits} commits and {deletions} deletions acknowledged, \
         {unacknowledged} changes there without acknowledgement, {rounds} openings after kills (slowest {slowest_opening:.0?}), \
         0 acknowledged changes lost, 0 wrong answers in {searches} searches"
    );
    assert!(commits + deletions >= PROGRESS, "{commits} commits and {deletions} deletions");
}
