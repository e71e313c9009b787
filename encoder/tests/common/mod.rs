//! What the tests share.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::unicode_not_nfc, reason = "tests")]

pub mod models;
pub mod stores;
pub mod tokenizers;

/// About `bytes` bytes of text in many scripts without much repetition.
pub fn long_text(bytes: usize, seed: u64) -> String {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let words: Vec<&str> = tokenizers::TEXT.split_inclusive([' ', '\n', '、', '，']).collect();
    let mut text = String::new();
    while text.len() < bytes {
        let at = random.random_range(0..words.len());
        let count = random.random_range(1..12).min(words.len() - at);
        text.extend(words[at..at + count].iter().copied());
        match random.random_range(0..24) {
            0 => text.push_str("\n\n\n  \n"),
            1 => text.push_str("</s><|endoftext|> "),
            2 => text.push_str(" <think>maybe"),
            3 => text.push_str(&"=".repeat(random.random_range(1..80))),
            4 => text.push_str(&" ".repeat(random.random_range(1..80))),
            5 => text.push_str("e\u{301}\u{323}o\u{308}"),
            6 => text.extend((0..random.random_range(1..90)).map(|digit| char::from(b'0' + (digit * 7 % 10) as u8))),
            _ => {}
        }
    }
    text
}
