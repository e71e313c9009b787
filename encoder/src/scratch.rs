//! One document on its way into a memory in this process.

use std::collections::BTreeMap;
use std::sync::Arc;

use mnemon_memory::{CreateScratch, KvGeometry, OpenMemory};
use mnemon_runtime::Model;

use crate::document::DocumentEncoder;
use crate::error::Result;
use crate::options::EncodeOptions;

/// A memory that keeps what `geometry` says, and its only document, `document_id`.
pub(crate) fn scratch(
    create: CreateScratch,
    model: &Arc<Model>,
    geometry: &KvGeometry,
    document_id: &str,
) -> Result<(Arc<dyn OpenMemory>, DocumentEncoder)> {
    let memory = create(document_id, model.fingerprint_for(geometry), geometry)?;
    let options = EncodeOptions::for_geometry(memory.geometry());
    let open = Arc::clone(&memory);
    let encoder = DocumentEncoder::create(Arc::clone(model), open, document_id, BTreeMap::new(), options)?;
    Ok((memory, encoder))
}
