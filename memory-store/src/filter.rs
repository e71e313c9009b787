//! Views of some documents of a memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::records::{DocumentRecord, document_key};
use crate::{Result, Snapshot};

/// What a document is chosen by.
#[derive(Debug, Clone, Copy)]
pub struct DocumentLabels<'a> {
    /// Its identifier.
    pub id: &'a str,
    /// Its metadata.
    pub metadata: &'a BTreeMap<String, String>,
    /// Time of its last commit, in ms since 1970; 0 when it is not known.
    pub updated_unix_ms: u64,
}

impl Snapshot {
    /// The same view with the documents that `keep` accepts only. Statistics of searches by words are then those of these documents.
    pub fn of_documents(&self, keep: &dyn Fn(DocumentLabels<'_>) -> bool) -> Result<Self> {
        let documents: BTreeSet<(&Arc<str>, u64)> =
            self.state.extents.iter().map(|extent| (&extent.extent.document_id, extent.extent.document)).collect();
        let mut hidden = Vec::new();
        for (id, number) in documents {
            let record = self.core.storage.get(&document_key(self.cell.number, id))?;
            let record = record.map(|record| DocumentRecord::decode(&record, &format!("the record of document {id}")));
            let (metadata, updated_unix_ms) = match record.transpose()?.filter(|record| record.number == number) {
                Some(record) => (record.metadata, record.updated_unix_ms),
                None => (self.metadata_of(number)?, 0),
            };
            if !keep(DocumentLabels { id, metadata: &metadata, updated_unix_ms }) {
                hidden.push(Arc::clone(id));
            }
        }
        if hidden.is_empty() {
            return Ok(self.clone());
        }
        Ok(Self::new(Arc::clone(&self.core), Arc::clone(&self.cell), Arc::new(self.state.without(&hidden))))
    }

    /// Metadata of a document by its number.
    fn metadata_of(&self, document: u64) -> Result<BTreeMap<String, String>> {
        let extent = self.state.extents.iter().find(|extent| extent.extent.document == document);
        extent.map_or_else(|| Ok(BTreeMap::new()), |extent| self.metadata(&extent.extent))
    }
}
