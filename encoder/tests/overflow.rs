//! The part of a prompt that does not fit, as a memory of the request's own.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use common::{models, tokenizers};
use mnemon_encoder::Overflow;
use mnemon_memory::{ChunkId, UnionRecall};
use mnemon_memory_store::create_scratch;
use mnemon_runtime::{Model, ModelSource};
use serde_json::json;

fn model() -> Arc<Model> {
    let folder = tempfile::tempdir().unwrap();
    models::write(folder.path(), models::Family::Llama, &tokenizers::gpt2(), &json!({ "chunk_tokens": 16 }), 7);
    Arc::new(Model::load(&ModelSource::Directory(folder.path().to_owned()), &models::options()).unwrap())
}

fn read(model: &Arc<Model>, text: &str) -> Overflow {
    let mut overflow = Overflow::new(create_scratch, model, &model.geometry().clone(), text.to_owned()).unwrap();
    while overflow.step().unwrap() {}
    overflow
}

#[test]
fn all_of_it_can_be_recalled_under_numbers_of_its_own() {
    let model = model();
    let text = "The heron stood in the reeds and waited for the fish to come back to the surface. ".repeat(20);
    let overflow = read(&model, &text);
    let view = overflow.view().unwrap();
    let chunks = view.chunks(usize::MAX).unwrap();
    assert!(chunks.len() > 10 && chunks.iter().all(|chunk| Overflow::holds(*chunk)), "{chunks:?}");
    assert!(!Overflow::holds(ChunkId(7)));
    let infos = view.describe(&chunks).unwrap();
    assert_eq!(infos.iter().map(|info| info.text.as_str()).collect::<String>(), text);
    assert_eq!(infos.iter().map(|info| info.id).collect::<Vec<_>>(), chunks);
    assert_eq!(view.neighbours(&chunks[4..5], 1, 1).unwrap(), [chunks[3..6].to_vec()]);
    assert_eq!(view.fetch(0, &chunks[2..3]).unwrap()[0].id, chunks[2]);
    assert!(view.describe(&[ChunkId(1)]).is_err(), "numbers of stores are not its own");
    // Beside another: its chunks come last.
    let other = read(&model, &text).view().unwrap();
    let both = UnionRecall::new(vec![other, view]);
    assert!(both.is_ok());
}

#[test]
fn a_text_without_tokens_is_refused() {
    let model = model();
    let mut overflow = Overflow::new(create_scratch, &model, &model.geometry().clone(), String::new()).unwrap();
    assert!(!overflow.step().unwrap(), "there is nothing to read");
}
