//! Sentence embeddings against a forward pass in binary64 (`fixtures/embedder/make_golden.py`), and searches by meaning.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::models::{Family, model, options};
use common::stores::read_all;
use common::{stores, tokenizers as build};
use mnemon_encoder::{DocumentEncoder, Embedder, EncodeOptions, Error, Found, SearchBy, SearchOptions, search_text};
use mnemon_memory::Recall;
use mnemon_runtime::LoadOptions;
use serde_json::json;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/embedder")
}

fn assert_golden(folder: &Path, key: &str) {
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixtures().join("golden.json")).unwrap()).unwrap();
    let texts: Vec<&str> = golden["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let embedder = Embedder::read(folder).unwrap();
    for (vector, expected) in embedder.embed(&texts).unwrap().iter().zip(golden[key].as_array().unwrap()) {
        let expected: Vec<f64> = expected.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
        assert_eq!((vector.len(), embedder.dim()), (expected.len(), expected.len()));
        let worst = vector.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-5, "{key}: {worst}");
    }
}

#[test]
fn vectors_are_those_of_a_forward_pass_in_binary64() {
    assert_golden(&fixtures().join("tiny"), "tiny");
}

#[test]
fn vectors_of_minilm_are_those_of_a_forward_pass_in_binary64() {
    let weights = std::env::var_os("MNEMON_WEIGHTS").map(PathBuf::from);
    let weights = weights.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/weights"));
    let folder = weights.join("minilm");
    if !folder.join("model.safetensors").exists() {
        println!("SKIPPED: all-MiniLM-L6-v2 is not there; scripts/fetch-weights minilm fetches it");
        return;
    }
    assert_golden(&folder, "minilm");
}

#[test]
fn an_embedder_can_be_stopped_and_is_told_by_its_fingerprint() {
    let embedder = Embedder::read(&fixtures().join("tiny")).unwrap();
    let texts =
        ["The lamp went out. ".to_owned(), "The cat sat on the ".to_owned(), "old mat where the boat came.".to_owned()];
    assert!(embedder.embed_chunks(&texts, &|| true).unwrap().is_none());
    let embeddings = embedder.embed_chunks(&texts, &|| false).unwrap().unwrap();
    let dim = embedder.dim();
    assert_eq!((embeddings.dim, embeddings.chunks.len()), (dim, 3 * dim));
    assert_eq!(embeddings.sentences.len(), embeddings.chunk_of_sentence.len() * dim);
    assert!(embeddings.chunk_of_sentence.iter().all(|chunk| *chunk < 3));
    // Alone or in a batch: the same up to rounding.
    let alone = embedder.embed(&[&texts[1]]).unwrap().concat();
    assert!(alone.iter().zip(&embeddings.chunks[dim..2 * dim]).all(|(a, b)| (a - b).abs() < 1e-6));
    assert!(embedder.embed_chunks(&[], &|| false).unwrap().unwrap().chunks.is_empty());

    let copy = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(fixtures().join("tiny").join(name), copy.path().join(name)).unwrap();
    }
    let same = Embedder::read(copy.path()).unwrap();
    assert_ne!(same.fingerprint(), embedder.fingerprint(), "how vectors are pooled is part of it");
    assert_eq!(same.embed(&["the cat"]).unwrap(), embedder.embed(&["the cat"]).unwrap(), "the mean is the default");
}

#[test]
fn searches_go_by_meaning() {
    let embedder = Embedder::read(&fixtures().join("tiny")).unwrap();
    let load = LoadOptions { window: Some(64), chunk_tokens: Some(32), ..options() };
    let model = Arc::new(model(Family::Llama, &build::llama3(), &json!({}), &load));
    let store = stores::in_memory();
    let memory = stores::memory_for(&store, &model, "memory");
    for (id, text) in [
        ("lamp", "the lamp went out at nine"),
        ("cat", "the cat sat on the mat"),
        ("boat", "where did the keeper leave his boat"),
    ] {
        let options = EncodeOptions { segment_tokens: 128, ..EncodeOptions::default() };
        let encoder = DocumentEncoder::create(Arc::clone(&model), Arc::new(memory.clone()), id, [].into(), options);
        read_all(encoder.unwrap(), text.as_bytes(), 4096);
    }
    let view = memory.snapshot().unwrap();
    let search = |embedder, by| {
        search_text(
            &model,
            embedder,
            &view,
            "the cat sat on the mat",
            SearchOptions { k: 3, by, exact: true, per_document: None },
        )
    };
    assert!(matches!(search(None, SearchBy::Meaning), Err(Error::NoEmbedder)));
    // Nothing is embedded yet: words find what they find, meaning finds nothing.
    let nothing = search(Some(&embedder), SearchBy::Meaning).unwrap();
    assert!(nothing.passages.is_empty() && !nothing.tells);
    let found = search(Some(&embedder), SearchBy::Both).unwrap();
    assert!(!found.passages.is_empty() && found.passages.iter().all(|passage| passage.meaning.is_none()));
    assert_eq!(found.passages[0].place(&view).unwrap(), None);
    while let Some(next) = memory.unembedded(embedder.fingerprint()).unwrap() {
        let embeddings = embedder.embed_chunks(&next.texts, &|| false).unwrap().unwrap();
        memory.embed(&next, embedder.fingerprint(), &embeddings).unwrap();
    }
    for by in [SearchBy::Meaning, SearchBy::Both] {
        let Found { passages: found, tells, only_by_meaning } = search(Some(&embedder), by).unwrap();
        assert!(tells && !only_by_meaning, "{by:?}, of three chunks");
        let (chunk, far) = found[0].place(&view).unwrap().unwrap();
        assert!(chunk == found[0].chunks[0] && (0.4..0.6).contains(&far), "one sentence: {far}");
        assert_eq!(view.describe(&found[0].chunks).unwrap()[0].document_id, "cat", "{by:?}");
        assert!(found.iter().all(|passage| passage.meaning.is_some()));
        assert_eq!(found[0].words.is_some(), by == SearchBy::Both);
    }
}
