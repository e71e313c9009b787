//! Reading documents: bad input, bounds, deletion, isolation, search.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::Arc;

use common::models::{Family, model, options};
use common::stores::{feed, read_all, stored};
use common::{long_text, stores, tokenizers as build};
use mnemon_encoder::{
    DocumentEncoder, EncodeOptions, Error, HELD_BACK_BYTES_MAX, PUSH_BYTES_MAX, Progress, SearchBy, SearchOptions,
    search_text,
};
use mnemon_memory::{EntryPolicy, Invalid, KeyHead, Recall, SearchRequest};
use mnemon_memory_store::{self as store, Memory};
use mnemon_runtime::{LoadOptions, Model, ModelSource, RecallOptions};
use serde_json::json;

fn a_model() -> Arc<Model> {
    let load = LoadOptions { window: Some(64), chunk_tokens: Some(32), ..options() };
    Arc::new(model(Family::Llama, &build::llama3(), &json!({}), &load))
}

fn encode() -> EncodeOptions {
    EncodeOptions { segment_tokens: 128, ..EncodeOptions::default() }
}

fn create(model: &Arc<Model>, memory: &Memory, id: &str) -> Result<DocumentEncoder, Error> {
    DocumentEncoder::create(Arc::clone(model), Arc::new(memory.clone()), id, [].into(), encode())
}

fn by_keys(k: usize, exact: bool) -> SearchOptions {
    SearchOptions { k, by: SearchBy::Keys, exact, per_document: None }
}

#[test]
fn bad_input_is_refused_and_leaves_nothing() {
    let model = a_model();
    let store = stores::in_memory();
    let memory = stores::memory_for(&store, &model, "memory");

    let mut encoder = create(&model, &memory, "latin1").unwrap();
    encoder.push(b"caf").unwrap();
    let error = encoder.push(b"\xe9 au lait").unwrap_err();
    assert!(matches!(error, Error::InvalidUtf8 { byte_offset: 3 }), "{error}");
    assert!(matches!(encoder.step(), Err(Error::Failed)));
    drop(encoder);

    let mut encoder = create(&model, &memory, "cut").unwrap();
    encoder.push("Brücke".as_bytes().split_at(3).0).unwrap();
    assert!(matches!(encoder.finish(), Err(Error::InvalidUtf8 { byte_offset: 2 })));
    drop(encoder);

    let mut encoder = create(&model, &memory, "empty").unwrap();
    encoder.push(b"").unwrap();
    assert!(matches!(encoder.finish(), Err(Error::EmptyDocument)));
    drop(encoder);

    assert!(memory.list_documents(None, 10).unwrap().is_empty());
    assert_eq!(memory.info().chunks, 0);

    read_all(create(&model, &memory, "twice").unwrap(), b"once", 1);
    assert!(matches!(create(&model, &memory, "twice"), Err(Error::DocumentExists { .. })));
    let busy = create(&model, &memory, "busy").unwrap();
    let Err(Error::Memory(mnemon_memory::Error::Backend(error))) = create(&model, &memory, "busy") else {
        panic!("accepted")
    };
    assert!(matches!(error.downcast_ref(), Some(store::Error::DocumentBusy { .. })));
    drop(busy);

    let mut encoder = create(&model, &memory, "late").unwrap();
    encoder.push(b"some text").unwrap();
    assert!(encoder.finish().unwrap().complete);
    assert!(!encoder.wants_input());
    assert!(matches!(encoder.push(b"more"), Err(Error::Finished)));
    assert!(matches!(encoder.step(), Ok(None) | Err(Error::Failed)));

    let options = EncodeOptions { segment_tokens: 100, ..encode() };
    let refused = DocumentEncoder::create(Arc::clone(&model), Arc::new(memory.clone()), "odd", [].into(), options);
    assert!(matches!(refused, Err(Error::Invalid(Invalid { what: "segment_tokens", .. }))));
}

