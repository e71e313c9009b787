//! Generation and scoring with the default model.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, OnceLock};

use mnemon_runtime::{
    CaptureAttention, CaptureOptions, Detokenizer, Error, FinishReason, GenerateOptions, GenerateStep, Generation,
    LocalMask, Logits, MemoryFrom, Model, ModelSource, Prompt, RecallOptions, SamplingOptions, ScoreStep, Scoring,
    SequenceState,
};

use crate::common::{TestMemory, cpu};

fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| Arc::new(Model::load(&ModelSource::Embedded, &cpu()).unwrap())))
}

const PROMPT: &str = "It was a dark night, and the old man said to his son that the house";

struct Outcome {
    pieces: Vec<String>,
    ids: Vec<u32>,
    reason: FinishReason,
    masses: usize,
    prefills: Vec<usize>,
}

impl Outcome {
    fn text(&self) -> String {
        self.pieces.concat()
    }
}

fn begin(prompt: &str, options: GenerateOptions) -> Result<Generation, Error> {
    Generation::new(model(), Prompt::text(&model(), prompt, false)?, options)
}

fn run(prompt: &str, options: GenerateOptions) -> Outcome {
    let mut generation = begin(prompt, options).unwrap();
    let (mut pieces, mut ids, mut masses_seen, mut prefills) = (Vec::new(), Vec::new(), 0, Vec::new());
    loop {
        match generation.step().unwrap() {
            GenerateStep::Prefill { done, .. } => prefills.push(done),
            GenerateStep::Token { id, text, masses, .. } => {
                ids.push(id);
                pieces.push(text);
                masses_seen += usize::from(!masses.is_empty());
            }
            GenerateStep::Finished { reason, text, generated_tokens, prompt_tokens } => {
                pieces.push(text);
                assert_eq!(prompt_tokens, *prefills.last().unwrap());
                assert!(generated_tokens == ids.len() || reason == FinishReason::Stop);
                let again = generation.step().unwrap();
                let empty = GenerateStep::Finished { reason, text: String::new(), generated_tokens, prompt_tokens };
                assert_eq!(again, empty);
                return Outcome { pieces, ids, reason, masses: masses_seen, prefills };
            }
        }
    }
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, ..GenerateOptions::default() }
}

#[test]
fn the_default_model_generates_and_the_pieces_are_the_whole() {
    let outcome = run(PROMPT, greedy(40));
    println!("{}", outcome.text());
    assert!(!outcome.text().trim().is_empty());
    let whole = model().tokenizer().decode(&outcome.ids, true).unwrap();
    assert_eq!(outcome.text(), whole);
    assert_eq!(outcome.text(), run(PROMPT, greedy(40)).text());
    let sampled = |seed| GenerateOptions {
        sampling: SamplingOptions { temperature: 1.0, top_k: Some(50), seed, ..SamplingOptions::default() },
        ..greedy(40)
    };
    assert_eq!(run(PROMPT, sampled(3)).ids, run(PROMPT, sampled(3)).ids);
    assert_ne!(run(PROMPT, sampled(3)).ids, run(PROMPT, sampled(4)).ids);
}

#[test]
fn long_prompts_are_read_in_blocks() {
    let outcome = run(&PROMPT.repeat(20), greedy(2));
    assert!(outcome.prefills.len() > 1 && outcome.prefills.windows(2).all(|w| w[0] < w[1] && w[1] - w[0] <= 128));
    assert_eq!((outcome.ids.len(), outcome.reason), (2, FinishReason::Length));
    assert_eq!(run(PROMPT, greedy(0)).reason, FinishReason::Length);
}

#[test]
fn stop_texts_are_found_over_token_borders_and_left_out() {
    let free = run(PROMPT, greedy(40)).text();
    // Text from the middle of the free answer, across several tokens.
    let chars: Vec<char> = free.chars().collect();
    let stop: String = chars[20..28].iter().collect();
    let options = GenerateOptions { stop: vec!["never appears".into(), stop.clone()], ..greedy(40) };
    let outcome = run(PROMPT, options);
    assert_eq!(outcome.reason, FinishReason::Stop);
    assert_eq!(outcome.text(), free[..free.find(&stop).unwrap()]);
    // One that never comes holds nothing back in the end.
    let options = GenerateOptions { stop: vec![format!("{}#", &free[free.len() - 5..])], ..greedy(40) };
    assert_eq!(run(PROMPT, options).text(), free);
}

#[test]
fn prompts_out_of_bounds_are_refused() {
    let refused = |prompt: &str, options| begin(prompt, options).err().unwrap();
    assert!(matches!(refused("", greedy(1)), Error::EmptyPrompt));
    let options = GenerateOptions { prompt_tokens_max: 4, ..greedy(1) };
    assert!(matches!(refused(PROMPT, options), Error::PromptTooLong { limit: 4, .. }));
    let bad = SamplingOptions { temperature: -1.0, ..SamplingOptions::default() };
    assert!(matches!(refused("x", GenerateOptions { sampling: bad, ..greedy(1) }), Error::Invalid(_)));
    assert!(matches!(Scoring::new(model(), "", "", MemoryFrom::Nothing).err().unwrap(), Error::EmptyPrompt));
}

