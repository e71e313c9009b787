//! Which tokens are one word.

use super::super::Terms;

/// Token ids of a vocabulary of these texts, in order, and a way to ask for their terms.
fn terms(vocabulary: &[&str]) -> Terms {
    let words: Vec<String> =
        vocabulary.iter().enumerate().map(|(id, word)| format!("{}:{id}", serde_json::json!(word))).collect();
    let json = format!(
        r#"{{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":null,"post_processor":null,
            "decoder":null,"truncation":null,"padding":null,
            "model":{{"type":"WordLevel","vocab":{{{}}},"unk_token":"?"}}}}"#,
        words.join(",")
    );
    Terms::new(&json.parse().unwrap())
}

#[test]
fn case_and_space_make_no_difference() {
    let terms = terms(&["?", "house", " house", "House", " HOUSE", "mouse", " Straße", "straße"]);
    for id in 1..5 {
        assert_eq!(terms.of(&[id]), [vec![1, 2, 3, 4]]);
    }
    assert_eq!(terms.of(&[6]), [vec![6, 7]]);
    // Each term once, whatever spells it.
    let mut found = terms.of(&[3, 5, 1, 2, 5]);
    found.sort();
    assert_eq!(found, [vec![1, 2, 3, 4], vec![5]]);
}

#[test]
fn punctuation_and_space_are_no_terms() {
    let terms = terms(&["?", ".", " ", "\n\n", ",", "\"", "«", "a", "7", "(a", "\u{fffd}", ""]);
    for id in [0, 1, 2, 3, 4, 5, 6, 10, 11, 99] {
        assert!(terms.of(&[id]).is_empty(), "{id}");
    }
    assert_eq!(terms.of(&[7]), [vec![7, 9]], "punctuation around a word is not part of it");
    assert_eq!(terms.of(&[8]), [vec![8]]);
    assert!(terms.of(&[]).is_empty());
}
