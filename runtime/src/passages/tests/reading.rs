//! A prompt read with passages in it, against the same tokens in one plain prompt.

use candle_core::Tensor;
use mnemon_memory::{Invalid, Turn};

use super::super::reader::in_order;
use super::super::{Found, FoundPassage, PassageOptions, PassageReader, PassagesFrom, Prompt, ReadStep, Select};
use super::*;
use crate::error::Error;
use crate::generate::{GenerateOptions, GenerateStep, Generation, MemoryFrom, SamplingOptions};
use crate::profile::{Extent, Extents};
use crate::strategies::{FullAttention, PassageAttention, Stretch};

const FAMILIES: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "qwen2_sliding"];

fn from(shelf: &Arc<Shelf>, profile: &Profile, options: &PassageOptions) -> PassagesFrom {
    let recall: Arc<dyn Recall> = Arc::clone(shelf) as _;
    PassagesFrom { recall, profile: Arc::new(profile.clone()), options: options.clone(), select: Select::Heads }
}

/// As the probe finds of small models.
const SENTENCE_TO_REREAD: Extents = Extents { attend: Extent::Chunk, reread: Extent::Sentence };

fn reread() -> PassageOptions {
    PassageOptions { mode: Some(RecallMode::Reread), choose_again_after: None, ..PassageOptions::default() }
}

fn attend() -> PassageOptions {
    PassageOptions { mode: Some(RecallMode::Attend), ..reread() }
}

