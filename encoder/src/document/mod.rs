//! One document on its way into a memory.

mod input;
mod kept;
mod own;
mod pack;
mod reader;
mod stored;

use std::collections::BTreeMap;
use std::sync::Arc;

use mnemon_memory::{ChunkId, DocumentWriter, Invalid, KvGeometry, OpenMemory, Recall, ResumePoint};
use mnemon_runtime::{Captured, Model};

use self::input::Input;
use self::kept::DocumentPlace;
pub use self::kept::KeptReaders;
use self::own::OwnChunks;
use self::pack::Packer;
use self::reader::Reader;
use self::stored::{Comparison, Continuation, ContinueFrom};
use crate::error::{Error, Result};
use crate::options::{EncodeOptions, Progress};
use crate::tokenizer::SafePoint;

/// Bytes that one push takes at most.
pub const PUSH_BYTES_MAX: usize = 4 << 20;

/// Reads one document: bytes in, chunks of keys and values into a memory.
///
/// Work is done by [`step`](Self::step), one segment at a time, so that a caller can share a device among many
/// documents. What is held does not grow with the document: one pushed piece, one segment of tokens, the local
/// window, and at most [`HELD_BACK_BYTES_MAX`](crate::HELD_BACK_BYTES_MAX) in the tokenizer.
///
/// What ends up in the memory depends on the text and `segment_tokens` alone: it is the same, to the last bit, for
/// any pieces, any interruption that was resumed, and any way of appending (on one machine and build). After an error
/// the encoder is spent; what was committed stays.
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own; together they are no state")]
pub struct DocumentEncoder {
    model: Arc<Model>,
    memory: Arc<dyn OpenMemory>,
    document_id: String,
    options: EncodeOptions,
    writer: Box<dyn DocumentWriter>,
    /// Text that is sent again is compared first.
    comparison: Option<Comparison>,
    /// Whether stored text may be followed by other text than it was when it was read.
    appends: bool,
    /// Built when the first byte beyond what is stored arrives.
    reading: Option<Reading>,
    /// Turns that start in what is pushed, with the bytes of the document at which they start, until reading begins.
    turns: Vec<(u64, BTreeMap<String, String>)>,
    /// Cache of readers, and the key of this document's.
    kept: Option<(Arc<KeptReaders>, DocumentPlace)>,
    tokens_read: u64,
    /// A commit is wanted also if there is nothing new.
    renews: bool,
    complete: bool,
    failed: bool,
}

/// The parts that work together while text comes in.
struct Reading {
    input: Input,
    reader: Reader,
    /// Copy of the reader at the segment where an append would resume, once that segment is known.
    beginning: Option<Box<Reader>>,
    packer: Packer,
    /// Tokens whose chunks are in the store already; they are read again only for the window.
    keep_tokens: u64,
    /// An append commits only once more than this many bytes are in chunks, so that no commit shortens the document or marks it incomplete
    /// without adding text.
    commit_from_bytes: u64,
    /// Tokens and bytes in chunks, and tokens when last committed.
    packed_tokens: u64,
    packed_bytes: u64,
    committed_tokens: u64,
    /// Chunks handed over so far, when they are recalled while reading.
    own: Vec<ChunkId>,
}

impl DocumentEncoder {
    /// Begins a new document.
    ///
    /// # Errors
    /// [`Error::DocumentExists`] if there is one of this identifier.
    pub fn create(
        model: Arc<Model>,
        memory: Arc<dyn OpenMemory>,
        document_id: &str,
        metadata: BTreeMap<String, String>,
        options: EncodeOptions,
    ) -> Result<Self> {
        let encoder = Self::open(model, memory, document_id, metadata, options)?;
        if encoder.writer.state().sequence > 0 {
            return Err(Error::DocumentExists { document: document_id.to_owned() });
        }
        Ok(encoder)
    }

    /// Continues a document, or begins it: the text follows what is stored.
    ///
    /// The end of the stored text is tokenized again together with what follows, and the segments that this can
    /// change are read again. Until at least as much text as before is in chunks, nothing is committed.
    pub fn append(
        model: Arc<Model>,
        memory: Arc<dyn OpenMemory>,
        document_id: &str,
        metadata: BTreeMap<String, String>,
        options: EncodeOptions,
    ) -> Result<Self> {
        Ok(Self { appends: true, ..Self::open(model, memory, document_id, metadata, options)? })
    }

