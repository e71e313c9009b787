//! Views of some documents of a memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use mnemon_memory::{Recall as _, Turn};
use rayon::prelude::*;

use crate::engine::state::LiveExtent;
use crate::error::Result;
use crate::format::records::{DocumentRecord, document_key};
use crate::handles::snapshot::Snapshot;

/// What is known of a document.
struct Labels {
    metadata: BTreeMap<String, String>,
    updated_unix_ms: u64,
    has_turns: bool,
    /// Whether what is of no turn is kept.
    is_kept: bool,
}

/// What a document, or a turn of it, is chosen by.
#[derive(Debug, Clone, Copy)]
pub struct DocumentLabels<'a> {
    /// Its identifier.
    pub id: &'a str,
    /// Its metadata; of a turn, that of the document and over it its own.
    pub metadata: &'a BTreeMap<String, String>,
    /// Time of its last commit, in ms since 1970; 0 when it is not known.
    pub updated_unix_ms: u64,
}

impl Snapshot {
    /// The same view with the documents that `keep` accepts only, and of those with turns the chunks that have a part of a turn that it
    /// accepts: it is asked for a turn with the metadata of its document, and over that its own. Statistics of searches by words are then
    /// those of what is left. What stands beside a chunk in its document can be fetched and described all the same.
    pub fn of_documents(&self, keep: &(dyn Fn(DocumentLabels<'_>) -> bool + Sync)) -> Result<Self> {
        let ids: BTreeMap<u64, &Arc<str>> =
            self.state.extents.iter().map(|extent| (extent.extent.document, &extent.extent.document_id)).collect();
        let documents: HashMap<u64, Labels> = ids
            .into_iter()
            .map(|(number, id)| {
                let record = self.engine.storage.get(&document_key(self.memory_entry.number, id))?;
                let record =
                    record.map(|record| DocumentRecord::decode(&record, &format!("the record of document {id}")));
                let (metadata, updated_unix_ms, has_turns) =
                    match record.transpose()?.filter(|record| record.number == number) {
                        Some(record) => (record.metadata, record.updated_unix_ms, record.has_turns),
                        None => (self.metadata_of(number)?, 0, true),
                    };
                let is_kept = keep(DocumentLabels { id, metadata: &metadata, updated_unix_ms });
                Ok((number, Labels { metadata, updated_unix_ms, has_turns, is_kept }))
            })
            .collect::<Result<_>>()?;
        let left = |extent: &LiveExtent| self.left(extent, &documents[&extent.extent.document], keep);
        let mut left: Vec<LiveExtent> = self.state.extents.par_iter().map(left).collect::<Result<_>>()?;
        let shown = left.iter().filter(|extent| extent.shown().next().is_some());
        let kept: HashSet<u64> = shown.map(|extent| extent.extent.document).collect();
        // What stands beside what is shown stays within reach.
        left.retain(|extent| kept.contains(&extent.extent.document));
        let state = self.state.with_extents(left, kept.len() as u64);
        Ok(Self::new(Arc::clone(&self.engine), Arc::clone(&self.memory_entry), Arc::new(state)))
    }

    /// An extent that hides what is not kept.
    fn left(
        &self,
        extent: &LiveExtent,
        document: &Labels,
        keep: &(dyn Fn(DocumentLabels<'_>) -> bool + Sync),
    ) -> Result<LiveExtent> {
        let mut hidden = vec![!document.is_kept; extent.live as usize];
        let turns =
            if document.has_turns { self.engine.turns(self.geometry(), &extent.extent)? } else { Arc::default() };
        for (index, turns) in turns.iter() {
            let Some(hidden) = hidden.get_mut(*index as usize) else { break };
            let begins_with_none = turns.first().is_none_or(|turn| turn.start > 0);
            let is_kept = |turn: &Turn| {
                let metadata = turn.over(&document.metadata);
                let (id, updated_unix_ms) = (extent.extent.document_id.as_ref(), document.updated_unix_ms);
                keep(DocumentLabels { id, metadata: &metadata, updated_unix_ms })
            };
            let shows = begins_with_none && document.is_kept || turns.iter().any(is_kept);
            *hidden = !shows;
        }
        let mut left = extent.clone();
        left.hide(self.geometry(), hidden);
        Ok(left)
    }

    /// Metadata of a document by its number.
    fn metadata_of(&self, document: u64) -> Result<BTreeMap<String, String>> {
        let extent = self.state.extents.iter().find(|extent| extent.extent.document == document);
        extent.map_or_else(|| Ok(BTreeMap::new()), |extent| self.metadata(&extent.extent))
    }
}
