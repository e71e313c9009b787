//! Documents that are interrupted, resumed and appended to end up the same, to the last bit.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::{Arc, OnceLock};

use common::models::{Family, model, options};
use common::stores::{Stored, feed, read_all, stored};
use common::{long_text, stores, tokenizers as build};
use mnemon_encoder::{DocumentEncoder, EncodeOptions, Error, KeptReaders, Progress};
use mnemon_memory::{EntryPolicy, Hit, KvDtype, OpenMemory, Recall, SearchRequest};
use mnemon_memory_store::Memory;
use mnemon_runtime::{LoadOptions, Model};
use serde_json::json;

/// Models that differ in what a continued document has to restore.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Keys mix with the one before.
    KeyShift,
    /// The first tokens stay visible.
    Sinks,
    /// No pre-tokenizer; entries by importance.
    Representative,
}

const KINDS: [Kind; 3] = [Kind::KeyShift, Kind::Sinks, Kind::Representative];

fn a_model(kind: Kind) -> Arc<Model> {
    static MODELS: OnceLock<[Arc<Model>; 3]> = OnceLock::new();
    let models = MODELS.get_or_init(|| {
        KINDS.map(|kind| {
            let (family, tokenizer, mnemon, sinks, policy) = match kind {
                Kind::KeyShift => (Family::Qwen3, build::qwen(), json!({"key_shift": true}), 0, EntryPolicy::PerToken),
                Kind::Sinks => (Family::Llama, build::llama3(), json!({}), 4, EntryPolicy::BlockMean { tokens: 8 }),
                Kind::Representative => {
                    (Family::Mistral, build::mistral(), json!({}), 3, EntryPolicy::Representative { count: 4 })
                }
            };
            let load = LoadOptions {
                window: Some(24),
                sinks: Some(sinks),
                memory_layers: Some(vec![1, 2]),
                kv_dtype: Some(KvDtype::F32),
                chunk_tokens: Some(16),
                entry_policy: Some(policy),
                ..options()
            };
            Arc::new(model(family, &tokenizer, &mnemon, &load))
        })
    });
    Arc::clone(&models[kind as usize])
}

fn encode_options() -> EncodeOptions {
    EncodeOptions { segment_tokens: 48, commit_tokens: 60, recall_while_reading: None }
}

type Open = fn(
    Arc<Model>,
    Arc<dyn OpenMemory>,
    &str,
    std::collections::BTreeMap<String, String>,
    EncodeOptions,
) -> Result<DocumentEncoder, Error>;

fn open(how: Open, model: &Arc<Model>, memory: &Memory) -> DocumentEncoder {
    how(Arc::clone(model), Arc::new(memory.clone()), "document", [].into(), encode_options()).unwrap()
}

/// Score, first token and length of what each query finds.
type Found = Vec<Vec<(f32, u16, u16)>>;

