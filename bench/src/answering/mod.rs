//! Ways to answer questions about long texts, measured on the same questions: what `needle` and `babilong` share.
//!
//! | file | idea |
//! |---|---|
//! | `haystack.rs` | novels with sentences planted in them |
//! | `row.rs` | the ways to answer |
//! | `asker.rs` | one question asked in every way |
//! | `library.rs` | chunks of a memory as passages of a prompt |
//! | `bm25.rs`, `embedder.rs` | ranks of chunks by words and by meaning |
//! | `judge.rs` | whether an answer is right |
//! | `outcomes.rs` | what came of each question |
//! | `stats.rs` | intervals |
//! | `table.rs` | tables, differences, plot |
//! | `run.rs` | a haystack in memory, files, runs pooled |

mod asker;
mod bm25;
mod embedder;
mod haystack;
mod judge;
mod library;
mod outcomes;
mod row;
mod run;
mod stats;
mod table;

pub(crate) use asker::{AskArguments, Asker, Item};
pub(crate) use haystack::{Document, Haystack, Novels};
pub(crate) use judge::{Denial, Expected, numbers};
pub(crate) use library::{Library, Source, Span};
pub(crate) use outcomes::Outcomes;
pub(crate) use run::{Block, Report, Stored, ask_all, pool, show};
