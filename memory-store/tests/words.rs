//! Search by words against BM25 written down once more.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{keys_only, open, small_spec, spec};
use mnemon_memory::{ChunkId, EntryPolicy, KvDtype, Recall, ResumePoint, TermHit, Turn, UnionRecall, WordRequest};
use mnemon_memory_store::{InMemoryStorage, Memory, Snapshot, Storage, WordMatcher, check};
use proptest::prelude::*;

/// Appends chunks of these texts.
fn write(memory: &Memory, id: &str, texts: &[String]) {
    let mut writer = memory.writer(id, BTreeMap::new()).unwrap();
    let mut at = (writer.state().tokens, writer.state().bytes);
    for text in texts {
        let mut chunk = common::chunk(memory.geometry(), at, 3, 1);
        chunk.text.clone_from(text);
        chunk.span.byte_end = at.1 + text.len() as u64;
        at = (chunk.span.token_end, chunk.span.byte_end);
        writer.append(chunk).unwrap();
    }
    writer.commit(ResumePoint::default()).unwrap();
}

const PLAIN: WordRequest<'_> = WordRequest { query: "a", top_k: 3, k1: 1.2, b: 0.75, neighbours: 0.0 };

fn search(view: &dyn Recall, query: &str, top_k: usize) -> Vec<TermHit> {
    view.search_words(&WordRequest { query, top_k, ..PLAIN }).unwrap().hits
}

/// Robertson and Zaragoza 2009, equation 3.15, with 1 added in the logarithm; words that spaces separate.
fn oracle(view: &Snapshot, query: &str) -> Vec<(ChunkId, f64)> {
    let infos = view.describe(&view.chunks(usize::MAX).unwrap()).unwrap();
    let words: Vec<Vec<&str>> = infos.iter().map(|info| info.text.split_whitespace().collect()).collect();
    let count = infos.len() as f64;
    let mean = words.iter().map(Vec::len).sum::<usize>() as f64 / count;
    let mut terms: Vec<&str> = query.split_whitespace().collect();
    terms.sort_unstable();
    terms.dedup();
    let mut scored = Vec::new();
    for (info, words) in infos.iter().zip(&words) {
        let of_term = |term: &&str| {
            let with = words_with(&infos, term);
            let found = words.iter().filter(|word| *word == term).count() as f64;
            let length = 0.25 + 0.75 * words.len() as f64 / mean;
            (1.0 + (count - with + 0.5) / (with + 0.5)).ln() * found * 2.2 / (found + 1.2 * length)
        };
        let score: f64 = terms.iter().map(of_term).sum();
        if score > 0.0 {
            scored.push((info.id, score));
        }
    }
    scored
}

fn words_with(infos: &[mnemon_memory::ChunkInfo], term: &str) -> f64 {
    infos.iter().filter(|info| info.text.split_whitespace().any(|word| word == term)).count() as f64
}

fn assert_agrees(view: &Snapshot, query: &str) {
    let (found, expected) = (search(view, query, 4096), oracle(view, query));
    assert_eq!(found.len(), expected.len(), "{query}");
    let scores: BTreeMap<_, _> = expected.into_iter().collect();
    assert!(found.iter().all(|hit| (f64::from(hit.score) - scores[&hit.chunk]).abs() < 1e-4));
    let ordered =
        |pair: &[TermHit]| pair[1].score.total_cmp(&pair[0].score).then(pair[0].chunk.cmp(&pair[1].chunk)).is_lt();
    assert!(found.windows(2).all(ordered), "{found:?}");
    for top_k in [1, 3] {
        assert_eq!(search(view, query, top_k), found[..top_k.min(found.len())]);
    }
}

/// Words that are their own stems.
const WORDS: [&str; 12] =
    ["bako", "δρομο", "lumo", "мост", "piko", "rano", "silo", "tumo", "velo", "wako", "yako", "zulo"];

fn texts() -> impl Strategy<Value = Vec<Vec<String>>> {
    let text = prop::collection::vec(prop::sample::select(&WORDS[..]), 0..9).prop_map(|words| words.join(" ") + " ");
    prop::collection::vec(prop::collection::vec(text, 1..8), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_formula(
        documents in texts(),
        query in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..6),
        keep in 1..4_u64,
    ) {
        let storage: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
        let query = query.join(" ");
        let store = open(Arc::clone(&storage));
        let keys = spec(keys_only(KvDtype::Int8, EntryPolicy::BlockMean { tokens: 4 }));
        let memory = store.create_memory("tenant", "books", if keep == 1 { keys } else { small_spec() }).unwrap();
        for (at, texts) in documents.iter().enumerate() {
            write(&memory, &format!("{at}"), texts);
        }
        let before = memory.snapshot().unwrap();
        // Truncated and deleted text does not count, except in the view that was there before.
        let mut writer = memory.writer("0", BTreeMap::new()).unwrap();
        writer.truncate(keep.min(documents[0].len() as u64)).unwrap();
        writer.commit(ResumePoint::default()).unwrap();
        drop(writer);
        memory.delete_document("1").ok();
        for view in [before, memory.snapshot().unwrap()] {
            assert_agrees(&view, &query);
        }
        memory.compact().unwrap();
        assert_agrees(&memory.snapshot().unwrap(), &query);
        drop((memory, store));
        prop_assert!(check(&storage, false).unwrap().is_sound());
        // As read from the blobs by another process.
        let memory = open(storage).memory("tenant", "books").unwrap();
        assert_agrees(&memory.snapshot().unwrap(), &query);
    }
}

