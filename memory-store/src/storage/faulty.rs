//! A storage that fails on demand: for tests of what happens when writing fails.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::{Batch, BlobInfo, Record, Storage};
use crate::error::{Error, Result};
use crate::sync::lock;

/// How a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The device refuses ([`Error::Io`]); nothing is written.
    Refused,
    /// No space left ([`Error::NoSpace`]); nothing is written.
    NoSpace,
    /// As `Refused`, but half of a blob stays behind. Records are never torn.
    Torn,
    /// The operation takes effect, but reports failure (an acknowledgement that got lost).
    LostAnswer,
}

/// Which write fails, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultPlan {
    /// The write that fails, counted from 0 over `apply`, `flush`, `write_blob` and `delete_blob`.
    pub at: u64,
    /// How.
    pub fault: Fault,
    /// Whether every later write fails as well (a dead device), or only this one.
    pub sticky: bool,
}

/// Wraps another storage. Batches reach it only when they are flushed, so that [`crash`](Self::crash) loses what was
/// applied but not flushed.
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    plan: Option<FaultPlan>,
    writes: u64,
    crashed: bool,
    unflushed: Vec<Batch>,
}

impl FaultyStorage {
    /// Passes everything on until told otherwise.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, state: Mutex::default() }
    }

    /// Sets (or clears) what fails; the count restarts.
    pub fn set_plan(&self, plan: Option<FaultPlan>) {
        let mut state = lock(&self.state);
        state.plan = plan;
        state.writes = 0;
    }

    /// Writes since the plan was set.
    pub fn writes(&self) -> u64 {
        lock(&self.state).writes
    }

    /// Loses what was not flushed; every later operation fails. Open the inner storage again to go on.
    pub fn crash(&self) {
        let mut state = lock(&self.state);
        state.crashed = true;
        state.unflushed.clear();
    }

    /// Counts a write and says how it fails.
    fn count(state: &mut State) -> Result<Option<Fault>> {
        if state.crashed {
            return Err(refused("the storage crashed"));
        }
        let number = state.writes;
        state.writes += 1;
        let plan = state.plan.filter(|plan| number == plan.at || (plan.sticky && number > plan.at));
        Ok(plan.map(|plan| plan.fault))
    }
}

fn refused(what: &str) -> Error {
    Error::Io { what: what.into(), source: std::io::Error::other("injected fault") }
}

fn failure(fault: Fault, what: &str) -> Error {
    match fault {
        Fault::NoSpace => Error::NoSpace { what: what.into() },
        _ => refused(what),
    }
}

impl Storage for FaultyStorage {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let state = lock(&self.state);
        if state.crashed {
            return Err(refused("the storage crashed"));
        }
        let changes = state.unflushed.iter().rev().flat_map(|batch| batch.changes().iter().rev());
        for (changed, value) in changes {
            if changed == key {
                return Ok(value.clone());
            }
        }
        self.inner.get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Record>> {
        let state = lock(&self.state);
        if state.crashed {
            return Err(refused("the storage crashed"));
        }
        let mut changed: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
        for (key, value) in state.unflushed.iter().flat_map(Batch::changes) {
            if key.starts_with(prefix) && after.is_none_or(|after| key.as_slice() > after) {
                changed.insert(key, value.as_deref());
            }
        }
        let mut merged: BTreeMap<Vec<u8>, Vec<u8>> =
            self.inner.scan(prefix, after, limit.saturating_add(changed.len()))?.into_iter().collect();
        for (key, value) in changed {
            match value {
                Some(value) => merged.insert(key.to_vec(), value.to_vec()),
                None => merged.remove(key),
            };
        }
        // Every unflushed key costs at most one record of the inner answer, so the first `limit` are right.
        Ok(merged.into_iter().take(limit).collect())
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        let mut state = lock(&self.state);
        match Self::count(&mut state)? {
            Some(fault) if fault != Fault::LostAnswer => Err(failure(fault, "apply a batch")),
            // The contract: after an error nothing was applied. A lost answer is only possible on flush.
            _ => {
                state.unflushed.push(batch.clone());
                Ok(())
            }
        }
    }

    fn flush(&self) -> Result<()> {
        let mut state = lock(&self.state);
        let fault = Self::count(&mut state)?;
        if let Some(fault) = fault.filter(|fault| *fault != Fault::LostAnswer) {
            return Err(failure(fault, "flush"));
        }
        for batch in std::mem::take(&mut state.unflushed) {
            self.inner.apply(&batch)?;
        }
        self.inner.flush()?;
        match fault {
            Some(fault) => Err(failure(fault, "flush")),
            None => Ok(()),
        }
    }

    fn write_blob(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        let fault = Self::count(&mut lock(&self.state))?;
        match fault {
            None => self.inner.write_blob(name, parts),
            Some(fault) => {
                let whole = parts.concat();
                match fault {
                    Fault::Torn => self.inner.write_blob(name, &[&whole[..whole.len() / 2]])?,
                    Fault::LostAnswer => self.inner.write_blob(name, &[&whole])?,
                    Fault::Refused | Fault::NoSpace => {}
                }
                Err(failure(fault, &format!("write blob {name}")))
            }
        }
    }

    fn read_blob(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        if lock(&self.state).crashed {
            return Err(refused("the storage crashed"));
        }
        self.inner.read_blob(name, offset, len)
    }

    fn delete_blob(&self, name: &str) -> Result<()> {
        let fault = Self::count(&mut lock(&self.state))?;
        if fault.is_none() || fault == Some(Fault::LostAnswer) {
            self.inner.delete_blob(name)?;
        }
        match fault {
            None => Ok(()),
            Some(fault) => Err(failure(fault, &format!("delete blob {name}"))),
        }
    }

    fn list_blobs(&self) -> Result<Vec<BlobInfo>> {
        if lock(&self.state).crashed {
            return Err(refused("the storage crashed"));
        }
        self.inner.list_blobs()
    }

    fn set_aside(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.inner.set_aside(name, bytes)
    }

    fn compact(&self) -> Result<()> {
        if lock(&self.state).crashed {
            return Err(refused("the storage crashed"));
        }
        self.inner.compact()
    }

    fn location(&self) -> String {
        format!("faulty {}", self.inner.location())
    }
}
