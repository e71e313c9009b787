//! Bytes in, verified sections out.
//!
//! Nothing of an archive is trusted: every checksum, length, order and sum is verified, and every chunk as when it is
//! written, before it is handed on. Memory is asked for as bytes arrive, never because a length says so.

use super::chunks::{ArchiveChunks, Current, decode_chunks, refused};
use super::format::{
    ARCHIVE_FORMAT, ArchiveDocument, ArchiveSpec, ArchiveTotals, CHUNKS, DIGEST_BYTES, DOCUMENT, END, HEAD_BYTES,
    HEADER_BYTES, MAGIC, SECTION_BYTES_MAX, SMALL_SECTION_BYTES_MAX, SPEC,
};
use crate::error::{Error, Result};
use crate::format::codec::Decoder;

/// A part of an archive, verified.
#[derive(Debug)]
pub enum Section {
    /// The memory. Comes first.
    Spec(Box<ArchiveSpec>),
    /// A document; documents ascend by identifier.
    Document(ArchiveDocument),
    /// Chunks of the last document, in order.
    Chunks(ArchiveChunks),
    /// Nothing follows.
    End(ArchiveTotals),
}

/// Where the reader stands.
enum Stage {
    Header,
    Spec,
    Documents,
    Digest,
    Done,
    /// It was refused.
    Failed,
}

/// Parses an archive that arrives in pieces. [`push`](Self::push) a piece, then take [`section`](Self::section)s until
/// there is none; [`finish`](Self::finish) after the last piece. Holds one section and one piece at most, if used so.
pub struct ArchiveReader {
    buffer: Vec<u8>,
    /// Bytes of the buffer that are done with.
    used: usize,
    /// Bytes of the archive before the buffer.
    before: u64,
    digest: blake3::Hasher,
    stage: Stage,
    spec: Option<Box<ArchiveSpec>>,
    current: Option<Current>,
    last_id: Option<String>,
    totals: ArchiveTotals,
}

impl Default for ArchiveReader {
    fn default() -> Self {
        Self::new()
    }
}