/// Blank pages have no words.
#[test]
fn chunks_of_less_than_a_word_in_the_mean_are_weighed_by_the_formula() {
    let (_storage, _store, memory) = books();
    write(&memory, "blank", &[" ", "\n", "δρομο ", " ", "δρομο мост "].map(String::from));
    assert_agrees(&memory.snapshot().unwrap(), "δρομο");
}

fn books() -> (Arc<InMemoryStorage>, mnemon_memory_store::Store, Memory) {
    let storage = Arc::new(InMemoryStorage::new());
    let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    (storage, store, memory)
}

/// Indices of the chunks found.
fn found(memory: &Memory, query: &str) -> Vec<usize> {
    let view = memory.snapshot().unwrap();
    let ids = view.chunks(100).unwrap();
    search(&view, query, 100).iter().map(|hit| ids.iter().position(|id| *id == hit.chunk).unwrap()).collect()
}

#[test]
fn words_of_many_languages_are_found() {
    let (_, _, memory) = books();
    let texts = [
        "Она жила в Москве у реки. ",
        "東京都に住んでいます。",
        "Die Straße war naß. ",
        "He was connecting the cables. ",
        "let client = HttpClient::new(max_tokens); ",
        "서울에서 만났어요. ",
        "Anna’s café in Malmö ",
        "A cable was cut in two ",
    ];
    write(&memory, "a", &texts.map(String::from));
    for (query, first) in [
        ("МОСКВЕ", 0),
        ("東京", 1),
        ("strasse", 2),
        ("connection", 3),
        ("tokens", 4),
        ("http client", 4),
        ("서울", 5),
        ("Cafe Malmo", 6),
        ("anna", 6),
        // The exact form counts more than the stem.
        ("cables", 3),
        ("cable", 7),
    ] {
        assert_eq!(found(&memory, query).first(), Some(&first), "{query}");
    }
    assert!(found(&memory, "unheard").is_empty() && found(&memory, "?! …").is_empty());
}

#[test]
fn a_word_across_two_chunks_is_in_both() {
    let (_, _, memory) = books();
    write(&memory, "a", &["the neigh", "bour of the cap", "tain's wi", "fe"].map(String::from));
    assert_eq!(found(&memory, "neighbour"), [0, 1]);
    assert_eq!(found(&memory, "captain"), [2, 1], "the shorter chunk first");
    assert_eq!(found(&memory, "wife"), [3, 2]);
    assert!(found(&memory, "neigh").is_empty());
}

#[test]
fn several_memories_are_searched_as_one() {
    let (_, store, memory) = books();
    write(&memory, "a", &["rano bako ", "rano silo "].map(String::from));
    let other = store.create_memory("tenant", "other", small_spec()).unwrap();
    write(&other, "b", &["rano ", "velo "].map(String::from));
    let (view, other) = (memory.snapshot().unwrap(), other.snapshot().unwrap());
    let members: Vec<Arc<dyn Recall>> = vec![Arc::new(view.clone()), Arc::new(other.clone()), Arc::new(view.clone())];
    let union = UnionRecall::new(members).unwrap();
    let mut expected = [search(&view, "rano", 10), search(&other, "rano", 10)].concat();
    expected.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.chunk.cmp(&b.chunk)));
    assert_eq!(search(&union, "rano", 10), expected);
    assert_eq!(search(&union, "rano", 1), expected[..1]);
}

