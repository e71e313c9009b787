//! The index of one extent's words: which chunks have a term, and how often. The bytes are specified in `docs/format.md`.

use std::collections::BTreeMap;

use super::analysis::{ANALYSIS, TermKind, analyze};
use crate::error::{Error, Result};
use crate::format::codec::{Decoder, Encoder};

const MAGIC: &[u8; 4] = b"WORD";

/// Postings of the chunks of an extent, truncated ones included.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WordIndex {
    /// Words of each chunk.
    lengths: Box<[u32]>,
    /// Terms, ascending.
    terms: Box<[u32]>,
    /// Where the postings of each term begin, and the end of the last.
    starts: Box<[u32]>,
    postings: Box<[u8]>,
}

/// A chunk that has a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Posting {
    /// Its index in the extent.
    pub(crate) chunk: u32,
    /// How often, at least once.
    pub(crate) count: u32,
}

impl WordIndex {
    /// Indexes consecutive chunks of a document. A word across the border of two counts for both.
    pub(crate) fn of_texts(texts: &[String]) -> Self {
        let text = texts.concat();
        let ends: Vec<usize> = texts
            .iter()
            .scan(0, |end, chunk| {
                *end += chunk.len();
                Some(*end)
            })
            .collect();
        let mut lengths = vec![0_u32; ends.len()];
        let mut lists: BTreeMap<u32, Vec<Posting>> = BTreeMap::new();
        let mut first = 0;
        analyze(&text, |range, kind, term| {
            while ends.get(first).is_some_and(|end| *end <= range.start) {
                first += 1;
            }
            let beyond = ends[first..].iter().position(|end| *end >= range.end).map_or(ends.len(), |at| first + at + 1);
            for (chunk, length) in lengths.iter_mut().enumerate().take(beyond).skip(first) {
                if kind == TermKind::Word {
                    *length += 1;
                }
                let list = lists.entry(term).or_default();
                match list.last_mut() {
                    Some(last) if last.chunk >= chunk as u32 => last.count += 1,
                    _ => list.push(Posting { chunk: chunk as u32, count: 1 }),
                }
            }
        });
        let mut starts = Vec::with_capacity(lists.len() + 1);
        let mut postings = Vec::new();
        for list in lists.values() {
            starts.push(postings.len() as u32);
            let mut before = 0;
            for Posting { chunk, count } in list {
                put(&mut postings, (chunk - before) << 1 | u32::from(*count > 1));
                if *count > 1 {
                    put(&mut postings, *count);
                }
                before = *chunk;
            }
        }
        starts.push(postings.len() as u32);
        Self {
            lengths: lengths.into(),
            terms: lists.into_keys().collect(),
            starts: starts.into(),
            postings: postings.into(),
        }
    }

    /// Words of these chunks.
    pub(crate) fn words(&self, chunks: impl Iterator<Item = usize>) -> u64 {
        chunks.filter_map(|chunk| self.lengths.get(chunk)).map(|words| u64::from(*words)).sum()
    }

    /// Words of a chunk.
    pub(crate) fn length(&self, chunk: u32) -> u32 {
        self.lengths.get(chunk as usize).copied().unwrap_or(0)
    }

    pub(crate) fn chunks(&self) -> usize {
        self.lengths.len()
    }