impl ArchiveReader {
    /// A reader at the start of an archive.
    pub fn new() -> Self {
        Self {
            buffer: Vec::new(),
            used: 0,
            before: 0,
            digest: blake3::Hasher::new(),
            stage: Stage::Header,
            spec: None,
            current: None,
            last_id: None,
            totals: ArchiveTotals::default(),
        }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.before += self.used as u64;
        self.buffer.drain(..std::mem::take(&mut self.used));
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes of the archive up to the end of the last section that was handed out.
    pub fn position(&self) -> u64 {
        self.before + self.used as u64
    }

    /// The next section, if all of it has arrived. [`Error::Archive`] if it is not as it must be; the reader is of no
    /// use then.
    pub fn section(&mut self) -> Result<Option<Section>> {
        let at = self.position();
        self.advance().map_err(|error| {
            self.stage = Stage::Failed;
            placed(error, at)
        })
    }

    /// Nothing may be missing, and nothing may be left.
    pub fn finish(&self) -> Result<()> {
        let why = match self.stage {
            Stage::Done if self.used == self.buffer.len() => return Ok(()),
            Stage::Done => "bytes follow its end",
            _ => "it ends too early: it was cut short",
        };
        Err(Error::Archive { byte: self.position(), why: why.into() })
    }

    /// The next `len` bytes, if they have arrived.
    fn peek(&self, len: usize) -> Option<&[u8]> {
        self.buffer.get(self.used..self.used.saturating_add(len))
    }

    /// Steps over `len` bytes that were peeked at.
    fn step(&mut self, len: usize) {
        self.digest.update(&self.buffer[self.used..self.used + len]);
        self.used += len;
    }

    fn advance(&mut self) -> Result<Option<Section>> {
        if matches!(self.stage, Stage::Header) {
            let Some(header) = self.peek(HEADER_BYTES) else { return Ok(None) };
            check_header(header)?;
            self.step(HEADER_BYTES);
            self.stage = Stage::Spec;
        }
        if matches!(self.stage, Stage::Digest) {
            let Some(stored) = self.peek(DIGEST_BYTES) else { return Ok(None) };
            if stored != self.digest.finalize().as_bytes() {
                return refused("its last checksum does not match");
            }
            self.used += DIGEST_BYTES;
            self.stage = Stage::Done;
            return Ok(Some(Section::End(self.totals)));
        }
        if matches!(self.stage, Stage::Failed) {
            return refused("it was refused already");
        }
        if matches!(self.stage, Stage::Done) {
            return if self.used < self.buffer.len() { refused("bytes follow its end") } else { Ok(None) };
        }
        let Some(head) = self.peek(HEAD_BYTES) else { return Ok(None) };
        let (kind, len) = check_head(head)?;
        if self.peek(HEAD_BYTES + len + 4).is_none() {
            return Ok(None);
        }
        let current = self.current.take();
        let whole = &self.buffer[self.used..self.used + HEAD_BYTES + len + 4];
        let contents = Decoder::checked(&whole[HEAD_BYTES..], "section")?.rest();
        let (section, current) = self.parse(kind, contents, current)?;
        self.current = current;
        self.step(HEAD_BYTES + len + 4);
        match &section {
            Some(Section::Spec(spec)) => {
                self.spec = Some(spec.clone());
                self.stage = Stage::Documents;
            }
            Some(Section::Document(document)) => {
                self.totals.documents += 1;
                self.last_id = Some(document.id.clone());
            }
            Some(Section::Chunks(chunks)) => {
                self.totals.chunks += chunks.len() as u64;
                let end = chunks.places.last().copied().unwrap_or_default();
                self.totals.tokens += u64::from(end.tokens);
                self.totals.text_bytes += u64::from(end.bytes);
            }
            Some(Section::End(_)) | None => {
                self.stage = Stage::Digest;
                return self.advance();
            }
        }
        Ok(section)
    }

    /// The section and the document that is at hand after it; no section for the end, which its digest completes.
    fn parse(
        &self,
        kind: [u8; 4],
        contents: &[u8],
        current: Option<Current>,
    ) -> Result<(Option<Section>, Option<Current>)> {
        let Some(spec) = &self.spec else {
            if kind != SPEC {
                return refused("it does not begin with the memory that it holds");
            }
            return Ok((Some(Section::Spec(Box::new(ArchiveSpec::decode(contents)?))), None));
        };
        match kind {
            DOCUMENT => {
                check_complete(current.as_ref())?;
                let document = ArchiveDocument::decode(contents)?;
                if self.last_id.as_ref().is_some_and(|last| *last >= document.id) {
                    return refused("its documents are not in order");
                }
                if document.sequence > spec.sequence || self.totals.documents >= spec.totals.documents {
                    return refused("a document is not what the memory says");
                }
                let current = Current { document: document.clone(), end: (0, 0, 0), lost: 0 };
                Ok((Some(Section::Document(document)), Some(current)))
            }
            CHUNKS => {
                let Some(mut current) = current else { return refused("chunks belong to no document") };
                let chunks = decode_chunks(contents, &mut current, &spec.spec.geometry)?;
                Ok((Some(Section::Chunks(chunks)), Some(current)))
            }
            END => {
                check_complete(current.as_ref())?;
                let totals = ArchiveTotals::decode(&mut Decoder::new(contents, "end"))?;
                if totals != self.totals || totals != spec.totals {
                    return refused("it holds another number of documents, chunks, tokens or bytes than it says");
                }
                Ok((None, None))
            }
            _ => refused("a section is out of place"),
        }
    }
}

/// Reads a whole archive from memory and verifies all of it: what it holds. For tests, tools and fuzzing.
pub fn verify(archive: &[u8]) -> Result<ArchiveTotals> {
    let mut reader = ArchiveReader::new();
    reader.push(archive);
    let mut totals = ArchiveTotals::default();
    while let Some(section) = reader.section()? {
        if let Section::End(all) = section {
            totals = all;
        }
    }
    reader.finish()?;
    Ok(totals)
}

/// The error of an archive whose section at `byte` cannot be used.
fn placed(error: Error, byte: u64) -> Error {
    let why = match error {
        Error::Damaged { why, .. } | Error::Archive { why, .. } => why,
        other => other.to_string(),
    };
    Error::Archive { byte, why }
}

fn check_header(header: &[u8]) -> Result<()> {
    if !header.starts_with(MAGIC) {
        return refused("it is not an archive of a memory");
    }
    let mut input = Decoder::checked(header, "header")?;
    input.take(MAGIC.len())?;
    let format = input.u32()?;
    if !(1..=ARCHIVE_FORMAT).contains(&format) {
        let why = format!("it is of format {format}, and this version knows {ARCHIVE_FORMAT}: use a newer one");
        return refused(&why);
    }
    Ok(())
}

fn check_head(head: &[u8]) -> Result<([u8; 4], usize)> {
    let mut input = Decoder::checked(head, "head of a section")?;
    let kind = input.take(4)?.first_chunk::<4>().copied().unwrap_or_default();
    let len = input.u32()? as usize;
    let most = match kind {
        CHUNKS => SECTION_BYTES_MAX,
        SPEC | DOCUMENT | END => SMALL_SECTION_BYTES_MAX,
        _ => return refused("it has a section of an unknown kind"),
    };
    if len > most {
        return refused(&format!("a section of {len} bytes; at most {most} are accepted"));
    }
    Ok((kind, len))
}

/// All chunks of the last document must have come.
fn check_complete(current: Option<&Current>) -> Result<()> {
    let Some(Current { document, end, lost }) = current else { return Ok(()) };
    if *end != (document.chunks, document.tokens, document.bytes) || *lost != document.lost_chunks {
        return refused("a document has other chunks than it says");
    }
    Ok(())
}
