//! Select: passages for a question by a search with its text.

use mnemon_encoder::{Embedder, Error, Passage, SearchBy, SearchOptions, search_text};
use mnemon_proto::v1;
use mnemon_runtime::{Found, FoundPassage, Model, PASSAGES_MAX, PassagesFrom, Prompt, Select};

/// What of a question is searched with: its end, if it is longer.
const QUERY_BYTES_MAX: usize = 1_000;

/// A passage that is found by its meaning is shown beside the best if its score is at least this share of it: of 60 development questions in other words
/// than their answers, the first passage was right for 41, and the next one was below this for 27 of these; of the 12 that had the right one
/// among the next five, it was below for 4.
const BESIDE_BEST: f32 = 0.9;

/// By what the passages of a prompt are chosen.
pub(super) fn select(
    model: &Model,
    embedder: Option<&Embedder>,
    from: &PassagesFrom,
    prompt: &Prompt,
    asked: v1::Select,
) -> Result<Select, Error> {
    let choose = match asked {
        v1::Select::Heads => return Ok(Select::Heads),
        v1::Select::Unspecified if embedder.is_none() => return Ok(Select::Heads),
        v1::Select::Search => Select::Search,
        v1::Select::Unspecified | v1::Select::Both => Select::Both,
    };
    let question = prompt.question(model)?;
    let most = question.len().saturating_sub(QUERY_BYTES_MAX);
    let query = (most..).find_map(|start| question.get(start..)).unwrap_or_default();
    let found = if query.trim().is_empty() {
        Found::default()
    } else {
        let k = from.options.passages.unwrap_or(from.profile.passages).clamp(1, PASSAGES_MAX);
        let options = SearchOptions { k, by: SearchBy::Both, exact: from.options.exact, per_document: None };
        let found = search_text(model, embedder, from.recall.as_ref(), query, options)?;
        let best = found.passages.first().map_or(0.0, |passage| passage.score);
        // Who says how many wants them.
        let shows_all = from.options.passages.is_some();
        let is_shown =
            |passage: &Passage| shows_all || passage.meaning.is_none() || passage.score >= BESIDE_BEST * best;
        let passage = |passage: Passage| {
            let place = passage.place(from.recall.as_ref())?;
            Ok(FoundPassage { chunks: passage.chunks, place })
        };
        let passages = found.passages.into_iter().filter(is_shown).map(passage).collect::<Result<_, Error>>()?;
        Found { passages, tells: found.tells, only_by_meaning: found.only_by_meaning }
    };
    Ok(choose(found))
}