#[test]
fn a_memory_of_another_model_is_refused() {
    let (model, other) = (a_model(), {
        let load = LoadOptions { window: Some(64), chunk_tokens: Some(32), ..options() };
        Arc::new(common::models::model(Family::Qwen3, &build::llama3(), &json!({}), &load))
    });
    let store = stores::in_memory();
    let memory = stores::memory_for(&store, &model, "memory");
    let Err(error) = create(&other, &memory, "document") else { panic!("accepted") };
    assert!(matches!(error, Error::Memory(mnemon_memory::Error::FingerprintMismatch { .. })));
    let text = error.to_string();
    assert!(text.contains(&model.fingerprint().to_string()) && text.contains(&other.fingerprint().to_string()));
}

/// What is held does not grow with the document, and the caller is told when to stop pushing.
#[test]
fn long_documents_are_held_in_bounded_memory() {
    let model = a_model();
    let store = stores::in_memory();
    let memory = stores::memory_for(&store, &model, "memory");
    let mut encoder = create(&model, &memory, "long").unwrap();
    let text = long_text(150_000, 1);
    let piece = 10_000;
    let (mut most, mut refused) = (0, 0);
    for bytes in text.as_bytes().chunks(piece) {
        while !encoder.wants_input() {
            // Nothing is lost by an early push that is refused.
            assert!(matches!(encoder.push(bytes), Err(Error::BufferFull)));
            refused += 1;
            encoder.step().unwrap();
            most = most.max(encoder.held_bytes());
        }
        encoder.push(bytes).unwrap();
        most = most.max(encoder.held_bytes());
    }
    let progress = encoder.finish().unwrap();
    assert_eq!((progress.durable_bytes, progress.bytes_received), (text.len() as u64, text.len() as u64));
    assert!(refused > 10);
    // A piece, the tokenizer's share, and tokens with their text of a segment, a window and what tokenizing overshoots.
    let bound = 2 * piece + 8 * 4096 + (128 + 64 + 32 + 4096) * 40;
    println!("held at most {most} bytes of {} (bound {bound})", text.len());
    assert!(most < bound, "{most} bytes held");
    assert_eq!(stored(&memory, "long").text(), text);

    let mut encoder = create(&model, &memory, "huge piece").unwrap();
    assert!(matches!(encoder.push(&vec![b'a'; PUSH_BYTES_MAX + 1]), Err(Error::Invalid(_))));
    let mut encoder = create(&model, &memory, "no spaces").unwrap();
    let mut most = 0;
    for _ in 0..20 {
        while !encoder.wants_input() {
            encoder.step().unwrap();
        }
        encoder.push(&vec![b'a'; piece]).unwrap();
        most = most.max(encoder.held_bytes());
    }
    assert!(most < bound + 3 * HELD_BACK_BYTES_MAX + HELD_BACK_BYTES_MAX * 24, "{most} bytes held");
    assert_eq!(encoder.finish().unwrap().durable_bytes, 20 * piece as u64);
}

#[test]
fn progress_and_commits() {
    let model = a_model();
    let store = stores::in_memory();
    let memory = stores::memory_for(&store, &model, "memory");
    let options = EncodeOptions { commit_tokens: 200, ..encode() };
    let mut encoder = DocumentEncoder::create(
        Arc::clone(&model),
        Arc::new(memory.clone()),
        "document",
        [("a".into(), "b".into())].into(),
        options,
    )
    .unwrap();
    let text = long_text(20_000, 2);
    let mut last = Progress::default();
    let mut commits = 0;
    feed(&mut encoder, text.as_bytes(), 3000, |progress| {
        assert!(progress.tokens_encoded >= last.tokens_encoded && progress.bytes_received >= last.bytes_received);
        assert!(progress.durable_tokens >= last.durable_tokens && progress.durable_tokens <= progress.tokens_encoded);
        if progress.sequence > last.sequence {
            commits += 1;
            let info = memory.document("document").unwrap();
            assert_eq!(
                (info.tokens, info.bytes, info.complete),
                (progress.durable_tokens, progress.durable_bytes, false)
            );
            assert!(info.resume.safe_token <= info.tokens && info.resume.safe_byte <= info.bytes);
            // Safe points follow closely.
            assert!(info.bytes - info.resume.safe_byte < 8 << 10);
        }
        last = *progress;
        false
    });
    // What is in chunks can be made durable at any time.
    let now = encoder.commit().unwrap();
    assert!(now.durable_tokens >= last.durable_tokens);
    let end = encoder.finish().unwrap();
    assert!(commits > 5 && end.complete && end.durable_tokens == end.tokens_encoded);
    let info = memory.document("document").unwrap();
    assert!(info.complete);
    assert_eq!(info.metadata["a"], "b");
    assert_eq!(stored(&memory, "document").text(), text);
}

