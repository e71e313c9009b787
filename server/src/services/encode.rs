//! A document on the engine, a segment at a time: one that is ingested, or whose kept text is read again.

use mnemon_encoder::{DocumentEncoder, EncodeOptions, Error, Progress};
use mnemon_memory::KvGeometry;
use mnemon_runtime::Turn;
use tokio_util::sync::CancellationToken;

use crate::state::ModelState;
use crate::tasks::Job;

/// How documents of a memory are read.
pub(super) fn options(state: &ModelState, geometry: &KvGeometry) -> EncodeOptions {
    let commit_tokens = state.app.settings.commit_tokens as usize;
    EncodeOptions { commit_tokens, ..EncodeOptions::for_geometry(geometry) }
}

/// What a job is to do next.
pub(super) enum Action {
    /// Reads the pieces that it has.
    Read,
    /// Takes a piece, then reads.
    Push(Vec<u8>),
    /// Takes the end of the text, then reads all that remains.
    Finish,
}

/// See the module.
pub(super) struct EncodeJob {
    pub(super) encoder: DocumentEncoder,
    pub(super) action: Action,
    /// Cancelled: stop after the segment at hand, and commit.
    pub(super) stop: CancellationToken,
    /// Reports progress, if the receiver has room.
    tell: Box<dyn Fn(&Progress) + Send>,
    pub(super) outcome: Result<(), Error>,
}

impl EncodeJob {
    pub(super) fn new(encoder: DocumentEncoder, tell: impl Fn(&Progress) + Send + 'static) -> Self {
        Self { encoder, action: Action::Read, stop: CancellationToken::new(), tell: Box::new(tell), outcome: Ok(()) }
    }

    fn work(&mut self) -> Result<Turn, Error> {
        if self.stop.is_cancelled() {
            self.encoder.commit()?;
            return Ok(Turn::Done);
        }
        match std::mem::replace(&mut self.action, Action::Read) {
            Action::Push(piece) => self.encoder.push(&piece)?,
            Action::Finish => self.encoder.begin_finish()?,
            Action::Read => {}
        }
        let Some(progress) = self.encoder.step()? else { return Ok(Turn::Done) };
        if progress.complete {
            return Ok(Turn::Done);
        }
        (self.tell)(&progress);
        Ok(Turn::Again)
    }
}

impl Job for EncodeJob {
    fn step(&mut self) -> Turn {
        self.work().unwrap_or_else(|error| {
            self.outcome = Err(error);
            Turn::Done
        })
    }
}
