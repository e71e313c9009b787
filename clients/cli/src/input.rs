//! Text that comes from the user's files and from standard input, checked before it is sent.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{fs, io};

use tokio::io::{AsyncRead, ReadBuf};

use crate::exit::{Exit, Failure};

/// Text that is sent as one message is read up to this size; the server's own limit is lower.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// How much is read at once.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// Where text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file that was found readable, not empty and valid UTF-8, with its length.
    File { path: PathBuf, bytes: u64 },
    /// Standard input, checked while it is read.
    Stdin,
}

impl Source {
    /// Takes '-' as standard input; anything else is opened and read once to its end.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdin);
        }
        let bytes = check_file(path)?;
        Ok(Self::File { path: path.to_owned(), bytes })
    }

    /// The name of the document unless the user gives one.
    pub(crate) fn document_id(&self) -> Result<String, Failure> {
        match self {
            Self::Stdin => Ok("stdin".to_owned()),
            Self::File { path, .. } => {
                path.file_name().and_then(|name| name.to_str()).map(str::to_owned).ok_or_else(|| {
                    Failure::usage(format!("the name of {} cannot name a document", path.display()))
                        .hint("give the document a name with --doc ID")
                })
            }
        }
    }

    /// Opens it for reading.
    pub(crate) fn reader(&self) -> Result<Box<dyn Read + Send>, Failure> {
        match self {
            Self::Stdin => Ok(Box::new(io::stdin())),
            Self::File { path, .. } => {
                File::open(path).map(|file| Box::new(file) as Box<dyn Read + Send>).map_err(|e| unreadable(path, &e))
            }
        }
    }

    /// For messages: the path, or "standard input".
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Stdin => "standard input".to_owned(),
            Self::File { path, .. } => path.display().to_string(),
        }
    }
}

/// Reads a file to its end and returns its length; refuses what is no text.
pub(crate) fn check_file(path: &Path) -> Result<u64, Failure> {
    let metadata = fs::metadata(path).map_err(|e| unreadable(path, &e))?;
    if metadata.is_dir() {
        return Err(Failure::usage(format!("{} is a folder, not a file", path.display()))
            .hint(format!("name its files: {}", path.join("*").display())));
    }
    let mut file = File::open(path).map_err(|e| unreadable(path, &e))?;
    let mut check = Utf8Check::default();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = read_some(&mut file, &mut piece).map_err(|e| unreadable(path, &e))?;
        if read == 0 {
            break;
        }
        check.push(&piece[..read]).map_err(|at| not_utf8(&path.display().to_string(), at))?;
    }
    let bytes = check.finish().map_err(|at| not_utf8(&path.display().to_string(), at))?;
    if bytes == 0 {
        return Err(Failure::usage(format!("{} is empty", path.display())));
    }
    Ok(bytes)
}

/// All text of a file or of standard input.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    let source = Source::open(path)?;
    let name = source.name();
    let mut bytes = Vec::new();
    let reader = source.reader()?;
    reader.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| unreadable(Path::new(&name), &e))?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        return Err(Failure::new(Exit::Refused, format!("{name} is longer than {} MiB", TEXT_BYTES_MAX >> 20))
            .hint("put long text into a memory with `mnemon ingest`, and give a part of it here"));
    }
    if bytes.is_empty() {
        return Err(Failure::usage(format!("{name} is empty")));
    }
    String::from_utf8(bytes).map_err(|e| not_utf8(&name, e.utf8_error().valid_up_to() as u64))
}

/// An argument, or standard input if it is '-'.
pub(crate) fn text_or_stdin(argument: &str) -> Result<String, Failure> {
    if argument == "-" { read_text(Path::new("-")) } else { Ok(argument.to_owned()) }
}

/// Reads until the buffer is full or the input ends; interruptions are retried.
pub(crate) fn read_some(reader: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    Failure::usage(match error.kind() {
        io::ErrorKind::NotFound => format!("there is no file {path}"),
        io::ErrorKind::PermissionDenied => format!("{path} may not be read: permission denied"),
        _ => format!("{path} cannot be read: {error}"),
    })
}

pub(crate) fn not_utf8(name: &str, at: u64) -> Failure {
    Failure::usage(format!("{name} is not UTF-8 text: invalid at byte {at}"))
        .hint("convert it first, for example: iconv -f latin1 -t utf-8 IN > OUT")
}

