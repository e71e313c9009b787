//! Measuring small random models, which retrieve nothing: there is a profile all the same.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use common::{models, tokenizers};
use mnemon_encoder::{ProbeOptions, ProbeStage, probe};
use mnemon_memory_store::create_scratch;
use mnemon_runtime::{Model, ModelSource, Profile};
use serde_json::{Value, json};

fn small() -> ProbeOptions {
    ProbeOptions { text_bytes: 1500, questions: 4, answered: 2, ..ProbeOptions::default() }
}

/// A model with some of its configuration changed, and a chat template if there is one.
fn model(change: &[(&str, Value)], template: Option<&str>) -> Arc<Model> {
    let folder = tempfile::tempdir().unwrap();
    models::write(folder.path(), models::Family::Llama, &tokenizers::gpt2(), &json!({ "chunk_tokens": 16 }), 7);
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (key, value) in change {
        config[key] = value.clone();
    }
    std::fs::write(path, config.to_string()).unwrap();
    if let Some(template) = template {
        let settings = json!({ "chat_template": template });
        std::fs::write(folder.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
    }
    Arc::new(Model::load(&ModelSource::Directory(folder.path().to_owned()), &models::options()).unwrap())
}

fn measured(model: &Arc<Model>, options: &ProbeOptions) -> Profile {
    let profile = probe(create_scratch, model, options, &mut |_| {}).unwrap();
    model.check_profile(&profile).unwrap();
    profile
}

#[test]
fn the_same_seed_gives_the_same_profile() {
    let model = model(&[], None);
    let mut stages = Vec::new();
    let profile = probe(create_scratch, &model, &small(), &mut |stage| stages.push(stage)).unwrap();
    model.check_profile(&profile).unwrap();
    assert_eq!(profile.measured.questions, 4);
    assert_eq!(profile, measured(&model, &small()));
    let other = measured(&model, &ProbeOptions { seed: 2, ..small() });
    assert_ne!(profile.search, other.search);

    // What is told goes on to the end of each stage, in their order.
    let number = |stage: &ProbeStage| match *stage {
        ProbeStage::Reading(done, total) => (0, done, total),
        ProbeStage::Asking(done, total) => (1, done, total),
        ProbeStage::Answering(done, total) => (2, done, total),
    };
    let told: Vec<_> = stages.iter().map(number).collect();
    assert!(told.windows(2).all(|pair| (pair[0].0, pair[0].1) <= (pair[1].0, pair[1].1)), "{told:?}");
    for stage in 0..3 {
        let last = told.iter().rfind(|told| told.0 == stage).unwrap();
        assert_eq!(last.1, last.2, "stage {stage} ends at its total: {told:?}");
    }
}

#[test]
fn models_of_every_make_have_a_profile() {
    const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>";
    // With templates that leave the question out, or refuse.
    for template in [None, Some(TEMPLATE), Some("{{ 'always the same' }}"), Some("{{ raise_exception('no') }}")] {
        measured(&model(&[], template), &small());
    }
    // With less room than a question and its passages take, or than a question.
    for positions in [256, 64, 8, 1] {
        let profile = measured(&model(&[("max_position_embeddings", json!(positions))], None), &small());
        assert!(profile.passages >= 1, "{positions}");
    }
}

#[test]
fn any_numbers_are_taken() {
    let model = model(&[], None);
    for options in [
        ProbeOptions { questions: 0, ..small() },
        ProbeOptions { questions: 1, answered: 0, ..small() },
        ProbeOptions { questions: 1, answered: 100, text_bytes: 0, ..small() },
    ] {
        measured(&model, &options);
    }
}

#[test]
fn models_that_were_trained_with_memory_are_refused() {
    let model = Arc::new(Model::load(&ModelSource::Embedded, &models::options()).unwrap());
    let error = probe(create_scratch, &model, &small(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("needs no profile"), "{error}");
}