#[test]
fn a_document_recalls_only_itself_while_it_is_read() {
    let load = LoadOptions { window: Some(32), chunk_tokens: Some(16), sinks: Some(0), ..options() };
    let model = Arc::new(model(Family::Qwen2, &build::qwen(), &json!({}), &load));
    let recall = RecallOptions { top_k_chunks: 4, ..RecallOptions::default() };
    let options = EncodeOptions { segment_tokens: 64, commit_tokens: 64, recall_while_reading: Some(recall) };
    let open = |memory: &Memory, id: &str| {
        DocumentEncoder::create(Arc::clone(&model), Arc::new(memory.clone()), id, [].into(), options.clone()).unwrap()
    };
    let text = long_text(3000, 3);
    let (first, second) = (stores::in_memory(), stores::in_memory());
    let (alone, shared) = (stores::memory_for(&first, &model, "alone"), stores::memory_for(&second, &model, "shared"));
    read_all(open(&alone, "document"), text.as_bytes(), 500);
    read_all(open(&shared, "other"), long_text(2000, 4).as_bytes(), 500);
    read_all(open(&shared, "document"), text.as_bytes(), 500);
    let (alone, shared) = (stored(&alone, "document"), stored(&shared, "document"));
    assert_eq!(alone.tokens(), shared.tokens());
}

