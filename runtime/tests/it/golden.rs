//! Logits equal those of Hugging Face transformers.

#![allow(clippy::unwrap_used)]

use candle_core::DType;
use mnemon_runtime::{
    CaptureAttention, CaptureOptions, FullAttention, LoadOptions, LocalAttention, LocalMask, SequenceState,
};

use crate::common::{cpu, difference, golden, load, logits, rows, tokens};

const ALL: [&str; 9] = [
    "llama",
    "llama_scaled",
    "llama_linear",
    "llama_dynamic",
    "mistral",
    "mistral_yarn",
    "qwen2",
    "qwen2_sliding",
    "qwen3",
];

/// Compares one call, token by token, and segments; returns the worst error of each.
pub(crate) fn compare(name: &str, options: &LoadOptions) -> [f32; 3] {
    let model = load(name, options);
    let golden = golden(name);
    let (tokens, expected) = (tokens(&golden["tokens"]), rows(&golden["logits"]));
    [tokens.len(), 1, 7].map(|step| {
        let (mut state, mut attention) = (SequenceState::new(&model), FullAttention::new(&model));
        // Frequencies of dynamic scaling change with each call's length, in transformers too.
        let step = if name == "llama_dynamic" { tokens.len() } else { step };
        difference(&logits(&model, &mut state, &mut attention, &tokens, step), &expected)
    })
}

#[test]
fn logits_equal_those_of_transformers() {
    for name in ALL {
        let errors = compare(name, &cpu());
        println!("{name}: max error in one call, token by token, in segments: {errors:?}");
        assert!(errors.iter().all(|&error| error < 1e-4), "{name}: {errors:?}");
    }
}

#[test]
fn a_local_window_longer_than_the_text_changes_nothing() {
    for name in ALL {
        let model = load(name, &cpu());
        let golden = golden(name);
        let (tokens, expected) = (tokens(&golden["tokens"]), rows(&golden["logits"]));
        if name == "llama_dynamic" {
            continue; // its frequencies are those of the window
        }
        for (window, sinks) in [(48, 0), (1000, 4)] {
            let options = CaptureOptions { window, sinks, local: LocalMask::Sliding, recall: None };
            let local = logits(
                &model,
                &mut SequenceState::new(&model),
                &mut LocalAttention::new(&model, window, sinks),
                &tokens,
                5,
            );
            let capture = logits(
                &model,
                &mut SequenceState::new(&model),
                &mut CaptureAttention::new(&model, options).unwrap(),
                &tokens,
                48,
            );
            assert!(difference(&local, &expected) < 1e-4, "{name} local {window} {sinks}");
            assert!(difference(&capture, &expected) < 1e-4, "{name} capture {window} {sinks}");
        }
    }
}

#[test]
fn a_window_sees_what_its_definition_says() {
    // Each layer sees `window` tokens back, so after 2 layers a token depends on the 2 * (window - 1) before it.
    let model = load("llama", &cpu());
    let tokens = tokens(&golden("llama")["tokens"]);
    let window = 9;
    let run = |tokens: &[u32], step| {
        logits(&model, &mut SequenceState::new(&model), &mut LocalAttention::new(&model, window, 0), tokens, step)
    };
    let all = run(&tokens, 48);
    assert!(difference(&all, &run(&tokens, 1)) < 1e-4);
    let mut changed = tokens.clone();
    changed[10] = (changed[10] + 1) % 64;
    let other = run(&changed, 48);
    let reach = 10 + 2 * (window - 1);
    assert!(difference(&all[reach..=reach], &other[reach..=reach]) > 1e-4, "the last token within reach");
    assert!(difference(&all[reach + 1..], &other[reach + 1..]) < 1e-6, "beyond reach");
}

#[test]
fn half_precision_stays_close() {
    for (dtype, tolerance) in [(DType::F16, 0.1), (DType::BF16, 0.8)] {
        let errors = compare("qwen3", &LoadOptions { dtype: Some(dtype), ..cpu() });
        println!("qwen3 in {dtype:?}: {errors:?}");
        assert!(errors.iter().all(|&error| error < tolerance), "{dtype:?}: {errors:?}");
    }
}