/// Text that is checked while it is read: bytes before the first invalid one pass, then reading fails with a
/// [`Failure`] inside the I/O error.
pub(crate) struct CheckedText {
    inner: Pin<Box<dyn AsyncRead + Send>>,
    name: String,
    check: Option<Utf8Check>,
    /// A line feed is still to be added if the text ends without one.
    ends_line: bool,
    last: Option<u8>,
}

impl CheckedText {
    /// Opens the source for reading.
    pub(crate) async fn open(source: &Source) -> Result<Self, Failure> {
        let inner: Pin<Box<dyn AsyncRead + Send>> = match source {
            Source::Stdin => Box::pin(tokio::io::stdin()),
            Source::File { path, .. } => Box::pin(tokio::fs::File::open(path).await.map_err(|e| unreadable(path, &e))?),
        };
        Ok(Self { inner, name: source.name(), check: Some(Utf8Check::default()), ends_line: false, last: None })
    }

    /// The same text; one that is not empty ends in a line feed.
    pub(crate) fn ending_its_line(self) -> Self {
        Self { ends_line: true, ..self }
    }
}

impl AsyncRead for CheckedText {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.inner.as_mut().poll_read(cx, buf))?;
        let piece = &buf.filled()[before..];
        let checked = match (&mut self.check, piece.is_empty()) {
            (Some(check), false) => check.push(piece),
            (check, true) => check.take().map_or(Ok(()), |check| check.finish().map(|_| ())),
            (None, false) => Ok(()),
        };
        if let Err(at) = checked {
            return Poll::Ready(Err(io::Error::other(not_utf8(&self.name, at))));
        }
        match piece.last() {
            Some(last) => self.last = Some(*last),
            None if self.ends_line && self.last.is_some_and(|last| last != b'\n') && buf.remaining() > 0 => {
                self.ends_line = false;
                buf.put_slice(b"\n");
            }
            None => {}
        }
        Poll::Ready(Ok(()))
    }
}

/// Checks text that comes in pieces.
#[derive(Debug, Default)]
pub(crate) struct Utf8Check {
    /// The beginning of a character whose rest has not come yet: at most three bytes.
    open: Vec<u8>,
    /// Bytes of whole characters so far.
    checked: u64,
}

impl Utf8Check {
    /// Takes the next piece; the error is the position of the first invalid byte.
    pub(crate) fn push(&mut self, mut piece: &[u8]) -> Result<(), u64> {
        while !self.open.is_empty() {
            let Some((first, rest)) = piece.split_first() else { return Ok(()) };
            self.open.push(*first);
            piece = rest;
            match std::str::from_utf8(&self.open) {
                Ok(_) => {
                    self.checked += self.open.len() as u64;
                    self.open.clear();
                }
                Err(e) if e.error_len().is_some() => return Err(self.checked),
                Err(_) => {}
            }
        }
        match std::str::from_utf8(piece) {
            Ok(_) => self.checked += piece.len() as u64,
            Err(e) => {
                self.checked += e.valid_up_to() as u64;
                if e.error_len().is_some() {
                    return Err(self.checked);
                }
                self.open.extend_from_slice(&piece[e.valid_up_to()..]);
            }
        }
        Ok(())
    }

    /// The text has ended; returns its length.
    pub(crate) fn finish(self) -> Result<u64, u64> {
        if self.open.is_empty() { Ok(self.checked) } else { Err(self.checked) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &[u8], piece: usize) -> Result<u64, u64> {
        let mut check = Utf8Check::default();
        text.chunks(piece).try_for_each(|p| check.push(p))?;
        check.finish()
    }

    #[test]
    fn pieces_are_checked_like_the_whole() {
        let texts: [&[u8]; 9] = [
            b"",
            b"plain",
            "Война и мир, 日本語 🙂".as_bytes(),
            b"caf\xe9 au lait",
            b"ends early \xf0\x9f\x99",
            b"\xff",
            b"two \xc3\xc3\xa9",
            b"surrogate \xed\xa0\x80",
            b"overlong \xc0\xaf",
        ];
        for text in texts {
            let expected = match std::str::from_utf8(text) {
                Ok(whole) => Ok(whole.len() as u64),
                Err(e) => Err(e.valid_up_to() as u64),
            };
            for piece in 1..8 {
                assert_eq!(check(text, piece), expected, "{text:?} in pieces of {piece}");
            }
        }
    }
}
