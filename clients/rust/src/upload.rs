//! A source that is sent piece by piece, while its answer is followed.

use std::future::Future;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::error::Result;
use crate::transport::CleanEnd;

/// Pieces read ahead of the connection.
const PIECES_AHEAD: usize = 4;

/// Sends `start`, then `source` to its end as messages of at most `piece_bytes`; `on_sent` is called with the bytes sent so
/// far. `follow` makes the call and awaits what becomes of it: its answer decides, except that a source that cannot be read
/// ends the call.
pub(crate) async fn upload<R, M, T, A>(
    mut source: R,
    start: M,
    piece_bytes: usize,
    message: impl Fn(Vec<u8>) -> M,
    mut on_sent: impl FnMut(u64),
    follow: impl FnOnce(tonic::Request<ReceiverStream<M>>) -> A,
) -> Result<T>
where
    R: AsyncRead + Unpin,
    A: Future<Output = Result<T>>,
{
    let (pieces, outgoing) = mpsc::channel(PIECES_AHEAD);
    let clean_end = CleanEnd::default();
    let mut call = tonic::Request::new(ReceiverStream::new(outgoing));
    call.extensions_mut().insert(clean_end.clone());
    let feed = async {
        // A closed channel means that the server ended the call; its answer says why.
        let mut open = pieces.send(start).await.is_ok();
        let mut bytes = 0;
        while open {
            let mut piece = vec![0; piece_bytes];
            let read = source.read(&mut piece).await?;
            if read == 0 {
                clean_end.set();
                break;
            }
            piece.truncate(read);
            open = pieces.send(message(piece)).await.is_ok();
            bytes += read as u64;
            on_sent(bytes);
        }
        drop(pieces);
        Ok::<(), std::io::Error>(())
    };
    let follow = follow(call);
    tokio::pin!(feed, follow);
    tokio::select! {
        biased;
        answer = &mut follow => answer,
        fed = &mut feed => { fed?; follow.await }
    }
}