    /// Chunks that have `term`, ascending.
    pub(crate) fn postings(&self, term: u32) -> impl Iterator<Item = Posting> + '_ {
        let found = self.terms.binary_search(&term).ok();
        let range = found.map_or(0..0, |at| self.starts[at] as usize..self.starts[at + 1] as usize);
        // Both were verified when the index was decoded.
        let mut rest = self.postings.get(range).unwrap_or_default();
        let mut chunk = 0;
        std::iter::from_fn(move || {
            let step = take(&mut rest)?;
            chunk += step >> 1;
            let count = if step & 1 == 1 { take(&mut rest)? } else { 1 };
            Some(Posting { chunk, count })
        })
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        4 * (self.lengths.len() + self.terms.len() + self.starts.len()) + self.postings.len() + 128
    }

    /// The section of a blob, a multiple of 8 bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut head = Vec::new();
        for words in &self.lengths {
            put(&mut head, *words);
        }
        let mut before = 0;
        for (term, starts) in self.terms.iter().zip(self.starts.windows(2)) {
            put(&mut head, term - before);
            put(&mut head, starts[1] - starts[0]);
            before = *term;
        }
        let mut section = Encoder::default();
        section.bytes.extend_from_slice(MAGIC);
        section.u16(ANALYSIS).u16(0).u32(self.lengths.len() as u32).u32(self.terms.len() as u32);
        section.u32(head.len() as u32).u32(self.postings.len() as u32);
        section.bytes.append(&mut head);
        section.bytes.extend_from_slice(&self.postings);
        let mut section = Encoder { bytes: section.checked() };
        section.align(8);
        section.bytes
    }

    /// Verifies and parses a section. `None` if it was made by other rules than those in force.
    pub(crate) fn decode(bytes: &[u8], what: &str) -> Result<Option<Self>> {
        let mut head = Decoder::new(bytes, what);
        let magic = head.take(4)?;
        let (analysis, reserved) = (head.u16()?, head.u16()?);
        let (chunks, terms, lists, postings) = (head.u32()?, head.u32()?, head.u32()? as usize, head.u32()? as usize);
        let end = 24_usize.saturating_add(lists).saturating_add(postings).saturating_add(4);
        if magic != MAGIC || reserved != 0 || bytes.len() != end.next_multiple_of(8) {
            return Err(head.damaged("its section of words is inconsistent"));
        }
        if bytes[end..].iter().any(|byte| *byte != 0) {
            return Err(head.damaged("the padding of its words is not zero"));
        }
        let mut input = Decoder::checked(&bytes[..end], what)?;
        if analysis != ANALYSIS {
            return Ok(None);
        }
        input.take(24)?;
        Self::parse(input.take(lists)?, input.take(postings)?, chunks as usize, terms as usize)
            .map(Some)
            .ok_or_else(|| input.damaged("its words are inconsistent"))
    }

    fn parse(mut lists: &[u8], postings: &[u8], chunks: usize, terms: usize) -> Option<Self> {
        // Each takes a byte at least.
        if chunks.checked_add(terms)? > lists.len() {
            return None;
        }
        let lengths = (0..chunks).map(|_| take(&mut lists)).collect::<Option<Box<[u32]>>>()?;
        let (mut all, mut starts) = (Vec::with_capacity(terms), Vec::with_capacity(terms + 1));
        let (mut term, mut end) = (0_u32, 0_u32);
        for at in 0..terms {
            let step = take(&mut lists)?;
            term = term.checked_add(step).filter(|_| at == 0 || step > 0)?;
            all.push(term);
            starts.push(end);
            end = end.checked_add(take(&mut lists)?)?;
        }
        starts.push(end);
        if !lists.is_empty() || end as usize != postings.len() {
            return None;
        }
        for pair in starts.windows(2) {
            check_list(postings.get(pair[0] as usize..pair[1] as usize)?, chunks)?;
        }
        Some(Self { lengths, terms: all.into(), starts: starts.into(), postings: postings.into() })
    }

    /// The error of a section that belongs to other chunks than its blob has.
    pub(crate) fn check_chunks(&self, chunks: u32, what: &str) -> Result<()> {
        if self.chunks() == chunks as usize {
            return Ok(());
        }
        let why = format!("its words are those of {} chunks; it has {chunks}", self.chunks());
        Err(Error::Damaged { what: what.to_owned(), why })
    }
}

/// A list names chunks that exist, ascending.
fn check_list(mut list: &[u8], chunks: usize) -> Option<()> {
    let (mut chunk, mut first) = (0_u32, true);
    while !list.is_empty() {
        let step = take(&mut list)?;
        chunk = chunk.checked_add(step >> 1).filter(|_| first || step > 1)?;
        first = false;
        if step & 1 == 1 && take(&mut list)? < 2 || chunk as usize >= chunks {
            return None;
        }
    }
    (!first).then_some(())
}

/// Appends a number in groups of 7 bits, the lowest first (LEB128).
fn put(bytes: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes a number that [`put`] wrote, in its shortest form only.
fn take(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0_u32;
    for shift in (0..35).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let group = u32::from(byte & 0x7f);
        if shift == 28 && group > 15 || shift > 0 && *byte == 0 {
            return None;
        }
        number |= group << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
