//! The conversations and their questions.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

#[derive(Deserialize)]
struct Line {
    messages: Vec<Message>,
    probes: Vec<Probe>,
}

#[derive(Deserialize)]
struct Message {
    id: i64,
    role: String,
    content: String,
}

/// A question about a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Probe {
    pub(super) category: String,
    pub(super) question: String,
    /// What a good answer says, where there is one.
    pub(super) answer: Option<String>,
    /// Identifiers of the messages that hold its evidence.
    pub(super) evidence: Vec<i64>,
}

/// A conversation as one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conversation {
    pub(super) text: String,
    /// Where the content of each message stands.
    pub(super) messages: BTreeMap<i64, Range<u64>>,
    pub(super) probes: Vec<Probe>,
}

pub(super) fn read(path: &Path) -> Result<Vec<Conversation>> {
    let hint = || format!("{} cannot be read; unpack it first where it is compressed", path.display());
    let text = std::fs::read_to_string(path).with_context(hint)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(at, line)| parse(line).with_context(|| format!("line {} of {}", at + 1, path.display()))).collect()
}

fn parse(line: &str) -> Result<Conversation> {
    let Line { messages: all, probes } = serde_json::from_str(line)?;
    let (mut text, mut messages) = (String::new(), BTreeMap::new());
    for Message { id, role, content } in all {
        let mut letters = role.chars();
        text.extend(letters.next().into_iter().flat_map(char::to_uppercase).chain(letters));
        text.push_str(": ");
        let start = text.len() as u64;
        text.push_str(&content);
        messages.insert(id, start..text.len() as u64);
        text.push_str("\n\n");
    }
    Ok(Conversation { text, messages, probes })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages_are_found_in_the_text() {
        let line = r#"{"chat": "1", "messages": [{"id": 4, "role": "user", "time_anchor": null, "content": "Hé?"},
            {"id": 5, "role": "assistant", "time_anchor": "May", "content": "Yes."}],
            "probes": [{"category": "c", "question": "q?", "answer": null, "evidence": [5]}]}"#;
        let chat = parse(&line.replace('\n', " ")).unwrap();
        assert_eq!(chat.text, "User: Hé?\n\nAssistant: Yes.\n\n");
        let of = |id| &chat.text[chat.messages[&id].start as usize..chat.messages[&id].end as usize];
        assert_eq!((of(4), of(5)), ("Hé?", "Yes."));
        assert_eq!(chat.probes[0].evidence, [5]);
        assert!(parse("{}").is_err());
    }
}