    /// Takes a document again from its first byte, after an interruption, or begins it: what is durable is compared
    /// and skipped, then reading goes on. Text beyond a document that is complete is appended.
    pub fn resume(
        model: Arc<Model>,
        memory: Arc<dyn OpenMemory>,
        document_id: &str,
        metadata: BTreeMap<String, String>,
        options: EncodeOptions,
    ) -> Result<Self> {
        let mut encoder = Self::open(model, memory, document_id, metadata, options)?;
        let state = encoder.writer.state();
        encoder.comparison = Some(Comparison::new(&state));
        encoder.appends = state.resume.complete;
        Ok(encoder)
    }

    fn open(
        model: Arc<Model>,
        memory: Arc<dyn OpenMemory>,
        document_id: &str,
        metadata: BTreeMap<String, String>,
        options: EncodeOptions,
    ) -> Result<Self> {
        memory.require_fingerprint(&model.fingerprint_for(memory.geometry()))?;
        options.validate(memory.geometry())?;
        let writer = memory.writer(document_id, metadata)?;
        let document_id = document_id.to_owned();
        Ok(Self {
            model,
            memory,
            document_id,
            options,
            writer,
            comparison: None,
            appends: false,
            reading: None,
            turns: Vec::new(),
            kept: None,
            tokens_read: 0,
            renews: false,
            complete: false,
            failed: false,
        })
    }

    /// Gives the document a time to live, in milliseconds after its last commit; `None` takes it away. In force from the
    /// next commit on, which comes also if there is nothing new to read.
    pub fn set_ttl_ms(&mut self, ttl_ms: Option<u64>) -> Result<()> {
        self.writer.set_ttl_ms(ttl_ms)?;
        self.renews = true;
        Ok(())
    }

    /// Resumes from a cached reader of this document if `readers` has one, and caches the reader when the document completes. An append
    /// then reads its own text, the tail that is tokenized again and part of a segment, not a receptive field. Stored bytes are identical
    /// either way. Call before the first push.
    pub fn keep_reader(&mut self, readers: Arc<KeptReaders>, tenant: &str) {
        let (memory, document_id) = (self.memory.name().to_owned(), self.document_id.clone());
        self.kept = Some((readers, DocumentPlace { tenant: tenant.to_owned(), memory, document_id }));
    }

    /// Starts a turn at the next byte pushed, such as one speaker's part of a conversation. `metadata` names the speaker and the date, say:
    /// at most 16 pairs, 2048 bytes in total. Text that is already stored keeps its turns; text appended without a turn belongs to none.
    pub fn begin_turn(&mut self, metadata: BTreeMap<String, String>) {
        let at = self.progress().bytes_received;
        match &mut self.reading {
            Some(reading) => reading.packer.push_turn(at, metadata),
            None => self.turns.push((at, metadata)),
        }
    }

    /// Whether the whole document was stored before.
    pub fn is_stored_whole(&self) -> bool {
        self.writer.state().resume.complete
    }