fn default_model() -> Option<Arc<Model>> {
    match Model::load(&ModelSource::Embedded, &options()) {
        Ok(model) => Some(Arc::new(model)),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// A passage, taken out of the middle of a chunk.
fn passage(text: &str) -> &str {
    let border = |wanted: usize| (wanted..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    &text[border(text.len() / 6)..border(text.len() * 5 / 6)]
}

#[test]
fn a_verbatim_passage_finds_its_own_chunk_first() {
    let small = |family, policy| {
        let load = LoadOptions {
            window: Some(64),
            chunk_tokens: Some(48),
            memory_layers: Some(vec![1]),
            entry_policy: Some(policy),
            ..options()
        };
        Arc::new(model(family, &build::qwen(), &json!({}), &load))
    };
    // Keys of random models tell little: few enough chunks that all are ranked. The default model's have to tell.
    let models = [
        (Some(small(Family::Qwen3, EntryPolicy::PerToken)), 2_000),
        (Some(small(Family::Llama, EntryPolicy::BlockMean { tokens: 4 })), 2_000),
        (Some(small(Family::Qwen2, EntryPolicy::Representative { count: 12 })), 2_000),
        (default_model(), 16_000),
    ];
    for (model, bytes) in models.into_iter().filter_map(|(model, bytes)| Some((model?, bytes))) {
        let store = stores::in_memory();
        let memory = stores::memory_for(&store, &model, "memory");
        let encode = EncodeOptions::for_geometry(model.geometry());
        for seed in 0..2 {
            let id = format!("document {seed}");
            let encoder =
                DocumentEncoder::create(Arc::clone(&model), Arc::new(memory.clone()), &id, [].into(), encode.clone())
                    .unwrap();
            read_all(encoder, long_text(bytes, 20 + seed).as_bytes(), 1 << 16);
        }
        let snapshot = memory.snapshot().unwrap();
        let infos = memory.document_chunks("document 1", 0, usize::MAX).unwrap();
        let (mut tried, mut first) = (0, 0);
        for info in infos.iter().filter(|info| info.text.len() > 80).step_by(1 + infos.len() / 20) {
            for exact in [false, true] {
                let found =
                    search_text(&model, None, &snapshot, passage(&info.text), by_keys(3, exact)).unwrap().passages;
                assert!(found.len() == 3 && found[0].score >= found[1].score && found[0].keys.unwrap() <= 1.001);
                tried += 1;
                first += u32::from(found[0].chunks.contains(&info.id));
            }
        }
        println!("{}: {first} of {tried} passages found first among {} chunks", model.name(), snapshot.len());
        assert!(tried > 5 && first == tried, "{first} of {tried}");
    }
}

#[test]
fn chosen_key_heads_are_read_and_searched_as_all_of_them() {
    let text = long_text(3_000, 20);
    let read = |layers: &[u32], key_heads: Option<&[(u32, u32)]>| {
        let chosen = |heads: &[(u32, u32)]| heads.iter().map(|&(layer, head)| KeyHead { layer, head }).collect();
        let load = LoadOptions {
            window: Some(64),
            chunk_tokens: Some(48),
            memory_layers: Some(layers.to_vec()),
            key_heads: key_heads.map(chosen),
            entry_policy: Some(EntryPolicy::BlockMean { tokens: 5 }),
            ..options()
        };
        let model = Arc::new(model(Family::Qwen3, &build::qwen(), &json!({}), &load));
        let memory = stores::memory_for(&stores::in_memory(), &model, "memory");
        let encode = EncodeOptions::for_geometry(model.geometry());
        let create = DocumentEncoder::create(Arc::clone(&model), Arc::new(memory.clone()), "d", [].into(), encode);
        read_all(create.unwrap(), text.as_bytes(), 700);
        (model, memory)
    };
    let (_, all) = read(&[0, 1, 2], None);
    let whole = stored(&all, "d");
    let heads = [(0, 1), (1, 0), (2, 1)];
    for layers in [&[1][..], &[]] {
        let (model, some) = read(layers, Some(&heads));
        assert_eq!(model.geometry().layers, layers);
        let (all_view, view) = (all.snapshot().unwrap(), some.snapshot().unwrap());
        let geometry = model.geometry();
        let queries: Vec<f32> =
            (0..4 * geometry.head_dim as usize).map(|at| ((at * 37 % 101) as f32 - 50.0) / 50.0).collect();
        let found = |view: &dyn Recall, key_head: usize| {
            let key_heads = &[key_head];
            let request = SearchRequest { key_heads, queries: &queries, top_k: 9, ef: None, exact: true };
            view.search(&request).unwrap()
        };
        for (index, (layer, head)) in heads.into_iter().enumerate() {
            let of_all = all.geometry().key_head_index(KeyHead { layer, head }).unwrap();
            assert_eq!(found(&view, index), found(&all_view, of_all), "head {head} of layer {layer}");
        }
        let chunks = stored(&some, "d").chunks;
        assert_eq!(chunks.len(), whole.chunks.len());
        for ((info, kv), (whole_info, whole_kv)) in chunks.iter().zip(&whole.chunks) {
            assert_eq!(info, whole_info);
            assert_eq!(kv.as_slice(), layers.iter().map(|_| whole_kv[1].clone()).collect::<Vec<_>>());
        }
        let wanted = some.document_chunks("d", 3, 1).unwrap().remove(0);
        let hits = search_text(&model, None, &view, passage(&wanted.text), by_keys(3, true)).unwrap().passages;
        assert!(hits.len() == 3 && hits.iter().any(|hit| hit.chunks.contains(&wanted.id)), "{hits:?}");
        assert!(hits.iter().all(|hit| (0.0..1.001).contains(&hit.keys.unwrap()) && hit.words.is_none()));
    }
}

#[test]
fn what_was_deleted_is_not_found() {
    let model = a_model();
    let store = stores::in_memory();
    let memory = stores::memory_for(&store, &model, "memory");
    let (kept, gone) = (long_text(6000, 30), long_text(6000, 31));
    read_all(create(&model, &memory, "kept").unwrap(), kept.as_bytes(), 4096);
    read_all(create(&model, &memory, "gone").unwrap(), gone.as_bytes(), 4096);
    let infos = memory.document_chunks("gone", 0, usize::MAX).unwrap();
    memory.delete_document("gone").unwrap();
    let snapshot = memory.snapshot().unwrap();
    for info in infos.iter().step_by(5) {
        for exact in [false, true] {
            let found = search_text(&model, None, &snapshot, &info.text, by_keys(8, exact)).unwrap().passages;
            let ids: Vec<_> = found.iter().flat_map(|hit| hit.chunks.clone()).collect();
            assert!(!found.is_empty());
            assert!(snapshot.describe(&ids).unwrap().iter().all(|info| info.document_id == "kept"));
        }
    }
    // Reading it once more gives what it was.
    read_all(create(&model, &memory, "gone").unwrap(), gone.as_bytes(), 100);
    assert_eq!(stored(&memory, "gone").text(), gone);
}

#[test]
fn words_and_keys_together_find_what_either_finds() {
    let model = a_model();
    let store = stores::in_memory();
    let memory = stores::memory_for(&store, &model, "memory");
    read_all(create(&model, &memory, "a").unwrap(), long_text(6000, 30).as_bytes(), 4096);
    let rare = "Zephyrine kept the brass astrolabe under the stairs. ";
    read_all(
        create(&model, &memory, "b").unwrap(),
        format!("{}{rare}{}", long_text(900, 31), long_text(900, 32)).as_bytes(),
        4096,
    );
    let snapshot = memory.snapshot().unwrap();
    let search = |query: &str, by| {
        search_text(&model, None, &snapshot, query, SearchOptions { k: 5, by, exact: true, per_document: None })
            .unwrap()
            .passages
    };
    for by in [SearchBy::Both, SearchBy::Words] {
        // In another form, and in other letters.
        let found = search("where are the ASTROLABES", by);
        let text: String = snapshot.describe(&found[0].chunks).unwrap().into_iter().map(|info| info.text).collect();
        assert!(text.contains("astrolabe"), "{text}");
        assert!((found[0].score - 1.0).abs() < 1e-6 || by == SearchBy::Both);
        assert!(found[0].words.unwrap() > 0.0 && found[0].keys.is_some() == (by == SearchBy::Both));
        assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));
    }
    // What shares no word with the memory is found by keys alone.
    assert!(search("xylograph", SearchBy::Words).is_empty());
    let found = search("xylograph", SearchBy::Both);
    assert!(found.len() == 5 && found.iter().all(|hit| hit.words.is_none()));
    // Chunks that stand side by side are one passage, and no chunk is in two.
    let found = search(rare, SearchBy::Both);
    assert!(found[0].chunks.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0));
    let mut all: Vec<_> = found.iter().flat_map(|hit| hit.chunks.clone()).collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn bad_queries_are_refused() {
    let model = a_model();
    let store = stores::in_memory();
    let memory = stores::memory_for(&store, &model, "memory");
    let snapshot = memory.snapshot().unwrap();
    assert!(search_text(&model, None, &snapshot, "anything", by_keys(5, false)).unwrap().passages.is_empty());
    assert!(matches!(search_text(&model, None, &snapshot, "", by_keys(5, false)), Err(Error::EmptyQuery)));
    assert!(matches!(
        search_text(&model, None, &snapshot, "x", by_keys(0, false)),
        Err(Error::Invalid(Invalid { what: "k", .. }))
    ));
    assert!(matches!(
        search_text(&model, None, &snapshot, "x", by_keys(1 << 30, false)),
        Err(Error::Invalid(Invalid { what: "k", .. }))
    ));
    let long = long_text(60_000, 1);
    assert!(matches!(
        search_text(&model, None, &snapshot, &long, by_keys(5, false)),
        Err(Error::Invalid(Invalid { what: "query", .. }))
    ));
}