#[test]
fn a_view_of_some_documents_knows_no_others() {
    let (_, _, memory) = books();
    for (id, text) in [("notes/a", "rano bako "), ("notes/b", "rano silo "), ("books/a", "rano velo ")] {
        write(&memory, id, &[text.to_owned()]);
    }
    let view = memory.snapshot().unwrap();
    let notes = view.of_documents(&|document| document.id.starts_with("notes/")).unwrap();
    memory.delete_document("notes/a").unwrap();
    let found = |view: &Snapshot, query: &str| -> Vec<String> {
        let hits: Vec<ChunkId> = search(view, query, 10).iter().map(|hit| hit.chunk).collect();
        view.describe(&hits).unwrap().into_iter().map(|info| info.document_id).collect()
    };
    assert_eq!(found(&notes, "rano"), ["notes/a", "notes/b"]);
    assert!(found(&notes, "velo").is_empty());
    assert_eq!(notes.len(), 2);
    // Of three documents with the word it tells less than of two without.
    assert!(search(&notes, "silo", 1)[0].score < search(&view, "silo", 1)[0].score);
    let later = view.of_documents(&|document| document.id != "notes/b").unwrap();
    assert_eq!(found(&later, "rano"), ["notes/a", "books/a"], "deleted since, and seen by the older view");
    let queries = common::queries(1, 2, 8, 1);
    let hits = common::search(&notes, 0, &queries, 2, 50, true);
    assert!(hits.iter().flatten().all(|hit| notes.chunks(9).unwrap().contains(&hit.chunk)));
    assert_eq!(hits[0].len(), 6);
}

#[test]
fn a_view_of_some_turns_searches_no_others() {
    let (storage, store, memory) = books();
    let said = |speaker: &str| [("speaker".to_owned(), speaker.to_owned())].into();
    let turn = |start: u32, speaker: &str| Turn { start, metadata: said(speaker) };
    let nobody = Turn { start: 5, metadata: BTreeMap::new() };
    write_turns(
        &memory,
        "talk",
        said("host"),
        &[
            ("rano bako ", vec![]),
            ("rano silo ", vec![turn(0, "Anna")]),
            ("rano velo ", vec![turn(0, "Anna"), turn(5, "Ben")]),
            ("rano mute ", vec![turn(0, "Ben"), nobody]),
        ],
    );
    write_turns(&memory, "note", said("Anna"), &[("rano lumo ", vec![])]);
    let spoken_by = |view: &Snapshot, speaker: &str| {
        view.of_documents(&|labels| labels.metadata.get("speaker").is_some_and(|by| by == speaker)).unwrap()
    };
    let texts = |view: &Snapshot, chunks: Vec<ChunkId>| -> Vec<String> {
        view.describe(&chunks).unwrap().into_iter().map(|info| info.text).collect()
    };
    let check = |view: &Snapshot| {
        for (speaker, expected) in [
            ("host", vec!["rano bako ", "rano mute "]),
            ("Anna", vec!["rano silo ", "rano velo ", "rano lumo "]),
            ("Ben", vec!["rano velo ", "rano mute "]),
            ("Cleo", vec![]),
        ] {
            let seen = spoken_by(view, speaker);
            assert_eq!(texts(&seen, seen.chunks(9).unwrap()), expected, "{speaker}");
            assert_eq!(seen.len() as usize, expected.len());
            let mut found = search(&seen, "rano", 9);
            found.sort_by_key(|hit| hit.chunk);
            assert_eq!(texts(&seen, found.iter().map(|hit| hit.chunk).collect()), expected, "{speaker}");
            // Rarity and length are those of what is seen; the formula knows documents alone, so it is asked for what is left of them.
            let scores: BTreeMap<_, _> = oracle(&seen, "rano").into_iter().collect();
            assert!(found.iter().all(|hit| (f64::from(hit.score) - scores[&hit.chunk]).abs() < 1e-4), "{speaker}");
            let queries = common::queries(1, 2, 8, 1);
            for exact in [true, false] {
                let hits = common::search(&seen, 0, &queries, 2, 50, exact);
                let chunks = seen.chunks(9).unwrap();
                assert!(hits.iter().flatten().all(|hit| chunks.contains(&hit.chunk)), "{speaker}");
                assert_eq!(hits[0].len(), 3 * expected.len(), "{speaker}");
            }
        }
        // What stands beside what is seen can be fetched.
        let ben = spoken_by(view, "Ben");
        let first = ben.chunks(1).unwrap();
        let beside = ben.neighbours(&first, 1, 0).unwrap().concat();
        assert_eq!(texts(&ben, beside), ["rano silo ", "rano velo "]);
    };
    check(&memory.snapshot().unwrap());
    memory.compact().unwrap();
    check(&memory.snapshot().unwrap());
    drop((memory, store));
    let memory = open(storage as Arc<dyn Storage>).memory("tenant", "books").unwrap();
    check(&memory.snapshot().unwrap());
}

fn write_turns(memory: &Memory, id: &str, metadata: BTreeMap<String, String>, chunks: &[(&str, Vec<Turn>)]) {
    let mut writer = memory.writer(id, metadata).unwrap();
    let mut at = (0, 0);
    for (text, turns) in chunks {
        let mut chunk = common::chunk(memory.geometry(), at, 3, 1);
        (*text).clone_into(&mut chunk.text);
        chunk.turns.clone_from(turns);
        chunk.span.byte_end = at.1 + text.len() as u64;
        at = (chunk.span.token_end, chunk.span.byte_end);
        writer.append(chunk).unwrap();
    }
    writer.commit(ResumePoint::default()).unwrap();
}

