//! Search: the passages that a text asks for.

use std::collections::HashMap;
use std::sync::Arc;

use mnemon_encoder::{Error, Passage, SearchBy, SearchOptions, search_text};
use mnemon_memory::Recall;
use mnemon_memory_store::WordMatcher;
use mnemon_proto::v1;
use mnemon_runtime::Turn;
use tonic::Status;

use crate::auth::Tenant;
use crate::citations::Recalled;
use crate::state::ModelState;
use crate::status::IntoStatus;
use crate::tasks::Job;
use crate::{citations, tasks, validate};

/// Words marked in one passage.
const HIGHLIGHTS_MAX: usize = 256;

/// Answers a Search.
pub(super) async fn answer(
    state: &Arc<ModelState>,
    tenant: Tenant,
    request: v1::SearchRequest,
) -> Result<v1::SearchResponse, Status> {
    let k = validate::search(&request)?;
    let by = match request.by() {
        v1::SearchBy::Unspecified | v1::SearchBy::Both => SearchBy::Both,
        v1::SearchBy::Words => SearchBy::Words,
        v1::SearchBy::Keys => SearchBy::Keys,
        v1::SearchBy::Meaning => SearchBy::Meaning,
    };
    let Some(recalled) = Recalled::open(state, tenant, request.memories, request.filter).await? else {
        return Ok(v1::SearchResponse::default());
    };
    let job = SearchJob {
        state: Arc::clone(state),
        recalled: Arc::clone(&recalled),
        query: request.query.clone(),
        options: SearchOptions {
            k,
            by,
            exact: request.exact,
            per_document: request.per_document.map(|most| most as usize),
        },
        found: Ok(Vec::new()),
    };
    let found = tasks::run_new(state, job).await?.found.map_err(|error| error.into_status("query"))?;
    let ids = found.iter().flat_map(|passage| &passage.chunks).copied().collect();
    let chunks = citations::describe(state, &recalled, ids).await?;
    let chunks = chunks.into_iter().map(|chunk| (chunk.chunk_id, chunk)).collect();
    let query = request.query;
    let hits = tasks::store(&state.app, move || {
        let matcher = WordMatcher::new(&query);
        let hit = |passage: &Passage| {
            let mut hit = hit(passage, &chunks, &matcher);
            hit.sentence = sentence(passage, recalled.as_ref(), &chunks)?;
            Ok(hit)
        };
        found.iter().map(hit).collect::<Result<_, Error>>()
    });
    Ok(v1::SearchResponse { hits: hits.await? })
}

/// The sentence of a passage that was found by its meaning, as bytes of the passage's text.
fn sentence(
    passage: &Passage,
    recall: &dyn Recall,
    chunks: &HashMap<u64, v1::Chunk>,
) -> Result<Option<v1::Highlight>, Error> {
    let sentence = passage.sentence(recall)?;
    Ok(sentence.map(|(chunk, range, _)| {
        let before = passage.chunks.iter().take_while(|other| **other != chunk);
        let before: usize = before.filter_map(|chunk| chunks.get(&chunk.0)).map(|chunk| chunk.text.len()).sum();
        v1::Highlight { start: (before + range.start) as u32, end: (before + range.end) as u32 }
    }))
}

/// A passage as the contract shows it.
fn hit(passage: &Passage, chunks: &HashMap<u64, v1::Chunk>, matcher: &WordMatcher) -> v1::SearchHit {
    let chunk_ids: Vec<u64> = passage.chunks.iter().map(|chunk| chunk.0).collect();
    let joined = chunk_ids.iter().filter_map(|id| chunks.get(id)).cloned().reduce(joined);
    let text = joined.as_ref().map_or("", |chunk| chunk.text.as_str());
    let highlight = |range: std::ops::Range<usize>| v1::Highlight { start: range.start as u32, end: range.end as u32 };
    v1::SearchHit {
        score: passage.score,
        words: passage.words,
        keys: passage.keys,
        meaning: passage.meaning,
        highlights: matcher.matches(text).into_iter().take(HIGHLIGHTS_MAX).map(highlight).collect(),
        chunk: joined,
        chunk_ids,
        sentence: None,
    }
}

/// A chunk with the one that follows it.
fn joined(mut whole: v1::Chunk, next: v1::Chunk) -> v1::Chunk {
    let shift = whole.text.len() as u32;
    let begins = next.turns.first().is_some_and(|turn| turn.start == 0);
    let turns = (!begins).then(v1::Turn::default).into_iter().chain(next.turns);
    for turn in turns.map(|turn| v1::Turn { start: turn.start + shift, ..turn }) {
        // One that goes on is told once.
        let last = whole.turns.last().map(|last| &last.metadata);
        if last.map_or(!turn.metadata.is_empty(), |last| *last != turn.metadata) {
            whole.turns.push(turn);
        }
    }
    whole.text.push_str(&next.text);
    if let (Some(span), Some(next)) = (&mut whole.span, next.span) {
        (span.byte_end, span.token_end) = (next.byte_end, next.token_end);
    }
    whole
}

/// One search: reads the query with the model, then asks the index. A single step.
struct SearchJob {
    state: Arc<ModelState>,
    recalled: Arc<Recalled>,
    query: String,
    options: SearchOptions,
    found: Result<Vec<Passage>, Error>,
}

impl Job for SearchJob {
    fn step(&mut self) -> Turn {
        let model = &self.state.model;
        self.found = super::check_tokens(model, &self.query, self.state.app.settings.limits.prompt_tokens)
            .map_err(Error::from)
            .and_then(|()| {
                search_text(model, self.state.embedder.as_deref(), self.recalled.as_ref(), &self.query, self.options)
            })
            .map(|found| found.passages);
        Turn::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_of_joined_chunks_are_told_once() {
        let turn = |start: u32, speaker: &str| v1::Turn {
            start,
            metadata: if speaker.is_empty() {
                HashMap::new()
            } else {
                [("speaker".to_owned(), speaker.to_owned())].into()
            },
        };
        let chunk = |chunk_id, turns| v1::Chunk { chunk_id, text: "0123456789".into(), turns, ..Default::default() };
        for (first, second, expected) in [
            (vec![turn(0, "Anna")], vec![turn(0, "Anna"), turn(4, "Ben")], vec![turn(0, "Anna"), turn(14, "Ben")]),
            (vec![turn(3, "Anna")], vec![], vec![turn(3, "Anna"), turn(10, "")]),
            (vec![], vec![turn(2, "Ben")], vec![turn(12, "Ben")]),
            (vec![turn(0, "Anna")], vec![turn(5, "Anna")], vec![turn(0, "Anna"), turn(10, ""), turn(15, "Anna")]),
        ] {
            let whole = joined(chunk(1, first), chunk(2, second));
            assert_eq!((whole.chunk_id, whole.text.len(), whole.turns), (1, 20, expected));
        }
    }
}
