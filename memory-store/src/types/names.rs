//! What names and metadata may look like.

use std::collections::BTreeMap;

use mnemon_memory::{Invalid, Turn};

use crate::error::{Error, Result};

/// Longest name of a tenant or memory, in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// Longest document identifier, in bytes.
pub const MAX_DOCUMENT_ID_BYTES: usize = 512;
/// Most metadata entries of a document.
pub const MAX_METADATA_ENTRIES: usize = 64;
/// Longest metadata key, in bytes.
pub const MAX_METADATA_KEY_BYTES: usize = 128;
/// Longest metadata value, in bytes.
pub const MAX_METADATA_VALUE_BYTES: usize = 4096;
/// Most metadata entries of a turn.
pub const TURN_ENTRIES_MAX: usize = 16;
/// Most bytes of the metadata of a turn, keys and values together.
pub const TURN_BYTES_MAX: usize = 2048;

/// Names of tenants and memories: 1 to 128 of `[A-Za-z0-9._-]`.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(allowed) {
        let why = format!("'{}'; 1 to {MAX_NAME_BYTES} of A-Z a-z 0-9 . _ - are accepted", shown(name));
        return Err(Error::Invalid(Invalid { what, why }));
    }
    Ok(())
}

/// Document identifiers: 1 to 512 bytes of UTF-8 without control characters (a path, a URL, a title).
pub(crate) fn check_document_id(id: &str) -> Result<()> {
    if id.is_empty() || id.len() > MAX_DOCUMENT_ID_BYTES || id.chars().any(char::is_control) {
        let why =
            format!("'{}'; 1 to {MAX_DOCUMENT_ID_BYTES} bytes without control characters are accepted", shown(id));
        return Err(Error::Invalid(Invalid { what: "document id", why }));
    }
    Ok(())
}

pub(crate) fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<()> {
    let invalid = |why: String| Err(Error::Invalid(Invalid { what: "metadata", why }));
    if metadata.len() > MAX_METADATA_ENTRIES {
        return invalid(format!("{} entries; at most {MAX_METADATA_ENTRIES} are accepted", metadata.len()));
    }
    for (key, value) in metadata {
        if key.is_empty() || key.len() > MAX_METADATA_KEY_BYTES || value.len() > MAX_METADATA_VALUE_BYTES {
            return invalid(format!(
                "entry '{}': keys of 1 to {MAX_METADATA_KEY_BYTES} bytes and values of at most \
                 {MAX_METADATA_VALUE_BYTES} bytes are accepted",
                shown(key)
            ));
        }
    }
    Ok(())
}

/// Refuses turns that do not start one after the other within a text.
pub(crate) fn check_turns(text: &str, turns: &[Turn]) -> Result<()> {
    let mut from = 0;
    for turn in turns {
        let start = turn.start as usize;
        let in_order = start == 0 && from == 0 || start >= from && start < text.len();
        if !in_order || !text.is_char_boundary(start) {
            let why = format!("one that starts at byte {start} of {} bytes of text", text.len());
            return Err(Error::Invalid(Invalid { what: "turns", why }));
        }
        check_turn(&turn.metadata)?;
        from = start + 1;
    }
    Ok(())
}

/// Refuses metadata of a turn that is too large: it stands in each chunk of the turn.
fn check_turn(metadata: &BTreeMap<String, String>) -> Result<()> {
    let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if metadata.len() > TURN_ENTRIES_MAX || bytes > TURN_BYTES_MAX || metadata.keys().any(String::is_empty) {
        let why = format!(
            "{} entries of {bytes} bytes; at most {TURN_ENTRIES_MAX} of {TURN_BYTES_MAX} bytes together are accepted, with keys that are \
             not empty",
            metadata.len()
        );
        return Err(Error::Invalid(Invalid { what: "metadata of a turn", why }));
    }
    Ok(())
}

/// What a message shows of a text from outside.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "War-and_Peace.v2", &"x".repeat(128)] {
            assert!(check_name("memory name", good).is_ok());
        }
        for bad in ["", "a b", "a/b", "ä", "a\0b", &"x".repeat(129)] {
            assert!(matches!(check_name("memory name", bad), Err(Error::Invalid(_))), "{bad:?}");
        }
        assert!(check_document_id("books/Война и мир.txt").is_ok());
        for bad in ["", "a\nb", &"x".repeat(513)] {
            assert!(check_document_id(bad).is_err(), "{bad:?}");
        }
    }
}
