//! Search by words: BM25 (Robertson and Zaragoza 2009, section 3.2) over an index of each extent's words.
//!
//! | module | idea |
//! |---|---|
//! | `analysis` | text to terms |
//! | `postings` | the index of one extent, and its bytes |
//!
//! An index is a section of the blob that holds its text, so it is durable with it, seen by the same snapshots, counted by the
//! same quotas, and deleted with it. Nothing refers to more than one extent: document frequencies are summed for each
//! search. tantivy was tried and not taken (`ARCHITECTURE.md`).

mod analysis;
mod postings;

use std::collections::HashSet;
use std::ops::Range;

pub(crate) use analysis::{TermKind, analyze};
pub(crate) use postings::{Posting, WordIndex};

/// Finds the words of a query in texts.
#[derive(Debug)]
pub struct WordMatcher {
    terms: HashSet<u32>,
}

impl WordMatcher {
    /// For the words of `query`. Words match by their stems as well, compounds by their parts.
    pub fn new(query: &str) -> Self {
        let mut terms = HashSet::new();
        analyze(query, |_, _, term| _ = terms.insert(term));
        Self { terms }
    }

    /// Where `text` has such words, ascending and apart: bytes of `text`.
    pub fn matches(&self, text: &str) -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> = Vec::new();
        analyze(text, |range, _, term| {
            if !self.terms.contains(&term) {
                return;
            }
            match found.last_mut() {
                Some(last) if range.start < last.end => last.end = last.end.max(range.end),
                _ => found.push(range),
            }
        });
        found
    }
}
