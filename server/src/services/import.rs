//! Import: an archive in, a memory out. All or nothing: whatever ends the stream before its end leaves what was.

use std::sync::Arc;

use mnemon_memory_store::{Error, Import, Store};
use mnemon_proto::v1;
use mnemon_proto::v1::import_memory_request::Message;
use tokio::sync::oneshot;
use tonic::{Code, Request, Status, Streaming};
use tracing::Instrument as _;

use super::export::permit;
use crate::auth::Tenant;
use crate::middleware::BodyEnd;
use crate::state::AppState;
use crate::{convert, incoming, status, tasks, validate};

/// Takes a whole archive; answers with the memory that it has become.
pub(super) async fn receive(
    store: &Store,
    app: &Arc<AppState>,
    tenant: Tenant,
    request: Request<Streaming<v1::ImportMemoryRequest>>,
) -> Result<v1::Memory, Status> {
    let permit = permit(app)?;
    let end = request.extensions().get::<BodyEnd>().cloned().unwrap_or_default();
    let receiver = Receiver { store: store.clone(), app: Arc::clone(app), incoming: request.into_inner(), end };
    let (done, answer) = oneshot::channel();
    // A call whose client is gone is dropped; what it began is tidied up by a task of its own.
    let work = async move {
        let _permit = permit;
        let _ = done.send(receiver.run(tenant).await);
    };
    app.shutdown.streams.spawn(work.in_current_span());
    answer.await.unwrap_or_else(|_| Err(status::internal("an import ended unexpectedly")))
}

struct Receiver {
    store: Store,
    app: Arc<AppState>,
    incoming: Streaming<v1::ImportMemoryRequest>,
    /// Tells whether the end of `incoming` is what the client meant.
    end: BodyEnd,
}

impl Receiver {
    async fn run(mut self, tenant: Tenant) -> Result<v1::Memory, Status> {
        let Some(Message::Start(start)) = self.next().await? else {
            let why = "the first message must say where the archive goes to";
            return Err(status::invalid(vec![status::violation("start", why)]));
        };
        validate::import_start(&start)?;
        let store = self.store.clone();
        let mut import = tasks::store(&self.app, move || {
            let name = Some(start.name.as_str()).filter(|name| !name.is_empty());
            store.import(tenant.name(), name, start.replace)
        })
        .await?;
        loop {
            let data = match self.next().await {
                Ok(Some(Message::Data(data))) => match validate::piece("data", &data) {
                    Ok(()) => data,
                    Err(status) => return give_up(import, status).await,
                },
                Ok(Some(Message::Start(_))) => {
                    let why = "it was given already; data follows";
                    let status = status::invalid(vec![status::violation("start", why)]);
                    return give_up(import, status).await;
                }
                Ok(None) => break,
                Err(status) => return give_up(import, status).await,
            };
            // After an error the import is dropped, and tidied up, where it may block.
            import = tasks::store_next(move || {
                import.push(&data)?;
                Ok::<_, Error>(import)
            })
            .await?;
        }
        let info = tasks::store_next(move || Ok::<_, Error>(import.finish()?.info())).await?;
        Ok(convert::memory(info))
    }

    /// The next message; `None` when the client has closed its side.
    async fn next(&mut self) -> Result<Option<Message>, Status> {
        let idle = |idle_s| {
            let message = format!("nothing came for {idle_s} s; nothing was imported");
            status::with_reason(Code::DeadlineExceeded, message, "IMPORT_IDLE")
        };
        match incoming::next(&self.app, &mut self.incoming, idle).await? {
            Some(v1::ImportMemoryRequest { message: Some(message) }) => Ok(Some(message)),
            Some(v1::ImportMemoryRequest { message: None }) => {
                Err(status::invalid(vec![status::violation("message", "give a start or data")]))
            }
            None if self.end.is_clean() => Ok(None),
            None => {
                let hung_up = "the client hung up before the end of the archive; nothing was imported";
                Err(status::with_reason(Code::Cancelled, hung_up, "HUNG_UP"))
            }
        }
    }
}

/// Tidies up and answers with `status`.
async fn give_up(import: Import, status: Status) -> Result<v1::Memory, Status> {
    tasks::let_go(import).await;
    Err(status)
}