#[test]
fn memory_is_cited_and_changes_the_answer() {
    let model = model();
    let memory = Arc::new(TestMemory::new(&model));
    let text = model.tokenizer().encode("The house belonged to Mr. Harrison of Thornfield Lane. ".repeat(12), true);
    let window = model.config().memory.window;
    let options = CaptureOptions { window, sinks: 0, local: LocalMask::Sliding, recall: None };
    let mut capture = CaptureAttention::new(&model, options).unwrap();
    let mut state = SequenceState::new(&model);
    for piece in text.unwrap().get_ids().chunks(64) {
        model.forward(piece, &mut state, &mut capture, Logits::None).unwrap();
    }
    memory.add(&capture.drain(true).unwrap().unwrap(), 64);
    let recall = MemoryFrom::Layers((memory as _, RecallOptions::for_model(&model)));
    let outcome = run("The house belonged to", GenerateOptions { memory: recall.clone(), ..greedy(10) });
    assert_eq!(outcome.masses, 10);
    assert_ne!(outcome.ids, run("The house belonged to", greedy(10)).ids);
    let sentence = "The house belonged to Mr. Harrison of Thornfield Lane.";
    let (with, without) = (score(sentence, recall), score(sentence, MemoryFrom::Nothing));
    println!("log-probability with memory {}, without {}", with.1, without.1);
    assert!(with.1 > without.1);
}

fn score(text: &str, recall: MemoryFrom) -> (usize, f64, usize) {
    score_after("", text, recall)
}

fn score_after(context: &str, text: &str, recall: MemoryFrom) -> (usize, f64, usize) {
    let mut scoring = Scoring::new(model(), context, text, recall).unwrap();
    loop {
        if let ScoreStep::Finished { tokens, log_probability, bytes } = scoring.step().unwrap() {
            assert_eq!(scoring.step().unwrap(), ScoreStep::Finished { tokens, log_probability, bytes });
            return (tokens, log_probability, bytes);
        }
    }
}

#[test]
fn scores_are_sums_of_log_softmax() {
    let model = model();
    let text = PROMPT.repeat(12);
    let ids = model.tokenizer().encode(text.as_str(), true).unwrap().get_ids().to_vec();
    let window = model.config().memory.window;
    let mut attention = mnemon_runtime::LocalAttention::new(&model, window, 0);
    let rows = crate::common::logits(&model, &mut SequenceState::new(&model), &mut attention, &ids, ids.len());
    let expected: f64 = rows
        .iter()
        .zip(&ids[1..])
        .map(|(row, &id)| {
            let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            f64::from(row[id as usize]) - total.ln()
        })
        .sum();
    let (tokens, log_probability, bytes) = score(&text, MemoryFrom::Nothing);
    assert_eq!(tokens, ids.len() - 1);
    assert!((log_probability - expected).abs() < 1e-2, "{log_probability} {expected}");
    assert!(bytes < text.len() && bytes > text.len() - 10);
    assert_eq!(score("x", MemoryFrom::Nothing).0, 0);

    // A text and what stands before it add up to both.
    let (context, rest) = text.split_at(text.len() / 2);
    let (before, after) = (score(context, MemoryFrom::Nothing), score_after(context, rest, MemoryFrom::Nothing));
    assert_eq!((before.0 + after.0, before.2 + after.2), (tokens, bytes));
    assert!((before.1 + after.1 - log_probability).abs() < 1e-3, "{} {} {log_probability}", before.1, after.1);
    assert_eq!(
        score_after("The end of th", "e", MemoryFrom::Nothing).0,
        0,
        "a token that begins in the context belongs to it"
    );
    assert_eq!(score_after("A context ends.", " x", MemoryFrom::Nothing).2, 2);
    assert!(matches!(Scoring::new(model, "context alone", "", MemoryFrom::Nothing).err().unwrap(), Error::EmptyPrompt));
}

#[test]
fn streaming_text_is_the_whole_text() {
    let model = model();
    let tokenizer = model.tokenizer();
    for text in [
        "plain words, and some more",
        "Straße, naïve, 北京, ελληνικά, 🙂🙃👩‍👩‍👧",
        "a\u{fffd}b",
        " leading  and double  spaces\n\n",
        "e\u{301}\u{200d}end",
    ] {
        let ids = tokenizer.encode(text, false).unwrap().get_ids().to_vec();
        let mut stream = Detokenizer::new();
        let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(tokenizer, id).unwrap()).collect();
        pieces.push(stream.finish(tokenizer).unwrap());
        assert_eq!(pieces.concat(), tokenizer.decode(&ids, true).unwrap());
        assert_eq!(pieces.concat(), text);
        if !text.contains('\u{fffd}') {
            assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
        }
    }
    // Bytes that never become a character: the text comes out all the same, and little is held back.
    let half = tokenizer.encode("北", false).unwrap().get_ids()[0];
    let mut stream = Detokenizer::new();
    let mut text = String::new();
    for _ in 0..100 {
        text.push_str(&stream.push(tokenizer, half).unwrap());
    }
    assert!(text.chars().count() > 50, "{text}");
}
