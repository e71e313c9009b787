//! From document to document, until the new memory holds all that the old one holds.

use std::sync::Arc;

use mnemon_memory_store::{DocumentInfo, Error as StoreError, Memory, Store};
use mnemon_proto::v1;
use tokio::sync::mpsc::Sender;
use tonic::{Code, Status};

use super::document::Encoded;
use super::{Answer, PAGE, document};
use crate::state::ModelState;
use crate::status::IntoStatus;
use crate::{status, tasks};

/// Times that all documents are looked at, because the old memory changed meanwhile.
const PASSES_MAX: usize = 8;

/// A re-encoding under way.
pub(super) struct Walk {
    store: Store,
    pub(super) state: Arc<ModelState>,
    tenant: String,
    pub(super) source: Memory,
    pub(super) target: Memory,
    into: String,
    /// The name that the new memory takes at the end.
    replaces: Option<String>,
    pub(super) answers: Sender<Answer>,
    pub(super) progress: v1::ReencodeProgress,
}

impl Walk {
    pub(super) fn new(
        store: Store,
        state: Arc<ModelState>,
        tenant: String,
        (source, target): (Memory, Memory),
        (into, replaces): (String, Option<String>),
        answers: Sender<Answer>,
    ) -> Self {
        Self {
            store,
            state,
            tenant,
            source,
            target,
            into,
            replaces,
            answers,
            progress: v1::ReencodeProgress::default(),
        }
    }

    /// All of it; the last progress.
    pub(super) async fn run(mut self) -> Answer {
        let mut known = None;
        for _ in 0..PASSES_MAX {
            let begun = self.source.info().sequence;
            self.pass(known).await?;
            known = Some(begun);
            if self.complete(begun).await? {
                self.progress.document_id = String::new();
                self.progress.complete = true;
                return Ok(self.progress);
            }
        }
        let name = self.source.name();
        let message = format!(
            "memory '{name}' keeps changing; call again when less is written to it ('{}' keeps what was done)",
            self.into
        );
        Err(status::with_reason(Code::Aborted, message, "MEMORY_CHANGED"))
    }

    /// Reads the documents that changed after `known`, or all, and removes those that the old memory does not have.
    async fn pass(&mut self, known: Option<u64>) -> Result<(), Status> {
        self.remove_strangers().await?;
        let mut after: Option<String> = None;
        loop {
            let info = self.source.info();
            (self.progress.documents, self.progress.text_bytes) = (info.documents, info.text_bytes);
            let source = self.source.clone();
            let page = tasks::store_next(move || source.list_documents(after.as_deref(), PAGE)).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id.clone());
            for info in page {
                if known.is_none_or(|known| info.sequence > known) {
                    self.document(info, known.is_none()).await?;
                }
            }
        }
    }

    async fn document(&mut self, info: DocumentInfo, is_first_pass: bool) -> Result<(), Status> {
        self.progress.document_id.clone_from(&info.id);
        let Encoded { tokens, was_there } = document::encode(self, &info).await?;
        if is_first_pass {
            let progress = &mut self.progress;
            progress.documents_done += 1;
            progress.documents_skipped += u64::from(was_there);
            progress.documents_interrupted += u64::from(!info.complete);
            progress.text_bytes_done += info.bytes;
            progress.tokens_done += tokens;
        }
        // Full: newer progress will tell this, too.
        let _ = self.answers.try_send(Ok(self.progress.clone()));
        Ok(())
    }

    /// Deletes what the old memory does not have any more.
    async fn remove_strangers(&mut self) -> Result<(), Status> {
        let (source, target) = (self.source.clone(), self.target.clone());
        tasks::store_next(move || {
            let mut after: Option<String> = None;
            loop {
                let page = target.list_documents(after.as_deref(), PAGE)?;
                let Some(last) = page.last() else { return Ok::<_, StoreError>(()) };
                after = Some(last.id.clone());
                for info in page {
                    if let Err(StoreError::UnknownDocument { .. }) = source.document(&info.id) {
                        target.delete_document(&info.id)?;
                    }
                }
            }
        })
        .await
    }

    /// The new memory is complete, and in its place, unless the old one changed after `begun`.
    async fn complete(&mut self, begun: u64) -> Result<bool, Status> {
        let (store, tenant, into) = (self.store.clone(), self.tenant.clone(), self.into.clone());
        let (source, target, replaces) = (self.source.clone(), self.target.clone(), self.replaces.clone());
        tasks::store_next(move || {
            let done = match replaces {
                Some(name) => store.replace_memory(&tenant, &into, &name, Some(begun)).map(|_| true),
                // Deleted meanwhile, or changed.
                None => source.snapshot().and_then(|now| {
                    let unchanged = now.sequence() == begun;
                    if unchanged {
                        target.end_copy()?;
                    }
                    Ok(unchanged)
                }),
            };
            match done {
                Err(StoreError::MemoryChanged { .. }) => Ok(false),
                other => other.map_err(|error| error.into_status("")),
            }
        })
        .await
    }
}