    /// Takes the next bytes of the document, at most [`PUSH_BYTES_MAX`]; characters may be split between pieces.
    ///
    /// # Errors
    /// [`Error::BufferFull`] while [`wants_input`](Self::wants_input) says no, [`Error::InvalidUtf8`],
    /// [`Error::ResumeMismatch`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if !self.wants_input() && !self.failed && !self.complete {
            return Err(Error::BufferFull);
        }
        if bytes.len() > PUSH_BYTES_MAX {
            let why = format!("{} bytes; at most {PUSH_BYTES_MAX} are accepted", bytes.len());
            return Err(Error::Invalid(Invalid { what: "piece of text", why }));
        }
        self.guard(|encoder| {
            let mut bytes = bytes;
            if let Some(comparison) = &mut encoder.comparison {
                bytes = comparison.compare(encoder.memory.as_ref(), &encoder.document_id, bytes)?;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let segment_tokens = encoder.options.segment_tokens;
            let reading = encoder.reading()?;
            reading.input.push(bytes)?;
            reading.fill(segment_tokens)
        })
    }

    /// Whether [`push`](Self::push) may be called: not while a full segment waits for [`step`](Self::step).
    pub fn wants_input(&self) -> bool {
        let room = |reading: &Reading| {
            reading.input.is_drained() && reading.input.waiting_tokens() < self.options.segment_tokens
        };
        !self.complete && !self.failed && self.reading.as_ref().is_none_or(room)
    }

    /// Encodes at most one segment, and commits when that is due. `None` when there is nothing to do: more text is
    /// wanted, or the document is complete.
    pub fn step(&mut self) -> Result<Option<Progress>> {
        let worked = self.guard(|encoder| {
            let segment_tokens = encoder.options.segment_tokens;
            let Some(reading) = encoder.reading.as_mut().filter(|_| !encoder.complete) else { return Ok(false) };
            reading.fill(segment_tokens)?;
            let ended = reading.input.is_ended();
            let waiting = reading.input.waiting_tokens();
            if waiting < segment_tokens && !ended {
                return Ok(false);
            }
            if waiting > 0 {
                encoder.read_segment()?;
            }
            if ended && waiting <= segment_tokens {
                encoder.complete()?;
            }
            Ok(true)
        })?;
        Ok(worked.then(|| self.progress()))
    }

    /// Declares the end of the text. Afterwards, [`step`](Self::step) until it returns a
    /// [`complete`](Progress::complete) progress or nothing.
    ///
    /// # Errors
    /// [`Error::InvalidUtf8`] if the text ends within a character, [`Error::EmptyDocument`],
    /// [`Error::ResumeMismatch`] if less text was sent again than is stored.
    pub fn begin_finish(&mut self) -> Result<()> {
        self.guard(|encoder| {
            if let Some(comparison) = encoder.comparison.as_ref().filter(|comparison| !comparison.is_done()) {
                return Err(Error::ResumeMismatch { byte: comparison.compared_bytes() });
            }
            let state = encoder.writer.state();
            if encoder.reading.is_none() && state.resume.complete {
                if encoder.renews {
                    encoder.writer.commit(state.resume)?;
                }
                encoder.complete = true;
                return Ok(());
            }
            if encoder.reading.is_none() && state.tokens == 0 {
                return Err(Error::EmptyDocument);
            }
            encoder.reading()?.input.end()
        })
    }

    /// Ends the text, reads all that remains and commits the whole document.
    pub fn finish(&mut self) -> Result<Progress> {
        self.begin_finish()?;
        while self.step()?.is_some() {}
        Ok(self.progress())
    }

    /// Commits the chunks that are formed already, when a caller wants that earlier than `commit_tokens` say (a
    /// server that shuts down). Tokens still in the window are not among them.
    pub fn commit(&mut self) -> Result<Progress> {
        self.guard(|encoder| encoder.commit_packed(false))?;
        Ok(self.progress())
    }

    /// How far reading has come.
    pub fn progress(&self) -> Progress {
        let state = self.writer.state();
        let (bytes_received, tokens_encoded) = match (&self.reading, &self.comparison) {
            (Some(reading), _) => (reading.input.received_bytes(), reading.input.next_token().max(reading.keep_tokens)),
            (None, Some(comparison)) => (comparison.compared_bytes(), state.tokens),
            (None, None) => (state.bytes, state.tokens),
        };
        Progress {
            bytes_received,
            tokens_encoded,
            durable_bytes: state.bytes,
            durable_tokens: state.tokens,
            durable_chunks: state.chunks,
            sequence: state.sequence,
            complete: self.complete,
        }
    }

    /// Tokens passed to the model by this encoder, including tokens read a second time.
    pub fn tokens_read(&self) -> u64 {
        self.tokens_read
    }

    /// Bytes of text and tokens held now, for accounting.
    pub fn held_bytes(&self) -> usize {
        self.reading.as_ref().map_or(0, |reading| reading.input.held_bytes() + reading.packer.held_bytes())
    }

    /// Runs `work`; after an error nothing more is accepted.
    fn guard<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.failed {
            return Err(Error::Failed);
        }
        let outcome = work(self);
        self.failed = outcome.is_err();
        outcome
    }

    /// The parts at work, built on first use.
    fn reading(&mut self) -> Result<&mut Reading> {
        let reading = match self.reading.take() {
            Some(reading) => reading,
            None if self.complete => return Err(Error::Finished),
            None => self.start()?,
        };
        Ok(self.reading.insert(reading))
    }

    fn start(&mut self) -> Result<Reading> {
        let mut reading = self.start_reading()?;
        let stored = self.writer.state().bytes;
        let new = self.turns.partition_point(|(at, _)| *at < stored);
        let (before, new) = self.turns.split_at(new);
        let goes_on = reading.packer.last_turn().is_some_and(|turn| !turn.is_empty());
        if self.appends && (goes_on || !before.is_empty()) {
            // Of text that is sent again the last turn that was told goes on; what is appended is of none unless it is told.
            let turn = before.last().map_or_else(BTreeMap::new, |(_, metadata)| metadata.clone());
            reading.packer.push_turn(stored, turn);
        }
        for (at, metadata) in new {
            reading.packer.push_turn(*at, metadata.clone());
        }
        self.turns.clear();
        Ok(reading)
    }

    fn start_reading(&mut self) -> Result<Reading> {
        let state = self.writer.state();
        let model = || Arc::clone(&self.model);
        let recalls = self.options.recall_while_reading.is_some();
        let mut reader = Reader::new(model(), self.memory.geometry(), recalls)?;
        if state.tokens == 0 {
            let input = Input::new(model(), SafePoint::default(), None, (Vec::new(), 0, 0), 0);
            return Ok(Reading::new(input, reader, Packer::default(), (0, 0), 0));
        }
        let keep_tokens = Continuation::keep_tokens(&state, &self.options, self.appends);
        let kept = self.kept.as_ref().filter(|_| self.appends && !recalls);
        let kept = kept.and_then(|(readers, place)| readers.take(place, &state, keep_tokens));
        let continuation = Continuation::load(
            self.memory.as_ref(),
            &self.document_id,
            &state,
            &self.model,
            &self.options,
            ContinueFrom {
                keep_tokens,
                roll_back: self.appends,
                first_of_reader: kept.as_ref().map(Reader::first_kept),
            },
        )?;
        let Continuation { first_token, keep_bytes, safe, mut tokens, .. } = continuation;
        tracing::debug!(document = self.document_id, first_token, keep_tokens, "continuing a document");
        if self.appends {
            self.writer.truncate(keep_tokens / u64::from(self.memory.geometry().chunk_tokens))?;
        }
        let mut packer = Packer::new(first_token, keep_bytes);
        let next_token = if let Some(kept) = kept {
            reader = kept;
            packer.push_tokens(tokens.drain(..(keep_tokens - first_token) as usize));
            keep_tokens
        } else {
            reader.skip_to(first_token as usize, continuation.first_segment);
            first_token
        };
        let tokens = (tokens, next_token, continuation.skip_tokens);
        let mut input = Input::new(model(), safe, continuation.before, tokens, state.bytes);
        for (at, metadata) in continuation.turns {
            packer.push_turn(at, metadata);
        }
        if self.appends {
            packer.push_text(&continuation.kept_text);
            packer.push_text(&continuation.text);
        }
        input.replay(&continuation.text)?;
        let commit_from_bytes = if self.appends && !recalls { state.bytes } else { 0 };
        Ok(Reading::new(input, reader, packer, (keep_tokens, keep_bytes), commit_from_bytes))
    }

    /// Reads one segment, and the chunks that leave the window go to the writer.
    fn read_segment(&mut self) -> Result<()> {
        let Some(reading) = &mut self.reading else { return Ok(()) };
        let tokens = reading.input.next(self.options.segment_tokens);
        let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
        self.tokens_read += ids.len() as u64;
        if self.kept.is_some() {
            // Until the text ends, tokens wait that no further text changes.
            let segment = self.options.segment_tokens as u64;
            if reading.reader.next_token() == reading.input.safe_token() / segment * segment {
                reading.beginning = reading.reader.duplicate()?.map(Box::new);
            }
        }
        let captured = reading.reader.read(&ids)?;
        reading.packer.push_tokens(tokens.into_iter());
        if let Some(captured) = captured {
            reading.pack(&captured, self.memory.geometry(), self.writer.as_mut())?;
        }
        let recalls = self.options.recall_while_reading.is_some();
        if recalls || reading.packed_tokens - reading.committed_tokens >= self.options.commit_tokens as u64 {
            self.commit_packed(false)?;
        }
        if recalls { self.recall_own() } else { Ok(()) }
    }

    /// Flushes the window and commits the document as complete.
    fn complete(&mut self) -> Result<()> {
        if let Some(reading) = &mut self.reading {
            if reading.input.next_token() == 0 {
                return Err(Error::EmptyDocument);
            }
            if let Some(captured) = reading.reader.flush()? {
                reading.pack(&captured, self.memory.geometry(), self.writer.as_mut())?;
            }
        }
        self.commit_packed(true)?;
        self.complete = true;
        self.keep();
        Ok(())
    }

    /// Caches the copy of the reader for the next append.
    fn keep(&mut self) {
        let (Some(reading), Some((readers, place))) = (&mut self.reading, self.kept.take()) else { return };
        let state = self.writer.state();
        let from = Continuation::keep_tokens(&state, &self.options, true);
        if let Some(reader) = reading.beginning.take().filter(|reader| from > 0 && reader.next_token() == from) {
            readers.keep(place, state, *reader);
        }
    }

    /// Commits what is in chunks, unless that is less than was durable before.
    fn commit_packed(&mut self, complete: bool) -> Result<()> {
        let Some(reading) = &mut self.reading else { return Ok(()) };
        if !complete
            && (reading.packed_tokens == reading.committed_tokens || reading.packed_bytes <= reading.commit_from_bytes)
        {
            return Ok(());
        }
        let resume: ResumePoint = reading.input.resume_point(reading.packed_tokens, reading.packed_bytes, complete);
        self.writer.commit(resume)?;
        reading.committed_tokens = reading.packed_tokens;
        Ok(())
    }

    /// Lets the reader recall the chunks handed over so far.
    fn recall_own(&mut self) -> Result<()> {
        let Some(reading) = &mut self.reading else { return Ok(()) };
        let Some(options) = &self.options.recall_while_reading else { return Ok(()) };
        let chunk_tokens = u64::from(self.memory.geometry().chunk_tokens);
        let handed_over = reading.packer.next_token() / chunk_tokens;
        let missing = (handed_over as usize).saturating_sub(reading.own.len());
        if missing > 0 {
            let from = reading.own.len() as u64;
            let infos = self.memory.document_chunks(&self.document_id, from, missing)?;
            reading.own.extend(infos.iter().map(|info| info.id));
        }
        let own: Arc<dyn Recall> = Arc::new(OwnChunks::new(self.memory.view()?, reading.own.clone()));
        reading.reader.set_recall(Some((own, options.clone())))
    }
}

impl Reading {
    fn new(
        input: Input,
        reader: Reader,
        packer: Packer,
        (keep_tokens, keep_bytes): (u64, u64),
        commit_from_bytes: u64,
    ) -> Self {
        Self {
            input,
            reader,
            beginning: None,
            packer,
            keep_tokens,
            commit_from_bytes,
            packed_tokens: keep_tokens,
            packed_bytes: keep_bytes,
            committed_tokens: keep_tokens,
            own: Vec::new(),
        }
    }

    fn fill(&mut self, segment_tokens: usize) -> Result<()> {
        let packer = &mut self.packer;
        self.input.fill(segment_tokens, |text| packer.push_text(text))
    }

    fn pack(&mut self, captured: &Captured, geometry: &KvGeometry, writer: &mut dyn DocumentWriter) -> Result<()> {
        let (packed_tokens, packed_bytes) = (&mut self.packed_tokens, &mut self.packed_bytes);
        self.packer.pack(captured, geometry, self.keep_tokens, |chunk| {
            *packed_tokens = chunk.span.token_end;
            *packed_bytes = chunk.span.byte_end;
            Ok(writer.append(chunk)?)
        })
    }
}
