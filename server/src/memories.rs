//! Where the memories are: in this process, or in a store on another machine.

use std::sync::Arc;

use mnemon_memory::{Fingerprint, KvGeometry, OpenMemory, Recall, Result, UnionRecall};
use mnemon_memory_store::Store;
use mnemon_runtime::Model;

use crate::filter::DocumentFilter;
use crate::remote::RemoteStore;

/// The memories of all tenants. What is asked of them while documents are read and text is made goes through here; the
/// catalog has a service for each case.
pub(crate) enum Backend {
    /// Kept by this process.
    Local(Store),
    /// Kept by another server.
    Remote(Box<RemoteStore>),
}

impl Backend {
    /// Opens a memory of `tenant` to read documents into it, refusing one that another model made. Blocks.
    pub(crate) fn open(&self, tenant: &str, name: &str, model: &Model) -> Result<Arc<dyn OpenMemory>> {
        let memory: Arc<dyn OpenMemory> = match self {
            Self::Local(store) => Arc::new(store.memory(tenant, name)?),
            Self::Remote(store) => Arc::new(store.memory(tenant, name)?),
        };
        memory.require_fingerprint(&model.fingerprint_for(memory.geometry()))?;
        Ok(memory)
    }

    /// A view of several memories of `tenant` as one, each of them named once, with the documents that `filter` keeps; refuses those
    /// of another model. Blocks.
    pub(crate) fn view(
        &self,
        tenant: &str,
        names: &[String],
        filter: Option<&DocumentFilter>,
        model: &Model,
    ) -> Result<Arc<dyn Recall>> {
        match self {
            Self::Local(store) => {
                let fingerprint = |geometry: &KvGeometry| model.fingerprint_for(geometry);
                Ok(view_of(store, tenant, names, filter, Some(&fingerprint))?.0)
            }
            Self::Remote(store) => {
                // Memories that are seen as one have one shape: that of the first.
                let fingerprint = match (names.first(), model.profile()) {
                    (Some(name), Some(_)) => model.fingerprint_for(store.memory(tenant, name)?.geometry()),
                    _ => model.fingerprint(),
                };
                store.view(tenant, names, filter, Some(&fingerprint))
            }
        }
    }
}

/// As [`Memories::view`], with the sequence number of each memory; `fingerprint` tells which one a memory of a geometry
/// must have.
pub(crate) fn view_of(
    store: &Store,
    tenant: &str,
    names: &[String],
    filter: Option<&DocumentFilter>,
    fingerprint: Option<&dyn Fn(&KvGeometry) -> Fingerprint>,
) -> Result<(Arc<dyn Recall>, Vec<u64>)> {
    let (mut members, mut sequences): (Vec<Arc<dyn Recall>>, Vec<u64>) = Default::default();
    for name in names {
        let memory = store.memory(tenant, name)?;
        if let Some(fingerprint) = fingerprint {
            memory.require_fingerprint(&fingerprint(memory.geometry()))?;
        }
        let snapshot = memory.snapshot()?;
        sequences.push(snapshot.sequence());
        members.push(Arc::new(match filter {
            Some(filter) => snapshot.of_documents(&|document| filter.keeps(document))?,
            None => snapshot,
        }));
    }
    let view: Arc<dyn Recall> = match <[_; 1]>::try_from(members) {
        Ok([one]) => one,
        Err(several) => Arc::new(UnionRecall::new(several)?),
    };
    Ok((view, sequences))
}
