//! Whole memories: export, import, re-encode.

use mnemon_proto::v1;
use mnemon_proto::v1::export_memory_response::Message as Exported;
use mnemon_proto::v1::import_memory_request::Message as Imported;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::connect::Client;
use crate::error::{Error, Result};
use crate::upload::upload;

/// Bytes of an archive in one message; the contract allows 1 MiB.
const PIECE_BYTES: usize = 256 << 10;

impl Client {
    /// Writes a memory, as it is now, to `sink` as one archive, and flushes it; `on_progress` is called with what is
    /// exported and the bytes written so far. Returns the bytes of the archive. After an error what was written is of no
    /// use.
    pub async fn export_memory<W, F>(&self, name: &str, mut sink: W, mut on_progress: F) -> Result<u64>
    where
        W: AsyncWrite + Unpin,
        F: FnMut(&v1::ExportStart, u64),
    {
        let message = v1::ExportMemoryRequest { name: name.into() };
        let mut answers = self.memories.clone().export_memory(message).await?.into_inner();
        let (mut start, mut bytes) = (v1::ExportStart::default(), 0);
        while let Some(answer) = answers.message().await? {
            match answer.message {
                Some(Exported::Start(told)) => start = told,
                Some(Exported::Data(data)) => {
                    sink.write_all(&data).await.map_err(Error::Sink)?;
                    bytes += data.len() as u64;
                }
                Some(Exported::End(end)) if end.bytes == bytes => {
                    sink.flush().await.map_err(Error::Sink)?;
                    return Ok(bytes);
                }
                Some(Exported::End(_)) | None => break,
            }
            on_progress(&start, bytes);
        }
        Err(Error::EndedEarly)
    }

    /// Reads an archive from `source` to its end into a memory: `name`, or the name that it had. With `replace` it takes the
    /// place of the memory of that name. `on_progress` is called with the bytes sent so far.
    ///
    /// If this fails, or is dropped before its end, nothing on the server has changed.
    pub async fn import_memory<R, F>(
        &self,
        name: Option<&str>,
        replace: bool,
        source: R,
        on_progress: F,
    ) -> Result<v1::Memory>
    where
        R: AsyncRead + Unpin,
        F: FnMut(u64),
    {
        let start = v1::ImportStart { name: name.unwrap_or_default().into(), replace };
        let follow = async |call| Ok(self.memories.clone().import_memory(call).await?.into_inner());
        let data = |piece| request(Imported::Data(piece));
        upload(source, request(Imported::Start(start)), PIECE_BYTES, data, on_progress, follow).await
    }

    /// Has the model being served read the kept text of a memory, of any model, into a new one; `on_progress` is called as
    /// text becomes durable. Returns the last progress, with `complete` set. If this fails, or is dropped before its end,
    /// call it again with the same request: it goes on.
    pub async fn reencode_memory<F>(
        &self,
        request: v1::ReencodeMemoryRequest,
        mut on_progress: F,
    ) -> Result<v1::ReencodeProgress>
    where
        F: FnMut(&v1::ReencodeProgress),
    {
        let mut answers = self.memories.clone().reencode_memory(request).await?.into_inner();
        while let Some(progress) = answers.message().await? {
            on_progress(&progress);
            if progress.complete {
                return Ok(progress);
            }
        }
        Err(Error::EndedEarly)
    }
}

fn request(message: Imported) -> v1::ImportMemoryRequest {
    v1::ImportMemoryRequest { message: Some(message) }
}