fn row(logits: &Tensor) -> Vec<f32> {
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

/// Reads the whole prompt; logits after its last token.
fn read(reader: &mut PassageReader) -> Vec<f32> {
    let mut last = 0;
    loop {
        match reader.step().unwrap().unwrap() {
            ReadStep::More(done, total) => {
                assert!(done >= last && done <= total, "{last} {done} {total}");
                last = done;
            }
            ReadStep::Done(logits) => return row(&logits),
        }
    }
}

fn feed(reader: &mut PassageReader, token: u32) -> Vec<f32> {
    row(&reader.feed(&[token], Logits::Last).unwrap().unwrap())
}

/// Logits after each of the last `count` tokens of a plain text.
fn plain(model: &Model, tokens: &[u32], count: usize) -> Vec<Vec<f32>> {
    let mut state = SequenceState::new(model);
    let logits = model.forward(tokens, &mut state, &mut FullAttention::new(model), Logits::All).unwrap().unwrap();
    logits.to_vec2::<f32>().unwrap().split_off(tokens.len() - count)
}

fn assert_close(found: &[f32], wanted: &[f32], what: &str) {
    let worst = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(found.len() == wanted.len() && worst < 1e-4, "{what}: {worst}");
}

/// Tokens of the passages in use, in the order of their commits.
fn pasted(reader: &PassageReader, shelf: &Shelf) -> Vec<u32> {
    let mut chunks: Vec<ChunkId> =
        reader.passages().iter().flat_map(|passage| &passage.chunks).map(|info| info.id).collect();
    chunks.sort_unstable();
    chunks.iter().flat_map(|chunk| shelf.infos[chunk.0 as usize].tokens.clone()).collect()
}

fn prompt(before: usize, after: usize, seed: u64) -> Prompt {
    let tokens = words(before + after, seed);
    let (before, after) = tokens.split_at(before);
    Prompt { before: before.to_vec(), question: after.len() / 4..after.len() - 1, after: after.to_vec(), without: None }
}

#[test]
fn read_again_they_are_part_of_the_prompt() {
    for name in FAMILIES {
        let model = model(name);
        // Found by words, so that as many passages are chosen as are asked for.
        let profile =
            Profile { neighbours: 1, attention_weight: 0.0, lexical_weight: 1.0, ..profile(&model, &[(0, 1), (1, 2)]) };
        let mut shelf = Shelf::of(&model, &profile, &[]);
        for seed in 0..3 {
            shelf.read(&model, &words(200, seed), &[]);
        }
        let shelf = Arc::new(shelf);
        // Of several blocks: a passage of 33 chunks has more than twice as many tokens as a block.
        for (before, after, passages, neighbours) in [(0, 9, 2, 1), (5, 20, 3, 0), (150, 140, 1, 16)] {
            let options = PassageOptions { passages: Some(passages), neighbours: Some(neighbours), ..reread() };
            let prompt = prompt(before, after, 40);
            let from = from(&shelf, &profile, &options);
            let mut reader = PassageReader::new(&model, prompt.clone(), from, 800, false).unwrap();
            let mut found = vec![read(&mut reader)];
            assert_eq!((reader.mode(), reader.passages().len()), (RecallMode::Reread, passages));
            let more = words(5, 41);
            found.extend(more.iter().map(|token| feed(&mut reader, *token)));
            let all = [prompt.before, pasted(&reader, &shelf), prompt.after, more].concat();
            for (at, (found, wanted)) in found.iter().zip(plain(&model, &all, 6)).enumerate() {
                assert_close(found, &wanted, &format!("{name}, {before} before, {after} after, {at} fed"));
            }
        }
        assert_eq!(shelf.fetches(), 0, "no keys and values are asked for");
    }
}

/// What another prompt began with is not read again, and the answer is the same to the last bit.
#[test]
fn a_beginning_is_read_once() {
    for name in FAMILIES {
        let of_fresh_model = |begun: Option<u64>| {
            let model = model(name);
            let profile = profile(&model, &[(0, 1)]);
            let mut shelf = Shelf::of(&model, &profile, &[0, 1]);
            shelf.read(&model, &words(100, 1), &[]);
            let shelf = Arc::new(shelf);
            let asked = |seed| {
                // Of several blocks, so that the first step tells whether it was read.
                let prompt = Prompt { before: words(150, 5), ..prompt(150, 12, seed) };
                PassageReader::new(&model, prompt, from(&shelf, &profile, &attend()), 400, false).unwrap()
            };
            if let Some(seed) = begun {
                let mut reader = asked(seed);
                read(&mut reader);
                feed(&mut reader, 7);
            }
            let mut reader = asked(50);
            let ReadStep::More(done, _) = reader.step().unwrap().unwrap() else { panic!("a prompt of several steps") };
            assert_eq!(done, if begun.is_some() { 150 } else { 128 }, "{name}");
            [read(&mut reader), feed(&mut reader, 9), feed(&mut reader, 10)]
        };
        assert_eq!(of_fresh_model(Some(51)), of_fresh_model(None), "{name}");
    }
}

/// Logits after a prompt of four tokens, these stretches and the text after them, without a reader.
fn with_stretches(model: &Arc<Model>, prompt: &Prompt, stretches: Vec<Stretch>, texts: &[Vec<u32>]) -> Vec<f32> {
    let mut attention = PassageAttention::new(model, 4, 500, &[0, 1], &[], 0);
    let mut state = SequenceState::new(model);
    model.forward(&prompt.before, &mut state, &mut attention, Logits::None).unwrap();
    for (range, position) in attention.place(4, 0, stretches, model.rotary()).unwrap() {
        attention.read_at(Some(range.clone()));
        state.position = position;
        model.forward(&texts[range].concat(), &mut state, &mut attention, Logits::None).unwrap();
    }
    attention.read_at(None);
    state.position = 4 + texts.concat().len();
    let wanted = model.forward(&prompt.after, &mut state, &mut attention, Logits::Last).unwrap().unwrap();
    row(&wanted)
}

/// What stands before a passage is read, whether the passage is or not.
#[test]
fn dates_and_speakers_stand_before_their_passages() {
    let model = model("llama");
    // Found by words, so that as many passages are chosen as are asked for.
    let profile = Profile { attention_weight: 0.0, lexical_weight: 1.0, ..profile(&model, &[(0, 1), (1, 2)]) };
    let mut shelf = Shelf::of(&model, &profile, &[0, 1]);
    shelf.read(&model, &words(24, 1), &[("date", "w50"), ("speaker", "w51")]);
    shelf.read(&model, &words(24, 2), &[("speaker", "w52"), ("other", "w53")]);
    shelf.read(&model, &words(24, 3), &[("date", "")]);
    let shelf = Arc::new(shelf);
    let tokens = |text: &str| model.tokenizer().encode(text, false).unwrap().get_ids().to_vec();
    let lines = [tokens("[w50] w51: "), tokens("w52: "), Vec::new()];
    assert!(lines[0].contains(&50) && lines[0].contains(&51), "{lines:?}");
    let mut prompt = prompt(4, 12, 42);
    let firsts = shelf.infos.iter().map(|info| info.tokens[0]);
    prompt.after.splice(..0, firsts);
    prompt.question = 0..shelf.infos.len();
    for options in [reread(), attend()] {
        for passages in [1, 3, 9] {
            let options = PassageOptions { passages: Some(passages), ..options.clone() };
            let mut reader =
                PassageReader::new(&model, prompt.clone(), from(&shelf, &profile, &options), 500, false).unwrap();
            let found = read(&mut reader);
            // By hand: chunks in the order of their commits, each with its line, unless it follows the one before it.
            let mut chunks: Vec<usize> = reader
                .passages()
                .iter()
                .flat_map(|passage| passage.chunks.clone())
                .map(|info| info.id.0 as usize)
                .collect();
            chunks.sort_unstable();
            assert_eq!(chunks.len(), passages);
            let (mut stretches, mut texts) = (Vec::new(), Vec::new());
            for (at, chunk) in chunks.iter().enumerate() {
                let info = &shelf.infos[*chunk];
                let follows = at > 0 && chunks[at - 1] + 1 == *chunk && info.span.token_start > 0;
                let line = lines[info.document as usize].clone();
                if !follows && !line.is_empty() {
                    stretches.push(Stretch { chunk: None, len: line.len(), skipped: 0, stored: Vec::new() });
                    texts.push(line);
                }
                let stored =
                    if options.mode == Some(RecallMode::Attend) { shelf.layers[*chunk].clone() } else { Vec::new() };
                stretches.push(Stretch { chunk: Some(info.id), len: info.tokens.len(), skipped: 0, stored });
                texts.push(info.tokens.clone());
            }
            let wanted = with_stretches(&model, &prompt, stretches, &texts);
            assert_close(&found, &wanted, &format!("{:?}, {passages} passages", options.mode));
        }
    }
}

/// Who speaks is told where that changes, within a passage too.
#[test]
fn turns_within_a_passage_are_introduced() {
    let model = model("llama");
    let profile = Profile { attention_weight: 0.0, lexical_weight: 1.0, ..profile(&model, &[(0, 1), (1, 2)]) };
    let mut shelf = Shelf::of(&model, &profile, &[0, 1]);
    shelf.read(&model, &words(24, 1), &[("speaker", "w53")]);
    let turn = |info: &ChunkInfo, tokens: usize, said: &[(&str, &str)]| Turn {
        start: spelled(&info.tokens[..tokens]).len() as u32,
        metadata: said.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    };
    let (first, second) = ([("date", "w50"), ("speaker", "w51")], [("speaker", "w52")]);
    let turns = [
        vec![turn(&shelf.infos[0], 3, &first)],
        vec![turn(&shelf.infos[1], 0, &first)],
        vec![turn(&shelf.infos[2], 0, &first), turn(&shelf.infos[2], 5, &second), turn(&shelf.infos[2], 7, &[])],
    ];
    for (info, turns) in shelf.infos.iter_mut().zip(turns) {
        info.turns = turns;
    }
    let shelf = Arc::new(shelf);
    let tokens = |text: &str| model.tokenizer().encode(text, false).unwrap().get_ids().to_vec();
    let mut prompt = prompt(4, 12, 42);
    prompt.after.splice(..0, shelf.infos.iter().map(|info| info.tokens[0]));
    prompt.question = 0..3;
    for options in [reread(), attend()] {
        let options = PassageOptions { passages: Some(3), ..options };
        let mut reader =
            PassageReader::new(&model, prompt.clone(), from(&shelf, &profile, &options), 500, false).unwrap();
        let found = read(&mut reader);
        let (mut stretches, mut texts) = (Vec::new(), Vec::new());
        for (line, chunk, part) in [
            ("w53: ", 0, 0..3),
            ("[w50] w51: ", 0, 3..8),
            ("", 1, 0..8),
            ("", 2, 0..5),
            ("w52: ", 2, 5..7),
            ("w53: ", 2, 7..8),
        ] {
            if !line.is_empty() {
                let line = tokens(line);
                stretches.push(Stretch { chunk: None, len: line.len(), skipped: 0, stored: Vec::new() });
                texts.push(line);
            }
            let info = &shelf.infos[chunk];
            let stored =
                if options.mode == Some(RecallMode::Attend) { shelf.layers[chunk].clone() } else { Vec::new() };
            stretches.push(Stretch { chunk: Some(info.id), len: part.len(), skipped: part.start, stored });
            texts.push(info.tokens[part].to_vec());
        }
        let wanted = with_stretches(&model, &prompt, stretches, &texts);
        assert_close(&found, &wanted, &format!("{:?}", options.mode));
    }
}

/// Four sentences of ten tokens in chunks of eight; the second has the word that is asked for, token 12.
fn four_sentences(model: &Arc<Model>, profile: &Profile, metadata: &[(&str, &str)]) -> Arc<Shelf> {
    Arc::new(shelf_of_four_sentences(model, profile, metadata))
}

fn shelf_of_four_sentences(model: &Arc<Model>, profile: &Profile, metadata: &[(&str, &str)]) -> Shelf {
    let tokens: Vec<u32> = (0..40).map(|at| if at % 10 == 9 { 63 } else { 3 + at }).collect();
    let mut shelf = Shelf::of(model, profile, &[0, 1]);
    shelf.read(model, &tokens, metadata);
    shelf
}

#[test]
fn a_passage_shows_whole_sentences_or_those_asked_about() {
    let model = model_of_sentences("llama");
    let profile = Profile { neighbours: 1, extents: SENTENCE_TO_REREAD, ..by_words(&model) };
    let shelf = four_sentences(&model, &profile, &[]);
    let asks = Prompt { before: vec![5, 6], after: vec![15, 50], question: 0..1, without: None };
    for (options, chunks, tokens) in [
        // Chunk 1 was found: the sentences that have a part of it, and the second alone.
        (attend(), vec![0, 1, 2], [0, 4]),
        (reread(), vec![1, 2], [2, 4]),
        (PassageOptions { neighbours: Some(0), ..reread() }, vec![1], [0, 0]),
    ] {
        let mut reader =
            PassageReader::new(&model, asks.clone(), from(&shelf, &profile, &options), 500, false).unwrap();
        read(&mut reader);
        let passage = &reader.passages()[0];
        let shown: Vec<u64> = passage.chunks.iter().map(|info| info.id.0).collect();
        assert_eq!((shown, [passage.start.tokens, passage.end.tokens]), (chunks, tokens), "{options:?}");
    }
}

#[test]
fn sentences_of_adjacent_chunks_are_passages_of_their_own() {
    let model = model_of_sentences("llama");
    let profile = Profile { neighbours: 1, passages: 2, extents: SENTENCE_TO_REREAD, ..by_words(&model) };
    let mut shelf = Shelf::of(&model, &profile, &[0, 1]);
    // Sentences of eight tokens: each is a chunk. Two of the words asked for stand in chunk 1, one in chunk 2.
    let tokens: Vec<u32> = (0..32).map(|at| if at % 8 == 7 { 63 } else { 3 + at }).collect();
    shelf.read(&model, &tokens, &[]);
    let shelf = Arc::new(shelf);
    let asks = Prompt { before: vec![5, 6], after: vec![12, 13, 21, 50], question: 0..3, without: None };
    let mut reader = PassageReader::new(&model, asks, from(&shelf, &profile, &reread()), 500, false).unwrap();
    read(&mut reader);
    let mut shown: Vec<Vec<u64>> =
        reader.passages().iter().map(|passage| passage.chunks.iter().map(|info| info.id.0).collect()).collect();
    shown.sort();
    assert_eq!(shown, [vec![1], vec![2]]);
}

#[test]
fn memory_that_has_nothing_to_say_is_left_out() {
    let model = model_of_sentences("llama");
    let profile = Profile { neighbours: 1, ..by_words(&model) };
    let mut shelf = shelf_of_four_sentences(&model, &profile, &[]);
    shelf.read(&model, &[3; 2_400], &[]);
    let shelf = Arc::new(shelf);
    let without = Some(vec![5, 6, 7, 50]);
    let asks = |after: &[u32]| {
        let question = 0..after.len() - 1;
        Prompt { before: vec![5, 6], after: after.to_vec(), question, without: without.clone() }
    };
    let generated = |prompt: Prompt, memory: MemoryFrom| {
        // What the prompt has is held back: the prompt that counts is the one that is read.
        let sampling = SamplingOptions { repetition_penalty: 1.5, ..SamplingOptions::default() };
        let options = GenerateOptions { max_tokens: 6, memory, sampling, ..GenerateOptions::default() };
        let mut generation = Generation::new(Arc::clone(&model), prompt, options).unwrap();
        let (mut tokens, mut read) = (Vec::new(), 0);
        let asked = loop {
            match generation.step().unwrap() {
                GenerateStep::Prefill { done, total } => {
                    assert!(read <= done && done <= total, "{read} {done} {total}");
                    read = done;
                }
                GenerateStep::Token { id, .. } => tokens.push(id),
                GenerateStep::Finished { prompt_tokens, .. } => break prompt_tokens,
            }
        };
        assert_eq!(read, asked);
        ((tokens, asked), generation.passages().map(|(_, passages)| passages.len()))
    };
    let nothing = Prompt { before: Vec::new(), after: vec![5, 6, 7, 50], question: 0..0, without: None };
    let (alone, _) = generated(nothing, MemoryFrom::Nothing);
    let with = |prompt: Prompt, options: &PassageOptions| {
        generated(prompt, MemoryFrom::Passages(from(&shelf, &profile, options)))
    };
    // One of three words stands in one of 305 chunks, the others nowhere.
    let chance = asks(&[15, 60, 61, 50]);
    for options in [reread(), attend()] {
        assert_eq!(with(chance.clone(), &options), (alone.clone(), None));
        assert_eq!(with(asks(&[15, 50]), &options).1, Some(1), "all that is asked");
        assert_eq!(with(asks(&[15, 16, 60, 61, 50]), &options).1, Some(1), "more than chance");
        assert_eq!(with(chance.clone(), &PassageOptions { always: true, ..options.clone() }).1, Some(1));
        assert_eq!(with(Prompt { without: None, ..chance.clone() }, &options).1, Some(1), "a text to continue");
        let empty = Arc::new(Shelf::of(&model, &profile, &[0, 1]));
        let always = PassageOptions { always: true, ..options.clone() };
        for options in [options, always] {
            let memory = MemoryFrom::Passages(from(&empty, &profile, &options));
            assert_eq!(generated(asks(&[15, 50]), memory), (alone.clone(), None), "nothing is found");
        }
    }
}

#[test]
fn what_a_search_found_is_shown_as_it_was_asked_for() {
    let model = model_of_sentences("llama");
    let profile = Profile { neighbours: 1, passages: 2, extents: SENTENCE_TO_REREAD, ..by_words(&model) };
    let mut shelf = shelf_of_four_sentences(&model, &profile, &[]);
    shelf.read(&model, &[3; 2_400], &[]);
    let shelf = Arc::new(shelf);
    let found = |place: Option<(u64, f32)>, tells| Found {
        passages: vec![FoundPassage {
            chunks: vec![ChunkId(2), ChunkId(3)],
            place: place.map(|(chunk, far)| (ChunkId(chunk), far)),
        }],
        tells,
        only_by_meaning: false,
    };
    // Of three words one stands in chunk 1, which is chance; both of the other question stand there.
    let (chance, sure): (&[u32], &[u32]) = (&[15, 60, 61, 50], &[15, 16, 50]);
    // Chunks shown, and the tokens left out at both ends; none where memory is left out.
    let shown = |asks: &[u32], select: Select, options: PassageOptions| {
        let question = 0..asks.len() - 1;
        let prompt = Prompt { before: vec![5, 6], after: asks.to_vec(), question, without: Some(vec![5, 50]) };
        let from = PassagesFrom { select, ..from(&shelf, &profile, &options) };
        let mut reader = PassageReader::new(&model, prompt, from, 500, false).unwrap();
        loop {
            match reader.step().unwrap() {
                None => return None,
                Some(ReadStep::More(..)) => {}
                Some(ReadStep::Done(_)) => break,
            }
        }
        let passage = &reader.passages()[0];
        let chunks: Vec<u64> = passage.chunks.iter().map(|info| info.id.0).collect();
        Some((chunks, [passage.start.tokens, passage.end.tokens]))
    };
    // The sentences of both chunks, out of their neighbours; the third alone, which ends in chunk 3.
    let (whole, third) = (Some((vec![1, 2, 3, 4], [0, 0])), Some((vec![2, 3], [4, 2])));
    let heads = shown(sure, Select::Heads, reread());
    assert!(heads.is_some() && heads != whole && heads != third);
    let search = |place, tells| Select::Search(found(place, tells));
    let both = |place, tells| Select::Both(found(place, tells));
    for asks in [sure, chance] {
        assert_eq!(shown(asks, search(None, true), reread()), whole);
        assert_eq!(shown(asks, search(Some((2, 0.7)), true), reread()), third);
        assert_eq!(
            shown(asks, search(Some((2, 0.7)), true), attend()).unwrap().0,
            [1, 2, 3],
            "whole chunks to attend to"
        );
        assert_eq!(shown(asks, search(None, false), reread()), None);
        assert_eq!(shown(asks, search(None, false), PassageOptions { always: true, ..reread() }), whole);
        assert_eq!(shown(asks, Select::Search(Found::default()), reread()), None);
    }
    assert_eq!(shown(sure, both(None, true), reread()), heads, "heads found what is asked for");
    assert_eq!(shown(chance, both(Some((2, 0.7)), true), reread()), third);
    let by_meaning = Found { only_by_meaning: true, ..found(Some((2, 0.7)), true) };
    assert_eq!(shown(sure, Select::Both(by_meaning), reread()), third, "words are chance, meaning is not");
    assert_eq!(shown(chance, both(None, false), reread()), None);
    let whole_chunks = PassageOptions { neighbours: Some(1), passages: Some(1), ..reread() };
    assert_eq!(shown(chance, both(Some((3, 0.1)), true), whole_chunks), Some((vec![2, 3, 4], [0, 0])));
}

#[test]
fn what_repeats_the_question_says_little_about_the_answer() {
    let model = model_of_sentences("llama");
    let profile = Profile { neighbours: 1, ..by_words(&model) };
    let shelf = four_sentences(&model, &profile, &[]);
    let prompt = Prompt { before: vec![5, 6], after: vec![15, 16, 50], question: 0..2, without: None };
    let reader = PassageReader::new(&model, prompt.clone(), from(&shelf, &profile, &reread()), 500, false).unwrap();
    // Words of the question, a word after it, another, and a full stop.
    assert_eq!([15, 16, 50, 20, 63].map(|token| reader.asks(token)), [true, true, false, false, true]);
    let memory = MemoryFrom::Passages(from(&shelf, &profile, &reread()));
    let options = GenerateOptions { max_tokens: 8, memory, ..GenerateOptions::default() };
    let mut generation = Generation::new(Arc::clone(&model), prompt, options).unwrap();
    loop {
        match generation.step().unwrap() {
            GenerateStep::Token { id, is_asked, .. } => assert_eq!(is_asked, [15, 16, 63].contains(&id), "{id}"),
            GenerateStep::Finished { .. } => break,
            GenerateStep::Prefill { .. } => {}
        }
    }
}

#[test]
fn what_does_not_fit_does_not_speak() {
    let model = model_of_sentences("llama");
    let profile = Profile { neighbours: 1, ..by_words(&model) };
    let shelf = four_sentences(&model, &profile, &[]);
    let asks = Prompt { before: vec![5, 6], after: vec![15, 50], question: 0..1, without: Some(vec![5, 50]) };
    for (context, mode) in [(500, Some(RecallMode::Reread)), (8, None)] {
        let memory = MemoryFrom::Passages(from(&shelf, &profile, &reread()));
        let options =
            GenerateOptions { max_tokens: 1, memory, context_tokens: Some(context), ..GenerateOptions::default() };
        let mut generation = Generation::new(Arc::clone(&model), asks.clone(), options).unwrap();
        while !matches!(generation.step().unwrap(), GenerateStep::Finished { .. }) {}
        assert_eq!(generation.passages().map(|(mode, _)| mode), mode, "{context}");
    }
}

#[test]
fn what_is_dated_later_stands_last() {
    let model = model_of_sentences("llama");
    let profile = Profile { neighbours: 0, passages: 3, ..by_words(&model) };
    let order = |dates: [&str; 3]| -> Vec<u64> {
        let mut shelf = Shelf::of(&model, &profile, &[0, 1]);
        let tokens = four_sentences(&model, &profile, &[]).infos[1].tokens.clone();
        for date in dates {
            shelf.read(&model, &tokens, &[("date", date)]);
        }
        let asks = Prompt { before: vec![5, 6], after: vec![15, 50], question: 0..1, without: None };
        let options = PassageOptions { passages: Some(3), ..reread() };
        let mut reader =
            PassageReader::new(&model, asks, from(&Arc::new(shelf), &profile, &options), 500, false).unwrap();
        read(&mut reader);
        in_order(reader.passages()).iter().map(|passage| passage.chunks[0].document).collect()
    };
    assert_eq!(order(["2026-11-26", "1871-03-12T08:00", "1874-09-30"]), [1, 2, 0]);
    assert_eq!(order(["1874-09-30", "1874-09-30", "1871-03-12"]), [2, 0, 1], "of one day: by commits");
    for plain in ["", "in March", "12.3.1871", "1871-3-12"] {
        assert_eq!(order(["1874-09-30", plain, "1871-03-12"]), [0, 1, 2], "{plain}");
    }
}

#[test]
fn a_date_stands_before_a_single_sentence_only_where_it_tells() {
    let model = model_of_sentences("llama");
    let profile = Profile { neighbours: 1, extents: SENTENCE_TO_REREAD, ..by_words(&model) };
    let asks = Prompt { before: vec![5, 6], after: vec![15, 50], question: 0..1, without: None };
    let answer = |metadata: &[(&str, &str)], options: &PassageOptions| {
        let shelf = four_sentences(&model, &profile, metadata);
        read(&mut PassageReader::new(&model, asks.clone(), from(&shelf, &profile, options), 500, false).unwrap())
    };
    let (dated, plain) = (&[("date", "w50")][..], &[][..]);
    assert_eq!(answer(dated, &reread()), answer(plain, &reread()));
    assert_ne!(answer(dated, &attend()), answer(plain, &attend()));
    // Two documents with the word, of two dates.
    let of = |dates: [&str; 2]| {
        let mut shelf = Shelf::of(&model, &profile, &[0, 1]);
        for date in dates {
            shelf.read(&model, &four_sentences(&model, &profile, &[]).infos[1].tokens, &[("date", date)]);
        }
        let shelf = Arc::new(shelf);
        let options = PassageOptions { passages: Some(2), ..reread() };
        let mut reader =
            PassageReader::new(&model, asks.clone(), from(&shelf, &profile, &options), 500, false).unwrap();
        let logits = read(&mut reader);
        assert_eq!(reader.passages().len(), 2);
        logits
    };
    assert_ne!(of(["w50", "w51"]), of(["w50", "w50"]));
}

/// Finds by words alone.
fn by_words(model: &Model) -> Profile {
    Profile { attention_weight: 0.0, lexical_weight: 1.0, passages: 1, ..profile(model, &[(0, 1)]) }
}

/// Three documents of one chunk each, with words of their own, and a question for the first.
fn three_documents(model: &Arc<Model>, profile: &Profile, len: [usize; 3]) -> (Arc<Shelf>, Prompt) {
    let mut shelf = Shelf::of(model, profile, &[0, 1]);
    for (document, len) in len.into_iter().enumerate() {
        let first = 10 * (document as u32 + 1);
        shelf.read(model, &(0..len as u32).map(|at| first + at).collect::<Vec<_>>(), &[]);
    }
    let prompt = Prompt { before: vec![5], after: vec![6, 10, 7], question: 0..3, without: None };
    (Arc::new(shelf), prompt)
}

fn chunks(reader: &PassageReader) -> Vec<u64> {
    reader.passages().iter().flat_map(|passage| passage.chunks.iter().map(|info| info.id.0)).collect()
}

#[test]
fn passages_are_chosen_again_as_the_text_goes_on() {
    let model = model("qwen3");
    let profile = by_words(&model);
    let (shelf, prompt) = three_documents(&model, &profile, [8, 8, 8]);
    for mode in [attend(), reread()] {
        let attends = mode.mode == Some(RecallMode::Attend);
        let options = PassageOptions { choose_again_after: Some(3), ..mode };
        let before = shelf.fetches();
        let fetched = |choices: usize| assert_eq!(shelf.fetches() - before, if attends { 2 * choices } else { 0 });
        let mut reader =
            PassageReader::new(&model, prompt.clone(), from(&shelf, &profile, &options), 200, false).unwrap();
        read(&mut reader);
        assert_eq!(chunks(&reader), [0]);
        fetched(1);
        // Words of no document: the choice stays, and nothing is fetched.
        for token in [60, 61, 62, 60] {
            feed(&mut reader, token);
        }
        assert_eq!(chunks(&reader), [0]);
        fetched(1);
        // Words of the second one: after three of them it is there, and it is what is seen.
        let said = [20, 21, 22, 23];
        let mut last = Vec::new();
        for token in said {
            last = feed(&mut reader, token);
        }
        assert_eq!(chunks(&reader), [1]);
        fetched(2);
        if !attends {
            // What was said before was said with the other passage: only the first layer's keys are the same.
            let all = [vec![5], pasted(&reader, &shelf), vec![6, 10, 7, 60, 61, 62, 60], said.to_vec()].concat();
            let wanted = &plain(&model, &all, 1)[0];
            assert!(last.iter().zip(wanted).any(|(a, b)| (a - b).abs() > 1e-4));
        }
        assert!(last.iter().all(|value| value.is_finite()));
    }
    // Never, if not wanted.
    let mut reader = PassageReader::new(&model, prompt, from(&shelf, &profile, &attend()), 200, false).unwrap();
    read(&mut reader);
    for token in [20, 21, 22, 23, 24, 25] {
        feed(&mut reader, token);
    }
    assert_eq!(chunks(&reader), [0]);
}

#[test]
fn a_later_choice_has_the_room_of_the_first() {
    let model = model("llama");
    let profile = by_words(&model);
    let (shelf, prompt) = three_documents(&model, &profile, [3, 8, 2]);
    let options = PassageOptions { choose_again_after: Some(3), ..attend() };
    for (reserve, wanted) in [(false, 0), (true, 1)] {
        let from = from(&shelf, &profile, &options);
        let mut reader = PassageReader::new(&model, prompt.clone(), from, 200, reserve).unwrap();
        read(&mut reader);
        assert_eq!(chunks(&reader), [0]);
        for token in [20, 21, 22, 23] {
            feed(&mut reader, token);
        }
        // Where the better one does not fit, the one in use stays.
        assert_eq!(chunks(&reader), [wanted], "reserved: {reserve}");
    }
    // A shorter one takes the place.
    let mut reader = PassageReader::new(&model, prompt, from(&shelf, &profile, &options), 200, false).unwrap();
    read(&mut reader);
    for token in [30, 31, 30, 31] {
        feed(&mut reader, token);
    }
    assert_eq!(chunks(&reader), [2]);
}

#[test]
fn what_does_not_fit_is_left_out_worst_first() {
    let model = model("llama");
    let profile = Profile { passages: 3, ..by_words(&model) };
    let mut shelf = Shelf::of(&model, &profile, &[0, 1]);
    shelf.read(&model, &words(100, 7), &[]);
    let shelf = Arc::new(shelf);
    let prompt = prompt(3, 27, 43);
    let passages = |context: usize| {
        let from = from(&shelf, &profile, &attend());
        let mut reader = PassageReader::new(&model, prompt.clone(), from, context, true).unwrap();
        read(&mut reader);
        reader.passages().to_vec()
    };
    let all = passages(200);
    assert_eq!(all.len(), 3);
    // An eighth of the context is kept for the answer.
    for (context, fit) in [(31, 0), (42, 0), (43, 1), (51, 1), (52, 2), (60, 2), (61, 3)] {
        assert_eq!(passages(context), all[..fit], "{context} positions");
    }
    for context in [0, 1, 29, 30] {
        let from = from(&shelf, &profile, &attend());
        let error = PassageReader::new(&model, prompt.clone(), from, context, false).err().unwrap();
        assert!(matches!(error, Error::PromptTooLong { tokens: 30, limit } if limit == context), "{error}");
    }
}

#[test]
fn masses_are_those_of_the_last_piece() {
    let model = model("llama");
    let profile = profile(&model, &[(0, 1), (1, 2)]);
    let mut shelf = Shelf::of(&model, &profile, &[0, 1]);
    shelf.read(&model, &words(64, 7), &[]);
    let shelf = Arc::new(shelf);
    let mut reader =
        PassageReader::new(&model, prompt(3, 150, 44), from(&shelf, &profile, &attend()), 400, false).unwrap();
    read(&mut reader);
    for _ in 0..2 {
        let masses = reader.take_masses();
        assert_eq!(masses.len(), 2);
        assert!(masses.iter().all(|(chunk, mass)| *mass > 0.0 && chunks(&reader).contains(&chunk.0)), "{masses:?}");
        assert!(masses.iter().map(|(_, mass)| mass).sum::<f32>() <= 1.0);
        assert!(reader.take_masses().is_empty());
        feed(&mut reader, 9);
    }
}

#[test]
fn modes_are_those_that_memory_allows() {
    let model = model("llama");
    let attending = profile(&model, &[(0, 1)]);
    let rereading = Profile { mode: RecallMode::Reread, ..attending.clone() };
    let (whole, bare) =
        (Arc::new(Shelf::of(&model, &attending, &[0, 1])), Arc::new(Shelf::of(&model, &attending, &[])));
    let mode = |shelf, profile, mode| from(shelf, profile, &PassageOptions { mode, ..attend() }).mode(1);
    let (a, r) = (RecallMode::Attend, RecallMode::Reread);
    for (wanted, found) in [
        (a, mode(&whole, &attending, None)),
        (r, mode(&whole, &rereading, None)),
        (a, mode(&whole, &rereading, Some(a))),
        (r, mode(&whole, &attending, Some(r))),
        (r, mode(&bare, &attending, None)),
        (r, mode(&bare, &rereading, None)),
        (r, mode(&bare, &attending, Some(r))),
    ] {
        assert_eq!(found.unwrap(), wanted);
    }
    // Several passages may be used in another way than one.
    let several = Profile { mode_of_several: Some(r), ..attending.clone() };
    let used = |passages| from(&whole, &several, &PassageOptions { mode: None, ..attend() }).mode(passages).unwrap();
    assert_eq!((used(1), used(2)), (a, r));
    let error = mode(&bare, &attending, Some(a)).unwrap_err();
    assert!(matches!(error, Error::Invalid(Invalid { what: "mode", .. })), "{error}");
    assert!(error.to_string().contains("use reread, or re-encode the memory"), "{error}");
    // Refused before anything is read.
    let refused = PassageReader::new(&model, prompt(1, 5, 1), from(&bare, &attending, &attend()), 100, false);
    assert!(matches!(refused.err().unwrap(), Error::Invalid(Invalid { what: "mode", .. })));
}

#[test]
fn an_empty_memory_and_an_empty_question_change_nothing() {
    let model = model("qwen2");
    let profile = Profile { lexical_weight: 0.5, ..profile(&model, &[(0, 1), (1, 2)]) };
    let empty = Arc::new(Shelf::of(&model, &profile, &[0, 1]));
    let mut full = Shelf::of(&model, &profile, &[0, 1]);
    full.read(&model, &words(40, 3), &[]);
    let prompt = prompt(5, 20, 45);
    let silent = Prompt { question: 3..3, ..prompt.clone() };
    for (shelf, prompt) in [(empty, prompt), (Arc::new(full), silent)] {
        for options in [attend(), reread()] {
            let mut reader =
                PassageReader::new(&model, prompt.clone(), from(&shelf, &profile, &options), 100, false).unwrap();
            let found = read(&mut reader);
            assert!(reader.passages().is_empty());
            assert_close(&found, &plain(&model, &prompt.tokens(), 1)[0], "without passages");
        }
    }
}

#[test]
fn numbers_out_of_range_and_memories_of_other_models_are_refused() {
    let model = model("llama");
    let profile = profile(&model, &[(0, 1)]);
    let shelf = Arc::new(Shelf::of(&model, &profile, &[0, 1]));
    let refused = |shelf: &Arc<Shelf>, options: PassageOptions| {
        PassageReader::new(&model, prompt(1, 5, 1), from(shelf, &profile, &options), 100, false).err().unwrap()
    };
    for options in [
        PassageOptions { passages: Some(0), ..attend() },
        PassageOptions { passages: Some(65), ..attend() },
        PassageOptions { passages: Some(usize::MAX), ..attend() },
        PassageOptions { neighbours: Some(17), ..attend() },
        PassageOptions { choose_again_after: Some(0), ..attend() },
    ] {
        assert!(matches!(refused(&shelf, options.clone()), Error::Invalid(_)), "{options:?}");
    }
    let mut other = Shelf::of(&model, &profile, &[0, 1]);
    other.geometry.head_dim = 16;
    assert!(matches!(refused(&Arc::new(other), attend()), Error::Geometry { .. }));
}
