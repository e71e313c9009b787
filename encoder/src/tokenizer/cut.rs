//! Where a text may be cut so that both sides can be tokenized on their own.
//!
//! Two arguments, each strict for the tokenizers named in [`StreamTokenizer`](super::StreamTokenizer):
//!
//! - *A border between pre-tokens.* Pre-tokenizers match from left to right without looking behind. So when matching
//!   that starts anew at the border finds the same first pre-token as matching that came from the left, it finds the
//!   same ones ever after. The first pre-token is compared; the text at the end of the buffer is left alone, because
//!   patterns look ahead (`\s+(?!\S)`), and so are borders after white space, which later text may move.
//! - *A pair of characters that no token of the vocabulary contains.* Then no merge crosses it, whatever surrounds it.
//!   This serves vocabularies without a splitting pre-tokenizer.
//!
//! Tokenizers treat the start of a text specially (a space is put before it). So a text that continues is encoded after
//! a *context* of one character whose tokens are dropped: a line feed, or else the character that really stands
//! there. Which one is decided by the text around the cut alone.

use tokenizers::Tokenizer;

use super::plain::{Piece, PlainText};
use crate::error::Result;
use crate::utf8::floor_border;

/// Bytes after a cut with which it is checked.
const WINDOW_BYTES: usize = 256;

/// Bytes at the window's end that a pattern may look ahead into.
const LOOKAHEAD_BYTES: usize = 16;

/// Borders that are tried: first those between a letter or digit and a space, then others.
const TRIES: [(bool, usize); 2] = [(true, 8), (false, 16)];

/// Index of the first piece after the last safe cut in `text`, if it has one.
pub(super) fn find<T: AsRef<Tokenizer>>(
    plain: &mut PlainText<T>,
    text: &str,
    pieces: &[Piece],
) -> Result<Option<usize>> {
    let last = settled(plain, text, pieces);
    for (between_words, tries) in TRIES {
        let mut left = tries;
        for index in (1..last).rev() {
            let Some((before, after)) = characters_at(text, pieces, index) else { continue };
            if before.is_whitespace() || between_words != (before.is_alphanumeric() && after == ' ') {
                continue;
            }
            let splits = pieces[index - 1].word != pieces[index].word;
            if !splits && plain.may_merge(before, after)? {
                continue;
            }
            if restarts(plain, text, pieces, index, (before, after), splits)? {
                return Ok(Some(index));
            }
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    Ok(None)
}

/// Index of the first piece after a cut that is made because there is no safe one.
pub(super) fn force<T: AsRef<Tokenizer>>(plain: &PlainText<T>, text: &str, pieces: &[Piece]) -> Option<usize> {
    (1..settled(plain, text, pieces)).rev().find(|&index| characters_at(text, pieces, index).is_some())
}

/// Bytes after a cut that decide on it.
pub(super) fn lookahead_bytes<T>(plain: &PlainText<T>) -> usize {
    WINDOW_BYTES + plain.longest_added
}

/// Pieces that start far enough from the end of the text not to depend on what follows.
fn settled<T: AsRef<Tokenizer>>(plain: &PlainText<T>, text: &str, pieces: &[Piece]) -> usize {
    let limit = text.len().saturating_sub(lookahead_bytes(plain));
    pieces.partition_point(|piece| piece.start <= limit)
}

/// The characters on both sides of the border before piece `index`; none if it does not lie between characters.
fn characters_at(text: &str, pieces: &[Piece], index: usize) -> Option<(char, char)> {
    let byte = pieces[index].start;
    // A character split over several tokens makes pieces overlap or start together.
    if pieces[index - 1].end > byte || pieces[index - 1].start == byte {
        return None;
    }
    Some((text[..byte].chars().next_back()?, text[byte..].chars().next()?))
}

/// Whether encoding that starts anew at piece `index` goes on as `pieces` do.
fn restarts<T: AsRef<Tokenizer>>(
    plain: &mut PlainText<T>,
    text: &str,
    pieces: &[Piece],
    index: usize,
    (before, after): (char, char),
    splits: bool,
) -> Result<bool> {
    let byte = pieces[index].start;
    let window = &text[byte..floor_border(text, byte + WINDOW_BYTES)];
    let context = context(plain, Some(before), window)?;
    if !splits {
        // No token spans the border; that none spans the one after the context is all that remains to be seen.
        return match context.chars().next() {
            Some(last) => Ok(!plain.may_merge(last, after)?),
            None => Ok(false),
        };
    }
    let word = |pieces: &[Piece]| pieces.iter().take_while(|piece| piece.word == pieces[0].word).count();
    let again = encode_after(plain, &context, window)?;
    let expected = &pieces[index..];
    let (count, count_again) = (word(expected), if again.is_empty() { 0 } else { word(&again) });
    // The first pre-token must have ended, visibly to both, and something must follow it.
    if count != count_again || again.len() == count || expected.len() == count {
        return Ok(false);
    }
    let same = expected[..=count]
        .iter()
        .zip(&again)
        .enumerate()
        .all(|(at, (left, right))| left.start - byte == right.start && (at == count || left.id == right.id));
    Ok(same && again[count].start + LOOKAHEAD_BYTES <= window.len())
}

/// The context after which text that continues with `text` is encoded.
pub(super) fn context<T: AsRef<Tokenizer>>(plain: &PlainText<T>, before: Option<char>, text: &str) -> Result<String> {
    let window = &text[..floor_border(text, WINDOW_BYTES)];
    for candidate in ['\n'].into_iter().chain(before) {
        let context = candidate.to_string();
        let pieces = plain.encode(&format!("{context}{window}"))?;
        let first = pieces.partition_point(|piece| piece.start < context.len());
        let stands_alone = first > 0 && pieces[..first].iter().all(|piece| piece.end <= context.len());
        if stands_alone && pieces.get(first).is_some_and(|piece| piece.start == context.len()) {
            return Ok(context);
        }
    }
    Ok(String::new())
}

/// Pieces of `text` where it follows `context`, relative to `text`.
pub(super) fn encode_after<T: AsRef<Tokenizer>>(plain: &PlainText<T>, context: &str, text: &str) -> Result<Vec<Piece>> {
    if context.is_empty() {
        return plain.encode(text);
    }
    let pieces = plain.encode(&format!("{context}{text}"))?;
    let dropped = pieces.partition_point(|piece| piece.start < context.len());
    // Should a token span both in spite of the choice of context, it stands for its part of the text.
    let spanning = pieces[..dropped].iter().rposition(|piece| piece.end > context.len());
    let first = spanning.unwrap_or(dropped);
    Ok(pieces[first..]
        .iter()
        .map(|piece| Piece {
            start: piece.start.saturating_sub(context.len()),
            end: piece.end.saturating_sub(context.len()),
            ..*piece
        })
        .collect())
}
