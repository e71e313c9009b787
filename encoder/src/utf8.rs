//! Character borders, and UTF-8 that arrives in pieces.

use crate::error::{Error, Result};

/// The last character border at or before `byte`.
pub(crate) fn floor_border(text: &str, byte: usize) -> usize {
    (0..=byte.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// The first character border at or after `byte`.
pub(crate) fn ceil_border(text: &str, byte: usize) -> usize {
    (byte..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len())
}

/// Checks UTF-8 that arrives in pieces, which may split characters.
#[derive(Debug, Default)]
pub(crate) struct Utf8Stream {
    /// The incomplete character at the end of what came so far: at most 3 bytes.
    incomplete: Vec<u8>,
    /// Bytes of the document before `incomplete`.
    valid_bytes: u64,
}

impl Utf8Stream {
    /// Counts bytes from `byte` of the document on.
    pub(crate) fn starting_at(byte: u64) -> Self {
        Self { incomplete: Vec::new(), valid_bytes: byte }
    }

    /// Appends the text of `bytes` to `text`, without a character that is not complete yet.
    ///
    /// # Errors
    /// [`Error::InvalidUtf8`] with the first offending byte; the text before it has been appended.
    pub(crate) fn push(&mut self, mut bytes: &[u8], text: &mut String) -> Result<()> {
        while let (false, Some((&first, rest))) = (self.incomplete.is_empty(), bytes.split_first()) {
            self.incomplete.push(first);
            bytes = rest;
            match std::str::from_utf8(&self.incomplete) {
                Ok(character) => {
                    text.push_str(character);
                    self.valid_bytes += character.len() as u64;
                    self.incomplete.clear();
                }
                Err(error) if error.error_len().is_some() => return Err(self.invalid()),
                Err(_) => {}
            }
        }
        let (valid, rest, broken) = match std::str::from_utf8(bytes) {
            Ok(valid) => (valid, &[][..], false),
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                (std::str::from_utf8(valid).unwrap_or_default(), rest, error.error_len().is_some())
            }
        };
        text.push_str(valid);
        self.valid_bytes += valid.len() as u64;
        if broken {
            return Err(self.invalid());
        }
        self.incomplete.extend_from_slice(rest);
        Ok(())
    }

    /// Refuses an end within a character.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.incomplete.is_empty() { Ok(()) } else { Err(self.invalid()) }
    }

    /// Bytes received.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.valid_bytes + self.incomplete.len() as u64
    }

    fn invalid(&self) -> Error {
        Error::InvalidUtf8 { byte_offset: self.valid_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders() {
        let text = "aä😀";
        assert_eq!([0, 1, 2, 3, 5, 7, 9].map(|byte| floor_border(text, byte)), [0, 1, 1, 3, 3, 7, 7]);
        assert_eq!([0, 1, 2, 3, 5, 7, 9].map(|byte| ceil_border(text, byte)), [0, 1, 3, 3, 7, 7, 7]);
    }

    #[test]
    fn characters_may_be_split() {
        let document = "aä€😀\u{10ffff}z";
        for size in 1..=document.len() {
            let (mut stream, mut text) = (Utf8Stream::default(), String::new());
            for piece in document.as_bytes().chunks(size) {
                stream.push(piece, &mut text).unwrap();
            }
            stream.finish().unwrap();
            assert_eq!(text, document);
            assert_eq!(stream.received_bytes(), document.len() as u64);
        }
    }

    #[test]
    fn the_first_invalid_byte_is_named() {
        for (bytes, offset) in [
            (&b"ab\xff"[..], 2),
            (b"ab\xc3", 2),
            (b"ab\xc3x", 2),
            (b"\xe2\x82\x41", 0),
            (b"ok\xf0\x9f\x98", 2),
            (b"\xc0\xaf", 0),
            (b"abc\xed\xa0\x80", 3),
        ] {
            for size in 1..=bytes.len() {
                let (mut stream, mut text) = (Utf8Stream::default(), String::new());
                let outcome = bytes.chunks(size).try_for_each(|piece| stream.push(piece, &mut text));
                let error = outcome.and_then(|()| stream.finish()).unwrap_err();
                assert!(
                    matches!(error, Error::InvalidUtf8 { byte_offset } if byte_offset == offset),
                    "{bytes:?} {error}"
                );
                assert_eq!(text.as_bytes(), &bytes[..offset as usize]);
            }
        }
    }
}