/// What searches find: entries and where they point, which the chunks do not show.
fn found(model: &Model, memory: &Memory) -> Found {
    let geometry = model.geometry();
    let wide = (geometry.kv_heads * geometry.head_dim) as usize;
    let queries: Vec<f32> = (0..wide * 5).map(|at| ((at * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let request = SearchRequest {
        key_heads: &geometry.searched_by(1, geometry.kv_heads as usize).unwrap(),
        queries: &queries,
        top_k: 40,
        ef: None,
        exact: true,
    };
    let hits = memory.snapshot().unwrap().search(&request).unwrap();
    hits.iter().map(|hits| hits.iter().map(|Hit { score, start, len, .. }| (*score, *start, *len)).collect()).collect()
}

fn at_once(model: &Arc<Model>, text: &str) -> (Stored, Found) {
    let store = stores::in_memory();
    let memory = stores::memory_for(&store, model, "memory");
    let progress = read_all(open(DocumentEncoder::create, model, &memory), text.as_bytes(), 1 << 20);
    assert!(progress.complete);
    let whole = stored(&memory, "document");
    assert_eq!(whole.text(), text);
    (whole, found(model, &memory))
}

fn assert_same(model: &Arc<Model>, memory: &Memory, expected: &(Stored, Found), what: &str) {
    let got = stored(memory, "document");
    assert_eq!(got.text(), expected.0.text(), "{what}");
    assert_eq!(got.tokens(), expected.0.tokens(), "{what}");
    for (at, (got, expected)) in got.chunks.iter().zip(&expected.0.chunks).enumerate() {
        assert_eq!(got.0.span, expected.0.span, "{what}: chunk {at}");
        assert!(got.1 == expected.1, "{what}: keys or values of chunk {at} differ");
    }
    assert_eq!(got.chunks.len(), expected.0.chunks.len(), "{what}");
    assert!(found(model, memory) == expected.1, "{what}: entries differ");
}

#[test]
fn pieces_do_not_matter() {
    for kind in KINDS {
        let model = a_model(kind);
        let text = long_text(3000, 1);
        let expected = at_once(&model, &text);
        for size in [1, 17, 1000] {
            let store = stores::in_memory();
            let memory = stores::memory_for(&store, &model, "memory");
            read_all(open(DocumentEncoder::create, &model, &memory), text.as_bytes(), size);
            assert_same(&model, &memory, &expected, &format!("{kind:?}, pieces of {size}"));
        }
    }
}

/// Dies at each commit, is resumed by another process (a store opened again), and dies again.
#[test]
fn resumed_after_each_commit() {
    for kind in KINDS {
        let model = a_model(kind);
        let text = long_text(9000, 2);
        let expected = at_once(&model, &text);
        let folder = tempfile::tempdir().unwrap();
        let mut store = stores::on_disk(folder.path());
        let mut memory = stores::memory_for(&store, &model, "memory");
        let mut durable = Progress::default();
        let mut deaths = 0;
        loop {
            let mut encoder = open(DocumentEncoder::resume, &model, &memory);
            let survived = feed(&mut encoder, text.as_bytes(), 501, |progress| {
                assert!(progress.durable_tokens >= durable.durable_tokens);
                let died = progress.sequence > durable.sequence && progress.durable_bytes > durable.durable_bytes;
                durable = if died { *progress } else { durable };
                died
            });
            if survived {
                assert!(encoder.finish().unwrap().complete);
                break;
            }
            deaths += 1;
            drop((encoder, memory, store));
            store = stores::on_disk(folder.path());
            memory = store.memory("tests", "memory").unwrap();
        }
        assert!(deaths > 8, "{kind:?}: {deaths} interruptions");
        assert_same(&model, &memory, &expected, &format!("{kind:?} after {deaths} interruptions"));
    }
}

#[test]
fn appended_in_parts() {
    for kind in KINDS {
        let model = a_model(kind);
        let text = long_text(7000, 3);
        let expected = at_once(&model, &text);
        for parts in [vec![3500], vec![1, 2, 5, 40], vec![2047, 2049, 2300, 6900], (1..20).map(|at| at * 350).collect()]
        {
            let store = stores::in_memory();
            let memory = stores::memory_for(&store, &model, "memory");
            let readers = Arc::new(KeptReaders::new(1 << 30));
            let mut from = 0;
            for cut in parts.iter().copied().chain([text.len()]) {
                let to = (cut..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap();
                let before = memory.document("document").map_or(0, |info| info.bytes);
                assert_eq!(before as usize, from);
                let mut encoder = open(DocumentEncoder::append, &model, &memory);
                // Every third goes on without a reader.
                if cut % 3 > 0 {
                    encoder.keep_reader(Arc::clone(&readers), "tenant");
                }
                feed(&mut encoder, &text.as_bytes()[from..to], 200, |progress| {
                    assert!(progress.durable_bytes >= before, "what was durable stays so");
                    false
                });
                let progress = encoder.finish().unwrap();
                assert!(
                    progress.complete && progress.durable_bytes == to as u64 && progress.bytes_received == to as u64
                );
                from = to;
            }
            assert_same(&model, &memory, &expected, &format!("{kind:?} in parts {parts:?}"));
        }
    }
}

/// A turn of a conversation costs its own tokens, what the tokenizer goes back, and a part of a segment, however long the conversation is.
#[test]
fn what_is_appended_is_read_and_little_else() {
    for kind in KINDS {
        let model = a_model(kind);
        let text = long_text(7000, 7);
        let store = stores::in_memory();
        let memory = stores::memory_for(&store, &model, "memory");
        let readers = Arc::new(KeptReaders::new(1 << 30));
        let append = |text: &str, readers: Option<&Arc<KeptReaders>>| {
            let before = memory.document("document").map_or(0, |info| info.tokens);
            let mut encoder = open(DocumentEncoder::append, &model, &memory);
            if let Some(readers) = readers {
                encoder.keep_reader(Arc::clone(readers), "tenant");
            }
            feed(&mut encoder, text.as_bytes(), 1 << 20, |_| false);
            let progress = encoder.finish().unwrap();
            (encoder.tokens_read(), progress.durable_tokens - before)
        };
        append(&text, Some(&readers));
        // The tokenizers of these tests make a token of two bytes and less.
        let most = 256 + encode_options().segment_tokens as u64;
        for turn in ["Who was that? ", "Nobody. ", "I see. ", "More was said then. "] {
            let (read, new) = append(turn, Some(&readers));
            assert!(read <= new + most, "{kind:?}: {read} read for {new}");
        }
        let window = (model.config().layers * model.config().memory.window) as u64;
        let (again, new) = append("Without a reader, the window is read again. ", None);
        assert!(again > new + window, "{kind:?}: {again} read for {new}");
        // What was changed meanwhile is another text.
        let (again, new) = append("And once more. ", Some(&readers));
        assert!(again > new + window, "{kind:?}: {again} read for {new}");
    }
}

/// Turns of the text, byte by byte: who speaks there.
fn speakers(memory: &Memory) -> Vec<String> {
    let mut speakers = Vec::new();
    for info in memory.document_chunks("document", 0, usize::MAX).unwrap() {
        for at in 0..info.text.len() {
            speakers.push(info.metadata_at(at).get("speaker").cloned().unwrap_or_default());
        }
    }
    speakers
}

fn spoken_by(speaker: &str) -> std::collections::BTreeMap<String, String> {
    [("speaker".to_owned(), speaker.to_owned())].into()
}

/// Who said what stays, whether turns come one by one, at once, or between text of no turn.
#[test]
fn turns_of_a_conversation() {
    let model = a_model(Kind::KeyShift);
    let said: Vec<(&str, String)> = [("Anna", 300), ("Bob", 40), ("Anna", 900), ("", 500), ("Cleo", 20), ("Bob", 1200)]
        .iter()
        .enumerate()
        .map(|(seed, (speaker, bytes))| (*speaker, long_text(*bytes, seed as u64)))
        .collect();
    let expected: Vec<&str> = said.iter().flat_map(|(speaker, text)| vec![*speaker; text.len()]).collect();
    let whole: String = said.iter().map(|(_, text)| text.as_str()).collect();

    let appended = stores::in_memory();
    let appended = stores::memory_for(&appended, &model, "memory");
    let readers = Arc::new(KeptReaders::new(1 << 30));
    for (at, (speaker, text)) in said.iter().enumerate() {
        let mut encoder = open(DocumentEncoder::append, &model, &appended);
        if at % 2 == 0 {
            encoder.keep_reader(Arc::clone(&readers), "tenant");
        }
        if !speaker.is_empty() {
            encoder.begin_turn(spoken_by(speaker));
        }
        read_all(encoder, text.as_bytes(), 100);
    }
    assert_eq!(speakers(&appended), expected);

    let at_once = stores::in_memory();
    let at_once = stores::memory_for(&at_once, &model, "memory");
    let mut encoder = open(DocumentEncoder::create, &model, &at_once);
    for (speaker, text) in &said {
        encoder.begin_turn(if speaker.is_empty() { [].into() } else { spoken_by(speaker) });
        feed(&mut encoder, text.as_bytes(), 100, |_| false);
    }
    encoder.finish().unwrap();
    assert_eq!(speakers(&at_once), expected);
    assert!(stored(&at_once, "document") == stored(&appended, "document"));

    // Interrupted within a turn, and sent again.
    let cut = stores::in_memory();
    let cut = stores::memory_for(&cut, &model, "memory");
    let mut encoder = open(DocumentEncoder::create, &model, &cut);
    encoder.begin_turn(spoken_by("Anna"));
    feed(&mut encoder, &whole.as_bytes()[..2500], 100, |_| false);
    while encoder.step().unwrap().is_some() {}
    encoder.commit().unwrap();
    drop(encoder);
    let durable = cut.document("document").unwrap().bytes as usize;
    assert!(durable > 0 && durable < 2500);
    let mut encoder = open(DocumentEncoder::resume, &model, &cut);
    encoder.begin_turn(spoken_by("nobody: it is of the turn that was begun"));
    read_all(encoder, whole.as_bytes(), 100);
    assert!(speakers(&cut).iter().all(|speaker| speaker == "Anna"));
}

/// Chunks of these tests are some thirty bytes: turns start and end at their borders, within them, and several in one.
#[test]
fn turns_of_any_length_stay_where_they_are() {
    let model = a_model(Kind::KeyShift);
    for seed in 0..24_u64 {
        let said: Vec<(&str, String)> = (0..14)
            .map(|at| {
                let speaker = ["", "Anna", "Bob"][((seed * 7 + at * at + at * seed) % 3) as usize];
                (speaker, long_text(1 + ((seed * 31 + at * 17) % 70) as usize, seed * 100 + at))
            })
            .collect();
        let expected: Vec<&str> = said.iter().flat_map(|(speaker, text)| vec![*speaker; text.len()]).collect();
        let store = stores::in_memory();
        let appended = stores::memory_for(&store, &model, "memory");
        for (speaker, text) in &said {
            let mut encoder = open(DocumentEncoder::append, &model, &appended);
            if !speaker.is_empty() {
                encoder.begin_turn(spoken_by(speaker));
            }
            read_all(encoder, text.as_bytes(), 100);
        }
        assert_eq!(speakers(&appended), expected, "{seed}");
        let store = stores::in_memory();
        let at_once = stores::memory_for(&store, &model, "memory");
        let mut encoder = open(DocumentEncoder::create, &model, &at_once);
        for (speaker, text) in &said {
            // One that is not filled is none.
            encoder.begin_turn(spoken_by("nobody"));
            encoder.begin_turn(if speaker.is_empty() { [].into() } else { spoken_by(speaker) });
            feed(&mut encoder, text.as_bytes(), 100, |_| false);
        }
        encoder.finish().unwrap();
        assert!(stored(&at_once, "document") == stored(&appended, "document"), "{seed}");
    }
}

/// What is sent again and goes on: the last turn that is told is that of what is new.
#[test]
fn a_turn_that_is_sent_again_goes_on() {
    let model = a_model(Kind::Sinks);
    let (said, more) = (long_text(700, 1), long_text(300, 2));
    let whole = format!("{said}{more}");
    for (told, speaker) in [(Some("Anna"), "Anna"), (Some("Bob"), "Bob"), (None, "")] {
        let store = stores::in_memory();
        let memory = stores::memory_for(&store, &model, "memory");
        let mut encoder = open(DocumentEncoder::create, &model, &memory);
        encoder.begin_turn(spoken_by("Anna"));
        read_all(encoder, said.as_bytes(), 100);
        // An append that dies before it commits anything new.
        let mut encoder = open(DocumentEncoder::append, &model, &memory);
        encoder.begin_turn(spoken_by("Bob"));
        feed(&mut encoder, &more.as_bytes()[..40], 100, |_| false);
        while encoder.step().unwrap().is_some() {}
        encoder.commit().unwrap();
        drop(encoder);
        assert!(memory.document("document").unwrap().complete);
        let mut encoder = open(DocumentEncoder::resume, &model, &memory);
        if let Some(told) = told {
            encoder.begin_turn(spoken_by(told));
        }
        read_all(encoder, whole.as_bytes(), 100);
        let mut expected = vec!["Anna"; said.len()];
        expected.resize(whole.len(), speaker);
        assert_eq!(speakers(&memory), expected, "{told:?}");
    }
}

/// An append that dies keeps what was durable before, and can be resumed with the whole text, or followed by another.
#[test]
fn interrupted_appends() {
    for kind in KINDS {
        let model = a_model(kind);
        let (head, tail, other) = (long_text(3100, 4), long_text(4000, 5), long_text(900, 6));
        let whole = format!("{head}{tail}");
        for steps in [0, 1, 4, 9, 20] {
            let store = stores::in_memory();
            let memory = stores::memory_for(&store, &model, "memory");
            read_all(open(DocumentEncoder::create, &model, &memory), head.as_bytes(), 999);
            let mut encoder = open(DocumentEncoder::append, &model, &memory);
            let mut left = steps;
            feed(&mut encoder, tail.as_bytes(), 300, |_| {
                left -= i32::from(left > 0);
                left == 0
            });
            drop(encoder);
            let durable = memory.document("document").unwrap();
            assert!(durable.bytes as usize >= head.len(), "{kind:?}: {} of {}", durable.bytes, head.len());

            let text = stored(&memory, "document").text();
            assert!(whole.starts_with(&text));
            if steps % 2 == 0 {
                read_all(open(DocumentEncoder::resume, &model, &memory), whole.as_bytes(), 777);
                assert_same(&model, &memory, &at_once(&model, &whole), &format!("{kind:?}, {steps} steps, resumed"));
            } else {
                read_all(open(DocumentEncoder::append, &model, &memory), other.as_bytes(), 777);
                let expected = at_once(&model, &format!("{text}{other}"));
                assert_same(&model, &memory, &expected, &format!("{kind:?}, {steps} steps, appended to"));
            }
        }
    }
}

#[test]
fn a_text_that_is_sent_again_must_be_the_same() {
    let model = a_model(Kind::Sinks);
    let text = long_text(5000, 8);
    let store = stores::in_memory();
    let memory = stores::memory_for(&store, &model, "memory");
    read_all(open(DocumentEncoder::create, &model, &memory), text.as_bytes(), 4096);
    let before = stored(&memory, "document");
    let sequence = memory.info().sequence;

    // The same once more: nothing to do.
    let again = read_all(open(DocumentEncoder::resume, &model, &memory), text.as_bytes(), 100);
    assert!(again.complete);
    assert_eq!((again.bytes_received, again.sequence), (text.len() as u64, sequence));

    // Another text.
    let mut other = text.clone().into_bytes();
    other[4321] ^= 1;
    let mut encoder = open(DocumentEncoder::resume, &model, &memory);
    let outcome = other.chunks(64).try_for_each(|piece| encoder.push(piece));
    assert!(matches!(outcome, Err(Error::ResumeMismatch { byte: 4321 })), "{outcome:?}");
    assert!(matches!(encoder.push(b"more"), Err(Error::Failed)));
    drop(encoder);

    // Less text.
    let mut encoder = open(DocumentEncoder::resume, &model, &memory);
    encoder.push(&text.as_bytes()[..1000]).unwrap();
    assert!(matches!(encoder.finish(), Err(Error::ResumeMismatch { byte: 1000 })));
    drop(encoder);
    assert!(stored(&memory, "document") == before);

    // More text.
    let longer = format!("{text} and more of it");
    read_all(open(DocumentEncoder::resume, &model, &memory), longer.as_bytes(), 1000);
    assert_same(&model, &memory, &at_once(&model, &longer), "resumed with more");

    // Nothing appended: nothing changes.
    let sequence = memory.info().sequence;
    assert!(open(DocumentEncoder::append, &model, &memory).finish().unwrap().complete);
    assert_eq!(memory.info().sequence, sequence);
}
