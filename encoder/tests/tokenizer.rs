//! Tokens of a stream are those of the whole text, however it is split.
#![allow(clippy::unwrap_used, clippy::panic, clippy::unicode_not_nfc, reason = "tests")]

mod common;

use std::sync::Arc;

use common::{long_text, tokenizers as build};
use mnemon_encoder::{HELD_BACK_BYTES_MAX, SafePoint, StreamTokenizer, Token};
use proptest::prelude::*;
use tokenizers::Tokenizer;

/// Ids of the whole text, special tokens in it taken as text.
fn at_once(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut plain = tokenizer.clone();
    plain.set_encode_special_tokens(true);
    plain.encode(text, false).unwrap().get_ids().to_vec()
}

fn ids(tokens: &[Token]) -> Vec<u32> {
    tokens.iter().map(|token| token.id).collect()
}

/// Pieces of `text` of about the given sizes, in turn.
fn pieces<'a>(text: &'a str, sizes: &'a [usize]) -> impl Iterator<Item = &'a str> {
    let mut rest = text;
    sizes.iter().cycle().map_while(move |&size| {
        let mut end = size.clamp(1, rest.len().max(1)).min(rest.len());
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

fn stream(tokenizer: &Arc<Tokenizer>, text: &str, sizes: &[usize]) -> (Vec<Token>, Vec<SafePoint>) {
    let mut stream = StreamTokenizer::new(Arc::clone(tokenizer));
    let (mut tokens, mut safe) = (Vec::new(), Vec::new());
    for piece in pieces(text, sizes) {
        tokens.extend(stream.push(piece).unwrap());
        assert!(stream.held_back_bytes() <= HELD_BACK_BYTES_MAX + 3);
        if safe.last() != Some(&stream.safe_point()) {
            safe.push(stream.safe_point());
            assert_eq!(tokens.len() as u64, stream.safe_point().token);
        }
    }
    tokens.extend(stream.finish().unwrap());
    (tokens, safe)
}

/// Spans touch, cover the text and lie on character borders.
fn check_spans(text: &str, tokens: &[Token]) {
    let mut end = 0;
    for token in tokens {
        assert_eq!(token.byte_start, end);
        assert!(token.byte_end >= token.byte_start);
        assert!(text.is_char_boundary(token.byte_end as usize));
        end = token.byte_end;
    }
    assert_eq!(end, text.len() as u64);
}

#[test]
fn long_texts_for_all_tokenizers() {
    for (name, tokenizer) in build::all() {
        let tokenizer = Arc::new(tokenizer);
        for seed in 0..2 {
            let text = long_text(60_000, seed);
            let expected = at_once(&tokenizer, &text);
            let (tokens, safe) = stream(&tokenizer, &text, &[700, 1, 4097, 13]);
            let different = ids(&tokens).iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!(ids(&tokens), expected, "{name}, seed {seed}: token {different:?} differs");
            check_spans(&text, &tokens);
            assert!(safe.len() > 12, "{name}: {} cuts in {} bytes", safe.len(), text.len());
        }
    }
}

#[test]
fn tokenizing_restarts_at_safe_points() {
    for (name, tokenizer) in build::all() {
        let tokenizer = Arc::new(tokenizer);
        let text = long_text(12_000, 7);
        let (tokens, safe) = stream(&tokenizer, &text, &[512]);
        for point in safe {
            let (before, after) = text.split_at(point.byte as usize);
            let mut again = StreamTokenizer::restart(Arc::clone(&tokenizer), point, before.chars().next_back());
            let mut rest = again.push(after).unwrap();
            rest.extend(again.finish().unwrap());
            assert_eq!(rest, tokens[point.token as usize..], "{name} at {point:?}");
        }
    }
}

/// A continuation may change everything after the safe point, and nothing before it.
#[test]
fn safe_points_hold_for_any_continuation() {
    for (name, tokenizer) in build::all() {
        let tokenizer = Arc::new(tokenizer);
        let text = long_text(9_000, 3);
        for end in [4_000, 4_001, 4_002, 5_555, 7_321] {
            let sizes = [end];
            let head = pieces(&text, &sizes).next().unwrap();
            let mut stream = StreamTokenizer::new(Arc::clone(&tokenizer));
            let mut tokens = stream.push(head).unwrap();
            tokens.extend(stream.finish().unwrap());
            let safe = stream.safe_point();
            for tail in ["", "s", " next", "\n", "   ", "'ll", "\u{301}", "123", "😀", &text[text.len() - 9..]] {
                let whole = format!("{head}{tail}");
                let expected = at_once(&tokenizer, &whole);
                assert_eq!(ids(&tokens)[..safe.token as usize], expected[..safe.token as usize], "{name} {tail:?}");
                let before = head[..safe.byte as usize].chars().next_back();
                let mut again = StreamTokenizer::restart(Arc::clone(&tokenizer), safe, before);
                let mut rest = again.push(&whole[safe.byte as usize..]).unwrap();
                rest.extend(again.finish().unwrap());
                assert_eq!(ids(&rest), expected[safe.token as usize..], "{name} {tail:?}");
            }
        }
    }
}

#[test]
fn special_tokens_in_a_text_stay_text() {
    for (name, tokenizer) in build::all() {
        let special = tokenizer.token_to_id("</s>").unwrap();
        let added = tokenizer.token_to_id("<think>").unwrap();
        let text = "before </s> <think> after";
        let (tokens, _) = stream(&Arc::new(tokenizer), text, &[3]);
        check_spans(text, &tokens);
        assert!(!ids(&tokens).contains(&special), "{name}");
        assert!(ids(&tokens).contains(&added), "{name}");
    }
}

#[test]
fn characters_split_over_tokens_belong_to_the_last_of_them() {
    let tokenizer = Arc::new(build::gpt2());
    let text = "a\u{10abcd}b";
    let (tokens, _) = stream(&tokenizer, text, &[1]);
    let spans: Vec<_> = tokens.iter().map(|token| (token.byte_start, token.byte_end)).collect();
    assert_eq!(spans.first(), Some(&(0, 1)));
    assert_eq!(spans[1..spans.len() - 2].iter().all(|&span| span == (1, 1)), spans.len() > 3);
    assert_eq!(spans[spans.len() - 2..], [(1, 5), (5, 6)]);
}

/// No safe cut anywhere: memory stays bounded, time linear, and the tokens do not depend on the pieces.
#[test]
fn endless_words_are_cut_by_force() {
    let text = "a".repeat(1 << 20);
    for tokenizer in [build::gpt2(), build::llama2()] {
        let tokenizer = Arc::new(tokenizer);
        let (expected, safe) = stream(&tokenizer, &text, &[1 << 20]);
        check_spans(&text, &expected);
        assert!(safe.last().is_some_and(|safe| safe.byte > (1 << 19)));
        assert_eq!(stream(&tokenizer, &text, &[100_003]).0, expected);
        assert_eq!(stream(&tokenizer, &text, &[1, 4095, 65_537, 3]).0, expected);
    }
    for text in [" ".repeat(200_000), "\n".repeat(200_000), "\u{301}".repeat(80_000), "7".repeat(150_000)] {
        for tokenizer in [build::llama3(), build::qwen(), build::mistral()] {
            let tokenizer = Arc::new(tokenizer);
            let (expected, _) = stream(&tokenizer, &text, &[70_000]);
            check_spans(&text, &expected);
            assert_eq!(stream(&tokenizer, &text, &[5, 12_345]).0, expected);
        }
    }
}

#[test]
fn empty_and_tiny_texts() {
    for (name, tokenizer) in build::all() {
        let tokenizer = Arc::new(tokenizer);
        for text in ["", " ", "\n", "x", "  x", "é", "😀", "\u{feff}", "\0"] {
            let (tokens, safe) = stream(&tokenizer, text, &[1]);
            assert_eq!(ids(&tokens), at_once(&tokenizer, text), "{name} {text:?}");
            if !text.is_empty() {
                check_spans(text, &tokens);
            }
            assert!(safe.iter().all(|safe| *safe == SafePoint::default()));
        }
    }
}

#[test]
fn the_default_tokenizer() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/default/tokenizer.json");
    let Ok(tokenizer) = Tokenizer::from_file(path) else {
        println!("skipped: there is no {path}");
        return;
    };
    let tokenizer = Arc::new(tokenizer);
    let text = long_text(200_000, 11);
    let (tokens, _) = stream(&tokenizer, &text, &[1000, 17]);
    assert_eq!(ids(&tokens), at_once(&tokenizer, &text));
    check_spans(&text, &tokens);
}

fn any_text() -> impl Strategy<Value = String> {
    let words = build::TEXT.split_inclusive(' ').map(str::to_owned).collect::<Vec<_>>();
    let part = prop_oneof![
        4 => prop::sample::select(words),
        1 => "\\PC{0,12}",
        1 => "[ \n\t]{1,9}",
        1 => "[0-9]{1,30}",
        1 => "\\p{L}{1,40}",
        1 => "[e\u{301}\u{323}o\u{308}가각]{1,9}",
        1 => Just("</s>".to_owned()),
        1 => Just("<think>".to_owned()),
        1 => any::<String>(),
    ];
    prop::collection::vec(part, 0..700).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_in_any_pieces(text in any_text(), sizes in prop::collection::vec(1_usize..3000, 1..9), which in 0_usize..8) {
        thread_local!(static ALL: Vec<(&'static str, Arc<Tokenizer>)> =
            build::all().into_iter().map(|(name, tokenizer)| (name, Arc::new(tokenizer))).collect());
        ALL.with(|all| {
            let (name, tokenizer) = &all[which];
            let (tokens, _) = stream(tokenizer, &text, &sizes);
            prop_assert_eq!(ids(&tokens), at_once(tokenizer, &text), "{}", name);
            if !tokens.is_empty() {
                check_spans(&text, &tokens);
            }
            Ok(())
        })?;
    }
}
