//! Which tokens are one word.

use crate::vocabulary::Terms;

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

/// The words of these tokens, as the tokens of their pieces.
fn words(vocabulary: &[&str], tokens: &[u32]) -> Vec<Vec<u32>> {
    let terms = terms(vocabulary);
    let pieces = terms.of(tokens);
    let spelled = |word: &Vec<usize>| word.iter().flat_map(|place| pieces[*place].clone()).collect();
    terms.words(tokens).iter().map(spelled).collect()
}

#[test]
fn words_are_what_spaces_part() {
    let vocabulary = ["?", " umber", "-", "pe", "bble", " goes", "'s", ".", "x", "\n", "\u{fffd}", "(", "—"];
    assert_eq!(words(&vocabulary, &[1, 2, 3, 4, 5, 6, 0]), [vec![1, 3, 4], vec![5], vec![6]]);
    assert_eq!(words(&vocabulary, &[8, 10, 3, 7, 4]), [vec![3, 8], vec![4]], "a character in parts, and a full stop");
    assert_eq!(words(&vocabulary, &[8, 11, 3, 12, 4, 9, 1]), [vec![1], vec![3], vec![4], vec![8]]);
    assert_eq!(words(&vocabulary, &[1, 5, 1]), [vec![1], vec![5]], "each once");
    assert!(words(&vocabulary, &[7, 2, 99]).is_empty());
}

#[test]
fn where_no_spaces_part_words_every_token_is_one() {
    let vocabulary = ["?", "挪威", "的", "首都", "เมือง", "หลวง", "ノル", "ウェー", "か", " слово", "м"];
    assert_eq!(words(&vocabulary, &[1, 2, 3]), [vec![1], vec![2], vec![3]]);
    assert_eq!(words(&vocabulary, &[4, 5]), [vec![4], vec![5]]);
    assert_eq!(words(&vocabulary, &[6, 7, 8]), [vec![6], vec![7], vec![8]]);
    assert_eq!(words(&vocabulary, &[9, 10]), [vec![9, 10]]);
}

#[test]
fn of_a_long_text_the_last_terms_count() {
    let vocabulary: Vec<String> = (0..2_000).map(|id| format!("w{id}")).collect();
    let terms = terms(&vocabulary.iter().map(String::as_str).collect::<Vec<_>>());
    let tokens: Vec<u32> = (0..2_000).chain(1_990..2_000).collect();
    let kept = terms.of(&tokens);
    assert_eq!(kept.len(), 1_024);
    assert_eq!((kept[0].clone(), kept[1_023].clone()), (vec![976], vec![1_999]));
    assert_eq!(terms.words(&tokens).concat().len(), 1_024);
}