#[test]
fn chunks_get_a_part_of_their_neighbours() {
    let (_, _, memory) = books();
    // Chunks of three documents, of which the second one is written in two commits, and the first one truncated.
    write(&memory, "a", &["rano ", "bako ", "rano "].map(String::from));
    write(&memory, "b", &["bako ".into()]);
    write(&memory, "b", &["rano ", "silo ", "velo "].map(String::from));
    write(&memory, "c", &["silo ".into()]);
    let mut writer = memory.writer("a", BTreeMap::new()).unwrap();
    writer.truncate(2).unwrap();
    writer.commit(ResumePoint::default()).unwrap();
    let view = memory.snapshot().unwrap();
    let (ids, own) = (view.chunks(10).unwrap(), search(&view, "rano", 10));
    assert_eq!(own.iter().map(|hit| hit.chunk).collect::<Vec<_>>(), [ids[0], ids[3]]);
    let request = WordRequest { query: "rano", top_k: 10, neighbours: 0.25, ..PLAIN };
    let spread = view.search_words(&request).unwrap().hits;
    let score = |at: usize| spread.iter().find(|hit| hit.chunk == ids[at]).map_or(0.0, |hit| hit.score / own[0].score);
    let scores: Vec<f32> = (0..ids.len()).map(score).collect();
    assert_eq!(scores, [1.0, 0.25, 0.25, 1.0, 0.25, 0.0, 0.0]);
}

#[test]
fn the_whole_is_what_a_chunk_with_all_words_has() {
    let (_, _, memory) = books();
    write(&memory, "a", &["rano bako ", "silo velo ", "zulo wako "].map(String::from));
    let found = memory.snapshot().unwrap().search_words(&WordRequest { query: "bako rano", ..PLAIN }).unwrap();
    assert!((found.hits[0].score - found.whole).abs() < 1e-5);
    let more = memory.snapshot().unwrap().search_words(&WordRequest { query: "bako rano piko", ..PLAIN }).unwrap();
    assert!(more.whole > found.whole && more.hits == found.hits);
}

#[test]
fn damaged_words_are_made_again() {
    let (storage, store, memory) = books();
    write(&memory, "a", &["rano bako ", "silo velo "].map(String::from));
    drop((memory, store));
    let blob = "chunks-0000000000000001";
    storage.damage_blob(blob, |bytes| {
        let words = bytes.windows(4).rposition(|magic| magic == b"WORD").unwrap();
        bytes[words + 25] ^= 1;
    });
    let storage: Arc<dyn Storage> = storage;
    let report = check(&storage, false).unwrap();
    assert_eq!(report.findings.len(), 1, "{:#?}", report.findings);
    let store = open(Arc::clone(&storage));
    assert_eq!(found(&store.memory("tenant", "books").unwrap(), "silo"), [1]);
    drop(store);
    check(&storage, true).unwrap();
    assert!(check(&storage, false).unwrap().is_sound());
    assert_eq!(found(&open(storage).memory("tenant", "books").unwrap(), "silo"), [1]);
}

#[test]
fn requests_out_of_range_are_refused() {
    let (_, _, memory) = books();
    let view = memory.snapshot().unwrap();
    let long = "a ".repeat(40_000);
    for request in [
        WordRequest { top_k: 0, ..PLAIN },
        WordRequest { top_k: 4097, ..PLAIN },
        WordRequest { query: &long, ..PLAIN },
        WordRequest { k1: -1.0, ..PLAIN },
        WordRequest { k1: f32::NAN, ..PLAIN },
        WordRequest { b: 1.5, ..PLAIN },
        WordRequest { neighbours: -0.1, ..PLAIN },
        WordRequest { neighbours: f32::INFINITY, ..PLAIN },
    ] {
        assert!(matches!(view.search_words(&request), Err(mnemon_memory::Error::Invalid(_))));
    }
    assert!(search(&view, "a", 1).is_empty());
}

#[test]
fn matches_are_words_of_the_query() {
    let matched = |query: &str, text: &'static str| -> Vec<&str> {
        WordMatcher::new(query).matches(text).into_iter().map(|range| &text[range]).collect()
    };
    assert_eq!(matched("Where are the cables?", "Cables lay where a CABLE was."), ["Cables", "where", "CABLE"]);
    assert_eq!(matched("東京", "私は東京都にいる"), ["東京"]);
    assert_eq!(matched("client", "an HttpClient"), ["Client"]);
    assert!(matched("", "text").is_empty() && matched("text", "").is_empty());
}
